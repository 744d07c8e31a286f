"""Where activations begin, beside floating inputs and embeddings: a value that meets a weight and is no constant.

A float made of integers, truth values, NumPy arrays or Python numbers carries no mark, and neither does one that left
torch and came back. Where such a value meets a parameter in a product or a normalisation, its *value* decides: it is
an activation if it differs between two batches, or between the first batch and that batch perturbed. So pixels of
uint8, counts and diffusion steps are activations from their first weight on, and position tables, masks and relative
positions stay constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mbe_plugin.conversion.marks import holds_numbers, is_activation, tensors_of
from mbe_plugin.errors import UnsupportedOperatorError

SAMPLED = 4096  # values that a fingerprint keeps
_WEIGHT = "_mbe_weight"

Fingerprint = tuple[torch.Size, Tensor]
Begun = dict[str, dict[str, list[str]]]  # module path -> call in a frame -> operands that begin there


@dataclass
class Origins:
    """What is known of the values without a mark that met weights.

    begun: the ones that differed. seen: every one's fingerprint at its first call. compared: those that were met
    again with the same shape. met: those that are met since ``begun`` was last complete; one of these that was never
    compared is taken for a constant unchecked.
    """

    begun: Begun = field(default_factory=dict)
    seen: dict[tuple[str, str, str], Fingerprint] = field(default_factory=dict)
    compared: set[tuple[str, str, str]] = field(default_factory=set)
    met: set[tuple[str, str, str]] = field(default_factory=set)

    def begins(self, path: str, call: str, operands: Mapping[str, Tensor]) -> list[str]:
        """The operands of an unmarked call with weights that are activations, as far as is known now."""
        for name, tensor in operands.items():
            if not isinstance(tensor, nn.Parameter) and (tensor.is_floating_point() or tensor.is_complex()):
                self._compare(path, call, name, tensor)
        found = self.begun.get(path, {}).get(call, [])
        sparse = next((name for name in found if not holds_numbers(operands[name])), None)
        if sparse is not None:
            raise UnsupportedOperatorError(
                f"{_described(path, call)} multiplies weights with a sparse activation, which no neuron encodes; make "
                "it dense with .to_dense()"
            )
        return found

    def unchecked(self) -> list[str]:
        """The calls whose operand was taken for a constant although it was never met twice."""
        never = {(path, call) for path, call, _ in self.met - self.compared}
        return sorted(_described(path, call) for path, call in never)

    def _compare(self, path: str, call: str, name: str, tensor: Tensor) -> None:
        key, found = (path, call, name), _fingerprint(tensor)
        first = self.seen.setdefault(key, found)
        self.met.add(key)
        if first is found or first[0] != found[0]:
            return
        self.compared.add(key)
        if not torch.allclose(first[1], found[1], rtol=1e-6, atol=0.0, equal_nan=True):
            names = self.begun.setdefault(path, {}).setdefault(call, [])
            names.extend({name} - set(names))


def _described(path: str, call: str) -> str:
    return f"{call.partition('#')[0].rpartition('/')[2]} in {path or '(root)'}"


def _fingerprint(tensor: Tensor) -> Fingerprint:
    """The shape, up to 4,096 of the values (of a sparse matrix those that it stores), and the sum of all magnitudes."""
    dense = tensor.detach()
    if dense.layout != torch.strided:
        dense = dense.coalesce().values() if dense.layout == torch.sparse_coo else dense.values()
    values = (torch.view_as_real(dense) if dense.is_complex() else dense).reshape(-1).double().cpu()
    sampled = values[:: max(-(-values.numel() // SAMPLED), 1)]
    return tensor.shape, torch.cat([values.abs().sum()[None], sampled])


def is_weight(value: object) -> bool:
    """Whether value is a parameter, or was computed from one (a cast, a weight norm) and not from activations."""
    return isinstance(value, nn.Parameter) or getattr(value, _WEIGHT, False)


def follow_weights(args: tuple, kwargs: dict[str, Any], out: Any) -> None:
    """Hand on that a function's result was computed from a parameter."""
    if any(is_weight(t) for _, t in tensors_of((args, kwargs))):
        for _, tensor in tensors_of(out):
            if not (isinstance(tensor, nn.Parameter) or is_activation(tensor)):
                setattr(tensor, _WEIGHT, True)


def perturbed(value: Any, bold: bool) -> Any:
    """A call's arguments with other values of the same shapes, types and, as far as can be, meanings.

    Values change places, so that integers stay valid indices; what is the same throughout is made smaller. bold
    changes constant masks and Python's whole numbers too, which a model is likelier to refuse.
    """
    if isinstance(value, Tensor):
        return value * 0.9 if value.layout != torch.strided else _perturbed_tensor(value, bold)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _perturbed_tensor(torch.from_numpy(value.copy()), bold).numpy()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value + 1 if bold else value
    if isinstance(value, float):
        return value * 0.9
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(perturbed(item, bold) for item in value))
    if type(value) in (list, tuple):
        return _perturbed_list(value, bold)
    if type(value) is dict:
        return {key: perturbed(item, bold) for key, item in value.items()}
    return value


def _perturbed_list(value: list | tuple, bold: bool) -> list | tuple:
    """Numbers in a list change places, as in a tensor."""
    numbers = all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value)
    if numbers and len(set(value)) > 1:
        return type(value)([*value[1:], value[0]])
    return type(value)(perturbed(item, bold) for item in value)


def _perturbed_tensor(x: Tensor, bold: bool) -> Tensor:
    if x.numel() == 0:
        return x
    moved = x.reshape(-1).roll(1).reshape(x.shape)
    if not torch.equal(moved, x):
        return moved
    if holds_numbers(x):
        return x * 0.9
    if x.dtype == torch.bool:
        return ~x if bold else x
    largest = x.reshape(-1)[0]
    return torch.where(largest > 1, x - 1, 1 - x if bold else x)


def perturbed_run(
    run: Callable[[tuple, dict[str, Any]], object], args: tuple, kwargs: dict[str, Any], bold: bool
) -> None:
    """Run the model on a perturbed batch; a batch that it refuses tells nothing, and is left at that.

    The origins that ``run`` compares say afterwards what was met twice, and the report what was not.
    """
    try:
        run(*perturbed((args, kwargs), bold))
    except Exception:  # any error that a model may raise at values it was not made for
        return
