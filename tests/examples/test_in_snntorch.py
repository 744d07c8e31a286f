"""examples/in_snntorch.py, as a user runs it, with a smaller T."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("snntorch"), reason="pip install 'mbe_plugin[snntorch]'"),
]


def test_the_head_learns_and_the_network_keeps_its_accuracy(tmp_path: Path) -> None:
    options = ["--time-steps", "6", "--calibration", "8", "--epochs", "25"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    script = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "in_snntorch.py"), *options]
    done = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    [(before, after)] = re.findall(r"loss of the spiking head: ([\d.]+) before, ([\d.]+) after", done.stdout)
    assert float(after) < 0.5 * float(before)
    accuracy = dict(re.findall(r"^  (.+?)\s+([\d.]+)%$", done.stdout, re.MULTILINE))
    assert float(accuracy["the ANN"]) >= 75
    assert accuracy["the converted network"] == accuracy["the ANN"]
    assert float(accuracy["the spiking head on it"]) >= 75
    assert "spikes per sentence" in done.stdout
