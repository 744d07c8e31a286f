"""Sequences [T, ...] of a call's arguments and results: what their sum over time says, and making them."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from enum import Enum
from itertools import pairwise
from numbers import Number
from types import EllipsisType, NoneType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from mbe_plugin.conversion.marks import holds_numbers
from mbe_plugin.errors import ConversionError

# what a forward cannot change, so that it may be given to several
_PLAIN = (
    *(NoneType, Number, str, bytes, Enum, slice, EllipsisType),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
)


def as_sequence(x: Any, time_steps: int) -> Any:
    """x as a sequence of T steps, for step mode 'm': what a converted network, or an MBE neuron, sums over time to x.

    x: a tensor [...] or nested tuples, lists and dicts of tensors. Floating tensors [T, ...] hold x at step 0 and zeros
    afterwards; integers and truth values are repeated; plain values and None stay as they are.
    Raises ValueError for time_steps below 1, TypeError for any other object, named.
    """
    if time_steps < 1:
        raise ValueError(f"time_steps must be at least 1, got {time_steps}")

    def sequence(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return _plain("x", leaf)
        if not holds_numbers(leaf):
            return _repeated(leaf, time_steps)
        return torch.cat([leaf[None], leaf.new_zeros((time_steps - 1, *leaf.shape))])

    # a tokenizer's output is no container to torch
    return tree_map(sequence, dict(x) if isinstance(x, UserDict) else x)


class SummedCall:
    """The arguments of a call in step mode 'm', as those of one in mode 's'; each call gets tensors of its own.

    Floating tensors [T, ...] are summed over time, others are taken at step 0; tensors without a dimension and plain
    values pass. Raises ValueError for another leading dimension than T, TypeError for what a forward may change.
    """

    def __init__(self, names: tuple[str, ...], args: tuple, kwargs: dict[str, Any], time_steps: int) -> None:
        self._kept = [_taken(_name(names, i), value, time_steps) for i, value in enumerate(args)]
        self._named = {name: _taken(name, value, time_steps) for name, value in kwargs.items()}

    def arguments(self) -> tuple[tuple, dict[str, Any]]:
        """(args, kwargs) of one call: containers and tensors that it may write into."""
        return tree_map(_cloned, (tuple(self._kept), self._named))


def _name(names: tuple[str, ...], index: int) -> str:
    return names[index] if index < len(names) else f"argument {index}"


def _taken(name: str, value: Any, time_steps: int) -> Any:
    def taken(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return _plain(name, leaf)
        if leaf.dim() == 0:
            return leaf
        if leaf.shape[0] != time_steps:
            raise ValueError(
                f"in step mode 'm' {name} must be [T, ...] with T = {time_steps}, got {list(leaf.shape)}; "
                f"mbe_plugin.as_sequence(x, {time_steps}) makes such a sequence of a tensor"
            )
        return leaf.sum(0) if holds_numbers(leaf) else leaf[0]

    return tree_map(taken, value)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(
        f"in step mode 'm' a network runs several times on the same arguments, so {name} cannot hold a "
        f"{type(value).__name__}, which a run may change; pass tensors, lists, tuples and dicts of them and plain values"
    )


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _repeated(x: Tensor, time_steps: int) -> Tensor:
    return torch.stack([x] * time_steps)


def steps_over(method: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a call has steps: a forward's, and that of any other method which is given tensors."""
    leaves = tree_flatten((args, kwargs))[0]
    return method == "forward" or any(isinstance(leaf, Tensor) for leaf in leaves)


class Outputs:
    """The output of a network in its complete run, and how its floating tensors become sequences."""

    def __init__(self, out: Any) -> None:
        self.leaves, self._tree = tree_flatten(out)
        opaque = not all(isinstance(leaf, _PLAIN) for leaf in self.leaves)
        if opaque and not any(isinstance(leaf, Tensor) for leaf in self.leaves):
            raise ConversionError(
                f"the network returns a {type(out).__name__}, in which no tensor is found to make a sequence of; "
                "register its type with torch.utils._pytree, or stay in step mode 's'"
            )

    @property
    def numbers(self) -> list[Tensor]:
        """The floating tensors, in order."""
        return _numbers(self.leaves)

    def partial(self, out: Any) -> list[Tensor]:
        """The same tensors of another run, which has to return the same."""
        found, wanted = _numbers(tree_flatten(out)[0]), self.numbers
        if [t.shape for t in found] != [t.shape for t in wanted]:
            raise ConversionError(other_way(f"it returns {len(found)} tensors, or of other shapes"))
        return found

    def as_sequences(self, partial: list[list[Tensor]], time_steps: int) -> Any:
        """The output with a sequence [T, ...] for every tensor; partial holds y^(1) ... y^(T - 1), or nothing if equal."""
        partial = partial or [self.numbers] * (time_steps - 1)
        runs = iter([_differences(list(run)) for run in zip(*partial, self.numbers, strict=True)])

        def sequence(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return next(runs) if holds_numbers(leaf) else _repeated(leaf, time_steps)

        return tree_unflatten([sequence(leaf) for leaf in self.leaves], self._tree)


def _numbers(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and holds_numbers(leaf)]


def _differences(values: list[Tensor]) -> Tensor:
    """y^(1), y^(2) - y^(1), ... stacked; an infinity that stays adds nothing."""
    sequence = values[:1]
    for before, value in pairwise(values):
        stays = torch.isinf(value) & (value == before)
        sequence.append(torch.where(stays, 0.0, value - before))
    return torch.stack(sequence)


def other_way(what: str) -> str:
    """The message for a network whose forward depends on whether its last spikes have arrived."""
    return (
        f"the forward takes another way when not all spikes have arrived ({what}), so it has no sequence; stay in step "
        "mode 's'"
    )


Run = Callable[[tuple, dict[str, Any]], Any]
