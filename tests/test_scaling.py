"""Range reduction against math.frexp, math.ldexp and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import assert_same_bits, laid_out
from torch import Tensor

from mbe_plugin.neuron.scaling import (
    EXP2,
    IDENTITY,
    NONE,
    RECIPROCAL,
    REDUCTIONS,
    RSQRT,
    SQRT,
    Reduction,
    binary_exponent,
    compute_dtype,
    power_of_two,
    scale_by_power_of_two,
)

DTYPES = [torch.float32, torch.float64]
SMALLEST = {torch.float32: -126, torch.float64: -1022}  # of a zero or a denormal
FUNCTION = {
    "identity": lambda x: x,
    "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "exp2": torch.exp2,
}


@st.composite
def floats(draw: st.DrawFn, dtype: torch.dtype, normal: bool = False) -> float:
    """Any finite float of dtype, powers of two often."""
    width, low = (64, -1022) if dtype == torch.float64 else (32, -126)
    power = st.integers(low, -low).map(lambda e: 2.0**e)
    signed = st.one_of(power, power.map(lambda v: -v))
    value = draw(st.one_of(signed, st.floats(width=width, allow_nan=False, allow_infinity=False)))
    if normal and abs(value) < torch.finfo(dtype).tiny:
        value = math.copysign(torch.finfo(dtype).tiny, value)
    return value


def any_dtype() -> st.SearchStrategy[torch.dtype]:
    return st.sampled_from(DTYPES)


@pytest.mark.parametrize(
    ("given_dtype", "want"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_compute_dtype(given_dtype: torch.dtype, want: torch.dtype) -> None:
    assert compute_dtype(torch.ones(1, dtype=given_dtype)) == want


@given(st.data(), any_dtype())
def test_binary_exponent_is_frexp(data: st.DataObject, dtype: torch.dtype) -> None:
    value = data.draw(floats(dtype))
    normal = abs(value) >= torch.finfo(dtype).tiny
    want = math.frexp(value)[1] if normal else SMALLEST[dtype]
    assert binary_exponent(torch.tensor(value, dtype=dtype)).item() == want


@given(st.integers(-300, 127))
def test_power_of_two_is_exact_or_zero_below_the_normal_range(exponent: int) -> None:
    want = 2.0**exponent if exponent >= -126 else 0.0
    assert power_of_two(torch.tensor(exponent), torch.float32).item() == want


def test_power_of_two_overflows_to_infinity() -> None:
    exponent = torch.tensor([127, 128, 1000])
    assert power_of_two(exponent, torch.float32).tolist() == [2.0**127, math.inf, math.inf]
    assert power_of_two(exponent + 896, torch.float64).tolist() == [2.0**1023, math.inf, math.inf]


@given(st.data(), any_dtype())
def test_scaling_is_ldexp_wherever_input_and_result_are_normal(
    data: st.DataObject, dtype: torch.dtype
) -> None:
    value = data.draw(floats(dtype, normal=True))
    own, low = math.frexp(value)[1], SMALLEST[dtype] + 1
    exponent = data.draw(st.integers(low - own, 3 - low - own))
    want = math.ldexp(value, exponent)
    got = scale_by_power_of_two(torch.tensor(value, dtype=dtype), torch.tensor(exponent, dtype=torch.int32))
    assert got.dtype == dtype
    assert got.item() == want


@given(st.data(), any_dtype(), st.sampled_from([IDENTITY, RECIPROCAL]))
def test_split_at_an_exponent_is_frexp(data: st.DataObject, dtype: torch.dtype, reduction: Reduction) -> None:
    value = data.draw(floats(dtype, normal=True))
    reduced, exponent, active = reduction.split(torch.tensor(value, dtype=dtype))
    assert active is not None and exponent is not None
    assert active.item()
    assert (reduced.item(), exponent.item()) == math.frexp(value)


@given(st.data(), any_dtype(), st.sampled_from([SQRT, RSQRT]))
def test_split_for_a_root_leaves_an_even_exponent(
    data: st.DataObject, dtype: torch.dtype, reduction: Reduction
) -> None:
    value = abs(data.draw(floats(dtype, normal=True)))
    reduced, exponent, active = reduction.split(torch.tensor(value, dtype=dtype))
    assert active is not None and exponent is not None
    assert active.item()
    assert exponent.item() % 2 == 0
    assert 0.5 <= reduced.item() < 2
    assert Fraction(reduced.item()) * Fraction(2) ** exponent.item() == Fraction(value)


@given(st.data(), any_dtype())
def test_split_at_a_fraction_is_floor(data: st.DataObject, dtype: torch.dtype) -> None:
    low = SMALLEST[dtype]
    value = data.draw(st.floats(low, -low, width=64 if dtype == torch.float64 else 32))
    x = torch.tensor(value, dtype=dtype)
    reduced, exponent, active = EXP2.split(x)
    assert active is not None and exponent is not None
    assert active.item()
    assert exponent.item() == math.floor(value)
    exact = Fraction(value) - math.floor(value)
    # a tiny negative x leaves 1 - |x|, which may round to 1; every other fraction is exact
    assert reduced.item() == float(torch.tensor(float(exact), dtype=dtype))
    assert 0 <= exact < 1


@given(st.data(), any_dtype(), st.sampled_from([IDENTITY, EXP2]))
def test_restore_undoes_the_split_bit_for_bit(
    data: st.DataObject, dtype: torch.dtype, reduction: Reduction
) -> None:
    value = data.draw(floats(dtype, normal=True))
    if reduction is EXP2:
        value = float(int(math.copysign(math.frexp(value)[1] % 120, value)))  # integers, whose 2^x is exact
    x = torch.tensor(value, dtype=dtype)
    reduced, exponent, active = reduction.split(x)
    read_out = reduced if reduction is IDENTITY else torch.exp2(reduced)
    assert_same_bits(reduction.restore(read_out, exponent, active, x), FUNCTION[reduction.name](x))


@given(st.data(), any_dtype(), st.sampled_from([RECIPROCAL, SQRT, RSQRT]))
def test_the_exact_function_of_the_reduced_input_restores_to_the_exact_function(
    data: st.DataObject, dtype: torch.dtype, reduction: Reduction
) -> None:
    # powers of four and their reciprocals and roots are exact, so nothing but the exponents is tested
    half_exponent = data.draw(st.integers(SMALLEST[dtype] // 2 + 2, -SMALLEST[dtype] // 2 - 2))
    x = torch.tensor(4.0**half_exponent, dtype=dtype)
    reduced, exponent, active = reduction.split(x)
    function = FUNCTION[reduction.name]
    assert_same_bits(reduction.restore(function(reduced), exponent, active, x), function(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTION)
def test_what_sends_no_spikes_reads_the_limit_of_the_function(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, math.inf, -math.inf, math.nan], dtype=dtype)
    reduction = REDUCTIONS[name]
    reduced, exponent, active = reduction.split(x)
    assert active is not None
    assert active.tolist() == [name == "exp2", False, False, False]
    read_out = torch.full_like(reduced, 1.0)  # 2^0, and what no silent element may show
    assert_same_bits(reduction.restore(read_out, exponent, active, x), FUNCTION[name](x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", [SQRT, RSQRT])
def test_roots_of_negative_numbers_are_silent_and_nan(reduction: Reduction, dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, -1e-30, -1e30, -torch.finfo(dtype).tiny], dtype=dtype)
    reduced, exponent, active = reduction.split(x)
    assert active is not None and not active.any()
    assert reduction.restore(torch.ones_like(reduced), exponent, active, x).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", [IDENTITY, RECIPROCAL, SQRT, RSQRT])
def test_the_smallest_normal_number_is_sent_and_the_largest_denormal_is_not(
    reduction: Reduction, dtype: torch.dtype
) -> None:
    tiny = torch.tensor(torch.finfo(dtype).tiny, dtype=dtype)
    denormal = torch.nextafter(tiny, torch.zeros_like(tiny))
    active = reduction.split(torch.stack([tiny, denormal]))[2]
    assert active is not None
    assert active.tolist() == [True, False]


def test_the_identity_of_a_denormal_is_a_zero_of_its_sign() -> None:
    x = torch.tensor([1e-40, -1e-40, -0.0])
    reduced, exponent, active = IDENTITY.split(x)
    assert_same_bits(
        IDENTITY.restore(torch.ones_like(reduced), exponent, active, x), torch.tensor([0.0, -0.0, -0.0])
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_out_of_range_is_zero_or_infinity_and_never_nan(dtype: torch.dtype) -> None:
    low = float(SMALLEST[dtype])
    x = torch.tensor([-1e300, -1e4, low - 0.5, low, 1 - low, 2 - low, 1e4, 3e9, 1e300]).to(dtype)
    reduced, exponent, active = EXP2.split(x)
    assert ((reduced >= 0) & (reduced < 1)).all()
    restored = EXP2.restore(torch.exp2(reduced), exponent, active, x)
    assert restored.tolist() == [0.0, 0.0, 0.0, 2.0**low, 2.0 ** (1 - low), *[math.inf] * 4]


def test_without_a_reduction_the_input_is_the_membrane_and_infinity_does_not_come_out_finite() -> None:
    x = torch.tensor([1.5, math.inf, -math.inf, math.nan])
    reduced, exponent, active = NONE.split(x)
    assert reduced is x and exponent is None and active is None
    assert_same_bits(NONE.restore(torch.full((4,), 7.0), None, None, x), torch.tensor([7.0, *[math.nan] * 3]))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (5,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_any_shape_and_layout(name: str, shape: tuple[int, ...], layout: str) -> None:
    values = torch.rand(shape) * 10 + 0.1
    x, reduction = laid_out(values, layout), REDUCTIONS[name]
    split = reduction.split(x)
    for got, want in zip(split, reduction.split(values), strict=True):
        assert (got is None) == (want is None)
        if isinstance(got, Tensor) and isinstance(want, Tensor):
            assert torch.equal(got, want)
    assert torch.equal(
        reduction.restore(split[0], *split[1:], x), reduction.restore(split[0], *split[1:], values)
    )


@pytest.mark.parametrize("name", ["reciprocal", "sqrt", "rsqrt"])
def test_an_infinite_derivative_of_the_limit_spoils_no_gradient(name: str) -> None:
    reduction = REDUCTIONS[name]
    x = torch.tensor([0.0, 1e-40, 1e-30, math.inf], requires_grad=True)
    reduced, exponent, active = reduction.split(x)
    restored = reduction.restore(reduced, exponent, active, x)
    (gradient,) = torch.autograd.grad(restored.sum(), x)
    # what sends no spikes reads a constant; elsewhere there are only the two shifts, of 1e-30 beyond 1e14
    assert gradient[[0, 1, 3]].tolist() == [0.0, 0.0, 0.0]
    assert gradient[2] > 1e14


@pytest.mark.parametrize("name", FUNCTION)
def test_gradients_pass_through_split_and_restore(name: str) -> None:
    x = torch.tensor([0.3, 1e-15, 2.0, 5e15, 40.0], requires_grad=True)
    if name == "exp2":
        x = torch.tensor([0.3, -20.5, 2.25, 40.0], requires_grad=True)
    reduction = REDUCTIONS[name]
    reduced, exponent, active = reduction.split(x)
    restored = reduction.restore(FUNCTION[name](reduced), exponent, active, x)
    (got,) = torch.autograd.grad(restored.sum(), x)
    (want,) = torch.autograd.grad(FUNCTION[name](x).sum(), x)
    assert torch.isfinite(want).all()
    torch.testing.assert_close(got, want)
