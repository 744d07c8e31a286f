"""How tables are found."""

from mbe_plugin.fitting.fit import Fit, fit
from mbe_plugin.fitting.functions import FUNCTIONS

__all__ = ["FUNCTIONS", "Fit", "fit"]
