"""A calibrated neuron as plain data, for files: what it is in words and numbers, and its buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mbe_plugin.neuron.tables import TABLE_FIELDS, Tables
from mbe_plugin.node import BUFFER_OF
from mbe_plugin.operators.neuron import CalibratedNode
from mbe_plugin.operators.shared_scale import SharedScaleNode

TABLE_BUFFERS = {field: BUFFER_OF.get(field, field) for field in TABLE_FIELDS}


def described(node: CalibratedNode) -> dict[str, Any]:
    """Strings, numbers and booleans: all of a neuron but its buffers."""
    return {
        "kind": type(node).__name__,
        "reduction": node.reduction.name,
        "mirrored": node.mirrored,
        "octaves": node.octaves,
        "function": node.function,
        "fit_error": node.fit_error,
        "dead_zone": node.dead_zone,
        "centered": isinstance(node, SharedScaleNode) and node.centered,
        "scale": node.scale,
        "simulate": node.simulate,
        "site": node.site,
        "role": node.role,
    }


def buffers_of(node: CalibratedNode) -> dict[str, Tensor]:
    """Copies of its buffers on the CPU, by name."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in node.state_dict().items()}


def missing_from(buffers: Mapping[str, Tensor]) -> list[str]:
    """The names of the buffers that every neuron needs and that are not there."""
    return [name for name in (*TABLE_BUFFERS.values(), "calibrated") if name not in buffers]


def restored(description: Mapping[str, Any], buffers: Mapping[str, Tensor]) -> CalibratedNode:
    """The neuron of ``described`` and ``buffers_of``, bit for bit; no buffer may be ``missing_from`` them."""
    numbers: dict[str, Any] = {field: buffers[name] for field, name in TABLE_BUFFERS.items()}
    tables = Tables(**numbers, mirrored=description["mirrored"], octaves=description["octaves"])
    low, high = buffers["calibrated"].tolist()
    if description["kind"] == SharedScaleNode.__name__:
        center = buffers["center"] if description["centered"] else None
        node: CalibratedNode = SharedScaleNode(
            tables, description["scale"], buffers["exponents"], low, high, center
        )
    else:
        node = CalibratedNode(
            tables, description["reduction"], low, high, description["function"], description["fit_error"]
        )
    for name in ("simulate", "site", "role", "fit_error", "dead_zone"):
        setattr(node, name, description[name])
    return node
