"""Gradients of a converted vision transformer beside the ANN's, and what a training step costs.

    OMP_NUM_THREADS=1 python -m benchmarks.gradients [--time-steps 16 8] [--batch 4] [--rounds 5]

A timm ViT of two layers with random weights. Per parameter, the cosine of its gradient with the ANN's; times are medians of
interleaved training steps (forward, backward, optimizer), memory is what the forward keeps for the backward. 'steps' is
autograd through the step loop, the surrogate's gradient before it had a sweep. Writes results/gradients.md and .csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mbe_plugin
from benchmarks._common import RESULTS, interleaved_medians, markdown_table, provenance, write_csv
from mbe_plugin import MBEConfig

Images = tuple[Tensor, Tensor]
KINDS: dict[str, dict] = {
    "surrogate": {"gradient": "surrogate"},
    "slope": {"gradient": "slope"},
    "surrogate, steps": {"gradient": "surrogate", "simulate": "steps"},
}


@dataclass(frozen=True)
class Row:
    """One network; cosines with the ANN's gradients over the parameters."""

    gradient: str
    time_steps: int
    mean_cosine: float
    least_cosine: float
    least_at: str
    seconds: float
    time_ratio: float
    kept_mebibytes: float


def main() -> None:
    options = parse()
    rows = [row for steps in options.time_steps for row in measure(steps, options.batch, options.rounds)]
    header = ["gradient", "T", "mean cosine", "least", "at", "step, s", "step / ANN", "kept, MiB"]
    cells = [
        (
            row.gradient,
            row.time_steps,
            f"{row.mean_cosine:.4f}",
            f"{row.least_cosine:.4f}",
            row.least_at,
            f"{row.seconds:.3f}",
            f"{row.time_ratio:.1f}",
            f"{row.kept_mebibytes:.0f}",
        )
        for row in rows
    ]
    text = (
        f"# Gradients of a spiking vision transformer\n\n{provenance()}. A timm ViT-Tiny/16 of two layers with random "
        f"weights, {options.batch} images of 224 x 224, every parameter trained. Cosines of the gradients with the ANN's, "
        f"per parameter; medians of {options.rounds} interleaved training steps; what the forward keeps for the backward. "
        "'steps' is autograd through the step loop.\n\n" + markdown_table(header, cells)
    )
    print(text)
    write_csv(options.out.with_suffix(".csv"), Row, rows)
    options.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def measure(time_steps: int, batch: int, rounds: int) -> list[Row]:
    """One row for the ANN and one for each kind of gradient."""
    torch.manual_seed(0)
    ann = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=10).eval()
    images = torch.randn(batch, 3, 224, 224), torch.randint(0, 10, (batch,))
    networks: dict[str, nn.Module] = {"ANN": ann}
    for name, settings in KINDS.items():
        config = MBEConfig(time_steps=time_steps, **settings)
        networks[name] = mbe_plugin.convert(ann, [images[0]], config)
    wanted = gradients(ann, images)
    found = {name: cosines(gradients(network, images), wanted) for name, network in networks.items()}
    kept = {name: kept_for_backward(network, images) for name, network in networks.items()}
    steps = {name: training_step(network, images) for name, network in networks.items()}
    times = interleaved_medians(steps, rounds)
    return [
        Row(
            name,
            time_steps,
            sum(found[name].values()) / len(found[name]),
            min(found[name].values()),
            min(found[name], key=found[name].__getitem__),
            times[name],
            times[name] / times["ANN"],
            kept[name],
        )
        for name in networks
    ]


def gradients(network: nn.Module, images: Images) -> dict[str, Tensor]:
    """The gradient of a classification loss, per parameter."""
    network.zero_grad()
    loss(network, images).backward()
    return {name: p.grad.double().reshape(-1) for name, p in network.named_parameters() if p.grad is not None}


def loss(network: nn.Module, images: Images) -> Tensor:
    x, y = images
    return F.cross_entropy(network(x), y)


def cosines(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    return {name: torch.cosine_similarity(g, wanted[name], dim=0).item() for name, g in found.items()}


def kept_for_backward(network: nn.Module, images: Images) -> float:
    """MiB of the distinct storages that the forward's graph holds, parameters left out."""
    sizes: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        whole = loss(network, images)
    whole.detach_()
    return sum(sizes.values()) / 2**20


def training_step(network: nn.Module, images: Images) -> Callable[[], None]:
    """Forward, backward and a step of plain gradient descent too small to leave the calibrated ranges."""
    optimizer = torch.optim.SGD(network.parameters(), 1e-6)

    def step() -> None:
        with torch.enable_grad():
            optimizer.zero_grad()
            loss(network, images).backward()
            optimizer.step()

    return step


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time-steps", type=int, nargs="+", default=[16, 8])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "gradients.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
