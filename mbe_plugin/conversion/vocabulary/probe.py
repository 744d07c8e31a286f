"""Recognising whole modules as one operator, by what they compute rather than by name.

A module without parameters that maps each number on its own is one unary neuron (GPT-2's hand-written
GELU); a module that equals LayerNorm or RMSNorm over its last dimension is that operator. torch's own modules
are left out: they make one call, which the catalogue knows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.conversion.vocabulary.units import UnitSpec
from mbe_plugin.fitting.functions import FUNCTIONS

_NAMES = ("gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "mish", "softplus", "sin")
KNOWN_FUNCTIONS = {**{name: FUNCTIONS[name].scalar for name in _NAMES}, "cos": torch.cos}
TOLERANCE = 1e-5


def find_units(model: nn.Module, run: Callable[[], Any]) -> dict[str, UnitSpec]:
    """Path -> UnitSpec for the modules that ``run`` reaches and probing recognises."""
    inputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(_keep_first(inputs, path))
        for path, module in model.named_modules()
        if _candidate(module)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    found = {path: probe(model.get_submodule(path), x) for path, x in inputs.items()}
    return {path: spec for path, spec in found.items() if spec is not None}


def probe(module: nn.Module, x: Tensor) -> UnitSpec | None:
    """What the module is, if it is one operator; x is an input it has met."""
    subject = copy.deepcopy(module).cpu().eval()
    subject._forward_hooks.clear()
    subject._forward_pre_hooks.clear()
    try:
        with torch.no_grad():
            if subject(x).dtype != x.dtype:
                return None  # an operator returns its input's dtype
            subject = subject.to(torch.float64)
            if any(True for _ in subject.parameters()):
                return _as_normalization(subject, x.shape[-1])
            return _as_unary(subject, type(module).__name__)
    except Exception:  # a module that refuses the probes' inputs is no unit; its own calls are routed instead
        return None


def _candidate(module: nn.Module) -> bool:
    if type(module).__module__.startswith("torch.nn") or any(True for _ in module.children()):
        return False
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm, nn.Linear)):
        return False
    parameters = list(module.parameters(recurse=False))
    return len(parameters) <= 2 and all(p.dim() == 1 for p in parameters)


def _keep_first(inputs: dict[str, Tensor], path: str) -> Callable:
    def hook(module: nn.Module, args: tuple) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_floating_point():
            # one vector of it tells the type and the width, and keeps no activations alive
            inputs.setdefault(path, args[0].detach()[(slice(1),) * (args[0].dim() - 1)].cpu().clone())

    return hook


def _as_unary(module: nn.Module, name: str) -> UnitSpec | None:
    x = torch.linspace(-6, 6, 24, dtype=torch.float64).reshape(2, 3, 4)
    y = module(x)
    if not isinstance(y, Tensor) or y.shape != x.shape or not bool(torch.isfinite(y).all()):
        return None
    shuffled = torch.arange(24).flip(0).roll(5)
    again = module(x.reshape(-1)[shuffled].reshape(2, 3, 4)).reshape(-1)
    other = x.clone()
    other[0, 0, 0] += 1
    unmoved = (module(other) == y).reshape(-1)[1:]
    if not (torch.allclose(again, y.reshape(-1)[shuffled], atol=1e-9) and bool(unmoved.all())):
        return None
    slope = (y[-1, -1, -1] - y[0, 0, 0]) / 12
    if torch.allclose(y, y[0, 0, 0] + slope * (x + 6), atol=1e-9):
        return None  # linear (Identity, Dropout): nothing to spike
    for known, scalar in KNOWN_FUNCTIONS.items():
        if torch.allclose(y, scalar(x), atol=1e-9):
            return UnitSpec("unary", known)
    return UnitSpec("unary", name)


def _as_normalization(module: nn.Module, width: int) -> UnitSpec | None:
    named = dict(module.named_parameters(recurse=False))
    if any(p.numel() != width for p in named.values()):
        return None
    eps = next(
        (float(getattr(module, n)) for n in _EPS_NAMES if isinstance(getattr(module, n, None), float)), 1e-6
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, width, dtype=torch.float64, generator=generator) * torch.tensor(
        [[1e-3], [0.1], [1.0], [10.0], [1e3]], dtype=torch.float64
    )
    y = module(x + 0.5)
    weight = named.get("weight", next(iter(named.values())))
    weight_name = next(n for n, p in named.items() if p is weight)
    bias_name = next((n for n in named if n != weight_name), None)
    bias = 0.0 if bias_name is None else named[bias_name]
    for centered in (False, True):
        work = x + 0.5
        if centered:
            work = work - work.mean(-1, keepdim=True)
        normal = work * torch.rsqrt(work.square().mean(-1, keepdim=True) + eps)
        for gain_offset in (0.0, 1.0):
            if torch.allclose(normal * (weight + gain_offset) + bias, y, rtol=TOLERANCE, atol=TOLERANCE):
                return UnitSpec(
                    "normalization",
                    "layer_norm" if centered else "rms_norm",
                    centered,
                    eps,
                    gain_offset,
                    weight_name,
                    bias_name,
                )
    return None


_EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_eps")
