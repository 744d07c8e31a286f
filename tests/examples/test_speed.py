"""benchmarks/speed.py: it times nothing that is not exact, and says what it timed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the benchmarks are a folder of scripts

from benchmarks import speed


def test_a_row_for_each_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "speed"
    options = ["--backends", "torch", "--time-steps", "3", "--elements", "1000", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["speed", *options, "--threads", "1", "--out", str(out)])
    threads = torch.get_num_threads()
    try:
        speed.main()
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out.count("| torch | 1000 |") == 6, "three neurons, two dtypes"
    assert out.with_suffix(".csv").read_text().count("torch") == 6


def test_a_backend_that_is_not_exact_is_not_timed() -> None:
    exact, wrong = (speed.neuron("closed", 3, "torch") for _ in range(2))
    wrong.w[20] *= 1.0001
    x = torch.randn(1000)
    speed.check({"torch": exact}, x)
    with pytest.raises(
        SystemExit, match="'numba' does not give the bits of 'torch'; its speed means nothing"
    ):
        speed.check({"torch": exact, "numba": wrong}, x)
