"""Amplitudes: what an event of a train can be worth, up to a power of two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbe_plugin.operators import CalibratedNode, SharedScaleNode

SMALL = 2**8  # so many levels are numbers of 8 bits


@dataclass(frozen=True)
class Amplitudes:
    """How many amplitudes the events of a train can have, up to signs and powers of two, which a shift takes in.

    levels: those that are no powers of two. spaced: whether they are evenly spaced. small: whether 8 bits tell
    one. per_element: how many one element's events can have: its bank's weight, and the bank's constant. steps: T, if an
    event's power of two is that of its step (in order of time a sum can be doubled once a step, instead of every event's
    number shifted); 0 if an exponent is sent.
    """

    levels: int = 0
    spaced: bool = True
    small: bool = True
    per_element: int = 1
    steps: int = 0

    def times(self, other: Amplitudes) -> Amplitudes:
        """Those of pairs."""
        levels = max(self.levels, 1) * max(other.levels, 1) if self.levels or other.levels else 0
        spaced = self.spaced and other.spaced and 0 in (self.levels, other.levels)
        small = self.small and other.small
        return Amplitudes(levels, spaced, small, self.per_element * other.per_element)


POWERS_OF_TWO = Amplitudes()


def amplitudes_of(node: CalibratedNode) -> Amplitudes:
    """The amplitudes of a neuron's events: weight x intensity of its spikes, and the constants of its banks."""
    spikes, constants = _mantissas(node.w * node.d), _mantissas(node.bias)
    values = torch.cat([spikes.flatten(), constants]).unique()
    values = values[(values != 0) & (values != 0.5)]
    gaps = values.diff()
    spaced = bool((gaps == gaps[:1]).all())
    ordered = spikes.sort(dim=0).values
    of_a_basis = int((ordered.diff(dim=0) != 0).sum(dim=0).max()) + 1
    return Amplitudes(
        levels=values.numel(),
        spaced=spaced,
        small=spaced and values.numel() <= SMALL,
        per_element=node.bases_per_element * of_a_basis + bool(constants.any()),
        steps=node.time_steps if isinstance(node, SharedScaleNode) and node.scale != "token" else 0,
    )


def _mantissas(values: Tensor) -> Tensor:
    """The mantissas, in [1/2, 1), or 0."""
    return values.detach().abs().frexp()[0]
