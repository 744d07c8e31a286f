"""Marking: which tensors are activations, followed through a forward.

An activation is a floating (or complex) tensor that depends on the value of such an input or an embedding look-up. The
mark is an attribute of the tensor, so it costs nothing to keep, disappears with the tensor and is
understood by torch.compile. CODED marks a neuron's read-out that nothing but data movement has touched since:
its spike train can be used again. PRODUCT marks the read-out of two trains multiplied element by element (a
LayerNorm's, a softmax's, a gate's): as weighted pairs of spikes (arXiv:2508.07710, eq. 9-12) it can feed weights, but
a further product with an activation encodes it first, so that products are always of two single trains.

Tensors that come from outside a forward are another's too: they may be in the middle of a forward in another thread.
Their levels stand in a table of the running forward (``entered``), never on the tensor.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

CONSTANT, ACTIVATION, PRODUCT, CODED = 0, 1, 2, 3
_ATTRIBUTE = "_mbe_mark"

# outputs that depend on shapes only
SHAPE_ONLY = frozenset(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full "
    "new_tensor size stride dim ndimension numel nelement is_floating_point is_complex is_contiguous "
    "get_device data_ptr storage_offset requires_grad_ element_size argmax argmin __len__".split()
)
# functions that only move values: what was a read-out stays one
MOVEMENT = frozenset(
    "view view_as reshape reshape_as transpose permute contiguous flatten unflatten squeeze unsqueeze expand "
    "expand_as split chunk tensor_split unbind select narrow getitem clone detach dropout dropout1d dropout2d "
    "dropout3d alpha_dropout feature_dropout to movedim moveaxis swapaxes swapdims repeat tile "
    "repeat_interleave roll flip index_select gather take_along_dim max_pool1d max_pool2d max_pool3d float "
    "double half bfloat16 type_as t unfold pixel_shuffle pixel_unshuffle get cpu cuda".split()
)

# functions whose second argument gives a shape, a dtype or a device, but no values
LIKE = frozenset("expand_as view_as reshape_as type_as to".split())


_Table = dict[int, tuple[int, Tensor]]


class _Entered(threading.local):
    """This thread's running forward: id -> (level, tensor) of what came into it from outside."""

    def __init__(self) -> None:
        self.levels: _Table = {}


_ENTERED = _Entered()


@contextmanager
def entered(tensors: Iterable[tuple[Tensor, int]]) -> Iterator[None]:
    """While this lasts, these tensors have these levels for this thread, and keep them to it."""
    before = _ENTERED.levels
    _ENTERED.levels = {id(tensor): (to, tensor) for tensor, to in tensors}
    try:
        yield
    finally:
        _ENTERED.levels = before


def enter_as(tensor: Tensor, to: int) -> None:
    """Give a tensor that others may hold a level in the running forward."""
    if torch.compiler.is_compiling():
        setattr(tensor, _ATTRIBUTE, to)
    else:
        _ENTERED.levels[id(tensor)] = (to, tensor)


def _table() -> _Table | None:
    """The running forward's, or None where a compiler looks on: there, a call's tensors are the trace's own."""
    return None if torch.compiler.is_compiling() else _ENTERED.levels


def _level(tensor: Tensor, table: _Table | None) -> int:
    found = None if table is None else table.get(id(tensor))
    return getattr(tensor, _ATTRIBUTE, CONSTANT) if found is None else found[0]


def level(value: object) -> int:
    """CONSTANT, ACTIVATION, PRODUCT or CODED; anything but a marked tensor is CONSTANT."""
    return _level(value, _table()) if isinstance(value, Tensor) else CONSTANT


def is_activation(value: object) -> bool:
    """Whether value is a tensor marked as an activation."""
    return isinstance(value, Tensor) and _level(value, _table()) > CONSTANT


def pattern_of(tensors: Iterable[Tensor]) -> str:
    """A letter for each tensor: 'a' for an activation, else 'w'."""
    table = _table()
    return "".join(["a" if _level(tensor, table) > CONSTANT else "w" for tensor in tensors])


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor can be an activation: integers and truth values cannot, nor a sparse matrix."""
    return (tensor.is_floating_point() or tensor.is_complex()) and tensor.layout == torch.strided


def _set_level(tensor: Tensor, to: int, table: _Table | None) -> None:
    if table is not None and id(tensor) in table:
        table[id(tensor)] = (to, tensor)
    else:
        setattr(tensor, _ATTRIBUTE, to)


def mark(value: Any, to: int) -> None:
    """Mark every floating tensor in value (a tensor or nested lists, tuples, dicts)."""
    _mark(value, to, _table())


def _mark(value: Any, to: int, table: _Table | None) -> None:
    if isinstance(value, Tensor):
        if holds_numbers(value):
            _set_level(value, to, table)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _mark(item, to, table)
    elif isinstance(value, dict):
        for item in value.values():
            _mark(item, to, table)


def tensors_of(value: Any, slot: str = "") -> list[tuple[str, Tensor]]:
    """(slot, tensor) for every tensor in nested lists, tuples, dicts and key-value caches."""
    found: list[tuple[str, Tensor]] = []
    _collect(value, slot, found)
    return found


def _collect(value: Any, slot: str, found: list[tuple[str, Tensor]]) -> None:
    # no generators and no string methods on types here: torch.compile traces this
    if isinstance(value, Tensor):
        found.append((slot, value))
    elif value is None or isinstance(value, (bool, int, float, str)):
        return
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _collect(item, f"{slot}.{index}", found)
    elif isinstance(value, dict):
        for key, item in value.items():
            _collect(item, f"{slot}.{key}" if slot else str(key), found)
    elif not torch.compiler.is_compiling() and type(value).__module__ == "transformers.cache_utils":
        _collect(vars(value), slot, found)


def propagate(args: tuple, kwargs: dict[str, Any], out: Any, *, moves: bool, writes: bool) -> None:
    """Mark what a function without a spiking form returned, or wrote into."""
    table = _table()  # once: every function of a forward comes here
    highest, lowest = _levels((*args, *kwargs.values()) if kwargs else args, table)
    if highest == CONSTANT:
        return
    to = lowest if moves else ACTIVATION
    _mark(out, to, table)
    if writes:
        mark_written(args[0], to)
    if "out" in kwargs:
        mark(kwargs["out"], to)


def mark_written(target: object, to: int) -> None:
    """Mark a tensor that was written into, and the tensor it is a view of."""
    if isinstance(target, Tensor):
        mark(target, to)
        base = target._base
        if base is not None:
            mark(base, ACTIVATION)


def _levels(values: Iterable[Any], table: _Table | None) -> tuple[int, int]:
    """Highest level among the tensors of a call, and the lowest among the marked ones."""
    highest, lowest = CONSTANT, CODED
    for value in values:
        if isinstance(value, Tensor):
            most = least = _level(value, table)
        elif isinstance(value, (list, tuple)):
            most, least = _levels(value, table)
        else:
            continue
        if most:
            highest = most if most > highest else highest
            lowest = least if least < lowest else lowest
    return highest, lowest
