"""Frames: which module's call is running in this thread, and what a converted module knows of its sites.

A *frame* is one call of a method of one module; its sites are numbered from its beginning. What happens to each torch
function in it is in walk.py, how the outermost frame begins and ends in entry.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from mbe_plugin.conversion.vocabulary.units import UnitSpec
from mbe_plugin.operators import SpikingOperator
from mbe_plugin.operators.neuron import RangeNotice

if TYPE_CHECKING:
    from mbe_plugin.conversion.following.walk import WatchedForward


@dataclass
class ModuleSites:
    """What a converted module knows of itself: its path, its sites, and which inputs are activations."""

    path: str
    operators: dict[str, SpikingOperator | None] = field(default_factory=dict)  # None: kept exact
    unit: UnitSpec | None = None
    unit_operator: SpikingOperator | None = None
    inputs: dict[str, int] = field(default_factory=dict)  # slot -> mark, for calls from outside
    origins: dict[str, list[str]] = field(
        default_factory=dict
    )  # call -> operands that begin there, see origins.py
    notice: RangeNotice | None = None
    by_events: bool = False  # whether operators are run event by event (MBEConfig.simulate)
    time_steps: int | None = None  # T of the converted network, at its root; None elsewhere

    def site(self, label: str) -> str:
        """Name of one of this module's sites."""
        return f"{self.path or '(root)'}:{label}"


_Item = TypeVar("_Item")
UNIT = "unit"  # the call of a module that is one operator


class Frame:
    """One running call of a module's method."""

    def __init__(self, sites: ModuleSites, module: nn.Module, method: str) -> None:
        self.sites, self.module, self.method = sites, module, method
        self.counts: dict[str, int] = {}
        self.calls: dict[str, int] = {}

    def label(self, name: str) -> str:
        """The next label for a site of this name: numbered within this frame, from the second on."""
        return self._numbered(self.counts, name)

    def call(self, op: str) -> str:
        """The same for every call of an operator with weights, whether it is a site or not."""
        return self._numbered(self.calls, op)

    def repeated(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items one by one, the numbering starting over with each: what is done for each is one set of sites."""
        counts, calls = dict(self.counts), dict(self.calls)
        for item in items:
            self.counts, self.calls = dict(counts), dict(calls)
            yield item

    def _numbered(self, counts: dict[str, int], name: str) -> str:
        count = counts.get(name, 0)
        counts[name] = count + 1
        prefix = "" if self.method == "forward" else f"{self.method}/"
        return f"{prefix}{name}#{count}" if count else f"{prefix}{name}"


@dataclass(frozen=True, eq=False)
class Refusal:
    """One call of a composite without a spiking form; equal to no other, so that calls can be counted."""

    name: str


class _Slot(threading.local):
    """This thread's running forward: its mode, if any, and whether an operator is at work inside it."""

    def __init__(self) -> None:
        self.mode: WatchedForward | None = None
        self.next_mode: WatchedForward | None = None
        self.inside_operator = False
        self.refused: Refusal | None = None  # the one that is running, for the audit


SLOT = _Slot()


def inside_operator(run: Callable[[], Any]) -> Any:
    """run() with the walk switched off: what happens inside an operator is no site."""
    before = SLOT.inside_operator
    SLOT.inside_operator = True
    try:
        return run()
    finally:
        SLOT.inside_operator = before


@contextmanager
def watched_by(mode: WatchedForward) -> Iterator[None]:
    """The next outermost frame of this thread runs under ``mode`` instead of a plain Router."""
    SLOT.next_mode = mode
    try:
        yield
    finally:
        SLOT.next_mode = None
