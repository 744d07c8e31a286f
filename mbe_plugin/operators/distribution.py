"""How each channel's values are spread: a summary that calls add to, and the constant around which most can be silent."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

PARTS = 128
WAITING = 2 * PARTS  # rows that are kept as they are, since sorting takes time
STARTS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the search, as shares of the values
ROUNDS = 15


@dataclass
class Spread:
    """The spread of each channel's values, of rows that come call by call; empty where calls differ in their channels."""

    parts: Tensor | None = None
    count: int = 0
    waiting: list[Tensor] = field(default_factory=list)
    mixed: bool = False
    centers: dict[float, Tensor] = field(default_factory=dict)

    def add(self, rows: Tensor) -> None:
        """Take in rows [n, C]."""
        known = self.waiting[0] if self.waiting else self.parts
        self.mixed |= known is not None and known.shape[1] != rows.shape[1]
        self.centers = {}
        if self.mixed:
            self.parts, self.waiting = None, []
            return
        self.waiting.append(rows.to("cpu", torch.float32, copy=True))
        if sum(map(len, self.waiting)) > WAITING:
            self._pool()

    def center(self, dead_zone: float) -> Tensor | None:
        """quiet_center of what came in [C]; None where there is nothing."""
        if dead_zone not in self.centers:
            self._pool()
            if self.parts is None:
                return None
            self.centers[dead_zone] = quiet_center(self.parts, dead_zone)
        return self.centers[dead_zone]

    def _pool(self) -> None:
        if self.waiting:
            rows = torch.cat(self.waiting)
            self.parts = pooled(self.parts, self.count, rows)
            self.count, self.waiting = self.count + len(rows), []


def pooled(known: Tensor | None, count: float, rows: Tensor) -> Tensor:
    """The values of each channel in order, cut into PARTS equal parts: their means [PARTS, C], float32 on the CPU.

    known: those of the ``count`` rows before, or None. rows [n, C] are new, n > 0. Means stay exact however often rows are
    added; a value on a cut counts on both sides in proportion.
    """
    values = rows.to("cpu", torch.float32)
    weights = torch.ones(len(values))
    if known is not None:
        values = torch.cat([known, values])
        weights = torch.cat([torch.full((PARTS,), count / PARTS), weights])
    ordered, places = values.T.contiguous().sort(-1)  # [C, n]
    weight = weights[places].double()
    below, sums = (torch.nn.functional.pad(t.cumsum(-1), (1, 0)) for t in (weight, weight * ordered))
    cuts = torch.linspace(0, 1, PARTS + 1, dtype=torch.float64) * (count + len(rows))
    cuts = cuts.expand(len(ordered), -1).contiguous()
    at = (torch.searchsorted(below, cuts) - 1).clamp(0, ordered.shape[1] - 1)
    up_to = sums.gather(1, at) + (cuts - below.gather(1, at)) * ordered.gather(1, at)
    return (up_to.diff(dim=-1) * PARTS / (count + len(rows))).T.float().contiguous()


def median_of(parts: Tensor) -> Tensor:
    """Per channel [C]."""
    return parts[PARTS // 2 - 1 : PARTS // 2 + 1].mean(0)


def quiet_center(parts: Tensor, dead_zone: float) -> Tensor:
    """Per channel the constant c [C] that silences most: sum of max(dead_zone^2 - (x - c)^2, 0) is largest; 0: the median.

    For that c the values within the dead zone around it have mean c, so that what is silent is right in the mean: an
    error that tokens have in common would add up over them. Found from some starts by going to that mean, again and again.
    """
    best = median_of(parts)
    if not dead_zone:
        return best
    most = _silenced(parts, best, dead_zone)
    for start in STARTS:
        center = parts[int(start * PARTS)]
        for _ in range(ROUNDS):
            near = (parts - center).abs() < dead_zone
            center = torch.where(near, parts, 0.0).sum(0) / near.sum(0).clamp_min(1)
        found = _silenced(parts, center, dead_zone)
        best, most = torch.where(found > most, center, best), torch.maximum(found, most)
    return best


def _silenced(parts: Tensor, center: Tensor, dead_zone: float) -> Tensor:
    return (dead_zone**2 - (parts - center).square()).clamp_min(0).sum(0)
