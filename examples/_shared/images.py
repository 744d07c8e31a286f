"""Images with their classes, and DINOv2 with a linear probe, or a model of timm, as one network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from mbe_plugin.env import hide_broken_torchaudio

from .heads import fit_head
from .networks import IMAGE_SIZE, load_dinov2

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, as DINOv2 was trained
DIGIT_SIZE = 112  # a patch of 14 x 14 per pixel of a digit
PROBE_STRENGTH = 0.1  # the class token's 384 features have a standard deviation of 2.3

Labelled = tuple[
    list[str], Dataset[Any], Dataset[Any]
]  # names of the classes, images to know, held-out images


@dataclass(frozen=True)
class Task:
    """A classifier, images with their classes to fit and calibrate on, and others to evaluate on."""

    name: str
    ann: nn.Module
    known: Dataset[Any]
    held_out: Dataset[Any]


class DINOv2Classifier(nn.Module):
    """The class token after the last LayerNorm is the feature f; logits = W f + b."""

    def __init__(self, dinov2: nn.Module, classes: int) -> None:
        super().__init__()
        self.dinov2 = dinov2
        self.head = nn.Linear(dinov2.config.hidden_size, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] -> logits [B, classes], features [B, C]."""
        features = self.dinov2(images).pooler_output
        return self.head(features), features


def drawn(images: Dataset[Any], count: int | None, seed: int) -> Subset[Any]:
    """At most count of the images, by lot."""
    lot = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return Subset(images, lot[:count].tolist())


def digits(seed: int) -> Labelled:
    """scikit-learn's 1,797 handwritten digits, magnified to 112 x 112 and grey in three colours: 80 % and 20 %."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = torch.from_numpy(data.images).float()[:, None] / 16  # [n, 1, 8, 8], 0 to 1
    large = functional.interpolate(grey, size=(DIGIT_SIZE, DIGIT_SIZE), mode="bilinear")
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    images = TensorDataset((large - mean) / deviation, torch.from_numpy(data.target).long())
    return [str(name) for name in data.target_names], *_parts(images, 0.8, seed)


def photographs(folder: Path, seed: int) -> Labelled:
    """The images of a folder as DINOv2 takes them: its train/ and val/, or 80 % and 20 % by lot."""
    folders = _folders(folder, dinov2_transform())
    known, held_out = folders if len(folders) == 2 else _parts(folders[0], 0.8, seed)
    return folders[0].classes, known, held_out


def dinov2_transform() -> Callable[[Any], Tensor]:
    """A photograph of any size -> [3, 224, 224]: its middle, normalised."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(IMAGE_SIZE),
            transforms.CenterCrop(IMAGE_SIZE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, DEVIATION),
        ]
    )


def with_probe(
    known: Dataset[Any], classes: int, device: str, advance: Callable[[int], object] = lambda _: None
) -> DINOv2Classifier:
    """DINOv2 with a head fitted on all the known images; advance(n) is called after every batch of n."""
    ann = DINOv2Classifier(load_dinov2(), classes).to(device).eval()
    features, labels = [], []
    with torch.no_grad():
        for images, wanted in DataLoader(known, 16):
            features.append(ann(images.to(device))[1])
            labels.append(wanted)
            advance(len(images))
    fit_head(ann.head, torch.cat(features), torch.cat(labels).to(device), PROBE_STRENGTH)
    return ann


def of_timm(name: str, checkpoint: str | None, classes: int | None, folder: Path, seed: int) -> Task:
    """A model of timm with its own preprocessing, and the folder's images; a tenth for calibration without val/."""
    hide_broken_torchaudio()
    import timm
    from timm.data import create_transform, resolve_model_data_config

    own = {} if classes is None else {"num_classes": classes}
    ann = timm.create_model(name, pretrained=not checkpoint, checkpoint_path=checkpoint or "", **own).eval()
    folders = _folders(folder, create_transform(**resolve_model_data_config(ann), is_training=False))
    for part in folders:
        part.target_transform = _classes(ann, part.classes).__getitem__
    known, held_out = folders if len(folders) == 2 else _parts(folders[0], 0.1, seed)
    return Task(f"{name} on {folder.name}", ann, known, held_out)


def _folders(root: Path, transform: Callable[[Any], Tensor]) -> list[Any]:
    """Datasets of train/ and val/ below the folder, or of the folder itself."""
    from torchvision.datasets import ImageFolder

    parts = [root / "train", root / "val"] if (root / "train").is_dir() else [root]
    return [ImageFolder(part, transform=transform) for part in parts]


def _parts(images: Dataset[Any], share: float, seed: int) -> tuple[Subset[Any], Subset[Any]]:
    """A share of the images by lot, at least one, and the others."""
    lot = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = max(1, int(len(lot) * share))
    return Subset(images, lot[:cut]), Subset(images, lot[cut:])


def _classes(ann: nn.Module, folders: list[str]) -> list[int]:
    """The model's class of each folder: by its WordNet name, or by place if there are as many."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(ann)
    names = ImageNetInfo(subset).label_names() if subset else []
    if set(folders) <= set(names):
        return [names.index(folder) for folder in folders]
    if len(folders) != ann.num_classes:
        raise SystemExit(f"{len(folders)} folders, {folders[:3]} and so on, for {ann.num_classes} classes")
    return list(range(len(folders)))
