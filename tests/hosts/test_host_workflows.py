"""A timm ViT by the installed SpikingJelly's own workflow and by convert(): the same bits."""

from __future__ import annotations

import pytest
import torch
from features import offered
from oracle import assert_same_bits
from torch import nn

import mbe_plugin
from mbe_plugin.hosts.features import CONVERSION, has_dataloader_converter

CONFIG = mbe_plugin.MBEConfig(time_steps=8)
BATCHES = [(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(i)), None) for i in range(2)]


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10).eval()


def by_the_host(vit: nn.Module) -> nn.Module:
    if has_dataloader_converter():
        return mbe_plugin.MBEConverter(BATCHES, config=CONFIG)(vit)
    return offered(CONVERSION, "ModuleConverter")(mbe_plugin.MBERecipe(BATCHES, CONFIG)).convert(vit)


@torch.no_grad()
def test_the_same_bits(vit: nn.Module) -> None:
    host, ours = by_the_host(vit), mbe_plugin.convert(vit, BATCHES, CONFIG)
    images = torch.randn(3, 3, 32, 32)
    assert_same_bits(host(images), ours(images))
    want = vit(images)
    assert 0 < (host(images) - want).abs().max() < 0.01 * want.abs().max()
    assert [s.site for s in mbe_plugin.report(host).sites] == [s.site for s in mbe_plugin.report(ours).sites]
