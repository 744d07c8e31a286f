"""A few trains of every neuron, for a look at them: of the first call, of elements that are evenly spread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock

from torch import Tensor, nn

from mbe_plugin.operators.neuron import CalibratedNode, Counted
from mbe_plugin.operators.observer import spread
from mbe_plugin.recording.listening import Listener, listening
from mbe_plugin.recording.looking import looking, refuse_compiled
from mbe_plugin.recording.selection import chosen
from mbe_plugin.recording.trains import Train, numbers_of, train_of

Samples = dict[tuple[str, str], Train]  # by (site, role)


@contextmanager
def sampled_trains(snn: nn.Module, most: int, sites: str | Iterable[str] | None = None) -> Iterator[Samples]:
    """About ``most`` elements' trains of each neuron's first call in the ``with`` block; of those that took part.

    sites: as in record(). The membranes are [n]; a shared exponent is left out, so ``weighted`` is in units of the scale.
    A neuron that was not called is not among them. Raises what record() raises.
    """
    found: Samples = {}
    taking = Lock()
    with listening([(node, _listener(found, taking, node, most)) for node in chosen(snn, sites)]):
        yield found


def _listener(found: Samples, taking: Lock, node: CalibratedNode, most: int) -> Listener:
    def listen(x: Tensor, where: Tensor | None, shared: Tensor | None, counted: Counted) -> None:
        refuse_compiled()
        key = node.site, node.role
        with taking:
            if key in found:
                return
            with looking():
                part = spread(x.detach(), where, most)[:most]
                found[key] = train_of(numbers_of(node), part, None, None)

    return Listener(listen, counts_suffice=False)
