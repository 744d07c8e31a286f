"""The scalar functions that networks need, in float64, with what is known of each.

A function with a range reduction is fitted on the reduced interval and serves every input; the others
are fitted on a domain: the recorded range, or the one given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Scalar = Callable[[Tensor], Tensor]
NARROWEST = 2**20  # least width of a domain over its magnitude, inverted: float32 must tell cells apart


@dataclass(frozen=True)
class StandardFunction:
    """A named scalar function; ``interval`` is where its tables live, reduced or by default.

    ``measured``: the wider interval that one table serves through its range reduction, where there is one.
    """

    name: str
    scalar: Scalar
    interval: tuple[float, float]
    reduction: str = "none"
    kinks: tuple[float, ...] = ()
    measured: tuple[float, float] | None = None


def _named(name: str, scalar: Scalar, low: float, high: float, **known: object) -> StandardFunction:
    return StandardFunction(name, scalar, (low, high), **known)  # type: ignore[arg-type]  # keyword fields


FUNCTIONS: dict[str, StandardFunction] = {
    f.name: f
    for f in (
        _named("identity", lambda x: x, 0.5, 1.0, reduction="identity"),
        _named("exp2", torch.exp2, 0.0, 1.0, reduction="exp2"),
        _named("reciprocal", torch.reciprocal, 0.5, 1.0, reduction="reciprocal"),
        _named("signed_reciprocal", torch.reciprocal, 0.5, 1.0, reduction="reciprocal"),
        _named("rsqrt", torch.rsqrt, 0.5, 2.0, reduction="rsqrt"),
        _named("sqrt", torch.sqrt, 0.5, 2.0, reduction="sqrt"),
        _named("rsqrt_octave", torch.rsqrt, 0.5, 1.0, reduction="rsqrt_octave", measured=(0.5, 2.0)),
        _named("sqrt_octave", torch.sqrt, 0.5, 1.0, reduction="sqrt_octave", measured=(0.5, 2.0)),
        _named("log2", torch.log2, 1.0, 2.0),
        _named("sin", torch.sin, -math.pi / 2, math.pi / 2),
        _named("gelu", F.gelu, -8.0, 8.0),
        _named("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), -8.0, 8.0),
        _named("silu", F.silu, -12.0, 12.0),
        _named("tanh", torch.tanh, -5.0, 5.0),
        _named("sigmoid", torch.sigmoid, -10.0, 10.0),
        _named("erf", torch.erf, -4.0, 4.0),
        _named("softplus", F.softplus, -12.0, 12.0),
        _named("mish", F.mish, -12.0, 12.0),
    )
}


def published_interval(name: str) -> tuple[float, float]:
    """The domain that the paper fits a function on (arXiv:2508.07710)."""
    published = {"gelu": (-120.0, 10.0), "exp2": (0.0, 1.0), "reciprocal": (0.5, 1.0), "rsqrt": (0.5, 2.0)}
    return published.get(name, FUNCTIONS[name].interval)


def check_domain(domain: tuple[float, float]) -> tuple[float, float]:
    """The domain as two floats; ValueError if it is empty, inverted or not finite."""
    low, high = (float(v) for v in domain)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"a domain must be finite, got ({low}, {high})")
    if not low < high:
        raise ValueError(f"a domain needs low < high, got ({low}, {high})")
    if (high - low) * NARROWEST < max(abs(low), abs(high)):
        raise ValueError(
            f"the domain ({low}, {high}) is too narrow for float32 membranes; widen it to at least "
            f"1/{NARROWEST} of its magnitude"
        )
    return low, high


def evaluate(scalar: Scalar, x: Tensor, name: str) -> Tensor:
    """scalar(x) in float64 for x [n]; clear errors where it is not elementwise or not finite."""
    with torch.no_grad():
        y = scalar(x.clone())
    if not isinstance(y, Tensor) or y.shape != x.shape:
        got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"{name} is not elementwise: it maps shape {list(x.shape)} to {got}; an MBE neuron fits "
            "functions of one number"
        )
    y = y.to(torch.float64)
    bad = ~torch.isfinite(y)
    if bool(bad.any()):
        where = x[bad][0].item()
        raise ValueError(f"{name}({where:g}) is {y[bad][0].item()}; choose a domain where it is finite")
    return y


def check_elementwise(scalar: Scalar, low: float, high: float, name: str) -> None:
    """ValueError unless scalar commutes with a permutation and ignores an element's neighbours."""
    x = np.linspace(low, high, 33)
    order = np.roll(np.arange(33), 7)[::-1]
    y, shuffled, alone = (
        evaluate(scalar, torch.from_numpy(part.copy()), name).numpy() for part in (x, x[order], x[5:6])
    )
    same = np.allclose(shuffled, y[order], rtol=1e-6, atol=1e-9)
    if not (same and np.allclose(alone, y[5:6], rtol=1e-6, atol=1e-9)):
        raise ValueError(
            f"{name} is not elementwise: an output changes with the other inputs; an MBE neuron fits "
            "functions of one number"
        )
