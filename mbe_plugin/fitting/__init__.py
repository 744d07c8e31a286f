"""How tables are found."""

from mbe_plugin.fitting.fit import FAMILIES, fit
from mbe_plugin.fitting.functions import FUNCTIONS
from mbe_plugin.fitting.result import Errors, Fit

__all__ = ["FAMILIES", "FUNCTIONS", "Errors", "Fit", "fit"]
