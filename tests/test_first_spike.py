"""The first-spike code: one spike, its time the exponent, its basis the mantissa's leading bits, everywhere the same."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import assert_same_bits, neighbours, simulate
from torch import Tensor

from mbe_plugin import MBENode
from mbe_plugin.kernels import first_spike, prepare, steps
from mbe_plugin.neuron import Tables, first_spike_tables
from mbe_plugin.neuron.dynamics import reference_decode, reference_spikes
from mbe_plugin.neuron.first_spike import is_first_spike

STEPS = (1, 2, 10, 16, 20)
BASES = (2, 4, 32)
ONE_BELOW = {torch.float32: 1 - 2.0**-24, torch.float64: 1 - 2.0**-53}


def neuron(time_steps: int, bases: int, **kinds: Any) -> MBENode:
    return MBENode(first_spike_tables(time_steps, bases), "clip", **kinds)


def wanted(value: float, time_steps: int, bases: int) -> tuple[int, int, Fraction] | None:
    """Step, basis and decoded value of one number, in exact arithmetic; None where nothing is sent."""
    magnitude = Fraction(abs(value))
    if magnitude >= 1:
        magnitude = Fraction(1) - Fraction(1, 2**60)
    step = next((t for t in range(time_steps) if magnitude >= Fraction(1, 2 ** (t + 1))), None)
    if step is None:
        return None
    segments = bases // 2
    place = math.floor((magnitude * 2**step - Fraction(1, 2)) * 2 * segments)
    middle = Fraction(1, 2) + (place + Fraction(1, 2)) / (2 * segments)
    sign = -1 if value < 0 else 1
    return step, place + segments * (value < 0), sign * middle / 2**step


def critical(time_steps: int, bases: int, dtype: torch.dtype) -> Tensor:
    """Every break point in every octave that has a time, and some beyond; each one ulp either side, both signs."""
    places = 0.5 + torch.arange(bases // 2 + 1, dtype=torch.float64) / bases
    octaves = 2.0 ** torch.arange(-time_steps - 1.0, 3.0, dtype=torch.float64)
    x = neighbours((places[:, None] * octaves).reshape(-1).to(dtype))
    tiny = torch.tensor([0.0, torch.finfo(dtype).tiny, torch.finfo(dtype).tiny / 8, 3.7e5, 1e30], dtype=dtype)
    return torch.cat([x, tiny, -x, -tiny])


def every_pattern(dtype: torch.dtype) -> Tensor:
    """All 65,536 numbers of a dtype of 16 bits, infinities, NaN, -0 and denormals among them."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def by_steps(node: MBENode) -> MBENode:
    return MBENode(node.tables(), node.reduction.name, simulate="steps")


def assert_all_agree(node: MBENode, x: Tensor) -> None:
    """Decoded values bit for bit, spikes one by one, and counts: closed form, step loop and reference."""
    loop = by_steps(node)
    assert node.first_spike
    assert_same_bits(node(x), loop(x))
    work = x if x.dtype == torch.float64 else x.float()
    reduced, _, _ = node.reduction.split(work)
    spikes = reference_spikes(reduced, node.tables())
    assert_same_bits(node(x), (reference_decode(spikes, reduced, node.tables()) + work * 0).to(x.dtype))
    assert_same_bits(node.spikes(x), spikes.to(x.dtype))
    counts = spikes.flatten(2).sum(2).to(torch.int64)
    for each in (node, loop):
        found, exponents = each.spike_counts(x)
        assert torch.equal(found, counts)
        assert exponents == 0
    sequence = node.weighted_spikes(x)
    finite = x.isfinite()
    assert_same_bits(sequence.sum(0)[finite] + 0.0, node(x)[finite] + 0.0)  # one term: no rounding
    assert spikes.sum((0, 1)).max() <= 1


