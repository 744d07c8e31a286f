"""From plain data to operators: one operator per site, its neurons from the statistics."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import nn

from mbe_plugin.config import STATIC_SCALES, MBEConfig
from mbe_plugin.conversion.sites import Site
from mbe_plugin.conversion.vocabulary.catalogue import WEIGHTLESS, scalar_of
from mbe_plugin.fitting import FUNCTIONS, Fit, fit, library
from mbe_plugin.fitting.functions import Scalar
from mbe_plugin.fitting.segments import identity_tables, shared_scale_tables
from mbe_plugin.neuron.first_spike import first_spike_tables
from mbe_plugin.neuron.scaling import binary_exponent
from mbe_plugin.neuron.tables import Tables, mirrored_tables
from mbe_plugin.operators import (
    Attention,
    BatchNorm,
    CalibratedNode,
    EncodedCall,
    Exponential,
    GroupNorm,
    LayerNorm,
    Logarithm,
    NeuronFactory,
    NormalizationUnit,
    Periodic,
    Power,
    Quotient,
    Rectifier,
    RMSNorm,
    SharedScaleNode,
    Softmax,
    SpikingOperator,
    Statistics,
    Unary,
)
from mbe_plugin.operators.softmax import DEEPEST, WEIGHT

LARGEST_POWER = 4
PROBES = 129  # points at which a function is looked at before its range is widened
LARGEST_GROWTH = 4.0  # how much further than over the recorded range a function may go in its margin
UNSEEN = (-8.0, 8.0)  # domain of a neuron that no value reached in calibration, in an idle expert, say
LOGARITHMS = {"log": math.log2(math.e), "log2": 1.0, "log10": 1 / math.log10(2), "log1p": math.log2(math.e)}


def make_operator(site: Site, make: NeuronFactory, module_scalar: Scalar | None = None) -> SpikingOperator:
    """The operator of a site, with neurons from ``make``; module_scalar is the function of a unary unit."""
    if site.unit is not None and site.unit.kind == "normalization":
        unit = site.unit
        return NormalizationUnit(make, centered=unit.centered, eps=unit.eps, gain_offset=unit.gain_offset)
    if site.unit is not None:
        if site.unit.function in ("sin", "cos"):
            return Periodic(make("neuron", "sin"), site.unit.function)
        known = site.unit.function in FUNCTIONS
        return Unary(make("neuron", site.unit.function, None if known else module_scalar))
    if site.op in _WHOLE:
        return _WHOLE[site.op](make)
    if site.op == "scaled_dot_product_attention":
        return Attention(make, site.coded)
    if site.op == "div":
        numerator = make("numerator", "identity") if site.static["numerator"] else None
        return Quotient(numerator, make("reciprocal", "signed_reciprocal"))
    if site.dims:
        encoders = {
            name: make(f"encoders.{name}", "identity") for name in site.dims if name not in site.coded
        }
        return EncodedCall(encoders, site.dims)
    return make_unary(site.op, site.static, make)


_WHOLE = {
    "softmax": Softmax,
    "layer_norm": LayerNorm,
    "rms_norm": RMSNorm,
    "group_norm": GroupNorm,
    "batch_norm": BatchNorm,
}


def make_unary(op: str, static: dict[str, Any], make: NeuronFactory) -> SpikingOperator:
    """The operator of a function of one number, from its parts where it has an exact reduction."""
    first: Any = next(iter(static.values()), None)
    if op in ("exp", "exp2", "expm1"):
        log2_base = 1.0 if op == "exp2" else math.log2(math.e)
        return Exponential(make("exp2", "exp2"), log2_base, shift=-1.0 if op == "expm1" else 0.0)
    if op in LOGARITHMS:
        return Logarithm(make("neuron", "log2"), LOGARITHMS[op], shift=1.0 if op == "log1p" else 0.0)
    if op in ("sin", "cos"):
        return Periodic(make("neuron", "sin"), op)
    if op == "rpow" and isinstance(first, (int, float)) and first > 0:
        return Exponential(make("exp2", "exp2"), math.log2(first))
    if op in ("relu", "leaky_relu", "abs", "absolute"):
        slope = {"relu": 0.0, "leaky_relu": 0.01 if first is None else first}.get(op, -1.0)
        return Rectifier(make("neuron", "identity"), slope)
    if op == "square" or (op == "pow" and first in (2, 3, LARGEST_POWER)):
        return Power(make("neuron", "identity"), 2 if op == "square" else int(first))
    if op == "pow" and first in (0.5, -0.5, -1, 1):
        named = {0.5: "sqrt", -0.5: "rsqrt", -1: "signed_reciprocal", 1: "identity"}
        return Unary(make("neuron", named[first]))
    if op == "reciprocal":
        return Unary(make("neuron", "signed_reciprocal"))
    function, scalar = scalar_of(op, static)
    return Unary(make("neuron", function, scalar), _at_mask(scalar or FUNCTIONS[function].scalar))


def _at_mask(scalar: Scalar) -> float | None:
    """f(-inf); None where it is not finite."""
    value = scalar(torch.tensor([-math.inf], dtype=torch.float64)).item()
    return value if math.isfinite(value) else None


class NeuronBuilder:
    """NeuronFactory of one site: tables from the library or a fit, for the recorded statistics."""

    def __init__(self, site: Site, config: MBEConfig) -> None:
        self.site, self.config = site, config

    def __call__(self, role: str, function: str, scalar: Scalar | None = None) -> nn.Module:
        """A calibrated neuron for this role of the site."""
        statistics = self.site.roles.get(role, Statistics())
        if function == WEIGHT:
            return self._weight(role)
        if function == "identity":
            return self._identity(role, statistics)
        size = self._setting(role, "time_steps"), self._setting(role, "bases")
        if function in _REDUCED:
            low, high = _reduced_range(function, statistics)
            tables, reduction, error = _reduced_tables(function, *size, self.config.family)
            return CalibratedNode(tables, reduction, low, high, function, error)
        found = self._fitted(function, scalar, statistics, size)
        low, high = found.domain
        met = found.errors_on(statistics.sample().clamp(low, high)) if statistics.count else found.errors
        return CalibratedNode(found.tables, "none", low, high, function, math.sqrt(met.mean_squared))

    def _weight(self, role: str) -> nn.Module:
        """By first spikes: what is below 2^-T sends nothing. In the binary code the 2^x neuron's own train serves."""
        *_, time_steps, bases, code, _ = self.identity_settings(role)
        if code != "first_spike":
            return nn.Identity()
        one = torch.zeros((), dtype=torch.int32)  # as a binary exponent
        return SharedScaleNode(first_spike_tables(time_steps, bases), "tensor", one, -1.0, 1.0)

    def identity_settings(self, role: str) -> tuple[Any, ...]:
        """What decides how an identity in this role sends: dead zone, center, time steps, bases, code, scale."""
        names = ("dead_zone", "center", "time_steps", "identity_bases")
        return *(self._setting(role, name) for name in names), *self.config.encoding(self.site.name, role)

    def _setting(self, role: str, name: str) -> Any:
        return self.config.setting(self.site.name, name, role)

    def _fitted(
        self, function: str, scalar: Scalar | None, statistics: Statistics, size: tuple[int, int]
    ) -> Fit:
        known = function if scalar is None else _Named(function, scalar)
        value = scalar or FUNCTIONS[function].scalar
        if self.config.family == "published":  # on the recorded range, every part of it alike
            domain = _widened(statistics, 0.0, value)
            return fit(known, domain, *size, family="published")
        domain = _widened(statistics, self.config.margin, value)
        samples = statistics.sample() if statistics.count else None
        return fit(known, domain, *size, samples=samples)

    def _identity(self, role: str, statistics: Statistics) -> CalibratedNode:
        dead_zone, centered, time_steps, bases, code, scale = self.identity_settings(role)
        silent = dead_zone_of(dead_zone, statistics)
        # other sites multiply activations with each other, or have no weights for a scale to fold into
        linear = len(self.site.dims) == 1 and self.site.op not in WEIGHTLESS
        if scale == "channel" and not (linear and statistics.channels is not None):
            scale = "tensor" if code == "first_spike" else "token"
        if self.config.family == "published":
            node = self._published_identity(statistics, time_steps, bases)
        elif scale == "element":
            limit, error = 2 * statistics.magnitude, 2.0**-time_steps / bases
            tables = identity_tables(time_steps, bases)
            node = CalibratedNode(tables, "identity", -limit, limit, "identity", error)
        else:
            center = (
                statistics.spread.center(silent) if centered and linear and scale in STATIC_SCALES else None
            )
            reach = _reach(statistics, scale, center) * (1 + self.config.margin)
            limit = 1.0 if scale == "channel" else reach.item()
            exponents = binary_exponent(reach.clamp_min(1e-30))
            if code == "first_spike":
                tables = first_spike_tables(_steps_that_fire(time_steps, exponents, silent), bases)
            else:
                tables = shared_scale_tables(time_steps, bases)
            node = SharedScaleNode(tables, scale, exponents, -limit, limit, center)
        node.dead_zone = silent
        return node

    def _published_identity(self, statistics: Statistics, time_steps: int, bases: int) -> CalibratedNode:
        low, high = _widened(statistics, 0.0, FUNCTIONS["identity"].scalar)
        found = fit("identity", (low, high), time_steps, bases, family="published")
        error = max(abs(low), abs(high)) * 2.0**-time_steps
        return CalibratedNode(found.tables, "none", low, high, "identity", error)


