"""Models of timm, by name or from a folder that ``timm.models.save_for_hf`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from mbe_plugin.errors import CalibrationError, StorageError

WEIGHTS = "model.safetensors"
# what a folder's config.json says of how the model was made, beside its model_args
MADE_WITH = ("num_classes", "global_pool")


class TimmSource:
    """See Source. A name's weights are the pretrained ones; a folder's are read from safetensors alone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arguments: dict[str, Any] = {}
        if Path(name).is_dir():
            from mbe_plugin.sources.models import read_config

            config = read_config(Path(name))
            self.arguments = config.get("model_args") or {}
            self.model = _from_folder(Path(name), config)
        else:
            self.model = _by_name(name)

    def tokenizer(self) -> Any:
        """Refused: timm has none."""
        raise CalibrationError(
            f"{self.name} is a model of timm, which reads images; calibrate it on a folder of images, or an array of "
            "prepared ones (.npy, .npz, .safetensors), not on sentences"
        )

    def pixels(self, images: list[Any]) -> Tensor:
        """By the transform that timm has for the model, without augmentation."""
        prepare = create_transform(**resolve_model_data_config(self.model), is_training=False)
        return torch.stack([prepare(image) for image in images])

    def write(self, folder: Path) -> None:
        """As timm.models.save_for_hf does, in safetensors alone."""
        timm.models.save_for_hf(
            self.model, str(folder), model_args=self.arguments or None, safe_serialization=True
        )


def _by_name(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True).eval()
    except (OSError, RuntimeError, ValueError) as refused:  # the hub's errors are OSErrors
        raise StorageError(f"timm cannot read {name!r}: {_one_line(refused)}") from refused


def _from_folder(folder: Path, config: dict[str, Any]) -> nn.Module:
    arguments = {key: config[key] for key in MADE_WITH if key in config} | (config.get("model_args") or {})
    if not (folder / WEIGHTS).is_file():
        raise StorageError(
            f"{folder} has no {WEIGHTS}; write it by timm.models.save_for_hf(model, folder, safe_serialization=True)"
        )
    try:
        model = timm.create_model(
            config["architecture"], pretrained_cfg=config.get("pretrained_cfg"), **arguments
        )
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, TypeError, ValueError, SafetensorError) as refused:
        raise StorageError(f"timm cannot read {folder}: {_one_line(refused)}") from refused
    return model.eval()


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
