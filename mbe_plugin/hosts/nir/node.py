"""The MBE neuron as a node of NIR, which has none like it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from mbe_plugin.operators import CalibratedNode
from mbe_plugin.operators.description import TABLE_BUFFERS, buffers_of, described, restored

_BUFFERS = {**TABLE_BUFFERS, **{name: name for name in ("calibrated", "exponents", "center")}}
_NAMES = ("site", "role")  # where the neuron stood: metadata


@dataclass(eq=False)
class MBE(nir.NIRNode):
    r"""A layer of multi-basis exponential-decay neurons (arXiv:2508.07710, eq. 4-8), each with one input number.

    An input x is reduced to a membrane u in the tables' interval, and for t = 1 ... T each basis n of the element's bank
    fires where it reaches its threshold, and is reset by subtraction:

        s_n[t] = 1 if u_n[t] >= threshold[t, n] else 0,    u_n[t + 1] = u_n[t] - reset[t, n] s_n[t]

    The output is f(x) ~ sum_n weight[n] sum_t intensity[t, n] s_n[t] + bias[bank], put back to scale. There is no state
    between inputs: one input takes a window of T steps, and a graph takes a window for each neuron on its longest path.

    threshold, reset, intensity: [T, N]. weight, offset, gain: [N]; basis n starts at gain[n] u - offset[n]. bias: [B], per
    bank. breakpoints: where one bank ends and the next begins. mirrored: negative inputs have banks like those of
    positive ones. octaves: banks by the mantissa. reduction: the name of the range reduction around the tables, see
    mbe_plugin.MBENode. scale: where its power of two comes from, 'element' (the input's own exponent, sent beside the
    train), 'range' (none), or 'token', 'channel', 'tensor' along dimension ``dim``, counted from the end. exponents: those
    of channels or of the tensor. dead_zone: smaller inputs send nothing. center: constants per channel that the train's
    value is a distance to, if centered. calibrated: [2], the range it was fitted for. function, fit_error: what f is, and
    how well it was fitted. shape: of the input, without the batch. Arrays are float32, as in mbe_plugin.Tables.
    """

    threshold: np.ndarray
    reset: np.ndarray
    intensity: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    offset: np.ndarray
    gain: np.ndarray
    breakpoints: np.ndarray
    calibrated: np.ndarray
    exponents: np.ndarray
    center: np.ndarray
    kind: str
    function: str
    reduction: str
    scale: str
    simulate: str
    mirrored: bool
    octaves: bool
    centered: bool
    fit_error: float
    dead_zone: float
    dim: int
    shape: np.ndarray

    def __post_init__(self) -> None:
        self.shape = np.asarray(self.shape)
        self.input_type, self.output_type = {"input": self.shape}, {"output": self.shape}

    @classmethod
    def of(cls, node: CalibratedNode, shape: tuple[int, ...], dim: int) -> MBE:
        """The node of a converted network's neuron, for inputs [batch, *shape] whose scale is shared along ``dim``."""
        description, buffers = described(node), buffers_of(node)
        where = {name: description.pop(name) for name in _NAMES}
        arrays: dict[str, Any] = {field: _array(buffers.get(name)) for field, name in _BUFFERS.items()}
        return cls(**arrays, **description, dim=dim, shape=np.array(shape, int), metadata=where)

    def neuron(self) -> CalibratedNode:
        """The neuron that this is the node of, bit for bit."""
        names = {field.name for field in fields(self)} - set(_BUFFERS)
        description = {name: getattr(self, name) for name in names} | self.metadata
        buffers = {name: torch.from_numpy(np.array(getattr(self, field))) for field, name in _BUFFERS.items()}
        return restored(description, buffers)

    @classmethod
    def from_dict(cls, kwargs: dict[str, Any]) -> nir.NIRNode:
        """From what a file holds, where numbers are numpy's; ValueError where a field is missing or unknown."""
        given = {name: value for name, value in kwargs.items() if name != "type"}
        known = {field.name for field in fields(cls) if field.init}
        if set(given) | {"metadata"} != known:
            wrong = sorted((set(given) | {"metadata"}) ^ known)
            raise ValueError(
                f"an MBE node of another version: {', '.join(wrong)} missing or unknown; export again"
            )
        numbers = {
            name: v.item() for name, v in given.items() if isinstance(v, np.generic) and name not in _BUFFERS
        }
        return cls(**given | numbers)


def _array(buffer: Tensor | None) -> np.ndarray:
    return (
        np.zeros(0, np.float32) if buffer is None else buffer.numpy()[()]
    )  # a file takes no arrays of no dimension
