"""The errors of this package: every message names the value, the place and the remedy."""


class MBEError(Exception):
    """Base of all errors that mbe_plugin raises on its own account."""


class CalibrationError(MBEError, ValueError):
    """The calibration data is missing, empty, refused by the model, or not finite."""


class ConversionError(MBEError, RuntimeError):
    """The model cannot be converted as a whole; nothing was converted."""


class UnsupportedOperatorError(ConversionError):
    """An operator on activations has neither a spiking form nor a place on the exact list."""


class UnseenSiteError(MBEError, RuntimeError):
    """A call site was reached at run time that no calibration batch had reached."""


class RangeWarning(UserWarning):
    """Values left the calibrated range; they were counted (see the report)."""


class StorageError(MBEError, RuntimeError):
    """A network cannot be written or read: wrong model or name, missing or altered file, other format."""


class BackendError(MBEError, NotImplementedError):
    """A neuron was asked for a backend that nobody knows, that its step mode lacks, or that cannot run here."""


class RegistrationError(MBEError, RuntimeError):
    """A name of ours cannot be put into a host, which has one like it already; nothing was changed."""
