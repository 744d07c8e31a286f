"""The train behind a decoded value, made when somebody asks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbe_plugin.neuron.scaling import compute_dtype, scale_by_power_of_two
from mbe_plugin.node import MBENode
from mbe_plugin.operators.neuron import CalibratedNode


@dataclass(frozen=True, eq=False)
class Train:
    """What a neuron sent in one call: kept as what caused it, T x N times smaller, and spelled out by two methods.

    node: the neuron's numbers. membrane: what its tables got, [...]. where: which elements took part (None: all); the
    others sent nothing. shared: the exponents that several elements have in common (None: each its own).
    Both methods give float32, or float64 for a float64 input.
    """

    node: MBENode
    membrane: Tensor
    where: Tensor | None = None
    shared: Tensor | None = None

    def spikes(self) -> Tensor:
        """Binary spikes [T, N, ...], as 0 and 1; summed over the elements they are the recorded counts."""
        return self._of_those_that_took_part(self.node.spikes(self.membrane))

    def weighted(self) -> Tensor:
        """Weighted spikes [T, ...], constant and scales included: they add up to the decoded value, less a ``center``."""
        sequence = self._of_those_that_took_part(self.node.weighted_spikes(self.membrane))
        return sequence if self.shared is None else scale_by_power_of_two(sequence, self.shared)

    def _of_those_that_took_part(self, sent: Tensor) -> Tensor:
        return sent if self.where is None else torch.where(self.where, sent, 0.0)


def numbers_of(node: CalibratedNode) -> MBENode:
    """A neuron of the same tables that belongs to no network."""
    return MBENode(node.tables(), node.reduction.name).to(node.th.device)


def train_of(numbers: MBENode, x: Tensor, where: Tensor | None, shared: Tensor | None) -> Train:
    """The train that x causes; the tensors are copied, since a network may write into its own."""
    membrane = x.to(compute_dtype(x), copy=True)
    kept = (None if t is None else t.clone() for t in (where, shared))
    return Train(numbers.to(x.device), membrane, *kept)
