"""Rules: what a torch function call must look like to be a site, and how the site's operator is called.

A rule says which arguments of a call are operands, when the call is a site, and how it is named. Which function has
which rule stands in catalogue.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mbe_plugin.conversion.marks import ACTIVATION, CODED, is_activation, pattern_of

Operands = dict[str, Tensor]


@dataclass(frozen=True)
class Spelling:
    """What one of torch's many functions is to the walk.

    plain: the function itself, or for one that works in place (writes) its out-of-place twin.
    by_steps: whether the decomposition has steps that share their sites, and takes what hands them out (recurrent.py).
    """

    name: str
    plain: Callable[..., Any]
    writes: bool = False
    rule: Rule | None = None
    decomposition: Callable[..., Any] | None = None
    by_steps: bool = False
    is_loss: bool = False
    moves: bool = False
    shape_only: bool = False
    like: bool = False


class Call(NamedTuple):
    """One torch function call that is a site: its operands and where they stand."""

    function: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    operands: Operands
    pattern: str = ""  # 'a' activation, 'w' weight or constant, per operand
    static: tuple[tuple[str, Any], ...] = ()  # what decides the operator beside its operands
    target: Tensor | None = None  # the tensor that an in-place call writes its result into


@dataclass(frozen=True)
class Rule:
    """Base: op is the canonical name, emits how the output is marked (marks.py)."""

    op: str
    emits: int = ACTIVATION
    takes_complex: ClassVar[bool] = False  # whether operands may be complex numbers
    nonlinear: ClassVar[bool] = True

    @property
    def weighs(self) -> bool:
        """Whether its operands may meet weights."""
        return False

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """The call as a site, or None when no activation is concerned."""
        raise NotImplementedError

    def operands(self, args: tuple, kwargs: dict[str, Any]) -> Operands:
        """The tensors that a call with weights multiplies or normalises, by the names that bind gives them."""
        return {}

    def weights(self, args: tuple, kwargs: dict[str, Any]) -> list[Any]:
        """What in a call may be its weights."""
        return list(self.operands(args, kwargs).values())

    def operator(self, call: Call) -> str:
        """Canonical name of what the call computes."""
        return self.op

    def label(self, call: Call) -> str:
        """Name of the site within its module's call, before numbering."""
        return self.op

    def run(self, operator: Any, call: Call, memo: Any) -> Any:
        """Call the operator module."""
        return operator(*call.args, **call.kwargs)


@dataclass(frozen=True)
class FirstOperand(Rule):
    """softmax, layer_norm, ...: a site when the first argument is an activation."""

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """See Rule."""
        operands = self.operands(args, kwargs)
        if not is_activation(operands.get("input")):
            return None
        return Call(spelling.plain, args, kwargs, operands)

    def operands(self, args: tuple, kwargs: dict[str, Any]) -> Operands:
        """See Rule."""
        x = args[0] if args else kwargs.get("input", kwargs.get("self"))
        return {"input": x} if isinstance(x, Tensor) else {}


@dataclass(frozen=True)
class NormalizationRule(FirstOperand):
    """layer_norm, rms_norm, group_norm: a gain and an offset are weights."""

    @property
    def weighs(self) -> bool:
        """See Rule."""
        return True

    def weights(self, args: tuple, kwargs: dict[str, Any]) -> list[Any]:
        """See Rule."""
        return [*args[1:], *kwargs.values()]


@dataclass(frozen=True)
class BatchNormRule(NormalizationRule):
    """torch.nn.functional.batch_norm by the batch's own statistics; with running ones it is linear and no site.

    A call that would also write running statistics is left to the audit, which refuses it.
    """

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """See Rule."""
        if (
            spelling.plain is not F.batch_norm
        ):  # torch's own of this name takes its arguments in another order
            return None
        names = ("input", "running_mean", "running_var", "weight", "bias", "training")
        values = dict(zip(names, args, strict=False)) | kwargs
        by_batch = values.get("training", False) and values.get("running_mean") is None
        return super().bind(spelling, args, kwargs) if by_batch else None


