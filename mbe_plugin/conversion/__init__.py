"""From an ANN and calibration batches to a spiking network: record, build, route, audit."""

from mbe_plugin.conversion.backend import set_backend
from mbe_plugin.conversion.convert import calibrate, convert, reset_counts
from mbe_plugin.conversion.following.sequences import as_sequence
from mbe_plugin.conversion.network import Conversion
from mbe_plugin.conversion.sites import Calibration, Site
from mbe_plugin.conversion.storage import load, save

__all__ = [
    "Calibration",
    "Conversion",
    "Site",
    "as_sequence",
    "calibrate",
    "convert",
    "load",
    "reset_counts",
    "save",
    "set_backend",
]
