"""Tables: what they hold, and what they refuse."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import FAMILIES, make_tables, simulate

from mbe_plugin.neuron import (
    Tables,
    exponential_table,
    halving_table,
    published_tables,
    segment_tables,
)
from mbe_plugin.neuron.tables import MAX_TIME_STEPS, TABLE_FIELDS, check_bases, check_time_steps


def fields(time_steps: int = 4, bases: int = 2, banks: int = 1) -> dict[str, Any]:
    return {
        "threshold": torch.ones(time_steps, bases),
        "reset": torch.ones(time_steps, bases),
        "intensity": torch.ones(time_steps, bases),
        "weight": torch.ones(bases),
        "bias": torch.zeros(banks),
        "offset": torch.zeros(bases),
        "gain": torch.ones(bases),
        "breakpoints": torch.arange(banks - 1.0),
    }


@given(
    alpha=st.floats(-10, 10),
    tau=st.floats(0.1, 10),
    dt=st.floats(0.1, 2),
    time_steps=st.integers(1, MAX_TIME_STEPS),
)
def test_exponential_table_is_equation_4(alpha: float, tau: float, dt: float, time_steps: int) -> None:
    want = [alpha * math.exp(-t * dt / tau) for t in range(time_steps)]
    table = exponential_table(alpha, tau, dt, time_steps)
    assert table.dtype == torch.float64
    assert table.tolist() == pytest.approx(want, rel=1e-14, abs=1e-300)


@pytest.mark.parametrize(
    ("alpha", "tau", "dt"),
    [(math.inf, 1, 1), (math.nan, 1, 1), (1, 0, 1), (1, -1, 1), (1, 1, 0), (1, 1, math.nan)],
)
def test_exponential_table_refuses_what_does_not_decay(alpha: float, tau: float, dt: float) -> None:
    with pytest.raises(ValueError, match="need finite alpha, tau > 0, dt > 0"):
        exponential_table(alpha, tau, dt, 4)


@pytest.mark.parametrize("time_steps", [1, 2, 16, MAX_TIME_STEPS])
def test_halving_table_is_exact_and_equation_4_with_tau_dt_over_ln_2(time_steps: int) -> None:
    table = halving_table(time_steps, 3)
    assert table.shape == (time_steps, 3)
    for n in range(3):
        assert [Fraction(v) for v in table[:, n].tolist()] == [
            Fraction(1, 2 ** (t + 1)) for t in range(time_steps)
        ]
    exponential = exponential_table(0.5, 0.7 / math.log(2), 0.7, time_steps)
    assert table[:, 0].double().tolist() == pytest.approx(exponential.tolist(), rel=1e-14)


def test_published_tables_put_the_five_numbers_of_every_basis_in_its_column() -> None:
    alpha, dt, weight = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.25]), torch.tensor([3.0, -4.0])
    threshold, reset, intensity = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([5.0, 6.0])
    tables = published_tables(
        alpha, threshold, reset, intensity, dt, weight, 0.5, 6, sign=torch.tensor([1.0, -1.0])
    )
    for got, taus in [
        (tables.threshold, threshold),
        (tables.reset, reset),
        (tables.intensity, intensity),
    ]:
        for n in range(2):
            column = [alpha[n].item() * math.exp(-t * dt[n].item() / taus[n].item()) for t in range(6)]
            assert got[:, n].tolist() == pytest.approx(column, rel=1e-6)
    assert tables.weight.tolist() == [3.0, -4.0]
    assert tables.bias.tolist() == [0.5]
    assert tables.gain.tolist() == [1.0, -1.0]
    assert tables.offset.tolist() == [0.0, 0.0]
    assert (tables.time_steps, tables.bases, tables.banks) == (6, 2, 1)
    assert not tables.halving


def test_a_basis_of_sign_minus_one_sees_the_negated_input() -> None:
    numbers = [torch.tensor([v]) for v in (2.0, 1.0, 1.5, 1.2, 0.5, 3.0)]
    plus = published_tables(*numbers, 0.5, 8)
    minus = published_tables(*numbers, 0.5, 8, sign=torch.tensor([-1.0]))
    for value in (0.3, 1.7, 2.5):
        assert simulate(-value, minus)[1] == simulate(value, plus)[1]
        assert simulate(value, minus)[1] == 0.5


@given(
    time_steps=st.integers(1, 12),
    segment=st.integers(0, 3),
    place=st.fractions(0, 1).filter(lambda p: p < 1),
    mirrored=st.booleans(),
)
def test_a_segment_reads_its_line_at_the_place_rounded_down_to_t_bits(
    time_steps: int, segment: int, place: Fraction, mirrored: bool
) -> None:
    # edges, slopes and intercepts with few digits, so that float32 rounds nothing
    edges, slopes = [0.0, 0.5, 1.0, 2.0, 4.0], [1.0, -2.0, 0.5, 4.0]
    intercepts = [0.25, 0.5, -1.0, 2.0]
    tables = segment_tables(
        time_steps, torch.tensor(edges), torch.tensor(slopes), torch.tensor(intercepts), mirrored=mirrored
    )
    width = edges[segment + 1] - edges[segment]
    x = edges[segment] + width * (math.floor(place * 2**14) / 2**14)
    place = (Fraction(x) - Fraction(edges[segment])) / Fraction(width)
    decoded = Fraction(math.floor(place * 2**time_steps), 2**time_steps)
    want = Fraction(intercepts[segment]) + Fraction(slopes[segment]) * decoded
    assert Fraction(float(simulate(x, tables)[1])) == want
    if mirrored and x > 0:
        assert Fraction(float(simulate(-x, tables)[1])) == -want


def test_a_silent_segment_sends_nothing_and_reads_its_constant() -> None:
    tables = segment_tables(
        8,
        torch.tensor([0.0, 1.0, 2.0]),
        torch.tensor([3.0, 0.0]),
        torch.tensor([0.0, 7.0]),
        silent=torch.tensor([False, True]),
    )
    spikes, decoded = simulate(1.75, tables)
    assert spikes.sum() == 0
    assert decoded == 7.0
    assert simulate(0.75, tables)[0].sum() == 2


@pytest.mark.parametrize("edges", [[0.0, 1.0, 1.0], [0.0, 2.0, 1.0]])
def test_segment_edges_must_ascend(edges: list[float]) -> None:
    with pytest.raises(ValueError, match="edges must ascend strictly"):
        segment_tables(4, torch.tensor(edges), torch.ones(2), torch.zeros(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_agree_with_the_shapes(family: str) -> None:
    tables = make_tables(family, 5)
    assert tables.time_steps == 5 == tables.threshold.shape[0]
    assert tables.bases == tables.weight.numel() == tables.banks * tables.bases_per_bank
    assert tables.banks == tables.bias.numel()
    assert tables.halving == ("halving" in family or "routed" in family)


@pytest.mark.parametrize("name", ["threshold", "reset", "intensity"])
def test_one_number_off_the_halving_code_is_noticed(name: str) -> None:
    tables = make_tables("routed", 8)
    changed = getattr(tables, name).clone()
    changed[3, 1] = torch.nextafter(changed[3, 1], torch.tensor(1.0))
    assert tables.halving
    assert not dataclasses.replace(tables, **{name: changed}).halving


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_tables_are_their_own_float32_numbers(dtype: torch.dtype) -> None:
    given_fields = {name: value.to(dtype) for name, value in fields().items()}
    tables = Tables(**given_fields)
    for name in TABLE_FIELDS:
        assert getattr(tables, name).dtype == torch.float32
        given_fields[name].fill_(9.0)
    assert tables.threshold.tolist() == torch.ones(4, 2).tolist()
    with pytest.raises(dataclasses.FrozenInstanceError):
        tables.bias = torch.zeros(1)  # type: ignore[misc]


def test_tables_do_not_keep_a_gradient() -> None:
    tables = Tables(**(fields() | {"weight": torch.ones(2, requires_grad=True)}))
    assert not tables.weight.requires_grad


@pytest.mark.parametrize("name", TABLE_FIELDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_name(name: str, value: float) -> None:
    broken = fields(banks=2)
    broken[name] = broken[name].clone()
    broken[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"^{name} holds a value that is not finite"):
        Tables(**broken)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("threshold", torch.ones(4), r"threshold must be \[T, N\]"),
        ("threshold", torch.ones(0, 2), r"threshold must be \[T, N\] with T, N >= 1"),
        ("threshold", torch.ones(4, 0), r"threshold must be \[T, N\] with T, N >= 1"),
        ("threshold", torch.ones(21, 2), "time_steps must be from 1 to 20, got 21"),
        ("reset", torch.ones(3, 2), r"reset must have shape \[4, 2\], got \[3, 2\]"),
        ("intensity", torch.ones(4, 3), r"intensity must have shape \[4, 2\], got \[4, 3\]"),
        ("weight", torch.ones(3), r"weight must have shape \[2\], got \[3\]"),
        ("bias", torch.zeros(2), r"bias must have shape \[1\], got \[2\]"),
        ("offset", torch.zeros(1), r"offset must have shape \[2\], got \[1\]"),
        ("gain", torch.ones(2, 1), r"gain must have shape \[2\], got \[2, 1\]"),
    ],
)
def test_shapes_that_disagree_are_refused(name: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tables(**(fields() | {name: value}))


def test_banks_must_be_filled_evenly_and_in_order() -> None:
    with pytest.raises(ValueError, match="3 bases do not fill 2 banks evenly"):
        Tables(**fields(bases=3, banks=2))
    with pytest.raises(ValueError, match=r"breakpoints must ascend, got \[1.0, 0.0\]"):
        Tables(**(fields(bases=3, banks=3) | {"breakpoints": torch.tensor([1.0, 0.0])}))


@pytest.mark.parametrize("value", [0, -1, 21, 1.5, 4.0, True, "4", None])
def test_time_steps_out_of_range_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"time_steps must be .*, got"):
        check_time_steps(value)
    check_time_steps(1)
    check_time_steps(MAX_TIME_STEPS)


@pytest.mark.parametrize("value", [0, -3, 2.0, False, "8", None])
def test_bases_out_of_range_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=f"bases must be a whole number of at least 1, got {value!r}"):
        check_bases(value)
    check_bases(1)
