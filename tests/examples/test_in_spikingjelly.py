"""examples/in_spikingjelly.py, as a user runs it but smaller."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_converts_trains_and_says_what_it_saw(tmp_path: Path) -> None:
    options = ["--time-steps", "4", "--calibration", "8"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    script = [sys.executable, str(ROOT / "examples" / "in_spikingjelly.py"), *options]
    done = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [difference] = re.findall(r"differ by (\S+) at most", done.stdout)
    assert float(difference) < 1e-6
    [accuracy] = re.findall(r"([\d.]+)% right", done.stdout)
    assert float(accuracy) >= 70  # 24 sentences, half of each kind
    [rate] = re.findall(r"fire in ([\d.]+)% of their steps", done.stdout)
    assert 0 < float(rate) < 60
    assert not any(tmp_path.iterdir())
