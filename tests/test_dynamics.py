"""The reference dynamics against METHOD eq. 5-8 in other arithmetic, and against what theory says of them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import (
    FAMILIES,
    HALVING_FAMILIES,
    any_inputs,
    any_tables,
    assert_same_bits,
    bank_of,
    binary_digits,
    critical_inputs,
    make_tables,
    simulate_all,
)

from mbe_plugin.neuron.dynamics import bank_index, reference_decode, reference_spikes
from mbe_plugin.neuron.tables import Tables, halving_table


def plain_basis(time_steps: int) -> Tables:
    """One halving basis, the identity on [0, 1)."""
    table = halving_table(time_steps, 1)
    zero, one = torch.zeros(1), torch.ones(1)
    return Tables(table, table, table, one, zero, zero, one, torch.empty(0))


@given(data=st.data(), tables=any_tables(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_spikes_and_read_out_are_those_of_the_equations(
    data: st.DataObject, tables: Tables, dtype: torch.dtype
) -> None:
    x = data.draw(any_inputs(tables, dtype))
    spikes, decoded = simulate_all(x, tables)
    got = reference_spikes(x, tables)
    assert_same_bits(got, spikes)
    assert_same_bits(reference_decode(got, x, tables), decoded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time_steps", [1, 4, 16, 20])
@pytest.mark.parametrize("family", FAMILIES)
def test_spikes_at_every_break_point_and_one_ulp_either_side(
    family: str, time_steps: int, dtype: torch.dtype
) -> None:
    tables = make_tables(family, time_steps)
    x = critical_inputs(tables, dtype)
    spikes, decoded = simulate_all(x, tables)
    got = reference_spikes(x, tables)
    assert_same_bits(got, spikes)
    assert_same_bits(reference_decode(got, x, tables), decoded)


@pytest.mark.parametrize("time_steps", [1, 2, 7, 16, 20])
@pytest.mark.parametrize("family", HALVING_FAMILIES)
def test_halving_spikes_are_the_binary_digits_of_the_membrane(family: str, time_steps: int) -> None:
    tables = make_tables(family, time_steps)
    x = critical_inputs(tables)
    x = x[x.abs() < 1e30]  # beyond, NumPy warns that the membrane overflows
    spikes = reference_spikes(x, tables).to(torch.int64)
    for i, value in enumerate(x.numpy()):
        first = bank_of(float(value), tables) * tables.bases_per_bank
        for n in range(first, first + tables.bases_per_bank):
            membrane = tables.gain.numpy()[n] * (value - tables.offset.numpy()[n])
            assert spikes[:, n, i].tolist() == binary_digits(float(membrane), time_steps)


@given(st.integers(1, 20), st.floats(-0.5, 1.5, width=32))
def test_a_halving_basis_is_a_clip_rounded_down_to_t_bits(time_steps: int, value: float) -> None:
    tables, x = plain_basis(time_steps), torch.tensor(value)
    decoded = reference_decode(reference_spikes(x, tables), x, tables).item()
    step = Fraction(1, 2**time_steps)
    clipped = min(max(Fraction(value), Fraction(0)), 1 - step)
    assert Fraction(decoded) == clipped // step * step


@given(st.integers(1, 20), st.floats(0.0, 1.0, width=32, exclude_max=True))
def test_what_stays_in_the_membrane_is_less_than_the_last_threshold(time_steps: int, value: float) -> None:
    tables = plain_basis(time_steps)
    spikes = reference_spikes(torch.tensor(value), tables)[:, 0].tolist()
    sent = sum(Fraction(int(s), 2 ** (t + 1)) for t, s in enumerate(spikes))
    assert 0 <= Fraction(value) - sent < Fraction(1, 2**time_steps)


def test_a_neuron_fires_at_equality_and_not_one_ulp_below() -> None:
    tables = make_tables("published one basis", 8)
    threshold = tables.threshold[0, 0]
    below = torch.nextafter(threshold, torch.tensor(-math.inf))
    assert reference_spikes(torch.stack([below, threshold]), tables)[0, 0].tolist() == [0.0, 1.0]


def test_the_reset_is_soft_and_the_silent_step_resets_nothing() -> None:
    tables = Tables(
        threshold=torch.tensor([[1.0], [0.5], [0.25]]),
        reset=torch.tensor([[0.75], [0.5], [0.25]]),
        intensity=torch.tensor([[10.0], [20.0], [40.0]]),
        weight=torch.tensor([2.0]),
        bias=torch.tensor([1.0]),
        offset=torch.zeros(1),
        gain=torch.ones(1),
        breakpoints=torch.empty(0),
    )
    x = torch.tensor([1.125, 0.875, 0.375, 0.125])
    spikes = reference_spikes(x, tables)
    # 1.125: fires, 0.375 left, below 0.5, then at 0.25. 0.875: silent, fires, 0.375 left, fires.
    assert spikes[:, 0].T.tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert reference_decode(spikes, x, tables).tolist() == [101.0, 121.0, 81.0, 1.0]


@given(data=st.data(), tables=any_tables())
def test_an_element_drives_one_bank_the_one_it_falls_in(data: st.DataObject, tables: Tables) -> None:
    x = data.draw(any_inputs(tables))
    banks = bank_index(x, tables.breakpoints, tables.mirrored, tables.octaves)
    assert banks.shape == x.shape
    assert banks.reshape(-1).tolist() == [bank_of(value, tables) for value in x.reshape(-1).tolist()]
    per_bank = reference_spikes(x, tables).sum(0).unflatten(0, (tables.banks, tables.bases_per_bank)).sum(1)
    others = per_bank * (torch.arange(tables.banks).reshape(-1, *[1] * x.dim()) != banks)
    assert others.sum() == 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_nan_and_infinity_fall_in_a_bank_that_exists_and_nan_sends_nothing(mirrored: bool) -> None:
    tables = make_tables("routed mirrored" if mirrored else "routed", 8)
    x = torch.tensor([math.nan, math.inf, -math.inf])
    assert set(bank_index(x, tables.breakpoints, mirrored).tolist()) <= set(range(tables.banks))
    assert reference_spikes(x, tables)[:, :, 0].sum() == 0


@pytest.mark.parametrize("family", ["routed mirrored"])
def test_a_mirrored_neuron_is_odd(family: str) -> None:
    tables = make_tables(family, 12)
    x = torch.linspace(0.001, 5.0, 333)
    half = tables.bases // 2
    right, left = reference_spikes(x, tables), reference_spikes(-x, tables)
    assert torch.equal(right[:, :half], left[:, half:])
    assert_same_bits(reference_decode(left, -x, tables), -reference_decode(right, x, tables))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_number_of_distinct_outputs_is_within_the_bound(family: str) -> None:
    tables = make_tables(family, 3)
    x = torch.cat([torch.linspace(-8.0, 8.0, 40_001), critical_inputs(tables)])
    decoded = reference_decode(reference_spikes(x, tables), x, tables)
    assert 1 < len(np.unique(decoded.numpy())) <= tables.distinct_outputs


def test_the_bound_on_distinct_outputs_is_reached_by_staggered_halving_bases() -> None:
    table = halving_table(3, 2)
    shifted = torch.tensor([0.0, 1 / 16])
    zero, one = torch.zeros(1), torch.ones(2)
    tables = Tables(table, table, table, torch.tensor([1.0, 0.3]), zero, shifted, one, torch.empty(0))
    x = torch.linspace(-1.0, 2.0, 5001)
    decoded = reference_decode(reference_spikes(x, tables), x, tables)
    assert len(np.unique(decoded.numpy())) == tables.distinct_outputs == 2 * (2**3 - 1) + 1
