"""Pictures of a converted network, ``figures.energy(snn, batch)``; the numbers in them are ``figures.rows.energy(...)``."""

from mbe_plugin.analysis import rows
from mbe_plugin.analysis.figures import (
    approximation,
    energy,
    error,
    events,
    firing_rate,
    frontier,
    raster,
)

__all__ = ["approximation", "energy", "error", "events", "firing_rate", "frontier", "raster", "rows"]
