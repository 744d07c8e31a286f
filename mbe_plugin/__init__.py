"""MBE spiking neurons and training-free conversion of pretrained Transformers, beside SpikingJelly.

``import mbe_plugin`` imports no host and no torch: a name is loaded when it is first asked for.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbe_plugin.analysis import Report, SiteContribution, locate_error, report
    from mbe_plugin.analysis.energy import Energy, energy
    from mbe_plugin.config import MBEConfig
    from mbe_plugin.conversion import (
        Calibration,
        as_sequence,
        calibrate,
        convert,
        load,
        reset_counts,
        save,
        set_backend,
    )
    from mbe_plugin.errors import (
        BackendError,
        CalibrationError,
        ConversionError,
        MBEError,
        RangeWarning,
        RegistrationError,
        StorageError,
        UnseenSiteError,
        UnsupportedOperatorError,
    )
    from mbe_plugin.fitting import Fit, fit
    from mbe_plugin.hosts.registration import Registration, register, unregister
    from mbe_plugin.hosts.spikingjelly import MBERecipe as MBERecipe
    from mbe_plugin.hosts.spikingjelly_legacy import MBEConverter as MBEConverter
    from mbe_plugin.neuron import Tables
    from mbe_plugin.node import MBENode
    from mbe_plugin.recording import Recording, SpikeCounts, count_spikes, record
    from mbe_plugin.tuning import tune

__version__ = "0.1.0"

# MBERecipe and MBEConverter, each of which only one SpikingJelly can load, are not among what `import *` asks for
__all__ = [
    "BackendError",
    "Calibration",
    "CalibrationError",
    "ConversionError",
    "Energy",
    "Fit",
    "MBEConfig",
    "MBEError",
    "MBENode",
    "RangeWarning",
    "Recording",
    "Registration",
    "RegistrationError",
    "Report",
    "SiteContribution",
    "SpikeCounts",
    "StorageError",
    "Tables",
    "UnseenSiteError",
    "UnsupportedOperatorError",
    "as_sequence",
    "calibrate",
    "convert",
    "count_spikes",
    "energy",
    "fit",
    "load",
    "locate_error",
    "record",
    "register",
    "report",
    "reset_counts",
    "save",
    "set_backend",
    "tune",
    "unregister",
]

# where each public name lives
_NAMES = {
    "analysis.energy": "Energy energy",
    "analysis": "Report SiteContribution locate_error report",
    "config": "MBEConfig",
    "conversion": "Calibration as_sequence calibrate convert load reset_counts save set_backend",
    "errors": "BackendError CalibrationError ConversionError MBEError RangeWarning RegistrationError StorageError "
    "UnseenSiteError UnsupportedOperatorError",
    "fitting": "Fit fit",
    "hosts.registration": "Registration register unregister",
    "hosts.spikingjelly": "MBERecipe",
    "hosts.spikingjelly_legacy": "MBEConverter",
    "neuron": "Tables",
    "node": "MBENode",
    "recording": "Recording SpikeCounts count_spikes record",
    "tuning": "tune",
}
_HOME = {name: room for room, names in _NAMES.items() for name in names.split()}
# short imports, and the library without which each is not there
_MODULES = {"figures": "mbe_plugin", "nir": "nir", "snntorch": "snntorch"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"mbe_plugin.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'mbe_plugin' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mbe_plugin.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    there = {name for name, library in _MODULES.items() if importlib.util.find_spec(library)}
    return sorted({*globals(), *__all__, *there})
