"""The numbers of one MBE neuron: what is fixed before the first spike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

MAX_TIME_STEPS = 20  # a float32 mantissa (24 bits) holds the code, two segment bits and half a step

TABLE_FIELDS = ("threshold", "reset", "intensity", "weight", "bias", "offset", "gain", "breakpoints")


@dataclass(frozen=True, eq=False)
class Tables:
    r"""Tables, read-out and banks of an MBE neuron with N bases and T steps.

    The dynamics (arXiv:2508.07710, eq. 5-8, with our offset and gain) of basis n are

        u_n[0]   = gain_n * (x - offset_n)
        s_n[t]   = H(u_n[t] - threshold[t, n])        fires at equality
        u_n[t+1] = u_n[t] - s_n[t] * reset[t, n]
        f(x)     ~ sum_n weight_n * sum_t s_n[t] * intensity[t, n] + bias

    The published neuron has offset 0 and gain 1. With ``breakpoints``, the N bases stand side by
    side in B = len(breakpoints) + 1 banks of N / B bases; an input drives only the bank it falls in
    and reads that bank's bias (routing by segment, an extension). With ``mirrored`` the first half
    of the banks serves x >= 0 and the second half, its mirror image, x < 0; the break points are
    then magnitudes and B = 2 * (len(breakpoints) + 1). With ``octaves`` (mirrored only) the break points
    are mantissas, strictly between 1/2 and 1, and repeat in every octave.

    Shapes: threshold, reset, intensity [T, N]; weight, offset, gain [N]; bias [B];
    breakpoints [B - 1] or, mirrored, [B / 2 - 1]. All float32 on the CPU.

    Raises ValueError for shapes that disagree, T or N below 1, T above 20, numbers not finite, or octaves without
    mantissas of both signs.
    """

    threshold: Tensor
    reset: Tensor
    intensity: Tensor
    weight: Tensor
    bias: Tensor
    offset: Tensor
    gain: Tensor
    breakpoints: Tensor
    mirrored: bool = False
    octaves: bool = False

    def __post_init__(self) -> None:
        for name in TABLE_FIELDS:
            value = torch.as_tensor(getattr(self, name), dtype=torch.float32).detach().cpu()
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} holds a value that is not finite: {value.tolist()}")
            object.__setattr__(self, name, value.clone())
        if self.threshold.dim() != 2 or 0 in self.threshold.shape:
            raise ValueError(f"threshold must be [T, N] with T, N >= 1, got {list(self.threshold.shape)}")
        check_time_steps(self.time_steps)
        wanted = {
            "reset": (self.time_steps, self.bases),
            "intensity": (self.time_steps, self.bases),
            "weight": (self.bases,),
            "offset": (self.bases,),
            "gain": (self.bases,),
            "bias": (self.banks,),
        }
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} must have shape {list(shape)}, got {list(getattr(self, name).shape)}"
                )
        if self.bases % self.banks:
            raise ValueError(f"{self.bases} bases do not fill {self.banks} banks evenly")
        if bool((self.breakpoints[1:] < self.breakpoints[:-1]).any()):
            raise ValueError(f"breakpoints must ascend, got {self.breakpoints.tolist()}")
        if self.octaves and not (self.mirrored and bool(((self.breakpoints - 0.75).abs() < 0.25).all())):
            raise ValueError(
                f"octaves needs mirrored tables and break points between 1/2 and 1, got {self.breakpoints.tolist()} "
                f"with mirrored={self.mirrored}"
            )

    @property
    def time_steps(self) -> int:
        """T."""
        return self.threshold.shape[0]

    @property
    def bases(self) -> int:
        """N, counted over all signs and segments."""
        return self.threshold.shape[1]

    @property
    def banks(self) -> int:
        """B."""
        segments = self.breakpoints.numel() + 1
        return 2 * segments if self.mirrored else segments

    @property
    def bases_per_bank(self) -> int:
        """How many bases can fire for one element."""
        return self.bases // self.banks

    @cached_property
    def halving(self) -> bool:
        """Whether every basis is the binary code th = r = d = 2^-(t+1), so spikes are bits."""
        want = halving_table(self.time_steps, self.bases)
        tables = (self.threshold, self.reset, self.intensity)
        return all(torch.equal(table, want) for table in tables)

    @property
    def distinct_outputs(self) -> int:
        """Upper bound on the number of distinct read-outs of this neuron.

        One basis per element: N * 2^T. N halving bases in parallel: N (2^T - 1) + 1; in parallel with
        other decays, 2^(N T) in principle, of which the same N (2^T - 1) + 1 intervals of x are left,
        since each basis's spike train changes at most 2^T - 1 times along x.
        """
        codes = 2**self.time_steps
        per_bank = self.bases_per_bank * (codes - 1) + 1
        return self.banks * per_bank

    def as_dict(self) -> dict[str, Tensor]:
        """The tensors by name (without ``mirrored`` and ``octaves``)."""
        return {name: getattr(self, name) for name in TABLE_FIELDS}


def check_time_steps(time_steps: int) -> None:
    """Raise ValueError unless time_steps is a whole number from 1 to 20."""
    if isinstance(time_steps, bool) or not isinstance(time_steps, int):
        raise ValueError(f"time_steps must be a whole number, got {time_steps!r}")
    if not 1 <= time_steps <= MAX_TIME_STEPS:
        raise ValueError(
            f"time_steps must be from 1 to {MAX_TIME_STEPS}, got {time_steps}; beyond that a float32 "
            "membrane cannot hold the code"
        )


def check_bases(bases: int) -> None:
    """Raise ValueError unless bases is a whole number of at least 1."""
    if isinstance(bases, bool) or not isinstance(bases, int) or bases < 1:
        raise ValueError(f"bases must be a whole number of at least 1, got {bases!r}")


def exponential_table(alpha: float, tau: float, dt: float, time_steps: int) -> Tensor:
    """alpha * exp(-t * dt / tau) for t = 0 .. T-1, shape [T], float64 (arXiv:2508.07710, eq. 4)."""
    check_time_steps(time_steps)
    if not (math.isfinite(alpha) and tau > 0 and dt > 0):
        raise ValueError(f"need finite alpha, tau > 0, dt > 0; got {alpha}, {tau}, {dt}")
    steps = torch.arange(time_steps, dtype=torch.float64)
    return alpha * torch.exp(-steps * dt / tau)


def halving_table(time_steps: int, bases: int) -> Tensor:
    """2^-(t+1) for every basis, shape [T, N]: eq. 4 with alpha = 1/2 and tau = dt / ln 2, exact."""
    steps = torch.arange(1, time_steps + 1, dtype=torch.float32)
    return torch.exp2(-steps)[:, None].repeat(1, bases)


def published_tables(
    alpha: Tensor,
    tau_threshold: Tensor,
    tau_reset: Tensor,
    tau_intensity: Tensor,
    dt: Tensor,
    weight: Tensor,
    bias: float,
    time_steps: int,
    sign: Tensor | None = None,
) -> Tables:
    """An MBE neuron from the paper's five numbers per basis (tau_d, tau_r, tau_th, dt, w), eq. 4.

    alpha [N] is the leading value of each basis's three tables (the paper leaves its convention
    open; we take one per basis, see docs/neuron.md). ``sign`` [N] is +1 or -1: a basis of sign -1
    sees -x, the split of signed inputs into relu(x) and relu(-x).
    """

    def stack(taus: Tensor) -> Tensor:
        columns = [
            exponential_table(float(a), float(tau), float(step), time_steps)
            for a, tau, step in zip(alpha, taus, dt, strict=True)
        ]
        return torch.stack(columns, dim=1)

    gain = torch.ones_like(weight) if sign is None else sign
    return Tables(
        threshold=stack(tau_threshold),
        reset=stack(tau_reset),
        intensity=stack(tau_intensity),
        weight=weight,
        bias=torch.tensor([bias]),
        offset=torch.zeros_like(weight),
        gain=gain,
        breakpoints=torch.empty(0),
    )


def segment_tables(
    time_steps: int,
    edges: Tensor,
    slopes: Tensor,
    intercepts: Tensor,
    *,
    silent: Tensor | None = None,
    mirrored: bool = False,
) -> Tables:
    """One halving basis per segment: T spikes are the binary digits of the place in the segment.

    edges [S + 1] ascending, slopes and intercepts [S]: segment i covers [edges_i, edges_i+1) and
    reads intercepts_i + slopes_i * p, where p in [0, 1) is the decoded place in the segment. A segment
    marked in ``silent`` [S] sends no spikes and reads its constant. mirrored makes the odd extension,
    with 2 S bases.
    """
    check_time_steps(time_steps)
    left, width = edges[:-1], edges[1:] - edges[:-1]
    if bool((width <= 0).any()):
        raise ValueError(f"edges must ascend strictly, got {edges.tolist()}")
    offset, gain, weight, bias = left, 1 / width, slopes, intercepts
    if silent is not None:
        gain = torch.where(silent, 0.0, gain)
    if mirrored:
        offset, gain = torch.cat([offset, -offset]), torch.cat([gain, -gain])
        weight, bias = torch.cat([weight, -weight]), torch.cat([bias, -bias])
    table = halving_table(time_steps, offset.numel())
    return Tables(
        threshold=table,
        reset=table,
        intensity=table,
        weight=weight,
        bias=bias,
        offset=offset,
        gain=gain,
        breakpoints=edges[1:-1],
        mirrored=mirrored,
    )


def mirrored_tables(tables: Tables) -> Tables:
    """The odd extension of an unmirrored neuron: 2 N bases, the second half for negative inputs."""
    if tables.mirrored:
        raise ValueError("these tables are mirrored already")

    def doubled(table: Tensor) -> Tensor:
        return torch.cat([table, table], dim=1)

    return Tables(
        threshold=doubled(tables.threshold),
        reset=doubled(tables.reset),
        intensity=doubled(tables.intensity),
        weight=torch.cat([tables.weight, -tables.weight]),
        bias=torch.cat([tables.bias, -tables.bias]),
        offset=torch.cat([tables.offset, -tables.offset]),
        gain=torch.cat([tables.gain, -tables.gain]),
        breakpoints=tables.breakpoints,
        mirrored=True,
    )
