"""Image classification by a converted network: accuracy of ANN and SNN over the time steps T.

python examples/convert_images.py [--data FOLDER] [--model NAME [--checkpoint FILE]] [--limit N]

The network is DINOv2 ViT-S/14 with a linear probe, which is fitted on the class tokens of the training images, here
and now, and converted with the rest. Without --data the images are scikit-learn's 8 x 8 handwritten digits (offline),
magnified so that each pixel is one patch: real data, though not the photographs that the network knows.
--data: a folder with one folder per class; if it has train/ and val/, fitting and calibration use the first and
evaluation the second, otherwise images are drawn for each, none for both. --model: a pretrained classifier of timm
instead, from the hub or --checkpoint; the folders are its classes in sorted order, or some of ImageNet's by WordNet name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _shared.images import Task, digits, drawn, of_timm, photographs, with_probe
from _shared.sweep import Row, Tensors, accuracy_figures, option_parser, report, sweep
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    task = load(options)
    task.ann.to(options.device)
    chosen = drawn(task.held_out, options.limit, options.seed)
    known = DataLoader(drawn(task.known, options.calibration, options.seed), 4)
    calibration = [images.to(options.device) for images, _ in known]

    def outputs(network: nn.Module, batch: Sequence[Tensor]) -> Tensors:
        images, classes = batch
        made: Any = network(images.to(options.device))
        return made[0] if isinstance(made, tuple) else made, classes

    evaluation = DataLoader(chosen, options.batch)
    rows = [row for row, _ in sweep(task.ann, calibration, evaluation, options, outputs, compare)]
    title = f"{task.name}: {len(chosen)} of {len(task.held_out)} held-out images, accuracies in %"
    report(title, rows, options.csv)


def compare(exact: Tensors, spiking: Tensors) -> Row:
    return accuracy_figures(exact[0], spiking[0], exact[1])


def load(options: argparse.Namespace) -> Task:
    if options.model and options.data:
        return of_timm(options.model, options.checkpoint, options.classes, options.data, options.seed)
    if options.model:
        raise SystemExit("--model needs --data, a folder with images of its classes")
    if options.data:
        name, (classes, known, held_out) = options.data.name, photographs(options.data, options.seed)
    else:
        name, (classes, known, held_out) = "digits", digits(options.seed)
    chosen = drawn(known, options.training, options.seed)
    with tqdm(total=len(chosen), desc="features of the training images", disable=None) as bar:
        ann = with_probe(chosen, len(classes), options.device, bar.update)
    return Task(f"DINOv2 with a linear probe on {name}", ann, chosen, held_out)


def parse() -> argparse.Namespace:
    parser = option_parser(__doc__, "images", "results/convert_images.csv")
    add = parser.add_argument
    add("--data", type=Path, help="images, one folder per class, perhaps below train/ and val/ (digits)")
    add("--training", type=int, default=300, metavar="N", help="fit the probe on at most N (%(default)s)")
    add("--model", help="a pretrained classifier of timm (DINOv2 with a linear probe)")
    add("--checkpoint", help="the model's weights (downloaded)")
    add("--classes", type=int, help="of the checkpoint (the model's own number)")
    parser.set_defaults(calibration=16, limit=100)
    return parser.parse_args()


if __name__ == "__main__":
    main()
