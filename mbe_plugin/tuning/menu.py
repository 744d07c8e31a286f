"""The settings that a layer's input is offered."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

# first spikes with every number of bases and dead zone, and binary digits for what must be precise
MENU: tuple[Mapping[str, Any], ...] = (
    *(
        {
            "code": "first_spike",
            "time_steps": 20,
            "identity_bases": bases,
            "dead_zone": dead_zone,
            "center": center,
        }
        for bases, dead_zone, center in itertools.product(
            (8, 16, 32, 64, 256),
            (0.0, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6),
            (True, False),
        )
    ),
    {"code": "binary", "time_steps": 8, "identity_bases": 8, "dead_zone": 0.0, "center": False},
)
