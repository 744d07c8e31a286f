"""What a neuron sends in a call, as a list of events."""

from __future__ import annotations

import torch
from torch import Tensor

from mbe_plugin.neuron.scaling import scale_by_power_of_two
from mbe_plugin.operators import CalibratedNode, SharedScaleNode
from mbe_plugin.recording.event_lists import EventList, Source, Term, one_train


def events_of(
    node: CalibratedNode,
    x: Tensor,
    dim: int = -1,
    where: Tensor | None = None,
    always: bool = False,
) -> EventList:
    """What a neuron sends in the call node(x, dim, where), by its step loop.

    always: whether every element in ``where`` has a side event, of whatever amount.
    """
    exponent = center = None
    if isinstance(node, SharedScaleNode):
        center = node.center_along(x.dim(), dim) if node.centered else None
        x, exponent = node.scaled(x, dim)
    else:
        x = node.without_dead_zone(x)
    slots, rest = node.event_slots(x)
    took_part = torch.ones_like(rest, dtype=torch.bool) if where is None else where.expand(rest.shape)
    steps, fired, amounts = zip(*slots, strict=True)
    sent = [took_part if always and not k else f & took_part for k, f in enumerate(fired)]
    if exponent is not None:
        amounts = tuple(scale_by_power_of_two(a, exponent) for a in amounts)
    events = one_train(steps, sent, amounts, rest)
    return events if center is None else events.plus(center)


def exponents_of(shared: Tensor, like: Tensor) -> EventList:
    """Exponents that elements share, as many as ``shared`` [...] says: events that add nothing but say how far to shift."""
    nothing = torch.zeros((1, 2), dtype=like.dtype, device=like.device)
    source = Source((0,), torch.tensor([[False, True]], device=like.device), nothing)
    gain = torch.zeros(shared.shape, dtype=like.dtype, device=like.device)
    most = int(shared.max()) if shared.numel() else 0
    terms = [Term((source,), ((shared > n).double(),), gain) for n in range(most)]
    return EventList(tuple(terms), gain, gain)
