"""Which torch functions have a spiking form, by name; the one place that knows torch's spellings.

Calls without a rule run as they are; the audit decides, on another level, whether that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mbe_plugin.conversion.marks import LIKE, MOVEMENT, PRODUCT, SHAPE_ONLY
from mbe_plugin.conversion.vocabulary.decompose import DECOMPOSITIONS, LOSSES
from mbe_plugin.conversion.vocabulary.recurrent import RECURRENT
from mbe_plugin.conversion.vocabulary.rules import (
    AttentionRule,
    BatchNormRule,
    EinsumRule,
    FourierRule,
    MultilinearRule,
    NormalizationRule,
    PowerRule,
    QuotientRule,
    Rule,
    SoftmaxRule,
    Spelling,
    UnaryRule,
)
from mbe_plugin.fitting.functions import Scalar

UNARY_NAMES = (
    "gelu silu tanh sigmoid softplus mish elu selu celu hardswish hardsigmoid hardtanh relu6 logsigmoid softsign "
    "tanhshrink erf erfc erfinv exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh asinh "
    "acosh atanh sqrt rsqrt reciprocal relu leaky_relu threshold hardshrink softshrink logit expit ndtr "
    "lgamma digamma sinc rpow square abs absolute"
).split()

FOURIER_NAMES = tuple(f"{name}{n}" for name in "fft ifft rfft irfft hfft ihfft".split() for n in ("", 2, "n"))
WEIGHTLESS = frozenset((*FOURIER_NAMES, "stft", "istft"))  # linear, without weights of the model's own


def _rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = {}

    def add(rule: Rule, *names: str) -> None:
        for name in names:
            rules[name] = rule

    pair = ((0, "input", -1), (1, "other", -2))
    add(MultilinearRule("linear", places=((0, "input", -1), (1, "weight", -1))), "linear")
    for n in (1, 2, 3):
        for name in (f"conv{n}d", f"conv_transpose{n}d"):
            add(MultilinearRule(name, places=((0, "input", 1), (1, "weight", 1))), name)
    for name in ("matmul", "dot", "inner", "vdot", "kron", "cross", "tensordot"):
        add(MultilinearRule(name, places=pair), name)
    add(rules["matmul"], "__matmul__", "__rmatmul__")
    for name in ("mm", "bmm"):
        add(MultilinearRule(name, places=((0, "input", -1), (1, "mat2", -2))), name)
    add(rules["mm"], "_sparse_mm")  # torch.sparse.mm
    grouped = ((0, "mat_a", -1), (1, "mat_b", -2))  # one weight per expert, rows sorted by expert
    add(MultilinearRule("grouped_mm", places=grouped), "grouped_mm", "_grouped_mm")
    add(MultilinearRule("mv", places=((0, "input", -1), (1, "vec", -1))), "mv")
    add(MultilinearRule("outer", places=((0, "input", -1), (1, "vec2", -1))), "outer", "ger")
    add(MultilinearRule("addmm", places=((1, "mat1", -1), (2, "mat2", -2))), "addmm", "_sparse_addmm")
    add(MultilinearRule("baddbmm", places=((1, "batch1", -1), (2, "batch2", -2))), "baddbmm")
    add(MultilinearRule("addbmm", places=((1, "batch1", -1), (2, "batch2", -2))), "addbmm")
    add(MultilinearRule("addmv", places=((1, "mat", -1), (2, "vec", -1))), "addmv")
    add(
        MultilinearRule("bilinear", places=((0, "input1", -1), (1, "input2", -1), (2, "weight", -1))),
        "bilinear",
    )
    add(
        MultilinearRule("mul", PRODUCT, ((0, "input", -1), (1, "other", -1)), least=2),
        *_spellings("mul"),
        "multiply",
    )
    add(
        MultilinearRule("addcmul", places=((1, "tensor1", -1), (2, "tensor2", -1)), least=2),
        *_spellings("addcmul"),
    )
    add(EinsumRule("einsum"), "einsum")
    for name in FOURIER_NAMES:
        add(FourierRule(name), f"fft_{name}")
    for name in ("stft", "istft"):
        add(MultilinearRule(name, places=((0, "input", -1),)), name)
    add(
        QuotientRule("div", PRODUCT),
        *_spellings("div"),
        *_spellings("true_divide"),
        "divide",
        "__truediv__",
        "__itruediv__",
    )
    add(QuotientRule("div", PRODUCT, reflected=True), "__rdiv__", "__rtruediv__")
    for name in UNARY_NAMES:
        add(UnaryRule(name), *_spellings(name))
    add(UnaryRule("logsigmoid"), "log_sigmoid")
    add(UnaryRule("square", PRODUCT), *_spellings("square"))
    add(PowerRule("pow", PRODUCT), *_spellings("pow"))
    add(UnaryRule("rpow"), "__rpow__")
    add(SoftmaxRule("softmax", PRODUCT), "softmax")
    add(AttentionRule("scaled_dot_product_attention", PRODUCT), "scaled_dot_product_attention")
    for name in ("layer_norm", "rms_norm", "group_norm"):
        add(NormalizationRule(name, PRODUCT), name)
    add(BatchNormRule("batch_norm", PRODUCT), "batch_norm")
    return rules


def _spellings(name: str) -> tuple[str, ...]:
    return name, f"{name}_", f"__{name}__", f"__r{name}__", f"__i{name}__"


RULES: dict[str, Rule] = _rules()


_IN_PLACE_DUNDERS = frozenset(
    "__iadd__ __isub__ __imul__ __idiv__ __itruediv__ __ipow__ __imatmul__ __setitem__".split()
)


def _spelling(name: str, function: Callable) -> Spelling:
    writes = name in _IN_PLACE_DUNDERS or (name.endswith("_") and not name.endswith("__"))
    stem = name.strip("_")
    plain = function
    if writes and name != "__setitem__":
        plain = getattr(torch.Tensor, stem.removeprefix("i") if name.startswith("__") else stem, function)
    return Spelling(
        name,
        plain,
        writes,
        RULES.get(name),
        DECOMPOSITIONS.get(name) or RECURRENT.get(name),
        by_steps=name in RECURRENT,
        is_loss=name in LOSSES,
        moves=stem in MOVEMENT,
        shape_only=stem in SHAPE_ONLY or name in SHAPE_ONLY,
        like=name in LIKE,
    )


_NAMESPACES = (
    torch,
    torch.Tensor,
    F,
    torch._C._nn,
    torch.linalg,
    torch.fft,
    torch.special,
    torch.sparse,
    torch.functional,
)


def _all_spellings() -> dict[Callable, Spelling]:
    """By function object, as torch.compile can look it up; only functions that are something to the walk."""
    found: dict[Callable, Spelling] = {}
    for namespace in _NAMESPACES:
        for name in dir(namespace):
            function = getattr(namespace, name, None)
            if not callable(function) or isinstance(function, type):
                continue
            own_name = str(getattr(function, "__name__", name))
            if own_name in (f"_{name}", f"special_{name}"):  # F.threshold, torch.special.expit
                own_name = name
            spelling = _spelling(own_name, function)
            if spelling != Spelling(spelling.name, function):
                found[function] = spelling
    return found


SPELLINGS: dict[Callable, Spelling] = _all_spellings()
ORDINARY = Spelling("", lambda: None)


def scalar_of(op: str, static: Mapping[str, Any]) -> tuple[str, Scalar | None]:
    """Name and callable of a unary site's function; the callable is None for fitting's own functions."""
    positional = [v for k, v in static.items() if k.isdigit()]
    named = {k: v for k, v in static.items() if not k.isdigit()}
    if op == "gelu":
        tanh = (positional or [named.get("approximate", "none")])[0] == "tanh"
        return ("gelu_tanh" if tanh else "gelu"), None
    if (
        not positional
        and not named
        and op in ("silu", "tanh", "sigmoid", "erf", "mish", "reciprocal", "sqrt", "rsqrt")
    ):
        return op, None
    function = getattr(F, op, None) or getattr(torch, op, None) or getattr(torch.special, op)

    def scalar(x: Tensor) -> Tensor:
        return function(x, *positional, **named)

    label = ",".join(str(v) for v in (*positional, *named.values()))
    return (f"{op}({label})" if label else op), scalar
