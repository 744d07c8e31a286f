"""kernels/banks.py: the bank of every element, as the reference's search finds it."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from mbe_plugin.kernels.banks import WORTHWHILE, find_bank
from mbe_plugin.neuron.dynamics import bank_index

BREAKPOINTS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40).map(sorted)


def around(breakpoints: torch.Tensor) -> torch.Tensor:
    """Every break point, the floats next to it, extremes, and enough others for the fast path."""
    ends = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0, 1e38, -1e38], dtype=breakpoints.dtype)
    above = torch.nextafter(breakpoints, ends[0].expand_as(breakpoints))
    below = torch.nextafter(breakpoints, ends[1].expand_as(breakpoints))
    low, high = breakpoints[0] - 1, breakpoints[-1] + 1
    others = low + (high - low) * torch.rand(WORTHWHILE, dtype=breakpoints.dtype)
    return torch.cat([breakpoints, -breakpoints, above, below, ends, others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mirrored", [False, True])
@given(places=BREAKPOINTS)
def test_the_bank_is_the_one_that_the_search_finds(
    dtype: torch.dtype, mirrored: bool, places: list[float]
) -> None:
    breakpoints = torch.tensor(places, dtype=dtype)
    if mirrored:
        breakpoints = breakpoints.abs().sort().values
    x = around(breakpoints)
    assert torch.equal(find_bank(x, breakpoints, mirrored).long(), bank_index(x, breakpoints, mirrored))


def test_a_transposed_input_keeps_its_shape_and_order() -> None:
    breakpoints = torch.tensor([-1.0, 0.0, 0.5])
    x = torch.randn(64, 256).t()
    assert torch.equal(find_bank(x, breakpoints, False).long(), bank_index(x, breakpoints, False))


def test_nan_gets_a_bank_that_exists() -> None:
    breakpoints = torch.tensor([-1.0, 0.0, 0.5])
    bank = find_bank(torch.full((WORTHWHILE,), torch.nan), breakpoints, True)
    assert 0 <= int(bank.min()) <= int(bank.max()) < 8
