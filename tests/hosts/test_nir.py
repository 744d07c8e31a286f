"""Networks as graphs of NIR and back: the same bits, and what NIR cannot express is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBEConfig, UnsupportedOperatorError

pytestmark = pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")  # bits, whatever the inputs
nir = pytest.importorskip("nir", reason="needs nir: pip install 'mbe_plugin[nir]'")

from mbe_plugin.nir import MBE, from_nir, read, to_nir  # noqa: E402  # after the check


class Residual(nn.Module):
    """Sums of two, three and two times two branches, and a constant factor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.register_buffer("gamma", torch.linspace(0.5, 1.5, 6))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = (F.silu(layer(x)) for layer in self.layers)
        x = x + (a + b)
        x = x * self.gamma
        return (x + c) + (a + d) + 2.0 * b


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 8, bias=False), nn.Tanh(), nn.Linear(8, 3)
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(8, 8, (3, 1), padding="same", groups=4, bias=False),
        nn.AvgPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 5),
    )


def temporal() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, dilation=2, padding=2), nn.GELU(), nn.Flatten(), nn.Linear(4 * 9, 2)
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (5,)),
    "convolutional": (convolutional, (3, 16, 16)),
    "temporal": (temporal, (2, 9)),
    "residual": (Residual, (6,)),
}
CONFIGS = {
    "default": MBEConfig(time_steps=8),
    "channel": MBEConfig(time_steps=6, scale="channel"),
    "token": MBEConfig(time_steps=6, scale="token"),
    "low_energy": MBEConfig.low_energy(),
    "published": MBEConfig.published(time_steps=8),
}


def converted(name: str, config: str) -> tuple[nn.Module, Tensor]:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    ann = make().eval()
    calibration = [torch.randn(16, *shape) for _ in range(2)]
    return mbe_plugin.convert(ann, calibration, CONFIGS[config]), torch.randn(7, *shape)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_written_and_read_back_it_gives_the_same_bits(name: str, config: str, tmp_path: Path) -> None:
    snn, x = converted(name, config)
    graph = to_nir(snn, x)
    nir.write(tmp_path / "network.nir", graph)
    again = from_nir(read(tmp_path / "network.nir"))
    with torch.no_grad():
        assert torch.equal(again(x), snn(x))
        assert torch.equal(from_nir(graph)(x[:3]), snn(x[:3]))


def test_the_graph_is_the_network() -> None:
    snn, x = converted("mlp", "default")
    graph = to_nir(snn, x)
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    assert kinds == ["Input", "MBE", "Affine", "MBE", "Linear", "MBE", "Affine", "Output"]
    assert [list(edge) for edge in graph.edges] == [
        [a, b] for a, b in zip(graph.nodes, list(graph.nodes)[1:], strict=False)
    ]
    assert torch.equal(torch.from_numpy(graph.nodes["0 linear"].weight), snn[0].weight)
    node = graph.nodes["1:gelu neuron"]
    assert (node.function, node.threshold.shape[0], list(node.shape)) == ("gelu", 8, [16])
    assert node.metadata == {"site": "1:gelu", "role": "neuron"}


def test_the_equation_of_the_node_is_what_the_neuron_computes() -> None:
    """The documented loop over a node's own numbers, in float64, for one bank that needs no reduction."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    config = MBEConfig.published(time_steps=8)
    x = torch.randn(32, 4)
    snn = mbe_plugin.convert(ann, [x], config)
    node = to_nir(snn, x).nodes["1:gelu neuron"]
    assert (node.reduction, len(node.bias), node.mirrored) == ("none", 1, False)
    inside = torch.linspace(-1, 1, 101, dtype=torch.float64)
    u = inside[:, None] * torch.from_numpy(node.gain).double() - torch.from_numpy(node.offset).double()
    total = torch.zeros_like(inside)
    for t in range(node.threshold.shape[0]):
        spikes = (u >= torch.from_numpy(node.threshold[t]).double()).double()
        u = u - torch.from_numpy(node.reset[t]).double() * spikes
        total += spikes @ torch.from_numpy(node.weight * node.intensity[t]).double()
    found = node.neuron()(inside.float())
    assert torch.allclose(found.double(), total + float(node.bias[0]), atol=1e-4)


def test_the_network_stays_as_it_was() -> None:
    snn, x = converted("residual", "default")
    before = snn(x)
    to_nir(snn, x)
    assert torch.equal(snn(x), before)
    assert not [name for name in vars(x) if "nir" in name]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, self.inner(x), x)


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.inner(x)) + 1.0


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.block = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


@pytest.mark.parametrize(
    ("inner", "shape", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
            (4,),
            r"block\.1: NIR has no node for mean of",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU()),
            (3, 4),
            r"block\.0: .*on 2-dimensional activations",
        ),
        (Shifted, (4,), r"block: NIR has no node for add of activations"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(2)),
            (1, 8, 8),
            "adaptive_avg_pool2d",
        ),
    ],
    ids=["normalization", "tokens", "constant", "pool"],
)
def test_what_nir_cannot_express_is_refused_by_name(
    inner: Callable[[], nn.Module], shape: tuple[int, ...], message: str
) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, *shape)
    snn = mbe_plugin.convert(Outer(inner()).eval(), [x], MBEConfig(time_steps=4))
    with pytest.raises(UnsupportedOperatorError, match=message):
        to_nir(snn, x)


def test_a_product_of_activations_is_refused() -> None:
    x = torch.randn(2, 5, 4)
    snn = mbe_plugin.convert(Outer(Attention()).eval(), [x], MBEConfig(time_steps=4))
    with pytest.raises(UnsupportedOperatorError, match="block"):
        to_nir(snn, x)


def test_only_a_converted_network_is_drawn() -> None:
    with pytest.raises(
        mbe_plugin.ConversionError, match="what mbe_plugin.convert returned, got a Sequential"
    ):
        to_nir(mlp(), torch.randn(2, 5))
    snn, _ = converted("mlp", "default")
    with pytest.raises(
        mbe_plugin.ConversionError,
        match=r"an input \[batch, ...\] on the CPU as example, got a tensor of shape \[5\] on cpu",
    ):
        to_nir(snn, torch.randn(5))


def test_what_is_no_graph_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.nir").write_text("text")
    for name in ("text.nir", "nowhere.nir"):
        with pytest.raises(mbe_plugin.StorageError, match=name):
            read(tmp_path / name)
    one = torch.ones(3).numpy()
    leaky = nir.NIRGraph.from_list(nir.LIF(one, one, one, one, one))
    with pytest.raises(UnsupportedOperatorError, match="node 'lif' is a LIF"):
        from_nir(leaky)


def test_a_node_of_another_version_is_refused() -> None:
    snn, x = converted("mlp", "default")
    fields = next(n for n in to_nir(snn, x).nodes.values() if isinstance(n, MBE)).to_dict()
    del fields["gain"]
    with pytest.raises(ValueError, match="gain missing or unknown"):
        MBE.from_dict(fields)
