"""from_nir(): a graph that to_nir drew as a module of torch, and the reader of its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from graphlib import CycleError, TopologicalSorter
from operator import add
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import torch
import torch.nn.functional as F
from nir.serialization import hdf2dict
from torch import Tensor, nn

from mbe_plugin.errors import StorageError, UnsupportedOperatorError
from mbe_plugin.hosts.nir.node import MBE


def read(path: str | Path) -> nir.NIRGraph:
    """The graph in a file that ``nir.write`` wrote, MBE nodes included, which ``nir.read`` does not know.

    Nothing in the file is executed. Raises StorageError for a file that is missing or holds something else.
    """
    try:
        with h5py.File(path, "r") as file:
            found = hdf2dict(file["node"])
        nodes = {name: _node(fields) for name, fields in found["nodes"].items()}
        edges = [(before.decode(), after.decode()) for before, after in found["edges"]]
        # NIR 1.0.8 would infer wrong shapes for convolutions with groups, and with kernels that are not square
        return nir.NIRGraph(nodes, edges, metadata=found.get("metadata", {}), type_check=False)
    except (AssertionError, AttributeError, KeyError, OSError, TypeError, ValueError) as broken:
        raise StorageError(f"{path} cannot be read as a graph of NIR: {broken}") from broken


def _node(fields: dict[str, Any]) -> nir.NIRNode:
    return MBE.from_dict(fields) if fields["type"] == MBE.__name__ else nir.dict2NIRNode(fields)


def from_nir(graph: nir.NIRGraph) -> nn.Module:
    """A module that computes what the network computed from which ``to_nir`` drew the graph, bit for bit.

    It takes [batch, ...] of the graph's input shape, in evaluation. Raises UnsupportedOperatorError for a node that to_nir
    does not draw (NIR's own neurons have other hosts), and for a circle.
    """
    return NIRNetwork(graph)


class NIRNetwork(nn.Module):
    """The nodes of a graph in an order in which they can run; what comes into one adds up in the order of the edges."""

    def __init__(self, graph: nir.NIRGraph) -> None:
        super().__init__()
        self.before: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, name in graph.edges:
            self.before[name].append(source)
        try:
            self.order = list(TopologicalSorter(self.before).static_order())
        except CycleError as circle:
            raise UnsupportedOperatorError(
                f"from_nir runs no circles, got {' -> '.join(circle.args[1])}"
            ) from circle
        self.steps = nn.ModuleList(_module(name, graph.nodes[name]) for name in self.order)
        ends = [name for name, node in graph.nodes.items() if isinstance(node, nir.Output)]
        if len(ends) != 1:
            raise UnsupportedOperatorError(f"from_nir runs graphs with one output, got {len(ends)}")
        self.end = ends[0]

    def forward(self, x: Tensor) -> Tensor:
        """What the graph makes of x [batch, ...]."""
        values: dict[str, Tensor] = {}
        for name, step in zip(self.order, self.steps, strict=True):
            incoming = [values[source] for source in self.before[name]]
            values[name] = step(reduce(add, incoming) if incoming else x)
        return values[self.end]


class _Step(nn.Module):
    """A function of torch and its constants."""

    def __init__(self, function: Callable[..., Tensor], constants: Mapping[str, np.ndarray | None]) -> None:
        super().__init__()
        self.function = function
        for name, value in constants.items():
            self.register_buffer(name, None if value is None else torch.from_numpy(np.array(value)))

    def forward(self, x: Tensor) -> Tensor:
        """function of x and the constants."""
        return self.function(x, **dict(self.named_buffers(recurse=False)))


class _Neuron(nn.Module):
    def __init__(self, node: MBE) -> None:
        super().__init__()
        self.neuron, self.dim = node.neuron(), node.dim

    def forward(self, x: Tensor) -> Tensor:
        """The decoded value."""
        return self.neuron(x, self.dim)


def _module(name: str, node: nir.NIRNode) -> nn.Module:
    make = _MODULES.get(type(node))
    if make is None:
        raise UnsupportedOperatorError(
            f"from_nir reads {', '.join(sorted(known.__name__ for known in _MODULES))}; node {name!r} is a "
            f"{type(node).__name__}"
        )
    return make(node)


def _passed(node: nir.NIRNode) -> nn.Module:
    return nn.Identity()


def _linear(node: nir.Linear) -> nn.Module:
    return _Step(F.linear, {"weight": node.weight, "bias": getattr(node, "bias", None)})


def _convolution(function: Callable[..., Tensor], node: nir.Conv1d | nir.Conv2d) -> nn.Module:
    settings = {name: _setting(getattr(node, name)) for name in ("stride", "padding", "dilation", "groups")}
    bias = node.bias if node.bias.any() else None  # NIR has no convolution without one
    return _Step(partial(function, **settings), {"weight": node.weight, "bias": bias})


def _avg_pool2d(node: nir.AvgPool2d) -> nn.Module:
    sizes = {name: _setting(getattr(node, name)) for name in ("kernel_size", "stride", "padding")}
    return _Step(partial(F.avg_pool2d, **sizes), {})


def _flatten(node: nir.Flatten) -> nn.Module:
    ends = (int(dim) + 1 if dim >= 0 else int(dim) for dim in (node.start_dim, node.end_dim))
    return nn.Flatten(*ends)


def _scale(node: nir.Scale) -> nn.Module:
    return _Step(_times, {"scale": node.scale})


def _times(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale


def _setting(value: Any) -> Any:
    """A size as torch takes it: text, a number, or numbers for each dimension."""
    if isinstance(value, (bytes, str)):
        return value.decode() if isinstance(value, bytes) else value
    return int(value) if np.ndim(value) == 0 else tuple(int(v) for v in value)


_MODULES: dict[type, Callable[[Any], nn.Module]] = {
    nir.Input: _passed,
    nir.Output: _passed,
    nir.Affine: _linear,
    nir.Linear: _linear,
    nir.Conv1d: partial(_convolution, F.conv1d),
    nir.Conv2d: partial(_convolution, F.conv2d),
    nir.AvgPool2d: _avg_pool2d,
    nir.Flatten: _flatten,
    nir.Scale: _scale,
    MBE: _Neuron,
}
