"""MBE spiking neurons and training-free conversion of pretrained Transformers, beside SpikingJelly."""

from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion import Calibration, calibrate, convert
from mbe_plugin.errors import (
    CalibrationError,
    ConversionError,
    MBEError,
    RangeWarning,
    UnseenSiteError,
    UnsupportedOperatorError,
)
from mbe_plugin.fitting import Fit, fit
from mbe_plugin.neuron import Tables
from mbe_plugin.node import MBENode

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "CalibrationError",
    "ConversionError",
    "Fit",
    "MBEConfig",
    "MBEError",
    "MBENode",
    "RangeWarning",
    "Tables",
    "UnseenSiteError",
    "UnsupportedOperatorError",
    "calibrate",
    "convert",
    "fit",
]
