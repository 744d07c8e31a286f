"""Colours and marks that the colour-blind can tell apart: Okabe and Ito's palette, without black and yellow."""

from __future__ import annotations

# sky blue, vermilion, green, orange, blue, purple: legible on white and on black
OKABE_ITO = ("#56B4E9", "#D55E00", "#009E73", "#E69F00", "#0072B2", "#CC79A7")
SNN, ANN = OKABE_ITO[1], OKABE_ITO[0]
SPIKES, SIDE_EVENTS = OKABE_ITO[0], OKABE_ITO[3]


def place_of(names: list[str]) -> dict[str, int]:
    """A place in a palette for each name, by its first appearance."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}
