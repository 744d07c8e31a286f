"""Transformer operators made of MBE neurons."""

from mbe_plugin.operators.base import SpikingOperator
from mbe_plugin.operators.encoded import EncodedCall, Memo, Power, Quotient
from mbe_plugin.operators.neuron import CalibratedNode, NeuronFactory
from mbe_plugin.operators.normalization import BatchNorm, GroupNorm, LayerNorm, NormalizationUnit, RMSNorm
from mbe_plugin.operators.observer import Observer, Statistics
from mbe_plugin.operators.shared_scale import SharedScaleNode
from mbe_plugin.operators.softmax import Attention, Softmax
from mbe_plugin.operators.unary import Exponential, Logarithm, Periodic, Rectifier, Unary

__all__ = [
    "Attention",
    "BatchNorm",
    "CalibratedNode",
    "EncodedCall",
    "Exponential",
    "GroupNorm",
    "LayerNorm",
    "Logarithm",
    "Memo",
    "NeuronFactory",
    "NormalizationUnit",
    "Observer",
    "Periodic",
    "Power",
    "Quotient",
    "RMSNorm",
    "Rectifier",
    "SharedScaleNode",
    "Softmax",
    "SpikingOperator",
    "Statistics",
    "Unary",
]
