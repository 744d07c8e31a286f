"""Watching: what the places encode, and the derivatives of the network's output after each of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.analysis.closeness import Outputs
from mbe_plugin.conversion.batches import as_call
from mbe_plugin.operators.observer import some_rows
from mbe_plugin.tuning.places import Place

PROJECTIONS = 2
ROWS = 512  # of what a place encodes in all batches, evenly spread: on these the choices are tried


@dataclass
class Seen:
    """One call of a place's neuron: some rows of what came in [rows, C], and their derivatives.

    dim: along which it was encoded. elements: how many numbers came in. probe: a zero that was added to what came out.
    pulled: the derivative of each projection after it, [rows, C]; empty where the output does not depend on it.
    """

    dim: int
    x: Tensor
    elements: int
    probe: Tensor
    pulled: list[Tensor] = field(default_factory=list)


def watched(
    snn: nn.Module, batches: Sequence[Any], places: Sequence[Place], outputs: Outputs
) -> list[list[Seen]]:
    """The calls of each place's neuron in these batches, with the derivatives of sums of the output with signs at random.

    Every row of the output (its last dimension) counts relative to its size.
    """
    seen: list[list[Seen]] = [[] for _ in places]
    generator, rows = torch.Generator().manual_seed(0), max(ROWS // max(len(batches), 1), 16)
    for batch in batches:
        args, kwargs = as_call(batch, snn)
        new: list[list[Seen]] = [[] for _ in places]
        with torch.enable_grad(), ExitStack() as hooks:
            for place, calls in zip(places, new, strict=True):
                hooks.enter_context(_watch(place, calls, rows))
            out = outputs(snn(*args, **kwargs))
        _pull(out, [call for calls in new for call in calls], generator, rows)
        for calls, more in zip(seen, new, strict=True):
            calls += more
    return seen


def _watch(place: Place, calls: list[Seen], most: int) -> Any:
    def hook(node: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        probe = torch.zeros_like(output, requires_grad=True)
        calls.append(Seen(dim, some_rows(args[0].detach(), dim, most).clone(), args[0].numel(), probe))
        return output + probe

    return place.node.register_forward_hook(hook, with_kwargs=True)


def _pull(out: Tensor, calls: Sequence[Seen], generator: torch.Generator, most: int) -> None:
    rows = out.reshape(-1, out.shape[-1]) if out.dim() > 1 else out[:, None]
    size = rows.detach().double().norm(dim=-1, keepdim=True).clamp_min(torch.finfo(out.dtype).tiny)
    for _ in range(PROJECTIONS):
        signs = torch.randint(0, 2, rows.shape, generator=generator).to(rows.device) * 2 - 1
        projection = (rows * (signs / size).to(rows.dtype)).sum()
        found = torch.autograd.grad(
            projection, [c.probe for c in calls], retain_graph=True, allow_unused=True
        )
        for call, gradient in zip(calls, found, strict=True):
            if gradient is not None:
                call.pulled.append(some_rows(gradient, call.dim, most).clone())
