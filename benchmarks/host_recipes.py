"""SpikingJelly's own recipe for Transformers beside ours, on one real network: closeness, time and memory.

    python -m benchmarks.host_recipes --data ../shared/data [--time-steps 32 16 8 4] [--batch 8] [--rounds 3]

SpikingJelly 2.0 traces whole models by torch.fx, which of the Transformers only torchvision's VisionTransformer
survives. So DINOv2 ViT-S/14 is written down as one: the same function, with LayerScale inside the weights before it. The
host's STATransformerRecipe is run as in the host's own example (mode 'spiking_encoder', thresholds by 'mse', scale .5), and
in the mode 'equivalent', in which nothing spikes; softmax, GELU and LayerNorm are exact functions of running sums in both.
Time and memory are of one forward over all T steps. Writes results/host_recipes.md and .csv.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import mbe_plugin
from benchmarks._common import DATA, RESULTS, interleaved_medians, markdown_table, provenance, write_csv
from benchmarks._memory import peak, reset_peak
from examples._shared.images import dinov2_transform
from examples._shared.networks import IMAGE_SIZE, load_dinov2
from mbe_plugin import MBEConfig

OURS = "MBE (all operators spike)"
STA = {
    "STA, as in the host's example": {
        "mode": "spiking_encoder",
        "threshold_mode": "mse",
        "threshold_scale": 0.5,
    },
    "STA, equivalent (nothing spikes)": {"mode": "equivalent"},
}
CALIBRATION = 16  # photographs, of other classes than those that are looked at
Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One converter at one T: cosines of class tokens with the ANN's, largest difference, time, MiB of a forward."""

    converter: str
    time_steps: int
    images: int
    minimum_cosine: float
    mean_cosine: float
    max_error: float
    ann_seconds: float
    seconds: float
    ratio: float
    ann_mebibytes: float
    mebibytes: float


def main() -> None:
    options = parse()
    ann = as_torchvision(load_dinov2())
    known, images = photographs(options.data, options.batch)
    with torch.no_grad():
        exact = ann(images)
    ann_mebibytes = memory(ann, images)
    rows = []
    for time_steps in options.time_steps:
        for name, make in converters(ann, known, time_steps).items():
            forward = make()
            with torch.no_grad():
                found = forward(images)
            cosines = torch.cosine_similarity(found, exact)
            medians = interleaved_medians(
                {"ann": lambda: ann(images), "snn": lambda f=forward: f(images)}, options.rounds
            )
            rows.append(
                Row(
                    name, time_steps, len(images), cosines.min().item(), cosines.mean().item(),
                    (found - exact).abs().max().item(), medians["ann"], medians["snn"], medians["snn"] / medians["ann"],
                    ann_mebibytes, memory(forward, images),
                )
            )  # fmt: skip
            print(rows[-1])
            del forward
    write_csv(options.results / "host_recipes.csv", Row, rows)
    (options.results / "host_recipes.md").write_text(markdown(rows), encoding="utf-8")
    print(markdown(rows))


def converters(ann: nn.Module, known: Tensor, time_steps: int) -> dict[str, Callable[[], Forward]]:
    """By name, what makes a forward that gives the ANN's output after T steps; ours takes no more than 20."""
    ours = {OURS: lambda: mbe_plugin.convert(ann, [known], MBEConfig(time_steps=time_steps))}
    return (ours if time_steps <= 20 else {}) | {
        name: lambda s=settings: sta(ann, known, time_steps, s) for name, settings in STA.items()
    }


def sta(ann: nn.Module, known: Tensor, time_steps: int, settings: dict) -> Forward:
    """The host's recipe: the image at the first step, zeros after it, and the sum over the steps."""
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.ann2snn import Converter, STATransformerRecipe

    recipe = STATransformerRecipe(
        dataloader=[(known, torch.zeros(len(known)))], time_steps=time_steps, **settings
    )
    network = Converter(recipe=recipe, device="cpu").convert(ann).eval()
    functional.set_step_mode(network, "m")

    def forward(images: Tensor) -> Tensor:
        functional.reset_net(network)
        sequence = torch.zeros(time_steps, *images.shape)
        sequence[0] = images
        return network(sequence).sum(0)

    return forward


def memory(forward: Forward, images: Tensor) -> float:
    """MiB that a forward adds to the process at its peak."""
    gc.collect()
    before = reset_peak()
    with torch.no_grad():
        forward(images)
    return (peak() - before) / 1024


