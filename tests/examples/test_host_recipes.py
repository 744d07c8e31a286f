"""benchmarks/host_recipes.py: the host's recipe and ours run the same function, and both come close to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from features import offered
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the benchmarks are a folder of scripts

pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from benchmarks.host_recipes import OURS, as_torchvision, converters  # after the check


@pytest.fixture(scope="module")
def dino() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=518, patch_size=14
    )
    model = Dinov2Model(config).eval()
    if not any("attention.q_proj" in name for name, _ in model.named_parameters()):
        pytest.skip("this transformers calls DINOv2's projections otherwise than the benchmark")
    for name, parameter in model.named_parameters():
        if "lambda1" in name or "bias" in name:
            nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def test_it_is_the_same_network(dino: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        wanted = dino(images).last_hidden_state[:, 0]
        found = as_torchvision(dino)(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_each_converter_comes_close_to_it(dino: nn.Module, images: Tensor) -> None:
    offered("spikingjelly.activation_based.ann2snn", "STATransformerRecipe")
    ann = as_torchvision(dino)
    for name, make in converters(ann, images, 8).items():
        with torch.no_grad():
            cosine = torch.cosine_similarity(make()(images), ann(images)).min()
        assert cosine > (0.99999 if name == OURS else 0.9), name
