"""DINOv2 on a folder of photographs: a linear probe over five folds, and the nearest neighbour's class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.real.workload import Part, Row, Tensors, Workload
from examples._shared.heads import fit_head
from examples._shared.images import PROBE_STRENGTH, DINOv2Classifier, dinov2_transform
from examples._shared.networks import load_dinov2
from examples._shared.sweep import accuracy_figures

NETWORK, TASK = "DINOv2 ViT-S/14", "16 classes of photographs"
FOLDS, CALIBRATION, BATCH = 5, 16, 8
PATCHES = 257  # with the class token


def stamps(data: Path, fitted: bool = True) -> list[Workload]:
    """Five probes side by side, each fitted on the ANN's features of four folds and judged on the fifth.

    They are one linear layer, which is converted with the rest. Fold 0 is evaluated by a network that was calibrated
    on images of fold 1, and the other folds by one that was calibrated on images of fold 0. fitted=False: probes at random.
    """
    from torchvision.datasets import ImageFolder

    folder = ImageFolder(data / "stamps", transform=dinov2_transform())
    images = torch.stack([image for image, _ in folder])
    labels = torch.tensor(folder.targets)
    classes = len(folder.classes)
    folds = folds_of(labels)
    ann = DINOv2Classifier(load_dinov2(), FOLDS * classes).eval()
    if fitted:
        _fit(ann, images, labels, folds, classes)

    places = [torch.arange(len(labels))[folds == fold] for fold in range(FOLDS)]
    order = torch.cat(places)
    parts = [
        Part(images[places[1][:CALIBRATION]].split(4), images[places[0]].split(BATCH)),
        Part(images[places[0][:CALIBRATION]].split(4), images[torch.cat(places[1:])].split(BATCH)),
    ]

    def outputs(network: nn.Module, batch: Tensor) -> Tensors:
        logits, features = network(batch)
        return features, logits.unflatten(1, (FOLDS, classes))

    def figures(exact: Tensors, spiking: Tensors) -> Row:
        chosen = order[: len(exact[0])]
        own = torch.arange(len(chosen)), folds[chosen]
        row = accuracy_figures(exact[1][own], spiking[1][own], labels[chosen])
        nearest = [nearest_class(features, labels[chosen]) for features in (exact[0], spiking[0])]
        return {**row, "nearest_changed": int((nearest[0] != nearest[1]).sum())}

    counted = [(batch, PATCHES * len(batch)) for batch in parts[0].evaluation[:1]]
    tuning = images[places[1]].split(4)  # no image of fold 0
    return [Workload(NETWORK, TASK, "accuracy", ann, parts, outputs, figures, counted, few=2, tuning=tuning)]


def folds_of(labels: Tensor, seed: int = 0) -> Tensor:
    """Every item's fold [n]: the items of each class, by lot, are dealt to the folds in turn."""
    generator = torch.Generator().manual_seed(seed)
    folds = torch.empty_like(labels)
    dealt = 0
    for label in labels.unique():
        mine = (labels == label).nonzero().flatten()
        mine = mine[torch.randperm(len(mine), generator=generator)]
        folds[mine] = (dealt + torch.arange(len(mine))) % FOLDS
        dealt += len(mine)
    return folds


def nearest_class(features: Tensor, labels: Tensor) -> Tensor:
    """The class of each item's nearest neighbour by cosine, itself apart; features [n, C] -> [n]."""
    unit = functional.normalize(features.double(), dim=1)
    return labels[(unit @ unit.T).fill_diagonal_(-torch.inf).argmax(dim=1)]


def _fit(ann: DINOv2Classifier, images: Tensor, labels: Tensor, folds: Tensor, classes: int) -> None:
    with torch.no_grad():
        features = torch.cat([ann(batch)[1] for batch in images.split(BATCH)])
    for fold in range(FOLDS):
        known = folds != fold
        probe = nn.Linear(features.shape[1], classes)
        fit_head(probe, features[known], labels[known], PROBE_STRENGTH)
        with torch.no_grad():
            rows = slice(fold * classes, (fold + 1) * classes)
            ann.head.weight[rows], ann.head.bias[rows] = probe.weight, probe.bias
