"""MBEConfig: everything that decides how a model is converted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from mbe_plugin.neuron.tables import check_bases, check_time_steps

Family = Literal["routed", "published"]
Code = Literal["binary", "first_spike"]
Scale = Literal["auto", "element", "token", "channel", "tensor"]
LinearInputs = Literal["spiking", "analogue"]
Simulation = Literal["closed", "steps", "events"]
Gradient = Literal["surrogate", "slope"]
Backend = Literal["auto", "torch", "numba", "triton", "cupy"]

SITE_OVERRIDES = ("time_steps", "bases", "identity_bases", "code", "scale", "dead_zone", "center")
STATIC_SCALES: tuple[Scale, ...] = ("channel", "tensor")
CONFIG_VERSION = 1


class Overrides(dict[str, Any]):
    """The settings of some sites: a dict that can be hashed and refuses changes, as the config that it is part of."""

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple:
        return Overrides, (dict(self),)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "MBEConfig.sites is frozen; make another config with dataclasses.replace(config, sites=...)"
        )

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse


@dataclass(frozen=True)
class MBEConfig:
    """How to convert: one frozen value that goes to JSON and back.

    time_steps: T, 1 to 20. bases: N of every neuron that computes a function, over signs and segments.
    identity_bases: N of the identity neurons that encode operands; a power of two, at least 2 (one per sign).
    family: 'routed' (our extensions: one basis per element, chosen by sign, exponent and segment) or
    'published' (N parallel bases of the paper's five numbers; fixed ranges).
    code: what an encoded activation's train spells: 'binary' (T binary digits) or 'first_spike' (at most one spike: its
    time is the exponent, its basis the mantissa's leading log2(N / 2) bits; what is below 2^-T of the scale reads 0).
    scale: where the power-of-two scale of an encoded activation comes from: 'element' (the mantissa in T bits by
    spikes, the exponent sent beside it), 'token' (one exponent per row of the contracted dimension),
    'channel' (calibrated, one per input feature of a linear layer; products of activations take 'token', in the
    first-spike code 'tensor') or 'tensor' (calibrated, one). 'auto' is 'element' for the binary code; for the first-spike
    code, which sends no exponent, 'tensor'.
    dead_zone: of an encoded activation, values smaller than this share of the root mean square that calibration saw there
    send nothing, neither spike nor exponent, and read 0. (Attention weights, role 'weights', have none: T is theirs.)
    center: the train of a layer's input spells its distance to a constant of each channel, which the layer's bias takes
    in: the one around which the dead zone silences most of what calibration saw, such as a GELU's -0.1, and the mean of
    what is silent (without a dead zone the median). For layers with weights whose scale is 'tensor' or 'channel'; elsewhere
    False is meant.
    linear_inputs: 'spiking', or 'analogue' to leave the inputs of linear layers, convolutions and Fourier transforms
    unencoded.
    merge: use trains that are there already: a unary neuron's feeds the next product, and a product's pairs of spikes
    (LayerNorm, softmax, attention, gates) feed the next weights, without encoding the value again.
    simulate: 'closed', 'steps' (every step loop is run) or 'events' (and every event is delivered on its own: it adds its
    amount times a row of weights to the outputs that it reaches; slow, without gradients); all give the same spikes for
    the same inputs.
    backend: whose kernels compute the neurons' decoded values; the spikes are the same. 'auto' takes 'numba' on the CPU and
    'triton' on CUDA, where they are installed, else 'torch'; see MBENode. Files hold it as a wish: where it cannot run,
    load() takes 'auto'.
    gradient: what the backward pass takes for a neuron's derivative: 'surrogate' (the step loop's, with a surrogate for the
    comparison's) or 'slope' (that of the decoded function, straight through the staircase; not with family 'published').
    strict: refuse a model in which an operator on activations is neither spiking nor exact by design.
    margin: how far beyond the recorded range a neuron is fitted, as a share of the range.
    include, exclude: shell patterns on site names; sites not included, or excluded, stay exact and are reported.
    sites: ((pattern, {name: value}), ...) with time_steps, bases, identity_bases, code, scale, dead_zone or center; the
    last match wins. A pattern meets a site's name, or 'site|role' for one of its neurons, such as '*:layer_norm|deviation'.

    Raises ValueError for a value outside these.
    """

    time_steps: int = 16
    bases: int = 64
    identity_bases: int = 8
    family: Family = "routed"
    code: Code = "binary"
    scale: Scale = "auto"
    dead_zone: float = 0.0
    center: bool = False
    linear_inputs: LinearInputs = "spiking"
    merge: bool = True
    simulate: Simulation = "closed"
    gradient: Gradient = "surrogate"
    backend: Backend = "auto"
    strict: bool = True
    margin: float = 1.0
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    sites: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def __post_init__(self) -> None:
        check_time_steps(self.time_steps)
        check_bases(self.bases)
        _check_identity_bases(self.identity_bases)
        for name, kind in (
            ("family", Family),
            ("code", Code),
            ("scale", Scale),
            ("linear_inputs", LinearInputs),
            ("simulate", Simulation),
            ("gradient", Gradient),
            ("backend", Backend),
        ):
            _check_choice(name, getattr(self, name), get_args(kind))
        if self.gradient == "slope" and self.family == "published":
            raise ValueError(
                "gradient 'slope' needs family 'routed', whose tables halve; the published ones have no slope"
            )
        _resolved("MBEConfig", self.code, self.scale)
        _check_dead_zone(self.dead_zone)
        _check_center(self.center)
        if not 0 <= self.margin < 100:
            raise ValueError(f"margin must be a share of the range, 0 or more, got {self.margin}")
        for name in ("include", "exclude"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name} must be a tuple of patterns, got the string {value!r}")
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "sites", _as_sites(self.sites))
        for pattern, overrides in self.sites:
            _check_overrides(pattern, overrides)
        settings = [{"code": self.code, "dead_zone": self.dead_zone}, *(o for _, o in self.sites)]
        if self.family == "published" and any(s.get("code") == "first_spike" for s in settings):
            raise ValueError("code 'first_spike' needs family 'routed': its basis is chosen by the mantissa")
        if self.family == "published" and any(s.get("dead_zone") for s in settings):
            raise ValueError("dead_zone needs family 'routed': a published neuron sends something for 0, too")

    @classmethod
    def published(cls, **changes: Any) -> MBEConfig:
        """The published method: N = 8 parallel bases, ranges fixed per tensor, Linear inputs spiking."""
        return cls(**{"family": "published", "bases": 8, "scale": "tensor", "merge": False, **changes})

    @classmethod
    def low_energy(cls, **changes: Any) -> MBEConfig:
        """At most one event per value: first spikes, precise where events meet events, sparse where they meet weights.

        mbe_plugin.tune() starts here, and finds what suits one network. Language models feel its dead zone.
        """
        layers = {"time_steps": 20, "identity_bases": 32, "dead_zone": 0.1, "center": True}
        between = {"time_steps": 16, "identity_bases": 128}
        neurons: dict[str, Mapping[str, Any]] = {
            "*|encoders.*": layers,
            # activations among themselves, such as a gate's: cheap, and an error reaches every weight after them
            "*(*a,*a*)*|encoders.*": {**between, "dead_zone": 0.0, "center": False},
            # massive activations beside ordinary ones
            "*|deviation": {"time_steps": 20, "identity_bases": 256},
            **{f"*|{role}": between for role in ("query", "key", "value", "weights", "mixed")},
        }
        preset = {"time_steps": 8, "code": "first_spike", "merge": False, "sites": tuple(neurons.items())}
        return cls(**{**preset, **changes})

    def keeps_exact(self, site: str) -> bool:
        """Whether include and exclude leave this site exact."""
        included = any(fnmatchcase(site, p) for p in self.include)
        return not included or any(fnmatchcase(site, p) for p in self.exclude)

    def setting(self, site: str, name: str, role: str = "") -> Any:
        """One of SITE_OVERRIDES for a site, or for the neuron in one of its roles."""
        value = getattr(self, name)
        for pattern, overrides in self.sites:
            if name in overrides and any(fnmatchcase(n, pattern) for n in (site, f"{site}|{role}")):
                value = overrides[name]
        return value

    def encoding(self, site: str, role: str = "") -> tuple[Code, Scale]:
        """The code of an identity neuron and where its scale comes from, which is never 'auto'.

        Raises ValueError for a first spike with a scale from the data, which it could not send.
        """
        return _resolved(site, self.setting(site, "code", role), self.setting(site, "scale", role))

    @property
    def centers_any(self) -> bool:
        """Whether ``center`` holds for any site."""
        return self.center or any(overrides.get("center", False) for _, overrides in self.sites)

    def to_json(self) -> str:
        """JSON text with a version."""
        return json.dumps({"version": CONFIG_VERSION, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> MBEConfig:
        """The config that to_json wrote; ValueError for another version or unknown fields."""
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"MBEConfig.to_json wrote an object; this JSON is {text[:40]!r}")
        version = data.pop("version", None)
        if version != CONFIG_VERSION:
            raise ValueError(f"this MBEConfig has version {version!r}; this package reads {CONFIG_VERSION}")
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown MBEConfig fields {sorted(unknown)}")
        return cls(**data)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def _resolved(where: str, code: Code, scale: Scale) -> tuple[Code, Scale]:
    if scale == "auto":
        return code, "tensor" if code == "first_spike" else "element"
    if code == "first_spike" and scale not in STATIC_SCALES:
        raise ValueError(
            f"{where}: code 'first_spike' sends no exponent, its scale must be 'tensor', 'channel' or 'auto', got {scale!r}"
        )
    return code, scale


def _as_sites(sites: Any) -> tuple[tuple[str, Overrides], ...]:
    pairs = [] if isinstance(sites, (str, dict)) else [tuple(pair) for pair in sites]
    well_formed = all(len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], dict) for p in pairs)
    if not well_formed or isinstance(sites, (str, dict)):
        raise ValueError(f"sites must be ((pattern, {{name: value}}), ...), got {sites!r}")
    return tuple((pattern, Overrides(overrides)) for pattern, overrides in pairs)


def _check_overrides(pattern: str, overrides: Mapping[str, Any]) -> None:
    unknown = set(overrides) - set(SITE_OVERRIDES)
    if unknown:
        raise ValueError(f"sites[{pattern!r}] sets {sorted(unknown)}; only {SITE_OVERRIDES} go per site")
    if "time_steps" in overrides:
        check_time_steps(overrides["time_steps"])
    if "bases" in overrides:
        check_bases(overrides["bases"])
    if "identity_bases" in overrides:
        _check_identity_bases(overrides["identity_bases"])
    if "center" in overrides:
        _check_center(overrides["center"])
    if "dead_zone" in overrides:
        _check_dead_zone(overrides["dead_zone"])
    for name, kind in (("code", Code), ("scale", Scale)):
        if name in overrides:
            _check_choice(f"sites[{pattern!r}].{name}", overrides[name], get_args(kind))


def _check_dead_zone(share: Any) -> None:
    number = isinstance(share, (int, float)) and not isinstance(share, bool)
    if not (number and 0 <= share < 100):
        raise ValueError(f"dead_zone must be a share of the root mean square, 0 or more, got {share!r}")


def _check_center(center: Any) -> None:
    if not isinstance(center, bool):
        raise ValueError(f"center must be True or False, got {center!r}")


def _check_identity_bases(bases: int) -> None:
    check_bases(bases)
    if bases < 2 or bases & (bases - 1):
        raise ValueError(f"identity_bases must be a power of two, at least 2, got {bases}")
