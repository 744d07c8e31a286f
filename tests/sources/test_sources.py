"""Models by folder and batches from files: as their libraries read them, and every refusal in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sources.conftest import SENTENCES, word_tokenizer
from torch import Tensor

import mbe_plugin
from mbe_plugin.errors import CalibrationError, StorageError
from mbe_plugin.sources import open_model, padded_batches, read_batches


def test_a_folder_of_transformers_is_its_own_class_with_its_weights(bert_folder: Path) -> None:
    from transformers import BertForSequenceClassification

    found, wanted = open_model(bert_folder).model, BertForSequenceClassification.from_pretrained(bert_folder)
    assert type(found) is BertForSequenceClassification
    assert not found.training
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))


def test_a_configuration_without_architectures_is_left_to_automodel(
    bert_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(bert_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": None}))
    assert type(open_model(tmp_path).model).__name__ == "BertModel"


def test_a_folder_of_timm_keeps_its_arguments_weights_and_preprocessing(
    timm_folder: Path, tmp_path: Path
) -> None:
    source = open_model(timm_folder)
    assert (len(source.model.blocks), source.model.num_classes) == (1, 3)
    source.write(tmp_path)
    again = open_model(tmp_path)
    for name, value in source.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert again.pixels([Image.new("RGB", (50, 40), "red")]).shape == (1, 3, 32, 32)


def test_sentences_are_padded_beside_neighbours_in_length_and_masked(
    bert_folder: Path, sentences: Path
) -> None:
    batches = read_batches(open_model(bert_folder), sentences, size=2)
    assert [tuple(b["input_ids"].shape) for b in batches] == [(2, 3), (2, 5), (1, 6)]
    assert sum(int(b["attention_mask"].sum()) for b in batches) == sum(len(s.split()) for s in SENTENCES)


def test_sentences_longer_than_the_model_are_cut(bert_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("sea " * 300)
    [batch] = read_batches(open_model(bert_folder), tmp_path / "long.txt")
    assert batch["input_ids"].shape == (1, 24)  # max_position_embeddings


def test_without_a_padding_token_every_sentence_is_a_batch(tmp_path: Path) -> None:
    batches = padded_batches(word_tokenizer(tmp_path), ["a bird", "the old sea"], size=8)
    assert [tuple(b["input_ids"].shape) for b in batches] == [(1, 2), (1, 3)]


def test_images_come_as_the_model_was_trained_on_them(timm_folder: Path, photographs: Path) -> None:
    from timm.data import create_transform, resolve_model_data_config

    source = open_model(timm_folder)
    batches = read_batches(source, photographs, size=4)
    prepare = create_transform(**resolve_model_data_config(source.model), is_training=False)
    names = sorted(p for p in photographs.rglob("*") if p.suffix in (".png", ".JPG"))
    assert len(names) == 6
    wanted = torch.stack([prepare(Image.open(name).convert("RGB")) for name in names])
    assert torch.equal(torch.cat(batches), wanted)


def test_images_for_transformers_go_through_its_image_processor(photographs: Path, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    source = open_model(tmp_path)
    [first, second] = read_batches(source, photographs, size=4)
    assert first["pixel_values"].shape == (4, 3, 16, 16)
    assert second["pixel_values"].shape == (2, 3, 16, 16)
    source.write(tmp_path / "again")
    assert torch.equal(
        read_batches(open_model(tmp_path / "again"), photographs)[0]["pixel_values"], first["pixel_values"]
    )


@pytest.mark.parametrize("items", [3, 100])
def test_arrays_are_arguments_and_items_are_spread_over_the_file(
    bert_folder: Path, tmp_path: Path, items: int
) -> None:
    source, ids = open_model(bert_folder), torch.arange(14).view(7, 2)
    save_file({"input_ids": ids, "mask": ids + 1}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", input_ids=ids.numpy(), mask=ids.numpy() + 1)
    np.save(tmp_path / "a.npy", ids.numpy())
    taken = ids[[0, 2, 4]] if items == 3 else ids
    for name in ("a.safetensors", "a.npz"):
        batches: Any = read_batches(source, tmp_path / name, items, size=2)
        assert torch.equal(torch.cat([b["input_ids"] for b in batches]), taken)
        assert torch.equal(torch.cat([b["mask"] for b in batches]), taken + 1)
    only: list[Tensor] = read_batches(source, tmp_path / "a.npy", items, size=2)
    assert [len(b) for b in only] == ([2, 1] if items == 3 else [2, 2, 2, 1])
    assert torch.equal(torch.cat(only), taken)


def refused(name: str, folder: Path) -> str:
    """What read_batches says of a file of that name; an image model's folder holds it."""
    with pytest.raises(CalibrationError) as error:
        read_batches(open_model(folder), folder / name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_calibration_files_that_are_none(timm_folder: Path, sentences: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(timm_folder, folder)
    assert refused("none.txt", folder).startswith("there is no calibration file")
    (folder / "empty.txt").write_text("\n\n")
    assert "holds no sentence" in refused("empty.txt", folder)
    (folder / "pictures").mkdir()
    assert "holds no image" in refused("pictures", folder)
    (folder / "pictures" / "a.png").write_text("x")
    assert "a.png is no image that Pillow reads" in refused("pictures", folder)
    (folder / "a.csv").write_text("x")
    assert "a.csv is no calibration data; take a .txt file" in refused("a.csv", folder)
    (folder / "a.txt").write_text("a bird")
    assert "is a model of timm, which reads images" in refused("a.txt", folder)
    (folder / "a.npy").write_text("x")
    assert "a.npy cannot be read as arrays" in refused("a.npy", folder)
    np.save(folder / "pickled.npy", np.array([object()]), allow_pickle=True)
    assert "pickled.npy cannot be read as arrays" in refused("pickled.npy", folder)
    np.savez(folder / "uneven.npz", a=np.zeros((2, 3)), b=np.zeros((3, 3)))
    assert "as many items along its first dimension, found {'a': 2, 'b': 3}" in refused("uneven.npz", folder)
    np.savez(folder / "nothing.npz", a=np.zeros((0, 3)))
    assert "holds no item" in refused("nothing.npz", folder)


def test_a_model_without_what_the_file_needs(
    photographs: Path, sentences: Path, bert_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match="transformers cannot read .* \\(AutoImageProcessor\\)"):
        read_batches(open_model(bert_folder), photographs)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(bert_folder / name, tmp_path)
    with pytest.raises(CalibrationError, match="has no tokenizer|cannot read .* \\(AutoTokenizer\\)"):
        read_batches(open_model(tmp_path), sentences)


def test_names_and_folders_that_hold_no_model(bert_folder: Path, timm_folder: Path, tmp_path: Path) -> None:
    def said(name: str | Path) -> str:
        with pytest.raises(StorageError) as error:
            open_model(name)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "holds no model: there is no config.json" in said(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "is not valid JSON" in said(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "is no model's configuration" in said(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "transformers cannot read" in said(tmp_path)
    assert "transformers cannot read 'no/such-model'" in said("no/such-model")
    assert "timm cannot read 'vit_tiny_patch16_224.augreg_in21k_ft_in1k'" in said(
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    )
    shutil.copy(timm_folder / "config.json", tmp_path)
    assert "has no model.safetensors; write it by timm.models.save_for_hf" in said(tmp_path)
    shutil.copy(bert_folder / "model.safetensors", tmp_path)
    assert f"timm cannot read {tmp_path}: RuntimeError" in said(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(bert_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(bert_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text()) | {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "theirs.TheirConfig", "AutoModel": "theirs.TheirModel"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(StorageError, match="trust_remote_code"):
        open_model(tmp_path)
    assert not (tmp_path / "ran").exists()


class Harmful:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_pickles_beside_a_configuration_are_not_run(
    library: str, bert_folder: Path, timm_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(bert_folder if library == "transformers" else timm_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": Harmful(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(StorageError, match="safetensors"):
        open_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_timm_is_loaded_with_its_operators(timm_folder: Path, tmp_path: Path) -> None:
    source = open_model(timm_folder)
    images = torch.randn(2, 3, 32, 32)
    snn = mbe_plugin.convert(source.model, [images], mbe_plugin.MBEConfig(time_steps=4))
    source.write(tmp_path)
    mbe_plugin.save(snn, tmp_path)
    with torch.no_grad():
        assert torch.equal(mbe_plugin.load(tmp_path)(images), snn(images))