@dataclass(frozen=True)
class SoftmaxRule(FirstOperand):
    """torch spells softmax's dtype in three ways."""

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """See Rule."""
        call = super().bind(spelling, args, kwargs)
        if call is None:
            return None
        values = {f"_{i}": v for i, v in enumerate(args)} | kwargs
        dtype = next((v for v in values.values() if isinstance(v, torch.dtype)), None)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dim is None:
            dim = 0 if call.operands["input"].dim() in (0, 1, 3) else 1
        return Call(spelling.plain, (call.operands["input"],), {"dim": dim, "dtype": dtype}, call.operands)


@dataclass(frozen=True)
class AttentionRule(Rule):
    """scaled_dot_product_attention."""

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """See Rule."""
        names = ("query", "key", "value")
        operands = {n: args[i] if i < len(args) else kwargs[n] for i, n in enumerate(names)}
        if not any(is_activation(t) for t in operands.values()):
            return None
        return Call(spelling.plain, args, kwargs, operands)


@dataclass(frozen=True)
class UnaryRule(Rule):
    """A function of one number; further arguments are part of the function."""

    emits: int = CODED

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """See Rule."""
        named = dict(kwargs)
        x = args[0] if args else named.pop("input", None)
        if not is_activation(x):
            return None
        assert isinstance(x, Tensor)
        named.pop("out", None)
        inplace = bool(named.pop("inplace", False)) or spelling.writes
        if len(args) > 1 and isinstance(args[-1], bool):  # torch.nn.functional's last argument
            args, inplace = args[:-1], args[-1]
        target = x if inplace else None
        static: dict[str, Any] = {str(i): _number(v) for i, v in enumerate(args[1:])}
        static |= {k: _number(v) for k, v in named.items()}
        if any(isinstance(v, Tensor) for v in static.values()):
            return None  # a function of more than one number; the audit names it
        return Call(spelling.plain, (x,), {}, {"input": x}, static=tuple(static.items()), target=target)

    def label(self, call: Call) -> str:
        """Its parameters are part of a site's name: the neuron of x^2 must not answer for x^3."""
        op = self.operator(call)
        values = [str(v) if k.isdigit() else f"{k}={v}" for k, v in call.static if (k, v) not in _PLAIN]
        return f"{op}({','.join(values)})" if values else op


@dataclass(frozen=True)
class PowerRule(UnaryRule):
    """x ** p and, with the activation in the exponent, base ** x (op 'rpow')."""

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """See Rule."""
        base, exponent = _pair(args, kwargs)
        if is_activation(exponent) and not isinstance(base, Tensor):
            return Call(spelling.plain, (exponent,), {}, {"input": exponent}, "x", (("0", base),))
        return super().bind(spelling, (base, exponent), {})

    def operator(self, call: Call) -> str:
        """See Rule."""
        return "rpow" if call.pattern == "x" else self.op


@dataclass(frozen=True)
class MultilinearRule(Rule):
    """Linear in each operand: a site when `least` of them are activations.

    places: (position, keyword, contracted dimension) per operand.
    """

    places: tuple[tuple[int, str, int], ...] = ()
    least: int = 1
    takes_complex: ClassVar[bool] = True
    nonlinear: ClassVar[bool] = False

    @property
    def weighs(self) -> bool:
        """Whether one activation suffices, and the other operands are weights."""
        return self.least == 1

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """See Rule."""
        return self._call(spelling, args, kwargs, self.operands(args, kwargs))

    def operands(self, args: tuple, kwargs: dict[str, Any]) -> Operands:
        """See Rule."""
        found: Operands = {}
        for position, keyword, _ in self.places:
            value = args[position] if position < len(args) else kwargs.get(keyword)
            if isinstance(value, Tensor):
                found[str(position)] = value
        return found

    def _call(self, spelling: Spelling, args: tuple, kwargs: dict, operands: Operands) -> Call | None:
        pattern = pattern_of(operands.values())
        if pattern.count("a") < self.least:
            return None
        target = args[0] if spelling.writes else None
        return Call(spelling.plain, args, kwargs, operands, pattern, target=target)

    def dims(self, call: Call) -> dict[str, int]:
        """Contracted dimension per operand."""
        return {str(position): dim for position, _, dim in self.places}

    def label(self, call: Call) -> str:
        """See Rule."""
        return (
            self.op
            if call.pattern == "aw" and len(self.places) == 2 and self.op in _WEIGHTED
            else (f"{self.op}({','.join(call.pattern)})")
        )

    def run(self, operator: Any, call: Call, memo: Any) -> Any:
        """See Rule."""

        def place(encoded: Mapping[str, Tensor]) -> tuple[tuple, dict]:
            return self.place(call, encoded)

        return operator(call.function, call.operands, place, memo)

    def place(self, call: Call, encoded: Mapping[str, Tensor]) -> tuple[tuple, dict]:
        """The call's arguments with some of its operands replaced."""
        if not encoded:
            return call.args, call.kwargs
        args, kwargs = list(call.args), dict(call.kwargs)
        for position, keyword, _ in self.places:
            value = encoded.get(str(position))
            if value is None:
                continue
            if position < len(args):
                args[position] = value
            else:
                kwargs[keyword] = value
        return tuple(args), kwargs


