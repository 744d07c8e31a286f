"""Tuning: which code each layer's inputs are sent by, for the least energy at a given loss."""

from mbe_plugin.tuning.menu import MENU
from mbe_plugin.tuning.tune import tune

__all__ = ["MENU", "tune"]
