"""How far apart two outputs of a model are, and whether two networks compute the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.conversion.marks import holds_numbers, tensors_of
from mbe_plugin.operators.encoded import as_real

# relative differences above which two networks without spikes cannot be the same one: rounding stays far below
SAME_NETWORK, SAME_NETWORK_IN_16_BITS = 1e-3, 1e-1
PIECE = 2**16  # numbers that are compared at a time


@contextmanager
def seeded(device: torch.device, seed: int = 0) -> Iterator[None]:
    """Random numbers start from ``seed`` while this lasts, and go on as before afterwards."""
    others = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(others, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(seed)
        yield


def outputs_of(out: Any) -> list[Tensor]:
    """The floating and complex tensors of a model's output; a key-value cache is no output."""
    if isinstance(out, dict):
        out = {name: value for name, value in out.items() if "Cache" not in type(value).__name__}
    return [tensor for _, tensor in tensors_of(out) if holds_numbers(tensor)]


def squared_error(value: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the squared differences, and of the exact values' squares, in float64; nothing else of their size is made."""
    error = size = torch.zeros((), dtype=torch.float64, device=exact.device)
    for found, wanted in zip(_pieces(value), _pieces(exact), strict=True):
        wanted = wanted.double()
        error = error + (found.double() - wanted).square().sum()
        size = size + wanted.square().sum()
    return error, size


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """The numbers of x in pieces, so that a copy of one in another type is small."""
    return as_real(x).reshape(-1).split(PIECE)


def root_ratio(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The relative error of everything that the pairs of squared_error were taken of, together."""
    error = size = 0.0
    for one, other in pairs:
        error, size = error + float(one), size + float(other)
    return (error / max(size, 1e-300)) ** 0.5


def relative_difference(values: list[Tensor], wanted: list[Tensor]) -> float:
    """Relative error of a model's outputs, all together; infinite if their shapes or infinities differ."""
    if [v.shape for v in values] != [w.shape for w in wanted]:
        return float("inf")
    pairs = []
    for value, exact in zip(values, wanted, strict=True):
        for found, true in zip(_pieces(value), _pieces(exact), strict=True):
            finite = torch.isfinite(true)
            if not torch.equal(finite, torch.isfinite(found)):
                return float("inf")
            pairs.append(squared_error(found[finite], true[finite]))
    return root_ratio(pairs)


def is_same_network(values: list[Tensor], wanted: list[Tensor]) -> bool:
    """Whether outputs differ by no more than rounding can explain."""
    coarse = any(t.dtype in (torch.float16, torch.bfloat16) for t in wanted)
    return relative_difference(values, wanted) <= (SAME_NETWORK_IN_16_BITS if coarse else SAME_NETWORK)
