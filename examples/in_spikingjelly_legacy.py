"""A timm ViT in SpikingJelly 0.0.0.0.14: MBEConverter(loader)(model), beside the host's own converter. Offline.

python examples/in_spikingjelly_legacy.py [--model NAME] [--pretrained] [--time-steps T] [--images COUNT]

Weights and images are random unless --pretrained downloads the model's own.
"""

from __future__ import annotations

import argparse

import torch
from _shared.measure import machine
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.utils.data import DataLoader, TensorDataset

import mbe_plugin
from mbe_plugin.hosts.features import has_dataloader_converter

if not has_dataloader_converter():
    raise SystemExit(
        "this example needs an ann2snn.Converter that takes a dataloader, SpikingJelly 0.0.0.0.14's (pip install "
        "spikingjelly==0.0.0.0.14); with the installed one run examples/quickstart.py"
    )

from spikingjelly.activation_based import ann2snn, base, functional


def main() -> None:
    options = parse()
    ann, (calibration, evaluation) = load(options.model, options.pretrained, options.images)
    loader = DataLoader(TensorDataset(calibration, torch.zeros(len(calibration))), batch_size=8)

    print(
        f"{options.model}, {len(evaluation)} images that were not used for calibration, logits against the ANN's:"
    )
    try:
        theirs = ann2snn.Converter(loader)(ann)
        print(f"  ann2snn.Converter: {compare(ann, theirs, evaluation)}")
    except TraceError as refused:
        print(f"  ann2snn.Converter: cannot follow this model, {refused}")
    ours = mbe_plugin.MBEConverter(loader, config=mbe_plugin.MBEConfig(time_steps=options.time_steps))(ann)
    print(f"  MBEConverter: {compare(ann, ours, evaluation)}")

    functional.reset_net(ours)
    with torch.no_grad(), mbe_plugin.count_spikes(ours) as spikes:
        ours(evaluation[:1])
    print(f"one image: {spikes.total:,} spikes, mean firing rate {spikes.firing_rate:.1%}")
    print(f"on {machine()}")


def load(name: str, pretrained: bool, count: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The model, and images to calibrate with and to compare on."""
    import timm

    torch.manual_seed(0)
    ann = timm.create_model(name, pretrained=pretrained).eval()
    images = torch.randn(2 * count, *ann.pretrained_cfg["input_size"])
    return ann, (images[:count], images[count:])


@torch.no_grad()
def compare(ann: nn.Module, snn: nn.Module, images: Tensor) -> str:
    """How many neurons spike, the smallest cosine of an image's logits, and the largest error."""
    spiking = sum(isinstance(module, base.MemoryModule) for module in snn.modules())
    wanted, got = ann(images), snn(images)
    cosine, error = torch.cosine_similarity(got, wanted).min(), (got - wanted).abs().max()
    return f"{spiking} spiking neurons, cosine {cosine:.7f}, largest error {error:.5f}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm's name (default: %(default)s)")
    parser.add_argument("--pretrained", action="store_true", help="download the model's weights")
    parser.add_argument("--time-steps", type=int, default=16, help="T (default: %(default)s)")
    parser.add_argument("--images", type=int, default=8, help="to calibrate with, and to compare on")
    return parser.parse_args()


if __name__ == "__main__":
    main()
