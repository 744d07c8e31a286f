"""Windows and steps from input to output of the three real networks.

    OMP_NUM_THREADS=1 python -m benchmarks.latency

Each network on two small calibration batches (sentences, noise, tokens at random): the path is that of the architecture and
the configuration; when spikes come depends on the data a little. Writes results/latency.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import mbe_plugin
from benchmarks._common import RESULTS, markdown_table, provenance
from examples._shared.networks import load_dinov2, load_minilm, load_smollm2
from examples.sentences import calibration_sentences
from mbe_plugin import MBEConfig, RangeWarning
from mbe_plugin.sources import padded_batches

CONFIGS = {
    "default, T = 16": MBEConfig(),
    "every value encoded, T = 8": MBEConfig(time_steps=8, merge=False),
    "first spike, T = 16, N = 32": MBEConfig(code="first_spike", identity_bases=32, merge=False),
}


def main() -> None:
    warnings.simplefilter("ignore", RangeWarning)
    header = ["network", "setting", "windows", "steps", "between two inputs"]
    header += ["steps if windows ended with their last spike", "mean step of a spike"]
    text = f"""# Latency

Windows one after another on the longest path, and steps: docs/energy.md says what is counted.

{markdown_table(header, list(rows()))}

{provenance()}
"""
    (RESULTS / "latency.md").write_text(text, encoding="utf-8")
    print(text)


def rows() -> Iterator[list[object]]:
    """A row per network and setting."""
    for network, load in (("MiniLM", minilm), ("DINOv2 ViT-S/14", dinov2), ("SmolLM2-135M", smollm2)):
        ann, batches = load()
        recorded = mbe_plugin.calibrate(ann, batches)
        for setting, config in CONFIGS.items():
            found = mbe_plugin.report(mbe_plugin.convert(ann, recorded, config)).latency
            assert found is not None
            steps = [found.windows, found.steps, found.interval, found.until_last_spike]
            yield [network, setting, *steps, f"{found.mean_step:.1f}"]


Loaded = tuple[nn.Module, list[Any]]


def minilm() -> Loaded:
    tokenizer, ann = load_minilm()
    return ann, padded_batches(tokenizer, calibration_sentences(4), size=2)


def dinov2() -> Loaded:
    return load_dinov2(), [{"pixel_values": torch.randn(1, 3, 224, 224)} for _ in range(2)]


def smollm2() -> Loaded:
    tokenizer, ann = load_smollm2()
    tokens = torch.randint(len(tokenizer), (2, 1, 32), generator=torch.Generator().manual_seed(0))
    return ann, [{"input_ids": part} for part in tokens]


if __name__ == "__main__":
    main()
