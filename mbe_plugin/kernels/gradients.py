"""Derivatives of the read-out, by one sweep over the steps and no autograd graph.

``surrogate_slope`` is what autograd through ``steps.decode`` with a surrogate function gives, tested to rounding.
``staircase_slope`` is the slope of the line that a halving basis's staircase follows (straight through).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.kernels.banks import look_up
from mbe_plugin.kernels.prepared import Prepared
from mbe_plugin.kernels.steps import Fire

# of a ramp: a fit clips its ends by about as much, for which the jump at the break point makes up
EDGE = 2.0**-5
CHUNK = {"cpu": 1 << 15}  # elements whose T membranes stay in the cache
LARGE_CHUNK = 1 << 22  # elsewhere: what bounds the memory


class Detour(torch.autograd.Function):
    """``run(x)`` forward, ``pull(x, gradient)`` backward: what run computes leaves no graph behind."""

    @staticmethod
    def forward(
        x: Tensor, run: Callable[[Tensor], Tensor], pull: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """run(x)."""
        return run(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Keep x and pull."""
        x, _, ctx.pull = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """pull(x, gradient)."""
        return ctx.pull(*ctx.saved_tensors, gradient), None, None


def surrogate_slope(x: Tensor, p: Prepared, fire: Fire) -> Tensor:
    """d read-out / dx for reduced inputs x [...], with ``fire``'s derivative for that of the comparison."""
    flat = x.detach().reshape(-1)
    chunk = CHUNK.get(x.device.type, LARGE_CHUNK)
    slopes = [_swept(part, p, fire) for part in flat.split(chunk)]
    return torch.cat(slopes).reshape(x.shape)


def _swept(x: Tensor, p: Prepared, fire: Fire) -> Tensor:
    """surrogate_slope of x [n]."""
    total = torch.zeros_like(x)
    for row, membrane, scale in _driven(x, p):
        slope = _halving(membrane, p.time_steps, fire) if p.halving else _free(membrane, p, row, fire)
        total += slope.mul_(scale)
    return total


def _driven(x: Tensor, p: Prepared) -> Iterator[tuple[int | Tensor, Tensor, Tensor]]:
    """The bases that x drives, one after another: their rows, their membranes at step 0, and weight * gain."""
    bank = p.bank(x)
    for place in range(p.bases_per_bank):
        row = p.rows(bank, place)
        gain = look_up(p.gain, row)
        yield row, (x - look_up(p.offset, row)).mul_(gain), look_up(p.weight, row) * gain


def _free(membrane: Tensor, p: Prepared, row: int | Tensor, fire: Fire) -> Tensor:
    """d output / d membrane [n] at step 0: sum_t d_t g_t prod_{k < t} (1 - r_k g_k), g_t = fire'(u_t - th_t)."""
    distances = membrane.new_empty(p.time_steps, *membrane.shape)
    for t, distance in enumerate(distances):
        torch.sub(membrane, look_up(p.threshold[t], row), out=distance)
        membrane = torch.where(distance >= 0, membrane - look_up(p.reset[t], row), membrane)
    slope = torch.zeros_like(membrane)
    for t, g in reversed(list(enumerate(_derivative(fire, distances)))):
        slope.addcmul_(g, look_up(p.intensity[t], row) - look_up(p.reset[t], row) * slope)
    return slope


def _halving(membrane: Tensor, time_steps: int, fire: Fire) -> Tensor:
    """The same for halving tables, in fewer passes: the membrane after t steps lacks its first t digits."""
    places = 2.0 ** torch.arange(time_steps, device=membrane.device).to(membrane)[:, None]  # [T, 1]
    distances = (
        (membrane * places).floor_().clamp_(torch.zeros_like(places), places - 1)
    )  # digits, as a whole number
    distances.add_(0.5).mul_(-1 / places).add_(membrane)
    slope, one = torch.zeros_like(membrane), membrane.new_ones(())
    for g in reversed(_derivative(fire, distances).mul_(0.5 / places).unbind()):
        slope.lerp_(one, g)  # slope + d_t g_t (1 - slope), as r_t = d_t
    return slope


def _derivative(fire: Fire, distances: Tensor) -> Tensor:
    """fire'(v) of each element."""
    with torch.enable_grad():
        v = distances.requires_grad_()
        spikes = fire(v)
    return torch.autograd.grad(spikes, v, torch.ones_like(spikes))[0]


def staircase_slope(x: Tensor, p: Prepared) -> Tensor:
    """weight * gain of the driven bases whose membrane is in [0, 1), give or take EDGE; 0 where it saturates.

    For halving tables: the staircase of such a basis follows a line of this slope.
    """
    total = torch.zeros_like(x)
    for _, membrane, scale in _driven(x, p):
        within = (membrane >= -EDGE) & (membrane <= 1 + EDGE)
        total += within * scale
    return total
