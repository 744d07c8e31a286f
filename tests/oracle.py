"""An independent account of METHOD eq. 5-8, and the inputs and tables that the tests run it on.

Nothing here calls mbe_plugin's dynamics: one number at a time, in NumPy scalars of the simulated
precision (each operation rounded once, as the method's arithmetic is) or in exact fractions.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from mbe_plugin.neuron.tables import Tables, halving_table, published_tables, segment_tables

INTEGER_OF = {torch.float16: torch.int16, torch.bfloat16: torch.int16} | {
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def assert_same_bits(got: Tensor, want: Tensor) -> None:
    """Same dtype, shape and bits, so that 0 and -0 differ; any NaN equals any NaN."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    integer = INTEGER_OF[got.dtype]
    differ = (got.view(integer) != want.view(integer)) & ~(got.isnan() & want.isnan())
    assert not differ.any(), f"{got[differ][:5].tolist()} is not {want[differ][:5].tolist()}"


def bank_of(value: float, tables: Tables, dtype: torch.dtype = torch.float32) -> int:
    points = tables.breakpoints.tolist()
    if not tables.mirrored:
        return bisect_right(points, value)
    magnitude = abs(value)
    if tables.octaves:  # what has no mantissa of its own falls in the first segment
        normal = torch.finfo(dtype).smallest_normal <= magnitude < math.inf
        magnitude = math.frexp(magnitude)[0] if normal else 0.5
    return bisect_right(points, magnitude) + (len(points) + 1) * (value < 0)


def simulate(value: float, tables: Tables, number: type = np.float32) -> tuple[np.ndarray, float]:
    """Spikes [T, N] as 0 and 1, and the decoded value, of one input in NumPy scalar arithmetic."""
    field = {name: tensor.numpy().astype(number) for name, tensor in tables.as_dict().items()}
    dtype = torch.float64 if number is np.float64 else torch.float32
    x, bank = number(value), bank_of(value, tables, dtype)
    spikes = np.zeros((tables.time_steps, tables.bases), dtype=np.int64)
    first = bank * tables.bases_per_bank
    total = number(0)
    with np.errstate(all="ignore"):
        for n in range(first, first + tables.bases_per_bank):
            membrane = field["gain"][n] * (x - field["offset"][n])
            output = number(0)
            for t in range(tables.time_steps):
                if membrane >= field["threshold"][t, n]:
                    spikes[t, n] = 1
                    membrane = membrane - field["reset"][t, n]
                    output = output + field["intensity"][t, n]
            total = total + field["weight"][n] * output
        return spikes, total + field["bias"][bank]


