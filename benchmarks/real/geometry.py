"""ViT-B/16 with random weights: the geometry of a published figure, for energies and not for what a task feels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.real.workload import Part, Row, Tensors, Workload

NETWORK = "ViT-B/16, random weights"


def vit() -> list[Workload]:
    """Images of coloured noise; the figure is how often the likeliest class stays."""
    import timm

    torch.manual_seed(0)
    ann = timm.create_model("vit_base_patch16_224", pretrained=False).eval()
    coarse = torch.randn(12, 3, 14, 14)
    images = nn.functional.interpolate(coarse, size=224, mode="bilinear") + 0.1 * torch.randn(12, 3, 224, 224)
    parts = [Part(images[:4].split(2), images[4:].split(2))]
    counted = [(images[4:5], 197)]
    return [Workload(NETWORK, "likeliest class", "accuracy", ann, parts, outputs, figures, counted, few=1)]


def outputs(network: nn.Module, batch: Tensor) -> Tensors:
    """Logits, twice: their closeness, and the likeliest class."""
    logits = network(batch)
    return logits, logits.argmax(-1)


def figures(exact: Tensors, spiking: Tensors) -> Row:
    """Items, and how often the class is the same."""
    same = 100 * (exact[1] == spiking[1]).double().mean().item()
    flipped = int((exact[1] != spiking[1]).sum())
    return {
        "items": len(exact[1]),
        "ann_accuracy": 100.0,
        "snn_accuracy": same,
        "flipped": flipped,
        "agreement": same,
    }
