"""Image classification by a converted network: accuracy of ANN and SNN over the time steps T.

python examples/convert_vit.py [--model NAME --data FOLDER] [--checkpoint FILE] [--limit N]

By default a small timm ViT is trained on the spot on scikit-learn's 8 x 8 digits (offline). --model: a
pretrained model of timm, from the hub or --checkpoint; --data: a folder with one folder per class, which are
the model's classes in sorted order, or some of ImageNet's by their WordNet names. If it has train/ and val/,
calibration uses the first and evaluation the second; otherwise images are drawn for each, none for both.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import metadata

import torch
from _shared.images import Task, digits, drawn, pretrained
from _shared.sweep import Row, Tensors, accuracy_figures, option_parser, report, sweep
from torch import Tensor, nn
from torch.utils.data import DataLoader


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    task = load(options)
    task.ann.to(options.device)
    chosen = drawn(task.held_out, options.limit, options.seed)
    known = DataLoader(drawn(task.known, options.calibration, options.seed), options.batch)
    calibration = [images.to(options.device) for images, _ in known]

    def outputs(network: nn.Module, batch: Sequence[Tensor]) -> Tensors:
        images, classes = batch
        return network(images.to(options.device)), classes

    evaluation = DataLoader(chosen, options.batch)
    rows = [row for row, _ in sweep(task.ann, calibration, evaluation, options, outputs, compare)]
    title = f"{task.name}: {len(chosen)} of {len(task.held_out)} held-out images, accuracies in %"
    report(f"{title}, timm {metadata.version('timm')}", rows, options.csv)


def compare(exact: Tensors, spiking: Tensors) -> Row:
    return accuracy_figures(exact[0], spiking[0], exact[1])


def load(options: argparse.Namespace) -> Task:
    if options.model and options.data:
        return pretrained(options.model, options.checkpoint, options.classes, options.data, options.seed)
    if options.model or options.data:
        raise SystemExit("--model and --data go together; without both, digits")
    return digits(options.width, options.depth, options.epochs)


def parse() -> argparse.Namespace:
    parser = option_parser(__doc__, "images", "results/convert_vit.csv")
    add = parser.add_argument
    add("--model", help="a pretrained model of timm (a small ViT, trained here on digits)")
    add("--data", help="images, one folder per class, perhaps below train/ and val/")
    add("--checkpoint", help="the model's weights (downloaded)")
    add("--classes", type=int, help="of the checkpoint (the model's own number)")
    add("--width", type=int, default=64, help="of the small ViT (%(default)s)")
    add("--depth", type=int, default=4, help="of the small ViT (%(default)s)")
    add("--epochs", type=int, default=20, help="of training the small ViT (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