@pytest.mark.parametrize("dtype", ONE_BELOW, ids=str)
@pytest.mark.parametrize("bases", BASES)
@pytest.mark.parametrize("time_steps", STEPS)
def test_every_path_agrees_at_every_break_point(time_steps: int, bases: int, dtype: torch.dtype) -> None:
    assert_all_agree(neuron(time_steps, bases), critical(time_steps, bases, dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("time_steps", "bases"), [(16, 32), (7, 2), (20, 256)])
def test_every_path_agrees_on_every_number_of_16_bits(
    time_steps: int, bases: int, dtype: torch.dtype
) -> None:
    node, x = neuron(time_steps, bases), every_pattern(dtype)
    loop = by_steps(node)
    assert_same_bits(node(x), loop(x))
    assert torch.equal(node(x).isnan(), ~x.isfinite())
    reduced, _, _ = node.reduction.split(x.float())
    counts = reference_spikes(reduced, node.tables()).sum(2).to(torch.int64)
    assert torch.equal(node.spike_counts(x)[0], counts)
    assert torch.equal(loop.spike_counts(x)[0], counts)


@pytest.mark.parametrize("dtype", ONE_BELOW, ids=str)
@pytest.mark.parametrize(("time_steps", "bases"), [(1, 2), (10, 16), (16, 32)])
def test_time_is_the_exponent_and_basis_the_mantissa(time_steps: int, bases: int, dtype: torch.dtype) -> None:
    """Against exact fractions, and NumPy scalars: one number at a time."""
    x = critical(time_steps, bases, dtype)[::5]
    node = neuron(time_steps, bases)
    spikes, decoded = node.spikes(x), node(x)
    for i, value in enumerate(x.tolist()):
        found = [tuple(place) for place in spikes[..., i].nonzero().tolist()]
        want = wanted(value, time_steps, bases)
        assert found == ([] if want is None else [want[:2]])
        assert Fraction(decoded[i].item()) == (0 if want is None else want[2])
        if abs(value) < 1:
            alone, read = simulate(value, node.tables(), x.numpy().dtype.type)
            assert torch.equal(torch.from_numpy(alone).to(dtype), spikes[..., i])
            assert read == decoded[i]


@given(
    st.floats(-2, 2, width=32),
    st.sampled_from(STEPS),
    st.sampled_from([2, 4, 8, 64, 1024]),
)
def test_the_relative_error_is_at_most_1_over_n(value: float, time_steps: int, bases: int) -> None:
    y = neuron(time_steps, bases)(torch.tensor([value])).item()
    if abs(value) < 2.0**-time_steps:
        assert y == 0
    elif abs(value) < 1:
        assert abs(Fraction(y) - Fraction(value)) <= Fraction(abs(value)) / bases


def test_tables_that_make_no_sense_are_refused() -> None:
    for bases in (1, 3, 6, 2**23):
        with pytest.raises(ValueError, match=rf"needs N = 2, 4, 8, .* bases \(two signs\), got {bases}"):
            first_spike_tables(8, bases)
    with pytest.raises(ValueError, match="time_steps must be from 1 to 20, got 0"):
        first_spike_tables(0, 8)
    tables = first_spike_tables(4, 8)
    for wrong in (
        {"mirrored": False, "bias": torch.zeros(4)},
        {"breakpoints": torch.tensor([0.5, 0.6, 0.7])},
    ):
        with pytest.raises(
            ValueError, match="octaves needs mirrored tables and break points between 1/2 and 1"
        ):
            dataclasses.replace(tables, **wrong)


@pytest.mark.parametrize("dtype", ONE_BELOW, ids=str)
def test_what_is_at_or_beyond_the_range_saturates(dtype: torch.dtype) -> None:
    node = neuron(10, 16)
    top = node(torch.tensor([ONE_BELOW[dtype]], dtype=dtype))
    assert top == 1 - 1 / 32
    x = torch.tensor([1.0, 1.5, 2.0, 3e4, torch.finfo(dtype).max], dtype=dtype)
    assert torch.equal(node(x), top.expand(5))
    assert torch.equal(node(-x), -top.expand(5))
    assert torch.equal(node.spikes(x)[0, 7], torch.ones(5, dtype=dtype))
    assert node.spikes(x).sum() == 5
    assert node(torch.tensor([math.inf, -math.inf, math.nan], dtype=dtype)).isnan().all()


def test_without_the_clip_the_loop_says_what_the_published_numbers_do() -> None:
    """Further out a membrane outlives its reset; the closed form knows nothing of it and is not taken."""
    node = MBENode(first_spike_tables(10, 16))
    x = torch.tensor([0.7, 1.25])
    assert not node.first_spike
    assert torch.equal(node.spike_counts(x)[0].sum(), torch.tensor(3))
    assert_same_bits(node(x), by_steps(node)(x))


def test_what_has_fired_lies_below_zero() -> None:
    tables = first_spike_tables(16, 32)
    assert torch.equal(tables.reset, 2 * tables.threshold)
    x = critical(16, 32, torch.float32).abs()
    membrane = x[(x < 1) & (x >= 2.0**-16)]
    time = first_spike.spike_time(membrane)
    assert ((membrane - tables.reset[:, 0][time]) < 0).all()


def test_the_code_is_told_by_its_numbers() -> None:
    tables = first_spike_tables(6, 8)
    assert is_first_spike(tables)
    assert not tables.halving
    for name in ("threshold", "reset", "intensity", "weight", "bias", "offset", "gain", "breakpoints"):
        other = getattr(tables, name).clone()
        other.view(-1)[-1] += 0.01
        assert not is_first_spike(dataclasses.replace(tables, **{name: other})), name
    assert not is_first_spike(
        dataclasses.replace(tables, octaves=False, breakpoints=torch.tensor([0.2, 0.4, 0.6]))
    )


def test_other_numbers_that_are_loaded_take_the_loop() -> None:
    node, other = neuron(6, 8), neuron(6, 8)
    state = other.state_dict()
    state["w"] = state["w"] * 1.5
    node.load_state_dict(state)
    assert not node.first_spike
    x = torch.linspace(-1.0, 1.0, 101)
    assert_same_bits(node(x), by_steps(node)(x))
    assert not torch.equal(node(x), other(x))


# gradients


@pytest.mark.parametrize("dtype", ONE_BELOW, ids=str)
def test_the_slope_is_one_within_the_range_and_zero_beyond(dtype: torch.dtype) -> None:
    node = neuron(8, 16, gradient="slope")
    x = torch.tensor([-1.5, -1.0, -0.7, -1e-5, 0.0, 1e-30, 0.3, ONE_BELOW[dtype], 1.0, 7.0], dtype=dtype)
    leaf = x.clone().requires_grad_()
    got = node(leaf)
    assert_same_bits(got.detach(), node(x))
    got.backward(torch.full_like(x, 2.0))
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [0, 0, 2, 2, 2, 2, 2, 2, 0, 0]


def test_the_surrogate_sweep_is_autograd_through_the_loop() -> None:
    x = torch.cat([torch.linspace(-1.3, 1.3, 300), torch.tensor([0.0, 1.0, -1.0])]).double()
    found = []
    for node in (neuron(8, 16), by_steps(neuron(8, 16))):
        leaf = x.clone().requires_grad_()
        y = node(leaf)
        assert_same_bits(y.detach(), node(x))
        y.sum().backward()
        assert leaf.grad is not None
        found.append(leaf.grad)
    torch.testing.assert_close(*found)
    assert found[0].abs().max() > 0
    assert (found[0][x.abs() >= 1] == 0).all()


def test_large_tensors_find_the_same_banks() -> None:
    x = torch.randn(3, 1 << 13)
    tables: Tables = first_spike_tables(12, 64)
    reduced = x.clamp(-ONE_BELOW[torch.float32], ONE_BELOW[torch.float32])
    p = prepare(tables.as_dict(), reduced, mirrored=True, halving=False, octaves=True)
    assert torch.equal(first_spike.spike_counts(reduced, p, None), steps.spike_counts(reduced, p, None))
    assert torch.equal(first_spike.spike_counts(reduced, p, x > 0), steps.spike_counts(reduced, p, x > 0))
    assert_same_bits(first_spike.decode(reduced, p), steps.decode(reduced, p))
