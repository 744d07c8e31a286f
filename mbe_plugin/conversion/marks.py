"""Marking: which tensors are activations, followed through a forward.

An activation is a floating (or complex) tensor that depends on the value of such an input or an embedding look-up. The
mark is an attribute of the tensor, so it costs nothing to keep, disappears with the tensor and is
understood by torch.compile. CODED marks a neuron's read-out that nothing but data movement has touched since:
its spike train can be used again. PRODUCT marks the read-out of two trains multiplied element by element (a
LayerNorm's, a softmax's, a gate's): as weighted pairs of spikes (METHOD eq. 9-12) it can feed weights, but a further
product with an activation encodes it first, so that products are always of two single trains.
"""

from __future__ import annotations

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


def level(value: object) -> int:
    """CONSTANT, ACTIVATION, PRODUCT or CODED; anything but a marked tensor is CONSTANT."""
    return getattr(value, _ATTRIBUTE, CONSTANT) if isinstance(value, Tensor) else CONSTANT


def is_activation(value: object) -> bool:
    """Whether value is a tensor marked as an activation."""
    return isinstance(value, Tensor) and getattr(value, _ATTRIBUTE, CONSTANT) > CONSTANT


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor can be an activation: integers and truth values cannot."""
    return tensor.is_floating_point() or tensor.is_complex()


def mark(value: Any, to: int) -> None:
    """Mark every floating tensor in value (a tensor or nested lists, tuples, dicts)."""
    if isinstance(value, Tensor):
        if holds_numbers(value):
            setattr(value, _ATTRIBUTE, to)
    elif isinstance(value, (list, tuple)):
        for item in value:
            mark(item, to)
    elif isinstance(value, dict):
        for item in value.values():
            mark(item, to)


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
    highest, lowest = _levels(args, kwargs)
    if highest == CONSTANT:
        return
    to = lowest if moves else ACTIVATION
    mark(out, to)
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


def _levels(args: tuple, kwargs: dict[str, Any]) -> tuple[int, int]:
    """Highest level among the tensors of a call, and the lowest among the marked ones."""
    highest, lowest = CONSTANT, CODED
    for value in (*args, *kwargs.values()):
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, torch.Tensor):
                mark_level = getattr(item, _ATTRIBUTE, CONSTANT)
                if mark_level:
                    highest = max(highest, mark_level)
                    lowest = min(lowest, mark_level)
    return highest, lowest
