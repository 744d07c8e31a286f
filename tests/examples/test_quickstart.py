"""examples/quickstart.py, as the README runs it but smaller."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_converts_compares_and_draws(tmp_path: Path) -> None:
    figure = tmp_path / "figures" / "neuron.png"
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("A short one.\n\nThe second sentence is somewhat longer than the first.\n")
    options = ["--time-steps", "8", "--calibration", "8", "--figure", figure, "--sentences", sentences]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    script = [sys.executable, str(ROOT / "examples" / "quickstart.py"), *map(str, options)]
    done = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 sentences that were not used for calibration" in done.stdout
    [minimum] = re.findall(r"minimum ([\d.]+)", done.stdout)
    assert float(minimum) > 0.9999
    [error] = re.findall(r"maximum error of the last hidden state ([\d.]+)", done.stdout)
    assert float(error) < 0.1
    for wanted in ("63 sites", "T = 8", "mean firing rate", "times the ANN's", "torch "):
        assert wanted in done.stdout
    assert figure.read_bytes().startswith(b"\x89PNG")