def simulate_all(x: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
    """simulate() of every element: spikes [T, N, *x.shape] and decoded values, both in x's dtype."""
    number = np.float64 if x.dtype == torch.float64 else np.float32
    each = [simulate(value, tables, number) for value in x.reshape(-1).tolist()]
    spikes = np.array([s for s, _ in each]).reshape(-1, tables.time_steps, tables.bases)
    trains = torch.from_numpy(spikes).to(x.dtype).permute(1, 2, 0)
    decoded = torch.from_numpy(np.array([v for _, v in each], dtype=number))
    return trains.reshape(tables.time_steps, tables.bases, *x.shape), decoded.reshape(x.shape)


def binary_digits(membrane: float, time_steps: int) -> list[int]:
    """The first T digits behind the point of a membrane's initial value, clipped to [0, 1), exactly."""
    code = math.floor(Fraction(membrane) * 2**time_steps)
    code = min(max(code, 0), 2**time_steps - 1)
    return [int(digit) for digit in format(code, f"0{time_steps}b")]


def neighbours(x: Tensor) -> Tensor:
    """Every value, and the floating numbers right below and above it."""
    infinity = torch.full_like(x, math.inf)
    return torch.cat([torch.nextafter(x, -infinity), x, torch.nextafter(x, infinity)])


def critical_inputs(tables: Tables, dtype: torch.dtype = torch.float32) -> Tensor:
    """Where spikes change or might: break points, bank edges, code boundaries, each one ulp either side."""
    offset, gain = tables.offset.to(dtype), tables.gain.to(dtype)
    codes = 2**tables.time_steps
    boundaries = torch.tensor([0, 1, codes // 2, codes - 1, codes], dtype=dtype) / codes
    working = gain != 0
    edges = offset[working, None] + boundaries / gain[working, None]
    points = tables.breakpoints.to(dtype)
    finite = torch.finfo(dtype)
    special = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-3, -1e5, finite.tiny, finite.max / 4, -finite.max / 4]
    special += [finite.smallest_normal / 8, -finite.smallest_normal / 2, finite.eps]
    if tables.octaves:
        points = (
            (points[:, None] * 2.0 ** torch.tensor([0.0, 1.0, -1.0, -tables.time_steps, 40.0]))
            .reshape(-1)
            .to(dtype)
        )
    at = torch.cat([edges.reshape(-1), points, -points])
    return torch.cat([neighbours(at), torch.tensor(special, dtype=dtype)])


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def published(generator: torch.Generator, time_steps: int, bases: int) -> Tables:
    """Random numbers for the paper's neuron, half of the bases on relu(-x)."""
    return published_tables(
        alpha=uniform(generator, 0.2, 4.0, bases),
        tau_threshold=uniform(generator, 0.5, 4.0, bases),
        tau_reset=uniform(generator, 0.5, 4.0, bases),
        tau_intensity=uniform(generator, 0.5, 4.0, bases),
        dt=uniform(generator, 0.2, 1.5, bases),
        weight=uniform(generator, -2.0, 2.0, bases),
        bias=0.25,
        time_steps=time_steps,
        sign=torch.tensor([1.0, -1.0] * bases)[:bases],
    )


def routed(generator: torch.Generator, time_steps: int, segments: int, mirrored: bool) -> Tables:
    """One halving basis per segment of random width, one segment of them silent."""
    start = 0.0 if mirrored else -3.0
    widths = uniform(generator, 0.1, 2.0, segments)
    return segment_tables(
        time_steps,
        start + torch.cat([torch.zeros(1, dtype=torch.float64), widths.cumsum(0)]),
        uniform(generator, -2.0, 2.0, segments),
        uniform(generator, -1.0, 1.0, segments),
        silent=torch.arange(segments) == 1,
        mirrored=mirrored,
    )


def banked(
    generator: torch.Generator, time_steps: int, banks: int, per_bank: int, mirrored: bool, halving: bool
) -> Tables:
    """Several bases per bank, with offsets and gains of either sign; halving or free tables."""
    bases = banks * per_bank

    def table() -> Tensor:
        if halving:
            return halving_table(time_steps, bases)
        return uniform(generator, 0.05, 1.0, time_steps, bases)

    segments = banks // 2 if mirrored else banks
    return Tables(
        threshold=table(),
        reset=table(),
        intensity=table(),
        weight=uniform(generator, -2.0, 2.0, bases),
        bias=uniform(generator, -1.0, 1.0, banks),
        offset=uniform(generator, -1.0, 1.0, bases),
        gain=uniform(generator, -2.0, 2.0, bases),
        breakpoints=uniform(generator, -1.0 + mirrored, 2.0, segments - 1).sort().values,
        mirrored=mirrored,
    )


def octaves(generator: torch.Generator, time_steps: int, banks: int) -> Tables:
    """Free tables whose banks are chosen by the mantissa."""
    free = banked(generator, time_steps, banks, 1, mirrored=True, halving=False)
    mantissas = uniform(generator, 0.51, 0.99, banks // 2 - 1).sort().values
    return replace(free, breakpoints=mantissas, octaves=True)


FAMILIES = {
    "published": lambda g, t: published(g, t, 4),
    "published one basis": lambda g, t: published(g, t, 1),
    "parallel halving": lambda g, t: banked(g, t, 1, 3, mirrored=False, halving=True),
    "routed": lambda g, t: routed(g, t, 4, mirrored=False),
    "routed mirrored": lambda g, t: routed(g, t, 3, mirrored=True),
    "banks of halving bases": lambda g, t: banked(g, t, 4, 2, mirrored=True, halving=True),
    "banks of free bases": lambda g, t: banked(g, t, 3, 2, mirrored=False, halving=False),
    "mirrored banks of free bases": lambda g, t: banked(g, t, 2, 3, mirrored=True, halving=False),
    "banks of the octave": lambda g, t: octaves(g, t, 8),
}
HALVING_FAMILIES = [name for name in FAMILIES if "halving" in name or "routed" in name]


def make_tables(family: str, time_steps: int, seed: int = 0) -> Tables:
    return FAMILIES[family](torch.Generator().manual_seed(seed), time_steps)


@st.composite
def any_tables(draw: st.DrawFn, families: tuple[str, ...] = tuple(FAMILIES)) -> Tables:
    return make_tables(draw(st.sampled_from(families)), draw(st.integers(1, 20)), draw(st.integers(0, 2**16)))


@st.composite
def any_inputs(draw: st.DrawFn, tables: Tables, dtype: torch.dtype = torch.float32) -> Tensor:
    """Finite inputs of any shape and layout: critical ones, and any float in between."""
    width = 64 if dtype == torch.float64 else 32
    bound = float(torch.finfo(dtype).max / 4)
    value = st.one_of(
        st.sampled_from(critical_inputs(tables, dtype).tolist()),
        st.floats(-4.0, 4.0, width=width),
        st.floats(-bound, bound, width=width),
    )
    shape = draw(st.sampled_from([(), (0,), (1,), (7,), (2, 3), (3, 0, 2), (2, 1, 5)]))
    size = math.prod(shape)
    x = torch.tensor(draw(st.lists(value, min_size=size, max_size=size)), dtype=dtype).reshape(shape)
    return laid_out(x, draw(st.sampled_from(["contiguous", "transposed", "strided"])))


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values with the strides of a transposed or a sliced tensor."""
    if layout == "contiguous" or x.dim() == 0:
        return x
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return torch.stack([x, torch.full_like(x, math.nan)], dim=-1)[..., 0]