@dataclass(frozen=True)
class EinsumRule(MultilinearRule):
    """einsum(equation, *operands) or einsum(equation, [operands])."""

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """See Rule."""
        operands = self.operands(args, kwargs)
        return self._call(spelling, (args[0], *operands.values()), kwargs, operands)

    def operands(self, args: tuple, kwargs: dict[str, Any]) -> Operands:
        """See Rule."""
        listed = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else args[1:]
        return {str(i + 1): t for i, t in enumerate(listed)}

    def dims(self, call: Call) -> dict[str, int]:
        """See MultilinearRule."""
        return dict.fromkeys(call.operands, -1)

    def place(self, call: Call, encoded: Mapping[str, Tensor]) -> tuple[tuple, dict]:
        """See MultilinearRule."""
        args = [encoded.get(str(i), value) for i, value in enumerate(call.args)]
        return tuple(args), call.kwargs


@dataclass(frozen=True)
class FourierRule(MultilinearRule):
    """torch.fft: linear with constant weights, over the dimensions that dim (NumPy says axis) names."""

    places: tuple[tuple[int, str, int], ...] = ((0, "input", -1),)

    def dims(self, call: Call) -> dict[str, int]:
        """See MultilinearRule; of several dimensions the last."""
        default = call.kwargs.get("dim", call.kwargs.get("axis"))
        dim = call.args[2] if len(call.args) > 2 else default
        last = dim[-1] if isinstance(dim, (tuple, list)) and dim else dim
        return {"0": last if isinstance(last, int) else -1}

    def label(self, call: Call) -> str:
        """See Rule."""
        return self.op


@dataclass(frozen=True)
class QuotientRule(Rule):
    """a / b with an activation b; dividing by a constant is linear and no site."""

    reflected: bool = False

    def bind(self, spelling: Spelling, args: tuple, kwargs: dict[str, Any]) -> Call | None:
        """See Rule."""
        a, b = _pair(args, kwargs)
        if self.reflected:
            a, b = b, a
        if not is_activation(b) or kwargs.get("rounding_mode") is not None:
            return None
        assert isinstance(b, Tensor)
        operands = {"1": b}
        if is_activation(a):
            operands["0"] = a
        pattern = "aa" if "0" in operands else "wa"
        return Call(spelling.plain, (a, b), {}, operands, pattern, target=a if spelling.writes else None)

    def label(self, call: Call) -> str:
        """See Rule."""
        return f"{self.op}({','.join(call.pattern)})"


_PLAIN = (("approximate", "none"),)  # what a module writes out that is the function's own default

_WEIGHTED = frozenset(
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
)


def _pair(args: tuple, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The two operands of a quotient or a power, by position or by name."""
    first = args[0] if args else kwargs.get("input", kwargs.get("self"))
    return first, args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("exponent"))


def _number(value: Any) -> Any:
    """A one-element constant tensor as a number, so that it can be part of a function."""
    if isinstance(value, Tensor) and value.numel() == 1 and not is_activation(value):
        return value.item()
    return value
