"""Counts beside values: what a function that only moves a decoded value does to what its train sends."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mbe_plugin.conversion.vocabulary.rules import Spelling
from mbe_plugin.recording import Sent

_CASTS = frozenset("to float double half bfloat16 type_as cpu cuda contiguous clone detach".split())
_DROPOUTS = frozenset("dropout dropout1d dropout2d dropout3d feature_dropout".split())


def moved(
    spelling: Spelling, sent: Sent, args: tuple, kwargs: dict[str, Any], out: Any
) -> list[tuple[Tensor, Sent]]:
    """The tensors that a function which only moves args[0] returned, each with what its train sends."""
    if spelling.name in _CASTS:
        return [(out, sent.moved(lambda t: t.to(out.device)))]
    if spelling.name == "alpha_dropout":
        return []  # what it puts in place of a dropped value is no train
    if spelling.name in _DROPOUTS:
        kept = (out != 0) | (args[0] == 0)
        dropped = sent.moved(lambda t: torch.where(kept, t, 0.0))
        # what is left has been scaled, and is no longer what was sent
        scaled = sent.listed is not None and not torch.equal(out, args[0])
        return [(out, replace(dropped, listed=None) if scaled else dropped)]
    if spelling.name.startswith("max_pool"):
        return [_pooled(spelling.name, sent, args, kwargs, out)]

    outs = [out] if isinstance(out, Tensor) else list(out)
    return [(tensor, sent.moved(partial(_piece, spelling, args, kwargs, i))) for i, tensor in enumerate(outs)]


def _piece(spelling: Spelling, args: tuple, kwargs: dict[str, Any], index: int, counts: Tensor) -> Tensor:
    """The counts moved as args[0] was; of several tensors one."""
    result = spelling.plain(counts, *args[1:], **kwargs)
    return result if isinstance(result, Tensor) else result[index]


def _pooled(name: str, sent: Sent, args: tuple, kwargs: dict[str, Any], out: Any) -> tuple[Tensor, Sent]:
    """Of each window the element that was chosen."""
    options = {key: value for key, value in kwargs.items() if key != "return_indices"}
    index = getattr(F, f"{name}_with_indices")(*args[:6], **options)[1]
    places = int(name[-2])
    flat = index.flatten(-places)
    chosen = sent.moved(lambda t: t.flatten(-places).gather(-1, flat).reshape(index.shape))
    return (out if isinstance(out, Tensor) else out[0]), chosen