def _reach(statistics: Statistics, scale: str, center: torch.Tensor | None) -> torch.Tensor:
    """The largest magnitude that calibration saw, of the distance to the center: of all values, or per channel."""
    channels = statistics.channels
    if center is None and scale != "channel":
        return torch.tensor(statistics.magnitude).float()
    assert channels is not None  # of the same calls as the spread
    furthest = channels if center is None else channels + center.abs()
    return (furthest if scale == "channel" else furthest.max()).float()


def _steps_that_fire(time_steps: int, exponents: torch.Tensor, dead_zone: float) -> int:
    """Of a first-spike neuron's steps those after which only values in the dead zone would fire are not taken."""
    if not dead_zone:
        return time_steps
    last = int((exponents - binary_exponent(torch.tensor(dead_zone))).max()) + 1
    return min(max(last, 1), time_steps)


def dead_zone_of(share: float, statistics: Statistics) -> float:
    """Below which value a neuron is silent: a float32 number, which every input is compared with in float32 or float64."""
    return torch.tensor(share * statistics.root_mean_square, dtype=torch.float32).item()


_TURNED = ("log2", "sin")  # their operators bring every input into the interval

# function -> the one whose tables serve it: roots reuse one octave's table for both parities of the exponent
_REDUCED = {
    "exp2": "exp2",
    "reciprocal": "reciprocal",
    "signed_reciprocal": "reciprocal",
    "rsqrt": "rsqrt_octave",
    "sqrt": "sqrt_octave",
    **{name: name for name in _TURNED},
}


