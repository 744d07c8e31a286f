"""The published family: the paper's own table matched or beaten, and its form kept."""

from __future__ import annotations

import pytest
import torch

from mbe_plugin.fitting import fit

# arXiv:2508.07710 table X, mean squared error at T = 16
PUBLISHED = {
    ("gelu", (-120.0, 10.0)): {1: 7.1e-3, 2: 4.1e-3, 4: 2.3e-4, 6: 1.7e-4, 8: 1.0e-4},
    ("rsqrt", (0.5, 2.0)): {1: 1.4e-3, 2: 1.2e-3, 4: 3.1e-4, 6: 1.0e-4, 8: 4.9e-5},
    ("reciprocal", (0.5, 1.0)): {1: 8.6e-3, 2: 2.1e-4, 4: 1.1e-3, 6: 2.2e-3, 8: 4.4e-5},
    ("exp2", (0.0, 1.0)): {1: 8.9e-4, 2: 4.5e-4, 4: 4.0e-4, 6: 2.4e-4, 8: 5.3e-5},
}
CELLS = [(*key, n, error) for key, row in PUBLISHED.items() for n, error in row.items()]


@pytest.mark.parametrize(("name", "domain", "bases", "published"), CELLS)
def test_as_good_as_the_paper(name, domain, bases, published):
    found = fit(name, domain, 16, bases, family="published", evaluations=480)
    assert found.mean_squared_error <= published
    _is_published(found)


@pytest.mark.parametrize(("domain", "published"), [((-8, -2), 7.0e-5), ((-2, 5), 6.0e-4), ((2, 12), 4.8e-3)])
def test_silu_per_interval(domain, published):
    assert fit("silu", domain, 16, 4, family="published", evaluations=480).mean_squared_error <= published


@pytest.mark.parametrize(
    ("name", "domain", "published"),
    [
        ("gelu", (-120.0, 10.0), 0.28),
        ("rsqrt", None, 2.8e-3),
        ("reciprocal", None, 4.5e-3),
        ("exp2", None, 9.5e-3),
    ],
)
def test_constant_tables(name, domain, published):
    found = fit(name, domain, 16, 8, family="published-constant", evaluations=480)
    assert found.mean_squared_error <= published
    for table in (found.tables.threshold, found.tables.reset, found.tables.intensity):
        assert torch.equal(table, table[:1].expand_as(table))
    halving = fit(name, domain, 16, 8, family="published", evaluations=0)
    assert halving.mean_squared_error < found.mean_squared_error


def _is_published(found):
    """No offset, no scaled input, one constant, three exponential tables that share their leading value."""
    tables = found.tables
    assert tables.offset.abs().max() == 0
    assert set(tables.gain.tolist()) <= {1.0, -1.0}
    assert tables.banks == 1
    assert torch.equal(tables.threshold[0], tables.reset[0])
    assert torch.equal(tables.threshold[0], tables.intensity[0])
    for table in (tables.threshold, tables.reset, tables.intensity):
        decays = table[1:].double() / table[:-1].double()
        assert torch.allclose(decays, decays[:1].expand_as(decays), rtol=1e-5)


def test_strict_shares_one_alpha_and_sees_nothing_below_zero():
    found = fit("gelu", (-120.0, 10.0), 16, 4, family="published-strict", evaluations=480)
    _is_published(found)
    leading = found.tables.threshold[0]
    assert torch.equal(leading, leading[:1].expand_as(leading))
    assert (found.tables.gain == 1).all()
    # a membrane that starts at x < 0 and only falls sends nothing: one value for the whole dip
    assert found.node()(torch.linspace(-100, -1e-3, 50)).unique().numel() == 1
    assert found.mean_squared_error > 2.3e-4


def test_split_by_sign_is_used_only_where_both_signs_occur():
    for domain, signs in (((-6, 6), {1.0, -1.0}), ((1, 6), {1.0}), ((-6, -1), {-1.0})):
        found = fit("silu", domain, 8, 4, family="published", evaluations=600)
        assert set(found.tables.gain.tolist()) == signs


def test_identity_is_fixed_not_fitted():
    found = fit("identity", (-4.0, 4.0), 8, 4, family="published")
    x = torch.tensor([-4.0, -1.25, 0.0, 0.5, 3.984375])
    step = 4 / 2**8
    assert (found.tables.weight.abs() > 0).all()
    from mbe_plugin.node import MBENode

    y = MBENode(found.tables)(x)
    assert (y - x).abs().max() <= step + 1e-6
    assert torch.equal(found.tables.threshold[0], torch.full((4,), 2.0))
