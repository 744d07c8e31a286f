"""Range reduction: what is done to an input before its membrane, and undone at the read-out.

A float is sign * mantissa * 2^exponent. The spikes carry the mantissa (or the fraction), in T
binary steps; the exponent is sent beside the train and shifts each spike's weight. All
functions here are exact: only exponents are read and powers of two multiplied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BITS = {
    # dtype: (integer dtype, mantissa bits, exponent mask, exponent bias)
    torch.float32: (torch.int32, 23, 0xFF, 127),
    torch.float64: (torch.int64, 52, 0x7FF, 1023),
}


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which an input is simulated: float64 as it is, everything shorter in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def binary_exponent(x: Tensor) -> Tensor:
    """The integer e with |x| = m * 2^e, m in [0.5, 1); zero and denormals give the smallest e."""
    integer, mantissa_bits, mask, bias = _BITS[x.dtype]
    return ((x.detach().view(integer) >> mantissa_bits) & mask) - (bias - 1)


def mantissa(x: Tensor) -> Tensor:
    """The m in [0.5, 1) with |x| = m * 2^e; 0.5 for zero and denormals, as for infinities."""
    integer, mantissa_bits, _, bias = _BITS[x.dtype]
    bits = x.detach().abs().clamp_min_(torch.finfo(x.dtype).smallest_normal).view(integer)
    return bits.bitwise_and_((1 << mantissa_bits) - 1).bitwise_or_((bias - 1) << mantissa_bits).view(x.dtype)


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2^exponent exactly, as dtype, for integer exponents; 0 below the normal range."""
    integer, mantissa_bits, mask, bias = _BITS[dtype]
    biased = (exponent.to(integer) + bias).clamp(0, mask)
    return (biased << mantissa_bits).view(dtype)


def scale_by_power_of_two(x: Tensor, exponent: Tensor) -> Tensor:
    """x * 2^exponent, exact within the normal range, also where 2^exponent alone would overflow."""
    half = exponent >> 1
    return x * power_of_two(half, x.dtype) * power_of_two(exponent - half, x.dtype)


def _root(x: Tensor) -> Tensor:
    """The square root, correctly rounded on every device, as the kernels have it; MKL's is not, of subnormal numbers."""
    if x.dtype == torch.float64 or x.device.type == "mps":  # which has no float64
        return x.sqrt()
    return x.double().sqrt().to(x.dtype)


# kernels know them by their numbers here
KINDS = ("none", "clip", "fraction", "exponent", "octave")
POWERS = (1.0, -1.0, 0.5, -0.5)


