"""Who is told what the neurons of a network send, and until when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from torch import Tensor

from mbe_plugin.operators.neuron import CalibratedNode, Counted, SpikeListener

_REGISTERING = Lock()


@dataclass(frozen=True, eq=False)
class Listener:
    """A SpikeListener that hands on what it is told."""

    listen: Callable[[Tensor, Tensor | None, Tensor | None, Counted], None]
    counts_suffice: bool

    def __call__(
        self, x: Tensor, where: Tensor | None, shared: Tensor | None, counted: Counted = None
    ) -> None:
        """A call."""
        self.listen(x, where, shared, counted)


@contextmanager
def listening(listeners: Sequence[tuple[CalibratedNode, SpikeListener]]) -> Iterator[None]:
    """Each neuron tells its listener, beside those that it has, while this lasts."""
    for node, listener in listeners:
        _add(node, listener)
    try:
        yield
    finally:
        for node, listener in listeners:
            _remove(node, listener)


class _Listeners:
    """The listeners of one neuron, told in turn."""

    def __init__(self, each: tuple[SpikeListener, ...]) -> None:
        self.each = each
        self.counts_suffice = all(listener.counts_suffice for listener in each)

    def __call__(self, x: Tensor, where: Tensor | None, shared: Tensor | None, counted: Counted) -> None:
        for listen in self.each:
            listen(x, where, shared, counted)


def _each(node: CalibratedNode) -> tuple[SpikeListener, ...]:
    return node.spike_listener.each if isinstance(node.spike_listener, _Listeners) else ()


def _add(node: CalibratedNode, listener: SpikeListener) -> None:
    with _REGISTERING:
        node.spike_listener = _Listeners((*_each(node), listener))


def _remove(node: CalibratedNode, listener: SpikeListener) -> None:
    with _REGISTERING:
        left = tuple(other for other in _each(node) if other is not listener)
        node.spike_listener = _Listeners(left) if left else None
