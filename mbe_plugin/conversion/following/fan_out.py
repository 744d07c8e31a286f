"""Fan-out: how many synapses events meet in a call that is linear in each operand.

What an operand's events cause is the call itself with counts in place of the operand and ones in place of the weights
(or the other operand's counts), summed over the output. That is how it is done for any function here; for linear maps,
matrix products and convolutions a sum over the counts comes first, which gives the same whole number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mbe_plugin.conversion.vocabulary.catalogue import WEIGHTLESS
from mbe_plugin.conversion.vocabulary.rules import Call, MultilinearRule
from mbe_plugin.errors import ConversionError

Counts = Mapping[str, Tensor]  # by operand; those that are not there count one per element

MATRIX_PRODUCTS = frozenset("matmul mm addmm baddbmm addbmm addmv mv".split())
ELEMENTWISE = frozenset("mul addcmul".split())
# their outputs are no sums of products of the operands as they stand: weights of their own, or with signs
UNCOUNTED = WEIGHTLESS | {"cross"}


def arrivals(rule: MultilinearRule, call: Call, counts: Counts) -> Tensor:
    """The sum of the call's output for such operands, float64 []; ValueError for a function that has no such sum."""
    check_synapses(rule, call)
    if rule.op in ELEMENTWISE:
        return _elementwise(call, counts)
    if rule.op == "linear":
        return _linear(call, counts)
    if rule.op in MATRIX_PRODUCTS and call.function is not Tensor.__rmatmul__:
        return _matrix_product(call, counts)
    if rule.op == "grouped_mm" and "1" not in counts:  # a row meets one expert's weights
        x, width = call.operands["0"], call.operands["1"].shape[-1]
        return width * (counts["0"] if "0" in counts else torch.ones(()).expand(x.shape)).sum(
            dtype=torch.float64
        )
    if rule.op.startswith("conv") and "1" not in counts:
        return _convolution(rule.op, call, counts)
    return by_the_function(rule, call, counts)


def check_synapses(rule: MultilinearRule, call: Call) -> None:
    """ValueError, with its name, for a function whose outputs are no sums of products of the operands as they stand."""
    if rule.op in UNCOUNTED:
        raise ValueError(rule.op)
    if any(t.is_complex() for t in call.operands.values()):
        raise ValueError(f"{rule.op} of complex numbers")


def counted_arrivals(site: str, rule: MultilinearRule, call: Call, counts: Counts) -> Tensor:
    """arrivals() at a site; ConversionError that names it where there is no such sum."""
    try:
        return arrivals(rule, call, counts)
    except ValueError as uncounted:
        raise ConversionError(
            f"{site}: no fan-out is known for {uncounted}, so what is delivered there cannot be counted; record without "
            "deliveries"
        ) from None


def by_the_function(rule: MultilinearRule, call: Call, counts: Counts) -> Tensor:
    """The definition, slowly: the function itself on counts and ones, without what it adds."""
    wide = {
        n: counts[n].double() if n in counts else torch.ones_like(t, dtype=torch.float64)
        for n, t in call.operands.items()
    }
    args, kwargs = rule.place(without_addend(rule, call), wide)
    return call.function(*args, **kwargs).sum()


def without_addend(rule: MultilinearRule, call: Call) -> Call:
    """The call without a bias, or with zeros where it adds its first argument."""
    args, kwargs = list(call.args), dict(call.kwargs)
    if rule.op.startswith("add") or rule.op == "baddbmm":
        args[0] = torch.zeros_like(args[0], dtype=torch.float64)
        kwargs |= {name: 1 for name in ("alpha", "value") if name in kwargs}
    elif rule.op.startswith(("conv", "linear", "bilinear")):
        place = 3 if rule.op == "bilinear" else 2
        if len(args) > place:
            args[place] = None
        kwargs.pop("bias", None)
    return Call(call.function, tuple(args), kwargs, call.operands)


def _elementwise(call: Call, counts: Counts) -> Tensor:
    shape = torch.broadcast_shapes(*(t.shape for t in call.operands.values()))
    product = torch.ones((), dtype=torch.float64)
    for name in call.operands:
        if name in counts:
            product = product.to(counts[name].device) * counts[name]
    return product.expand(shape).sum(dtype=torch.float64)


def _linear(call: Call, counts: Counts) -> Tensor:
    x, weight = call.operands["0"], call.operands["1"]
    if "1" not in counts and "0" in counts:
        return counts["0"].sum(dtype=torch.float64) * (weight.shape[0] if weight.dim() > 1 else 1)
    turned = counts["1"].t() if "1" in counts else None
    return _contracted(counts.get("0"), x.shape, turned, weight.t().shape)


def _matrix_product(call: Call, counts: Counts) -> Tensor:
    first, second = call.operands
    a, b = call.operands[first], call.operands[second]
    return _contracted(counts.get(first), a.shape, counts.get(second), b.shape)


def _contracted(a: Tensor | None, a_shape: torch.Size, b: Tensor | None, b_shape: torch.Size) -> Tensor:
    """Sum of the matrix product [..., L, K] @ [..., K, S]: over k, what comes in rows times what comes in columns."""
    a_full = a_shape if len(a_shape) > 1 else torch.Size((1, *a_shape))
    b_full = b_shape if len(b_shape) > 1 else torch.Size((*b_shape, 1))
    device = next((t.device for t in (a, b) if t is not None), None)
    rows = _summed(a, a_full, -2, device)  # [..., K]
    columns = _summed(b, b_full, -1, device)
    return (rows * columns).sum()


def _summed(counts: Tensor | None, shape: torch.Size, dim: int, device: torch.device | None) -> Tensor:
    if counts is not None:
        return counts.reshape(shape).sum(dim, dtype=torch.float64)
    left = [size for place, size in enumerate(shape) if place != len(shape) + dim]
    return torch.full((), float(shape[dim]), dtype=torch.float64, device=device).expand(left)


_CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    f"conv{kind}{n}d": getattr(F, f"conv{kind}{n}d") for kind in ("", "_transpose") for n in (1, 2, 3)
}
CONVOLUTION_ARGUMENTS = {
    "": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "_transpose": ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
}


def _convolution(op: str, call: Call, counts: Counts) -> Tensor:
    """All channels of a group have one fan-out, so one channel that holds their sum stands for all."""
    transposed = "_transpose" in op
    named = (
        dict(zip(CONVOLUTION_ARGUMENTS["_transpose" if transposed else ""], call.args, strict=False))
        | call.kwargs
    )
    x, weight = named.pop("input"), named.pop("weight")
    groups = named.pop("groups", 1)
    named.pop("bias", None)
    places = weight.dim() - 2
    if "0" in counts:
        image = counts["0"].reshape(-1, *x.shape[-places:]).sum(0, dtype=torch.float64)
    else:
        each = x.numel() // max(x.shape[-places:].numel(), 1)
        image = torch.full(x.shape[-places:], float(each), dtype=torch.float64)  # known without the device
    kernel = torch.ones((1, 1, *weight.shape[2:]), dtype=torch.float64, device=image.device)
    outputs = weight.shape[1] if transposed else weight.shape[0] // groups
    return _CONVOLUTIONS[op](image[None, None], kernel, **named).sum() * outputs
