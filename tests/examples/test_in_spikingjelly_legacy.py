"""examples/in_spikingjelly_legacy.py, with timm's smallest ViT; on another host it says what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from mbe_plugin.hosts.features import has_dataloader_converter

ROOT = Path(__file__).parents[2]


@pytest.fixture
def done(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    example = str(ROOT / "examples" / "in_spikingjelly_legacy.py")
    script = [sys.executable, example, "--model", "test_vit", "--images", "2"]
    return subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not has_dataloader_converter(), reason="the host has no ann2snn.Converter(dataloader)")
@pytest.mark.skipif(not timm.is_model("test_vit"), reason="this timm has no test_vit")
def test_the_hosts_converter_and_ours(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert "ann2snn.Converter: cannot follow this model, symbolically traced variables" in done.stdout
    row = r"MBEConverter: (\d+) spiking neurons, cosine ([\d.]+), largest error ([\d.]+)\n"
    [(neurons, cosine, error)] = re.findall(row, done.stdout)
    assert int(neurons) > 50
    assert float(cosine) > 0.9999
    assert 0 < float(error) < 0.1
    assert re.search(r"one image: [\d,]+ spikes, mean firing rate [\d.]+%", done.stdout)


@pytest.mark.skipif(has_dataloader_converter(), reason="the host has what the example needs")
def test_elsewhere_it_names_the_host_and_another_example(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith("this example needs an ann2snn.Converter that takes a dataloader")
    assert "run examples/quickstart.py" in done.stderr
