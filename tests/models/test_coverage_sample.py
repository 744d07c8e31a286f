"""The fixed sample of benchmarks/coverage.py: all twenty convert, and are close at T = 16."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("timm")
sys.path.append(str(Path(__file__).resolve().parents[2]))  # the benchmarks are a folder of scripts

from benchmarks.small.sample import SAMPLE
from benchmarks.small.trial import CLOSE, CONVERTED, run


def test_the_sample_has_twenty_of_both_libraries():
    assert len(set(SAMPLE)) == 20
    assert {library for library, _ in SAMPLE} == {"transformers", "timm"}


@pytest.mark.parametrize(("library", "name"), SAMPLE, ids=[name for _, name in SAMPLE])
def test_converts_and_is_close(library, name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run(library, name)
    assert result.outcome == CONVERTED, result.why
    assert result.attention
    assert result.error <= CLOSE
