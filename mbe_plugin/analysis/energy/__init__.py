"""Energy: operations of a converted network and of its ANN, counted in one forward and priced."""

from mbe_plugin.analysis.energy.accountings import ACCOUNTINGS
from mbe_plugin.analysis.energy.costs import BASELINES, FLOAT32, KINDS, SOURCE
from mbe_plugin.analysis.energy.measure import energy
from mbe_plugin.analysis.energy.result import Energy, Spent

__all__ = ["ACCOUNTINGS", "BASELINES", "FLOAT32", "KINDS", "SOURCE", "Energy", "Spent", "energy"]