def photographs(data: Path, batch: int) -> tuple[Tensor, Tensor]:
    """Images to calibrate with and images to look at, evenly spread over the classes with even and with odd numbers."""
    from torchvision.datasets import ImageFolder

    folder = ImageFolder(data / "stamps", transform=dinov2_transform())
    parts = [[i for i, (_, label) in enumerate(folder.samples) if label % 2 == odd] for odd in (0, 1)]
    wanted = [
        part[:: max(len(part) // n, 1)][:n] for part, n in zip(parts, (CALIBRATION, batch), strict=True)
    ]
    known, images = (torch.stack([folder[i][0] for i in part]) for part in wanted)
    return known, images


def as_torchvision(dino: nn.Module) -> nn.Module:
    """DINOv2 as torchvision's VisionTransformer without a head: images [B, 3, 224, 224] -> class tokens [B, 384]."""
    from torchvision.models import VisionTransformer

    config = dino.config
    vit = VisionTransformer(
        image_size=IMAGE_SIZE,
        patch_size=config.patch_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_dim=config.hidden_size,
        mlp_dim=config.mlp_ratio * config.hidden_size,
    )
    vit.heads = nn.Identity()
    weights = dict(dino.named_parameters())
    embeddings = dino.embeddings
    state = {
        "class_token": embeddings.cls_token,
        "conv_proj.weight": embeddings.patch_embeddings.projection.weight,
        "conv_proj.bias": embeddings.patch_embeddings.projection.bias,
        "encoder.pos_embedding": embeddings.interpolate_pos_encoding(
            torch.zeros(1, vit.seq_length, config.hidden_size), IMAGE_SIZE, IMAGE_SIZE
        ),
        "encoder.ln.weight": weights["layernorm.weight"],
        "encoder.ln.bias": weights["layernorm.bias"],
    }
    for layer in range(config.num_hidden_layers):
        state |= {
            f"encoder.layers.encoder_layer_{layer}.{name}": value
            for name, value in _layer(weights, f"encoder.layer.{layer}.").items()
        }
    vit.load_state_dict(state)
    return vit.eval().requires_grad_(False)


def _layer(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A layer's parameters under torchvision's names; LayerScale times W x + b is a product with (scale W) and scale b."""
    found: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        of = {
            n.removeprefix(prefix).removesuffix(f".{kind}"): w
            for n, w in weights.items()
            if n.startswith(prefix) and n.endswith(f".{kind}")
        }
        scales = [weights[f"{prefix}layer_scale{i}.lambda1"] for i in (1, 2)]
        first, second = ([s[:, None] for s in scales]) if kind == "weight" else scales
        parts = [of[f"attention.{part}_proj"] for part in "qkv"]
        found |= {
            f"ln_1.{kind}": of["norm1"],
            f"self_attention.in_proj_{kind}": torch.cat(parts),
            f"self_attention.out_proj.{kind}": first * of["attention.o_proj"],
            f"ln_2.{kind}": of["norm2"],
            f"mlp.0.{kind}": of["mlp.fc1"],
            f"mlp.3.{kind}": second * of["mlp.fc2"],
        }
    return found


def markdown(rows: list[Row]) -> str:
    """The table."""
    header = (
        "converter",
        "T",
        "images",
        "cosine, minimum",
        "mean",
        "maximum error",
        "time / ANN",
        "memory of a forward, MiB",
    )
    cells = [
        (
            r.converter, r.time_steps, r.images, f"{r.minimum_cosine:.6f}", f"{r.mean_cosine:.6f}", f"{r.max_error:.4f}",
            f"{r.ratio:.2f}", f"{r.mebibytes:.0f}",
        )
        for r in rows
    ]  # fmt: skip
    return (
        f"# SpikingJelly's own recipe beside ours\n\nMade by {provenance()}.\n\n"
        "DINOv2 ViT-S/14 as torchvision's VisionTransformer (the same function; LayerScale inside the weights), class "
        "tokens of photographs that calibration did not see. One forward over all T steps; medians of interleaved "
        f"forwards. The ANN's forward adds {rows[0].ann_mebibytes:.0f} MiB. STA keeps softmax, GELU and LayerNorm as exact "
        "functions of running sums, in both modes; with mode 'equivalent' the layers' inputs are no spikes either.\n\n"
        f"{markdown_table(header, cells)}\n"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=DATA, help="a folder that has stamps/ (default: %(default)s)")
    add("--time-steps", type=int, nargs="+", default=[32, 16, 8, 4])
    add("--batch", type=int, default=8, help="images")
    add("--rounds", type=int, default=3)
    add("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