@dataclass(frozen=True)
class Reduction:
    """x -> (reduced, exponent, active), and back: y -> y * 2^(power * exponent).

    kind: 'none' (the input is its own membrane), 'clip' (the same, of what lies in (-1, 1); further out the last numbers
    there, so that what leaves the range saturates), 'exponent' (reduced = x * 2^-exponent with magnitude
    in [0.5, 1), or in [0.5, 2) and an even exponent when power is +-1/2), 'octave' (power +-1/2 with
    [0.5, 1) and any exponent: an odd one scales the read-out by sqrt(2) or its inverse, so one table serves
    both octaves) or 'fraction' (exponent = floor(x), reduced = x - exponent in [0, 1)).
    ``active`` is False where the neuron stays silent (x = 0, or nothing to send); None means all.
    """

    name: str
    kind: str
    power: float = 1.0

    def one_sided(self, mirrored: bool) -> bool:
        """Whether negative inputs read NaN: a mantissa around tables that are not mirrored."""
        return self.kind in ("exponent", "octave") and not mirrored

    def accurate_range(self, dtype: torch.dtype, mirrored: bool) -> tuple[float, float] | None:
        """Least and largest input of a dtype that reads as accurately as the reduced interval; None for others.

        Accurate means an error relative to the value, down to the smallest normal number of the dtype: what
        underflows is exact, what overflows is lost.
        """
        if self.kind in ("none", "clip"):
            return None
        limits = torch.finfo(dtype)
        largest = limits.max * (1 - limits.eps)  # half a step above max itself would round to infinity
        if self.kind == "fraction":
            return -largest, math.frexp(limits.max)[1] - 1.0
        if mirrored and self.power in (1, -1):
            return -largest, largest
        return (limits.smallest_normal if self.power < 0 else 0.0), largest

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Reduced input, integer exponent and active mask of x (float32 or float64)."""
        if self.kind == "none":
            return x, None, None
        if self.kind == "clip":
            largest = 1.0 - torch.finfo(x.dtype).eps / 2
            return x.clamp(-largest, largest), None, None
        if self.kind == "fraction":
            floor = torch.floor(x)
            active = (floor >= 1.0 - _BITS[x.dtype][3]) & (x < torch.inf)
            largest = 2.0 * _BITS[x.dtype][3]  # beyond it 2^x is infinite anyway
            exponent = torch.where(active, floor, 0.0).clamp(max=largest).to(torch.int32)
            return torch.where(active, x - floor, 0.0), exponent, active
        exponent = binary_exponent(x)
        smallest = -(_BITS[x.dtype][3] - 1)
        active = (exponent > smallest) & torch.isfinite(x)
        if self.power in (0.5, -0.5):  # sqrt and 1/sqrt
            active &= x > 0
            if self.kind == "exponent":  # halving the exponent needs it even
                exponent = exponent - (exponent & 1)
        reduced = scale_by_power_of_two(x, torch.where(active, -exponent, 0))
        return reduced, exponent, active

    def restore(self, y: Tensor, exponent: Tensor | None, active: Tensor | None, x: Tensor) -> Tensor:
        """Undo the reduction on a read-out; silent elements read the function's exact limit."""
        if exponent is None:
            return y + x * 0  # an input that is not finite must not come out finite
        out = self.scale(y, exponent)
        if active is None:
            return out
        # what sends no spikes reads the function's own limit, a constant: its gradient could be infinite
        x = x.detach()
        if self.kind == "fraction":
            limit = torch.where(x < 0, 0.0, x)
        elif self.power == 1:
            limit = torch.where(torch.isfinite(x), x * 0, x)
        else:
            limit = _root(x) if self.power == 0.5 else 1 / (_root(x) if self.power == -0.5 else x)
        return torch.where(active, out, limit)

    def pull_back(
        self, gradient: Tensor, slope: Tensor, exponent: Tensor | None, active: Tensor | None, x: Tensor
    ) -> Tensor:
        """The gradient of the input x from that of the output, ``slope`` being d read-out / d reduced input."""
        if exponent is None:
            out = gradient * slope
            return torch.where(x.abs() < 1, out, 0.0) if self.kind == "clip" else out
        if self.kind == "exponent" and self.power == 1:  # the two shifts undo each other
            out = gradient * slope
        else:
            out = self.scale(gradient, exponent) * slope
            out = out if self.kind == "fraction" else scale_by_power_of_two(out, -exponent)
        return out if active is None else torch.where(active, out, 0.0)

    def scale(self, y: Tensor, exponent: Tensor) -> Tensor:
        """y shifted by the exponent that was sent: y * 2^(power * exponent)."""
        if self.kind == "octave":
            y = torch.where((exponent & 1) == 1, y * 2.0**self.power, y)
        if self.power in (0.5, -0.5):
            exponent = exponent >> 1
        return scale_by_power_of_two(y, exponent if self.power > 0 else -exponent)


NONE = Reduction("none", "none")
CLIP = Reduction("clip", "clip")
IDENTITY = Reduction("identity", "exponent", 1.0)
RECIPROCAL = Reduction("reciprocal", "exponent", -1.0)
SQRT = Reduction("sqrt", "exponent", 0.5)
RSQRT = Reduction("rsqrt", "exponent", -0.5)
SQRT_OCTAVE = Reduction("sqrt_octave", "octave", 0.5)
RSQRT_OCTAVE = Reduction("rsqrt_octave", "octave", -0.5)
EXP2 = Reduction("exp2", "fraction", 1.0)

REDUCTIONS = {
    r.name: r for r in (NONE, CLIP, IDENTITY, RECIPROCAL, SQRT, RSQRT, SQRT_OCTAVE, RSQRT_OCTAVE, EXP2)
}
