"""Deliveries: events where they arrive, at the synapses of the site that receives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

from mbe_plugin.operators import SpikingOperator


@dataclass
class Deliveries:
    """Synaptic operations that events caused at one function of a site, in the recorded calls.

    products: multiply-accumulates of the same function on dense operands. Reading a number waits for the device.
    """

    tally: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))
    products: int = 0

    def add(self, spikes: Tensor, side: Tensor, products: int) -> None:
        """Take in what one call delivered."""
        found = torch.stack([spikes, side]).round().to(torch.int64)
        self.tally = self.tally.to(found.device) + found
        self.products += products

    @property
    def spikes(self) -> int:
        """By spikes, or pairs of spikes."""
        return int(self.tally[0])

    @property
    def side(self) -> int:
        """By side events, pairs with one among them included."""
        return int(self.tally[1])

    @property
    def total(self) -> int:
        """spikes + side."""
        return self.spikes + self.side

    @property
    def per_product(self) -> float:
        """total / products."""
        return self.total / max(self.products, 1)


class Ledger(Protocol):
    """Who is told of deliveries, in whichever thread they happen."""

    def delivered(
        self, operator: SpikingOperator, function: str, spikes: Tensor, side: Tensor, products: int
    ) -> None:
        """So many events (float64 [], whole numbers) have met synapses of this function in this operator."""


_OPENING = Lock()
_open: tuple[Ledger, ...] = ()


def open_ledgers() -> tuple[Ledger, ...]:
    """Those that want to be told now."""
    return _open


@contextmanager
def told(ledger: Ledger) -> Iterator[None]:
    """The ledger is told of what is delivered in every converted network while this lasts."""
    global _open
    with _OPENING:
        _open = (*_open, ledger)
    try:
        yield
    finally:
        with _OPENING:
            _open = tuple(other for other in _open if other is not ledger)
