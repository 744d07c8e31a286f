"""A real network on a task, as plain data that both passes and the report take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Tensors = tuple[Tensor, ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Batches to evaluate on, and those to calibrate with, none of the same items."""

    calibration: Sequence[Any]
    evaluation: Sequence[Any]


@dataclass(frozen=True)
class Workload:
    """A network, its task, and how it is called and judged.

    outputs(network, batch): what is kept, items first: the features [n, C] whose closeness is measured, then what
    figures(exact, spiking) needs of both networks. counted: batches without padding, to count spikes on, each with its
    number of tokens or patches. few: how many evaluation batches the published family gets, which takes minutes for each.
    tuning: batches for mbe_plugin.tune (none: the first part's calibration), and held_out those that it checks its choice
    on (none: a part of the others). None of both is evaluated on.
    """

    network: str
    task: str
    measure: str  # accuracy or perplexity
    ann: nn.Module
    parts: Sequence[Part]
    outputs: Callable[[nn.Module, Any], Tensors]
    figures: Callable[[Tensors, Tensors], Row]
    counted: Sequence[tuple[Any, int]]
    few: int
    tuning: Sequence[Any] = ()
    held_out: Sequence[Any] = ()
