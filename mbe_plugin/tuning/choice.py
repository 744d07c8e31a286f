"""Choice: from the precise network to the cheap one, always by the step that adds least error for what it saves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """At a place another choice is taken: the energy saved, the error added."""

    place: int
    choice: int
    saved: float
    added: float


def frontier(energies: Sequence[float], errors: Sequence[float]) -> list[int]:
    """The lower convex hull of a place's choices, the most precise first: what a budget of error can buy."""
    order = sorted(range(len(energies)), key=lambda i: (errors[i], energies[i], i))
    hull: list[int] = []
    for i in order:
        if hull and energies[i] >= energies[hull[-1]]:
            continue
        while len(hull) > 1 and _rate(energies, errors, hull[-2], i) <= _rate(
            energies, errors, hull[-2], hull[-1]
        ):
            hull.pop()
        hull.append(i)
    return hull


def _rate(energies: Sequence[float], errors: Sequence[float], a: int, b: int) -> float:
    return (errors[b] - errors[a]) / (energies[a] - energies[b])


def path(
    energies: Sequence[Sequence[float]], errors: Sequence[Sequence[float]]
) -> tuple[list[int], list[Step]]:
    """The most precise choice of every place, and the steps from there, the least error for the energy saved first.

    Errors add up, so every prefix is the best that its error can buy (up to what lies inside the hulls).
    """
    hulls = [frontier(e, r) for e, r in zip(energies, errors, strict=True)]
    steps = []
    for place, (hull, e, r) in enumerate(zip(hulls, energies, errors, strict=True)):
        for before, after in itertools.pairwise(hull):
            steps.append(Step(place, after, e[before] - e[after], r[after] - r[before]))
    return [hull[0] for hull in hulls], sorted(steps, key=lambda s: (s.added / s.saved, s.place))


def chosen(start: Sequence[int], steps: Sequence[Step]) -> list[int]:
    """The choice of every place after some steps."""
    now = list(start)
    for step in steps:
        now[step.place] = step.choice
    return now
