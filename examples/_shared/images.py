"""Digits with a small ViT trained on the spot, and folders of images with a pretrained model of timm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from tqdm import tqdm

from mbe_plugin.environment import hide_broken_torchaudio

HELD_OUT = 450  # of the 1,797 digits


@dataclass(frozen=True)
class Task:
    """A classifier, images with their classes to calibrate on, and others to evaluate on."""

    name: str
    ann: nn.Module
    known: Dataset[Any]
    held_out: Dataset[Any]


def drawn(images: Dataset[Any], count: int | None, seed: int) -> Subset[Any]:
    """At most count of the images, by lot."""
    lot = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return Subset(images, lot[:count].tolist())


def digits(width: int, depth: int, epochs: int) -> Task:
    """A ViT with heads of 16 on patches of 2 x 2, trained on all digits but 450 that are held out by lot."""
    from sklearn.datasets import load_digits

    hide_broken_torchaudio()
    from timm.models import VisionTransformer

    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1  # [n, 1, 8, 8], -1 to 1
    classes = torch.from_numpy(data.target).long()
    lot = torch.randperm(len(images))
    known, held_out = (TensorDataset(images[part], classes[part]) for part in lot.split(len(lot) - HELD_OUT))
    shape = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "global_pool": "avg"}
    ann = VisionTransformer(embed_dim=width, depth=depth, num_heads=max(1, width // 16), **shape)
    train(ann, known, epochs)
    return Task(f"ViT of {depth} layers, width {width}, trained here on digits", ann, known, held_out)


def train(model: nn.Module, images: Dataset[Any], epochs: int) -> None:
    """AdamW, learning rate up to 1e-3 and down again; leaves eval mode."""
    model.train()
    loader = DataLoader(images, 32, shuffle=True)
    steps = epochs * len(loader)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    with tqdm(total=steps, desc="training a small ViT") as bar:
        for _ in range(epochs):
            for inputs, classes in loader:
                loss = functional.cross_entropy(model(inputs), classes)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()


def pretrained(name: str, checkpoint: str | None, classes: int | None, data: str, seed: int) -> Task:
    """A model of timm with its own preprocessing, and the folder's images."""
    hide_broken_torchaudio()
    import timm
    from timm.data import create_transform, resolve_model_data_config
    from torchvision.datasets import ImageFolder

    own = {} if classes is None else {"num_classes": classes}
    ann = timm.create_model(name, pretrained=not checkpoint, checkpoint_path=checkpoint or "", **own).eval()
    transform = create_transform(**resolve_model_data_config(ann), is_training=False)
    root = Path(data)
    parts = [root / "train", root / "val"] if (root / "train").is_dir() else [root]
    folders = [ImageFolder(part, transform=transform) for part in parts]
    for folder in folders:
        folder.target_transform = _classes(ann, folder.classes).__getitem__
    if len(folders) == 2:
        return Task(f"{name} on {root.name}", ann, *folders)
    lot = torch.randperm(len(folders[0]), generator=torch.Generator().manual_seed(seed)).tolist()
    known = max(1, len(lot) // 10)
    return Task(
        f"{name} on {root.name}", ann, *(Subset(folders[0], part) for part in (lot[:known], lot[known:]))
    )


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
