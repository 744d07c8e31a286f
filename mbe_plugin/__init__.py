"""MBE spiking neurons and training-free conversion of pretrained Transformers, beside SpikingJelly."""

from typing import TYPE_CHECKING, Any

from mbe_plugin.analysis import Report, SiteContribution, locate_error, report
from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion import Calibration, calibrate, convert, load, reset_counts, save
from mbe_plugin.errors import (
    CalibrationError,
    ConversionError,
    MBEError,
    RangeWarning,
    StorageError,
    UnseenSiteError,
    UnsupportedOperatorError,
)
from mbe_plugin.fitting import Fit, fit
from mbe_plugin.neuron import Tables
from mbe_plugin.node import MBENode
from mbe_plugin.operators.spikes import SpikeCounts, count_spikes

if TYPE_CHECKING:
    from mbe_plugin.spikingjelly import MBERecipe

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "CalibrationError",
    "ConversionError",
    "Fit",
    "MBEConfig",
    "MBEError",
    "MBENode",
    "MBERecipe",
    "RangeWarning",
    "Report",
    "SiteContribution",
    "SpikeCounts",
    "StorageError",
    "Tables",
    "UnseenSiteError",
    "UnsupportedOperatorError",
    "calibrate",
    "convert",
    "count_spikes",
    "fit",
    "load",
    "locate_error",
    "report",
    "reset_counts",
    "save",
]


def __getattr__(name: str) -> Any:
    if name == "MBERecipe":  # needs SpikingJelly 2.0; everything else works beside older ones
        from mbe_plugin.spikingjelly import MBERecipe

        return MBERecipe
    raise AttributeError(f"module 'mbe_plugin' has no attribute {name!r}")
