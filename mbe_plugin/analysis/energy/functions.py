"""What functions cost on numbers, in operations: a documented count for functions that hardware has in many forms.

Counted low, since most of it is the ANN's: an exponential or a logarithm is 6 multiply-accumulates (a polynomial behind
a range reduction), a function with an exponential and a division 12, a division or a root 4 (two steps of Newton's).
"""

from __future__ import annotations

from collections import Counter

from mbe_plugin.recording import SiteCall

MAC, MUL, ADD, COMPARE = "multiply-accumulate", "multiplication", "addition", "comparison"

_EXPONENTIAL, _DIVISION, _COMPOSITE = {MAC: 6}, {MAC: 4}, {MAC: 12}

_ELEMENT: dict[str, dict[str, int]] = {
    **{key: {COMPARE: 1} for key in "relu leaky_relu relu6 hardtanh threshold abs absolute".split()},
    **dict.fromkeys("exp exp2 expm1 rpow log log2 log10 log1p sin cos".split(), _EXPONENTIAL),
    **dict.fromkeys("div reciprocal sqrt rsqrt".split(), _DIVISION),
    **{key: {MUL: 1} for key in ("square", "pow(2)", "pow(2.0)", "mul")},
    **{key: {MUL: 2} for key in ("pow(3)", "pow(3.0)")},
    **dict.fromkeys(("pow(0.5)", "pow(-0.5)", "pow(-1)"), _DIVISION),
    "softmax": {COMPARE: 1, ADD: 2, MAC: 6, MUL: 1},
    "layer_norm": {ADD: 2, MAC: 1, MUL: 1},
    "rms_norm": {MAC: 1, MUL: 1},
}
_ELEMENT["scaled_dot_product_attention"] = _ELEMENT["softmax"]
_ELEMENT["group_norm"] = _ELEMENT["batch_norm"] = _ELEMENT["layer_norm"]
_ROW: dict[str, dict[str, int]] = {
    "softmax": _DIVISION,
    "scaled_dot_product_attention": _DIVISION,
    "layer_norm": {MUL: 2, MAC: 4},
    "group_norm": {MUL: 2, MAC: 4},
    "batch_norm": {MUL: 2, MAC: 4},
    "rms_norm": {MUL: 1, MAC: 4},
}


def on_numbers(call: SiteCall) -> Counter[str]:
    """The operations of a call that is computed on numbers."""
    found: Counter[str] = Counter({MAC: call.products, ADD: call.offset, MUL: call.elements * call.gain})
    if call.elements:
        found.update({kind: n * call.elements for kind, n in _ELEMENT.get(call.op, _COMPOSITE).items()})
    found.update({kind: n * call.rows for kind, n in _ROW.get(call.op, {}).items()})
    return +found


_ADDS = frozenset("add sub rsub radd iadd isub sum mean cumsum".split())
_PRODUCTS = frozenset("mul multiply rmul imul div divide true_divide truediv itruediv mean".split())
_COMPARISONS = frozenset(
    "maximum minimum clamp clamp_min clamp_max amax amin max min argmax argmin eq ne gt lt ge le ceil floor round trunc "
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool2d".split()
)
_POOLS = frozenset("avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d".split())
_FREE = frozenset(
    "where masked_fill cat stack concat pad setitem copy neg zero fill isnan isfinite any all tril triu get "
    "logical_and logical_or logical_not and or invert xor bool embedding "
    "detach requires_grad zeros ones full empty arange zeros_like ones_like full_like empty_like".split()
)


def left_over(name: str, taken: int, given: int) -> dict[str, int] | None:
    """The operations of a torch function outside sites, or inside an operator beside its events; None if not known.

    taken, given: numbers of its largest operand and of its output; a function that gives fewer has summed or compared.
    """
    stem = name.strip("_")
    each = max(taken, given)
    found: dict[str, int] = {}
    if stem in _ADDS or stem in _POOLS:
        found[ADD] = each
    if stem in _PRODUCTS or stem in _POOLS:
        found[MUL] = given
    if stem in _COMPARISONS:
        found[COMPARE] = each
    if stem == "batch_norm":  # with running statistics
        found[MAC] = given
    if stem in ("clamp",):
        found[COMPARE] = 2 * each
    return found if found or stem in _FREE else None
