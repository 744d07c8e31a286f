"""Energy: operations of a converted network and of its ANN, counted in one forward and priced."""

from mbe_plugin.analysis.energy.accountings import ACCOUNTINGS
from mbe_plugin.analysis.energy.baselines import BASELINES
from mbe_plugin.analysis.energy.costs import FLOAT32, KINDS, SOURCE
from mbe_plugin.analysis.energy.measure import energy
from mbe_plugin.analysis.energy.memory import TRAFFIC, Memory, break_even
from mbe_plugin.analysis.energy.result import Energy, Spent

__all__ = [
    "ACCOUNTINGS",
    "BASELINES",
    "FLOAT32",
    "KINDS",
    "SOURCE",
    "TRAFFIC",
    "Energy",
    "Memory",
    "Spent",
    "break_even",
    "energy",
]
