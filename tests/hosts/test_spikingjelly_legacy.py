"""A session on SpikingJelly 0.0.0.0.14: a timm ViT by MBEConverter(loader)(model), and neurons among the host's."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from oracle import assert_same_bits
from spikingjelly.activation_based import ann2snn, base, functional, layer, monitor, neuron
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mbe_plugin
from mbe_plugin import MBEConfig, MBENode
from mbe_plugin.fitting.segments import identity_tables
from mbe_plugin.hosts.features import has_dataloader_converter

if not has_dataloader_converter():
    pytest.skip("the installed SpikingJelly has no ann2snn.Converter(dataloader)", allow_module_level=True)

CONFIG = MBEConfig(time_steps=8)
T = 4


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10).eval()


@pytest.fixture(scope="module")
def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8)
    return DataLoader(TensorDataset(images, labels), batch_size=4)


@pytest.fixture(scope="module")
def snn(vit: nn.Module, loader: DataLoader) -> nn.Module:
    return mbe_plugin.MBEConverter(loader, config=CONFIG)(vit)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32)


# the converter


def test_it_is_one_of_the_hosts() -> None:
    assert issubclass(mbe_plugin.MBEConverter, ann2snn.Converter)


@torch.no_grad()
def test_the_hosts_own_returns_a_transformer_unchanged(
    vit: nn.Module, loader: DataLoader, images: Tensor
) -> None:
    theirs = ann2snn.Converter(loader)(copy.deepcopy(vit))
    assert not [m for m in theirs.modules() if isinstance(m, base.MemoryModule)]
    assert_same_bits(theirs(images), vit(images))


@torch.no_grad()
def test_ours_converts_it(vit: nn.Module, snn: nn.Module, images: Tensor) -> None:
    assert type(snn).__name__ == type(vit).__name__
    assert len([m for m in snn.modules() if isinstance(m, MBENode)]) > 20
    assert {"blocks.1.mlp.act:gelu", "blocks.1.norm2:layer_norm"} <= {
        s.site for s in mbe_plugin.report(snn).sites
    }
    got, want = snn(images), vit(images)
    assert 0 < (got - want).abs().max() < 0.01 * want.abs().max()


@torch.no_grad()
def test_and_leaves_the_model_alone(loader: DataLoader, vit: nn.Module, images: Tensor) -> None:
    model = copy.deepcopy(vit).train()
    before = copy.deepcopy(model.state_dict())
    mbe_plugin.MBEConverter(loader, config=CONFIG)(model)
    assert model.training
    assert type(model) is type(vit)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert_same_bits(model.eval()(images), vit(images))


@torch.no_grad()
def test_the_device_is_an_argument(
    loader: DataLoader, vit: nn.Module, snn: nn.Module, images: Tensor
) -> None:
    before = {name: value.data_ptr() for name, value in vit.state_dict().items()}
    other = mbe_plugin.MBEConverter(loader, "cpu", CONFIG)(vit)
    assert {name: value.data_ptr() for name, value in vit.state_dict().items()} == before
    assert not {p.data_ptr() for p in other.parameters()} & set(before.values())
    assert_same_bits(other(images), snn(images))


@pytest.mark.gpu
@torch.no_grad()
def test_conversion_on_a_gpu(loader: DataLoader, vit: nn.Module, images: Tensor) -> None:
    there = mbe_plugin.MBEConverter(loader, "cuda", CONFIG)(vit)
    assert {p.device.type for p in there.parameters()} == {b.device.type for b in there.buffers()} == {"cuda"}
    assert {p.device.type for p in vit.parameters()} == {"cpu"}
    want = vit(images)
    assert (there(images.cuda()).cpu() - want).abs().max() < 0.01 * want.abs().max()


@torch.no_grad()
def test_it_takes_the_batches_that_convert_takes(
    vit: nn.Module, loader: DataLoader, snn: nn.Module, images: Tensor
) -> None:
    batches = [batch for batch, _ in loader]
    calibration = mbe_plugin.calibrate(vit, batches)
    for given in (batches, [{"x": batch} for batch in batches], calibration):
        assert_same_bits(mbe_plugin.MBEConverter(given, config=CONFIG)(vit)(images), snn(images))


def test_it_draws_the_progress(
    vit: nn.Module,
    loader: DataLoader,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # it draws nothing into a file
    mbe_plugin.MBEConverter(loader, config=MBEConfig(include=("head:*",)))(vit)
    assert "calibrating, batches: 100%" in capsys.readouterr().err


def test_one_converter_for_two_models(vit: nn.Module, loader: DataLoader) -> None:
    converter = mbe_plugin.MBEConverter(loader, config=MBEConfig(include=("head:*",)))
    assert converter(vit) is not converter(vit)
    assert converter.device is None


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ({"mode": "99.9%"}, r"mode='99.9%' of the host's Converter; .* MBEConfig\(margin=...\)"),
        ({"mode": 0.5}, r"mode=0.5 of the host's Converter; .* MBEConfig\(margin=...\)"),
        ({"momentum": 0.2}, "momentum=0.2 of the host's Converter; every batch counts alike"),
        ({"fuse_flag": False}, "fuse_flag=False of the host's Converter; nothing is fused here"),
    ],
)
def test_arguments_without_a_meaning_are_refused(
    loader: DataLoader, argument: dict[str, Any], instead: str
) -> None:
    with pytest.raises(ValueError, match=f"^MBEConverter has no use for {instead}"):
        mbe_plugin.MBEConverter(loader, **argument)


def test_the_hosts_defaults_are_none_to_refuse(loader: DataLoader) -> None:
    converter = mbe_plugin.MBEConverter(loader, None, mode="max", momentum=0.1, fuse_flag=True)
    assert converter.config == MBEConfig()


def test_the_hosts_third_argument_is_no_config(loader: DataLoader) -> None:
    with pytest.raises(
        TypeError, match=r"third argument is an MBEConfig \(the host's is its mode\), got 'Max'"
    ):
        mbe_plugin.MBEConverter(loader, "cpu", "Max")


def test_converts_errors_come_through(vit: nn.Module, loader: DataLoader) -> None:
    with pytest.raises(mbe_plugin.CalibrationError, match="batch"):
        mbe_plugin.MBEConverter([])(vit)
    for device in (None, "cpu"):
        with pytest.raises(mbe_plugin.ConversionError, match=r"takes a torch\.nn\.Module, got function"):
            mbe_plugin.MBEConverter(loader, device)(lambda x: x)


# the converted network and the host's functions


@torch.no_grad()
def test_resetting_and_step_modes(snn: nn.Module, images: Tensor) -> None:
    want = snn(images)
    functional.reset_net(snn)
    functional.set_step_mode(snn, "m")
    functional.set_step_mode(snn, "s")
    assert_same_bits(snn(images), want)


# neurons among the host's


def mbe(step_mode: str = "s") -> MBENode:
    return MBENode(identity_tables(T, 8), "identity", step_mode=step_mode)


def test_a_monitor_records_the_neuron() -> None:
    node, x = mbe(), torch.randn(2, 5)
    outputs = monitor.OutputMonitor(node, MBENode)
    decoded = node(x)
    assert torch.equal(outputs.records[0], decoded)
    functional.set_step_mode(node, "m")
    weighted = node(torch.stack([x, *[torch.zeros_like(x)] * (T - 1)]))
    assert torch.equal(outputs.records[1], weighted)
    torch.testing.assert_close(weighted.sum(0), decoded)


def test_wrong_inputs() -> None:
    with pytest.raises(ValueError, match=r"\[T, \.\.\.\] with T = 4, got \[3, 2\]"):
        mbe("m")(torch.zeros(3, 2))
    for step_mode in "sm":
        with pytest.raises(TypeError, match=r"takes a floating tensor, got torch\.int64"):
            mbe(step_mode)(torch.zeros(T, 2, dtype=torch.int64))


@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_a_network_of_both_learns(step_mode: str) -> None:
    block = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))
    converted = mbe_plugin.MBEConverter([4 * torch.randn(64, 16)], config=MBEConfig(time_steps=T, bases=8))(
        block
    )
    net = nn.Sequential(
        layer.Linear(6, 16),
        neuron.LIFNode(tau=1.5),
        layer.Linear(16, 16),
        mbe(),
        converted,
        layer.Linear(16, 2),
    )
    functional.set_step_mode(net, step_mode)
    x = torch.randn(32, 6)
    labels = (x[:, 0] > 0).long()
    losses = list(train(net, x, labels, step_mode))
    assert losses[-1] < 0.5 * losses[0]


def train(net: nn.Module, x: Tensor, labels: Tensor, step_mode: str, epochs: int = 25) -> Iterator[float]:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(epochs):
        functional.reset_net(net)
        steps = [x] * T
        out = net(torch.stack(steps)) if step_mode == "m" else torch.stack([net(step) for step in steps])
        loss = nn.functional.cross_entropy(out.mean(0), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()