@functools.lru_cache(maxsize=256)
def _reduced_tables(function: str, time_steps: int, bases: int, family: str) -> tuple[Tables, str, float]:
    """Tables on the reduced interval, ready-made where the library has them; reduction and error."""
    signed = function == "signed_reciprocal"
    name = function if family == "published" and not signed else _REDUCED[function]
    count = max(bases // 2, 1) if signed else bases
    found = library.find(name, time_steps, count, family=family)
    found = found or fit(name, None, time_steps, count, family=family)
    tables = mirrored_tables(found.tables) if signed else found.tables
    return tables, found.reduction, math.sqrt(found.mean_squared_error)


def _reduced_range(function: str, statistics: Statistics) -> tuple[float, float]:
    """Where inputs are expected; a reduced neuron is as accurate beyond, an exponent more is sent."""
    if function == "exp2":
        return min(DEEPEST - 1, statistics.low), statistics.high + 1
    if function in _TURNED:
        return FUNCTIONS[function].interval
    if function == "signed_reciprocal":
        return -2 * statistics.magnitude, 2 * statistics.magnitude
    return statistics.low / 2, statistics.high * 2


def _widened(statistics: Statistics, margin: float, scalar: Scalar) -> tuple[float, float]:
    """The recorded range and a margin, on either side as far as the function stays finite and of its size.

    A fit across a pole of tan or 1/x beyond the data would spend all its bases there.
    """
    if statistics.count == 0:
        return UNSEEN
    low, high = statistics.low, statistics.high
    reach = margin * max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-6)
    inside = scalar(torch.linspace(low, high, PROBES, dtype=torch.float64))
    inside = inside[torch.isfinite(inside)]
    span = (inside.max() - inside.min()).item() if inside.numel() else 0.0
    limit = LARGEST_GROWTH * max(span, reach)
    return _reached(scalar, low, low - reach, limit), _reached(scalar, high, high + reach, limit)


def _reached(scalar: Scalar, edge: float, end: float, limit: float) -> float:
    """How far from ``edge`` to ``end`` the function moves away from its value at the edge by at most ``limit``."""
    points = torch.linspace(edge, end, PROBES, dtype=torch.float64)
    values = scalar(points)
    good = torch.isfinite(values) & ((values - values[0]).abs() <= limit)
    return points[int(good.long().cumprod(0).sum()) - 1].item() if bool(good[0]) else edge


class _Named:
    """A scalar function that carries its name into the fit, and takes float64 whatever the model's dtype."""

    def __init__(self, name: str, scalar: Scalar) -> None:
        self.__name__, self.scalar = name, scalar

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.scalar(x)
