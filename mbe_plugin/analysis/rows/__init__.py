"""What a converted network does, as rows: lists of dicts, ready for ``pandas.DataFrame(rows)`` or ``csv.DictWriter``.

Each has a picture of the same name in ``mbe_plugin.figures``.
"""

from mbe_plugin.analysis.rows.errors import error, frontier
from mbe_plugin.analysis.rows.sent import events, firing_rate, raster
from mbe_plugin.analysis.rows.shape import approximation
from mbe_plugin.analysis.rows.spent import energy

__all__ = ["approximation", "energy", "error", "events", "firing_rate", "frontier", "raster"]
