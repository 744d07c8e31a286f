"""save and load: bit for bit, nothing executed, and every way it can go wrong named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models.zoo import scaled, text, transformers_zoo
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBEConfig, StorageError


@pytest.fixture(scope="module")
def ann() -> nn.Module:
    return scaled(transformers_zoo()["BERT"][0])


@pytest.fixture(scope="module")
def snn(ann: nn.Module) -> nn.Module:
    config = MBEConfig(time_steps=8, exclude=("*pooler*",), sites=(("*layer.0*", {"time_steps": 4}),))
    return mbe_plugin.convert(ann, [text(0), text(1)], config)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**text(0)).logits


def test_the_same_bits_come_back(ann: nn.Module, snn: nn.Module, tmp_path: Path) -> None:
    mbe_plugin.save(snn, tmp_path / "new" / "folder")
    loaded = mbe_plugin.load(tmp_path / "new" / "folder", ann)
    assert torch.equal(logits(loaded), logits(snn))
    before, after = mbe_plugin.report(snn).as_dict(), mbe_plugin.report(loaded).as_dict()
    for found in (before, after):  # what was seen since conversion is not part of the network
        for site in found["sites"]:
            for neuron in site["neurons"]:
                neuron["seen"] = neuron["outside"] = neuron["beyond"] = 0
    assert json.dumps(before) == json.dumps(after)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["mbe.json", "mbe.safetensors"]


@pytest.mark.parametrize(
    "config", [MBEConfig(scale="token"), MBEConfig(scale="channel"), MBEConfig(scale="tensor")]
)
def test_shared_scales_come_back(ann: nn.Module, config: MBEConfig, tmp_path: Path) -> None:
    snn = mbe_plugin.convert(ann, [text(0)], config)
    mbe_plugin.save(snn, tmp_path)
    assert torch.equal(logits(mbe_plugin.load(tmp_path, ann)), logits(snn))


def test_a_shared_encoder_is_stored_once_and_shared_again(
    ann: nn.Module, snn: nn.Module, tmp_path: Path
) -> None:
    mbe_plugin.save(snn, tmp_path)
    loaded: Any = mbe_plugin.load(tmp_path, ann)
    key = "bert~encoder~layer~0~attention~self~{}:linear"
    encoders = [loaded.mbe[key.format(n)].encoders["0"] for n in ("query", "key", "value")]
    assert encoders[0] is encoders[1] is encoders[2]
    stored = load_file(tmp_path / "mbe.safetensors")
    assert not any("self.key:linear" in name for name in stored)


def test_a_hugging_face_model(ann: nn.Module, snn: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    snn.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(ann).__name__]
    weights = load_file(tmp_path / "model.safetensors")
    original = ann.state_dict()
    assert weights and not any(name.startswith("mbe") for name in weights)
    assert all(torch.equal(value, original[name]) for name, value in weights.items())
    assert torch.equal(logits(mbe_plugin.load(tmp_path)), logits(snn))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(plain) is type(ann) and torch.equal(logits(plain), logits(ann))


def test_other_weights(ann: nn.Module, snn: nn.Module, tmp_path: Path) -> None:
    mbe_plugin.save(snn, tmp_path)
    other = copy.deepcopy(ann)
    with torch.no_grad():
        other.classifier.bias += 1
    with pytest.raises(StorageError, match="other weights"):
        mbe_plugin.load(tmp_path, other)
    moved = mbe_plugin.load(tmp_path, other, check_weights=False)
    torch.testing.assert_close(logits(moved), logits(snn) + 1)


def test_another_model(snn: nn.Module, tmp_path: Path) -> None:
    mbe_plugin.save(snn, tmp_path)
    with pytest.raises(StorageError, match="is not the BertForSequenceClassification that was converted"):
        mbe_plugin.load(tmp_path, nn.Linear(3, 3))


def test_what_is_missing_or_altered(ann: nn.Module, snn: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"mbe.json does not exist"):
        mbe_plugin.load(tmp_path, ann)
    mbe_plugin.save(snn, tmp_path)
    file, description = tmp_path / "mbe.safetensors", tmp_path / "mbe.json"
    tensors, saved = load_file(file), description.read_text()

    name = next(n for n in tensors if n.endswith("|w"))
    save_file({**tensors, name: tensors[name] + 1}, file)
    with pytest.raises(StorageError, match=r"mbe.safetensors was altered"):
        mbe_plugin.load(tmp_path, ann)
    file.unlink()
    with pytest.raises(StorageError, match=r"mbe.safetensors does not exist"):
        mbe_plugin.load(tmp_path, ann)
    mbe_plugin.save(snn, tmp_path)

    for broken, message in (
        (saved[:-20], "is not valid JSON"),
        (saved.replace('"format": 3', '"format": 99'), "has format 99, this mbe_plugin reads 3"),
    ):
        description.write_text(broken)
        with pytest.raises(StorageError, match=message):
            mbe_plugin.load(tmp_path, ann)


def test_a_tensor_that_is_missing_is_named(ann: nn.Module, snn: nn.Module, tmp_path: Path) -> None:
    import hashlib

    mbe_plugin.save(snn, tmp_path)
    file, description = tmp_path / "mbe.safetensors", tmp_path / "mbe.json"
    tensors = load_file(file)
    gone = next(n for n in tensors if n.endswith("|gain"))
    save_file({n: t for n, t in tensors.items() if n != gone}, file)
    content = json.loads(description.read_text())
    content["tensors_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    description.write_text(json.dumps(content))
    with pytest.raises(StorageError) as failure:
        mbe_plugin.load(tmp_path, ann)
    assert gone in str(failure.value)


def test_what_cannot_be_saved(ann: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="save takes what mbe_plugin.convert returned, got a BertFor"):
        mbe_plugin.save(ann, tmp_path)
