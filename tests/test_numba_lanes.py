"""The loops over registers of AVX-512, and the blocks that do it elsewhere, against torch: where each begins and ends."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import scores
from oracle import assert_same_bits, critical_inputs
from torch import Tensor

from mbe_plugin import MBENode, fit
from mbe_plugin.fitting.segments import identity_tables
from mbe_plugin.neuron.tables import Tables
from mbe_plugin.operators import CalibratedNode, softmax
from mbe_plugin.operators.neuron import COUNTERS

numba = pytest.importorskip("numba", reason="pip install 'mbe_plugin[fast]'")

from mbe_plugin.kernels.numba_cpu.compiled import kernels, lanes, machine  # noqa: E402  # they need Numba

RANGES = {"none": (-2.0, 2.5), "exp2": (-20.0, 0.0), "identity": (-1.0, 1.0)}
LIBRARY = {
    "gelu": (fit("gelu", time_steps=16, bases=64).tables, "none"),
    "gelu of 17 banks, T = 4": (fit("gelu", time_steps=4, bases=17).tables, "none"),
    "one bank": (fit("gelu", time_steps=16, bases=1).tables, "none"),
    "more than 64 banks": (fit("silu", time_steps=8, bases=100).tables, "none"),
    "exp2": (fit("exp2", time_steps=16, bases=64).tables, "exp2"),
    "exp2, T = 20": (fit("exp2", time_steps=20, bases=8).tables, "exp2"),
    "identity": (identity_tables(16, 8), "identity"),
    "identity of many bases": (identity_tables(8, 128), "identity"),
    "identity, T = 20": (identity_tables(20, 4), "identity"),
}
SIZES = [*range(1, 50), 239, 240, 241, 255, 957, 959, 960, 961, 963, 977, 1921, 40_001]


@pytest.fixture(params=["as this machine does it", "block by block"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "block by block":
        if not lanes.available():
            pytest.skip("no processor with AVX-512: blocks are what this machine does")
        monkeypatch.setattr(kernels, "neuron", kernels.by_blocks)
    return str(request.param)


def test_the_loops_are_taken_where_they_can_be() -> None:
    assert (kernels.neuron is not kernels.by_blocks) == lanes.available()


class Recorded:
    """Room for what a neuron sends, as a recording has it."""

    counts_suffice = True

    def __init__(self, tables: Tables) -> None:
        self.counts = torch.zeros(tables.threshold.shape, dtype=torch.int64)
        self.tally = torch.zeros(3, dtype=torch.int64)

    def room(self) -> tuple[Tensor, Tensor]:
        return self.counts, self.tally

    def __call__(self, *told: Any) -> None:
        raise AssertionError("the kernel has counted")


def assert_equal(tables: Tables, reduction: str, x: Tensor) -> None:
    """Values, ends, counters of the range and spikes, alone and added to a recording."""
    fast, slow = (CalibratedNode(tables, reduction, *RANGES[reduction], "function", 0.0) for _ in range(2))
    fast.backend, slow.backend = "numba", "torch"
    with torch.no_grad():
        wanted = slow(x)
        assert_same_bits(fast(x), wanted)
        fast.spike_listener = recorded = Recorded(tables)
        assert_same_bits(fast(x), wanted)
        for counter in COUNTERS:
            assert getattr(fast, counter) == 2 * getattr(slow, counter)
        spikes, exponents = slow.spike_counts(x)
        assert torch.equal(recorded.counts, spikes)
        assert recorded.tally.tolist() == [x.numel(), int(exponents), x.numel()]
        values, ends, counts = MBENode(tables, reduction, backend="numba")._by_kernel(x, counted=True)
        assert_same_bits(values, wanted)
        assert_same_bits(ends, torch.stack(torch.aminmax(x)))
        assert torch.equal(counts[:-1].view(spikes.shape), spikes)


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("name", LIBRARY)
def test_every_size_and_break_point(name: str, by: str) -> None:
    tables, reduction = LIBRARY[name]
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 1e-42, -1e-42, 3e38, -3e38, 300.0])
    points = torch.cat([odd, critical_inputs(tables), torch.randn(1000) * 30])
    points = points[torch.randperm(len(points))]
    for size in SIZES:
        x = torch.randn(size)
        assert_equal(tables, reduction, x)
        x[-1] = odd[size % len(odd)]  # in what is left over from whole registers
        assert_equal(tables, reduction, x)
    assert_equal(tables, reduction, points)


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("name", ["exp2", "exp2, T = 20"])
@pytest.mark.parametrize("columns", [*range(1, 20), 31, 32, 33, 240, 257, 961, 1500])
def test_rows_of_scores(columns: int, name: str, by: str) -> None:
    tables, reduction = LIBRARY[name]
    fast, slow = (CalibratedNode(tables, reduction, *RANGES[reduction], "exp2", 0.0) for _ in range(2))
    fast.backend, slow.backend = "numba", "torch"
    fast.spike_listener, x = Recorded(tables), scores(12, columns)
    with torch.no_grad():
        found = fast.numerators(x, softmax._powers)
        z, sent = softmax._powers(x, -1)
        wanted = numerators_of(slow, x)
        spikes, exponents = slow.spike_counts(z, sent)
    assert found is not None
    assert_same_bits(found, wanted)
    assert torch.equal(fast.spike_listener.counts, spikes)
    assert fast.spike_listener.tally.tolist() == [int(sent.sum()), int(exponents), int(sent.sum())]
    for counter in COUNTERS:
        assert getattr(fast, counter) == getattr(slow, counter)


def numerators_of(neuron: CalibratedNode, x: Tensor) -> Tensor:
    """By the neuron on torch, as Softmax has it there."""
    z, sent = softmax._powers(x, -1)
    return torch.where(sent | z.isnan(), neuron(z, where=sent), 0.0)


def scaled(tables: Tables, **factors: float) -> Tables:
    return replace(tables, **{field: getattr(tables, field) * factor for field, factor in factors.items()})


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("name", ["gelu", "exp2"])
def test_numbers_that_do_not_commute_with_powers_of_two_are_left_to_the_blocks(name: str) -> None:
    """Denormal products, offsets that swallow an input, gains that overflow: what torch's order of operations gives."""
    tables, reduction = LIBRARY[name]
    some = torch.arange(64) % 3 == 0
    for changed in (
        scaled(tables, weight=2.0**-120),
        scaled(tables, weight=2.0**-140, bias=2.0**-140),
        scaled(tables, weight=2.0**-35, bias=2.0**-60),
        scaled(tables, weight=2.0**90, bias=2.0**90),
        scaled(tables, gain=2.0**115),
        scaled(tables, gain=2.0**-120, offset=0.0),
        replace(tables, offset=torch.where(some, 2.0**110, tables.offset)),
        replace(
            tables, bias=torch.where(some, -0.0, tables.bias), weight=torch.where(some, 0.0, tables.weight)
        ),
        replace(tables, bias=torch.zeros(64), weight=-tables.weight),
    ):
        x = torch.cat([critical_inputs(tables), torch.randn(3000) * 20, torch.rand(100) * 3e38])
        assert_equal(changed, reduction, x)
        fast, slow = (CalibratedNode(changed, reduction, *RANGES[reduction], "exp2", 0.0) for _ in range(2))
        fast.backend, slow.backend = "numba", "torch"
        if reduction == "exp2":
            rows = scores(12, 100)
            wanted = numerators_of(slow, rows)
            found = fast.numerators(rows, softmax._powers)
            assert found is not None
            assert_same_bits(found, wanted)


def test_tables_that_are_written_over_count_at_once() -> None:
    neuron = MBENode(*LIBRARY["gelu"], backend="numba")
    x = torch.randn(1000)
    neuron(x)
    neuron.w.mul_(2.0**-130)  # the loops do for the first, blocks for the second
    slow = copy.deepcopy(neuron)
    slow.backend = "torch"
    assert_same_bits(neuron(x), slow(x))


def test_a_kernel_is_compiled_anew_when_one_of_its_files_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def nothing(arguments, first, last, thread):  # type: ignore[no-untyped-def]  # Numba infers them
        arguments[0] = last

    hits = [machine.kernel()(nothing).cache_hits for _ in range(2)]
    monkeypatch.setattr(machine, "SOURCES", machine.SOURCES + 1)
    hits.append(machine.kernel()(nothing).cache_hits)
    assert hits == [0, 1, 0]
