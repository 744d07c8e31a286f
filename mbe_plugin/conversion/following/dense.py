"""What the ANN computes at a call site: products of dense numbers, and functions number by number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbe_plugin.conversion.following.fan_out import ELEMENTWISE, counted_arrivals
from mbe_plugin.conversion.vocabulary.rules import AttentionRule, Call, MultilinearRule, Rule
from mbe_plugin.conversion.vocabulary.units import UnitSpec
from mbe_plugin.recording import SiteCall

_ADDS = ("add", "badd")


def site_call(site: str, rule: Rule, call: Call, spiking: bool) -> SiteCall:
    """The call, before it is made; ConversionError for products whose number is not known."""
    if isinstance(rule, MultilinearRule):
        products = int(counted_arrivals(site, rule, call, {}))
        if rule.op in ELEMENTWISE:
            return SiteCall(site, "mul", spiking, elements=products, offset=products * (rule.op == "addcmul"))
        return SiteCall(site, rule.op, spiking, products, offset=_offsets(rule, call, products))
    if isinstance(rule, AttentionRule):
        return _attention(site, call, spiking)
    op, x = rule.operator(call), next(iter(call.operands.values()))
    if op == "pow":
        op = f"pow({dict(call.static).get('0')})"
    named = dict(zip(_NAMES.get(op, ()), call.args, strict=False)) | call.kwargs
    rows = x.numel() // max(_row(op, x, named), 1)
    offset = x.numel() if named.get("bias") is not None else 0
    return SiteCall(site, op, spiking, 0, x.numel(), rows, offset, named.get("weight") is not None)


def unit_call(site: str, unit: UnitSpec, x: Tensor, spiking: bool) -> SiteCall:
    """A module that is one operator."""
    if unit.kind == "unary":
        return SiteCall(site, unit.function, spiking, 0, x.numel(), x.numel())
    offset = x.numel() if unit.bias is not None else 0
    rows = x.numel() // max(x.shape[-1], 1)
    return SiteCall(site, unit.function, spiking, 0, x.numel(), rows, offset, unit.weight is not None)


def _attention(site: str, call: Call, spiking: bool) -> SiteCall:
    query, key, value = (call.operands[name] for name in ("query", "key", "value"))
    rows = query.shape[:-1].numel()
    scores = rows * key.shape[-2]
    products = scores * (query.shape[-1] + value.shape[-1])
    return SiteCall(site, "scaled_dot_product_attention", spiking, products, scores, rows)


def _offsets(rule: MultilinearRule, call: Call, products: int) -> int:
    """How many outputs a bias, or an addend, is added to."""
    if rule.op.startswith(_ADDS):
        second = list(call.operands.values())[-1]
        return products // max(second.shape[-2 if second.dim() > 1 else 0], 1)
    if not rule.op.startswith(("linear", "conv")):
        return 0
    bias = call.args[2] if len(call.args) > 2 else call.kwargs.get("bias")
    if not isinstance(bias, Tensor):
        return 0
    x, weight = call.operands["0"], call.operands["1"]
    if rule.op == "linear":
        return x.shape[:-1].numel() * weight.shape[0]
    return _outputs(rule, call)


def _outputs(rule: MultilinearRule, call: Call) -> int:
    """Of a convolution."""
    meta = {name: torch.empty_like(t, device="meta") for name, t in call.operands.items()}
    args, kwargs = rule.place(call, meta)
    args = tuple(a.to("meta") if isinstance(a, Tensor) else a for a in args)
    return call.function(
        *args, **{k: v.to("meta") if isinstance(v, Tensor) else v for k, v in kwargs.items()}
    ).numel()


_NAMES = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias"),
    "rms_norm": ("input", "normalized_shape", "weight"),
    "group_norm": ("input", "num_groups", "weight", "bias"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias"),
}


def _row(op: str, x: Tensor, named: dict[str, Any]) -> int:
    """How many numbers a group holds that the function sums over."""
    if op == "softmax":
        return x.shape[named["dim"]] if x.dim() else 1
    if op in ("layer_norm", "rms_norm"):
        return x.shape[len(x.shape) - len(named["normalized_shape"]) :].numel()
    if op == "group_norm":
        return x.numel() // max(x.shape[0] * named["num_groups"], 1)
    if op == "batch_norm":
        return x.numel() // max(x.shape[1], 1)
    return 1
