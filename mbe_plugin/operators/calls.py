"""Standing in for the calls of a network's neurons: in one thread, before the host's hooks and our counters see them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from mbe_plugin.operators.neuron import CalibratedNode


class StandIn(Protocol):
    """What is called in place of a neuron, with the neuron and its arguments.

    counted: whether hooks and counters see the calls.
    """

    @property
    def counted(self) -> bool:
        """See the class."""
        ...

    def __call__(self, node: CalibratedNode, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        """What the neuron's caller gets."""
        ...


class _Calls(threading.local):
    """What takes this thread's calls of neurons, if anything."""

    def __init__(self) -> None:
        self.taken_by: StandIn | None = None


CALLS = _Calls()


def passed_on(before: StandIn | None, node: CalibratedNode, *args: Any, **kwargs: Any) -> Tensor:
    """The call that a stand-in passes on: to the one that stood there before it, or to the neuron and its hooks."""
    return nn.Module.__call__(node, *args, **kwargs) if before is None else before(node, *args, **kwargs)


@contextmanager
def calls_taken_by(stand_in: StandIn) -> Iterator[None]:
    """Every call of a neuron in this thread goes to ``stand_in`` while this lasts."""
    before, CALLS.taken_by = CALLS.taken_by, stand_in
    try:
        yield
    finally:
        CALLS.taken_by = before
