"""A converted network under Hugging Face accelerate: offloaded, dispatched, prepared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import tokens, transformer
from oracle import assert_same_bits
from torch import Tensor, nn

from mbe_plugin import ConversionError, MBEConfig, convert, count_spikes, report
from mbe_plugin.conversion.placement import with_operators

accelerate = pytest.importorskip("accelerate")
CPU = torch.device("cpu")
# what the disk holds is mapped into memory as read-only arrays, and accelerate says so
pytestmark = pytest.mark.filterwarnings(
    "ignore::mbe_plugin.RangeWarning", "ignore:The given NumPy array is not writable"
)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 99, "num_hidden_layers": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **small)).eval()


def ids() -> Tensor:
    return torch.randint(0, 99, (2, 7), generator=torch.Generator().manual_seed(0))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "by hand": (transformer, tokens),
    "Llama": (llama, ids),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, batch = NETWORKS[request.param]
    return convert(make(), [(batch(), None)], MBEConfig(time_steps=4, bases=8, identity_bases=2)), batch()


def run(snn: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        out = snn(x)
    return out if isinstance(out, Tensor) else out.logits


def own(network: tuple[nn.Module, Tensor]) -> tuple[nn.Module, Tensor, Tensor]:
    """A copy of the converted network, an input, and what the network makes of it."""
    snn, x = network
    return copy.deepcopy(snn), x, run(snn, x)


Network = tuple[nn.Module, Tensor]


def assert_offloaded(snn: nn.Module, *, buffers: bool) -> None:
    assert all(p.is_meta for p in snn.parameters())
    assert any(b.is_meta for n, b in snn.named_buffers() if n.startswith("mbe.")) is buffers


@pytest.mark.parametrize("buffers", [False, True])
def test_offloading_to_the_cpu(network: Network, buffers: bool) -> None:
    snn, x, want = own(network)
    accelerate.cpu_offload(snn, execution_device=CPU, offload_buffers=buffers)
    assert_offloaded(snn, buffers=buffers)
    assert_same_bits(run(snn, x), want)
    assert_offloaded(snn, buffers=buffers)


@pytest.mark.parametrize("buffers", [False, True])
def test_offloading_to_the_disk(network: Network, buffers: bool, tmp_path: Path) -> None:
    snn, x, want = own(network)
    accelerate.disk_offload(snn, tmp_path, execution_device=CPU, offload_buffers=buffers)
    assert_offloaded(snn, buffers=buffers)
    assert_same_bits(run(snn, x), want)


def test_what_is_offloaded_still_spikes_and_reports(network: Network) -> None:
    snn, x, want = own(network)
    accelerate.cpu_offload(snn, execution_device=CPU)
    with count_spikes(network[0]) as wanted:
        run(network[0], x)
    with count_spikes(snn) as counts:
        assert_same_bits(run(snn, x), want)
    assert counts.total == wanted.total > 0
    assert len(report(snn).sites) == len(report(network[0]).sites)
    accelerate.hooks.remove_hook_from_submodules(snn)


def parts_of(snn: nn.Module) -> dict[str, Any]:
    """The layers on disk, the rest here."""
    names = [name for name, _ in snn.named_children() if name != "mbe"]
    names += [name for name, _ in snn.named_parameters(recurse=False)]
    return {name: "disk" if name in ("layers", "model") else "cpu" for name in names}


# a parameter of the root itself needs an entry too, and is no submodule
@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")
def test_dispatching_over_places(network: Network, tmp_path: Path) -> None:
    snn, x, want = own(network)
    placed = with_operators(parts_of(snn), snn)
    accelerate.dispatch_model(snn, placed, main_device="cpu", offload_dir=tmp_path)
    assert any(p.is_meta for p in snn.parameters())
    assert not all(p.is_meta for p in snn.parameters())
    assert_same_bits(run(snn, x), want)


def test_operators_are_placed_with_their_modules(network: Network) -> None:
    snn, _ = network
    layers = "model.layers" if hasattr(snn, "model") else "layers"
    device_map = {**parts_of(snn), f"{layers}.0": 0, f"{layers}.1": 1}
    placed = with_operators(device_map, snn)
    operators = {name: device for name, device in placed.items() if name.startswith("mbe.")}
    assert {name.removeprefix("mbe.") for name in operators} == set(snn.mbe)  # type: ignore[arg-type]
    for layer in (0, 1):
        prefix = f"mbe.{layers.replace('.', '~')}~{layer}"
        assert {device for name, device in operators.items() if name.startswith(prefix)} == {layer}


def test_a_device_map_with_a_gap_and_a_network_that_is_not_converted(network: Network) -> None:
    snn, _ = network
    with pytest.raises(ConversionError, match="the device map has no entry for "):
        with_operators({"elsewhere": "cpu"}, snn)
    with pytest.raises(ConversionError, match="takes what mbe_plugin.convert returned, got a Transformer"):
        with_operators({"": "cpu"}, transformer())


def test_preparing_for_evaluation(network: Network) -> None:
    snn, x, want = own(network)
    loader = torch.utils.data.DataLoader(x, batch_size=len(x))  # type: ignore[arg-type]
    prepared, batches = accelerate.Accelerator(cpu=True).prepare(snn, loader)
    assert_same_bits(run(prepared, next(iter(batches))), want)
    alone = accelerate.Accelerator(cpu=True).prepare_model(copy.deepcopy(snn), evaluation_mode=True)
    assert_same_bits(run(alone, x), want)
