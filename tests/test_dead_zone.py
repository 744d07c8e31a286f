"""A dead zone: small values of an encoded activation send nothing and read 0, in every code and with every scale."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import tokens, transformer
from torch import Tensor, nn
from torch.nn import functional

import mbe_plugin
from mbe_plugin import MBEConfig, convert, record, report
from mbe_plugin.operators import CalibratedNode

TAU = 0.25
KINDS: dict[str, dict[str, Any]] = {
    **{f"binary {scale}": {"scale": scale} for scale in ("element", "token", "channel", "tensor")},
    **{f"first spike {scale}": {"code": "first_spike", "scale": scale} for scale in ("channel", "tensor")},
}


def linear(x: Tensor, **settings: Any) -> nn.Module:
    """One linear layer that hands on what it is given, calibrated on x."""
    layer = nn.Linear(x.shape[-1], x.shape[-1], bias=False)
    nn.init.eye_(layer.weight)
    return convert(nn.Sequential(layer), [x], MBEConfig(**settings))


def encoder(snn: nn.Module) -> CalibratedNode:
    [node] = [m for m in snn.modules() if isinstance(m, CalibratedNode)]
    return node


def without(snn: nn.Module, x: Tensor) -> Tensor:
    """What the same network would say without its dead zone."""
    node = encoder(snn)
    kept, node.dead_zone = node.dead_zone, 0.0
    try:
        return snn(x)
    finally:
        node.dead_zone = kept


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_smaller_sends_nothing_and_reads_0_and_the_rest_is_as_before(kind: str) -> None:
    """At the limit itself, which still is sent, and one float to either side."""
    snn = linear(torch.randn(400, 6), dead_zone=TAU, **KINDS[kind])
    limit = torch.tensor(encoder(snn).dead_zone)
    at = torch.stack(
        [torch.nextafter(limit, torch.tensor(0.0)), limit, torch.nextafter(limit, torch.tensor(9.0))]
    )
    x = torch.cat([at, -at, torch.tensor([0.0, limit / 3, 0.9, -1.1, 1e-20, 2.0])]).reshape(2, 6)
    small = x.abs() < limit
    assert small.sum() == 5
    with record(snn, trains=True) as found:
        y = snn(x)
    if "token" not in kind:  # whose scale comes from all of a row
        assert torch.equal(y[~small], without(snn, x)[~small])
    assert (y[small] == 0).all()
    [neuron] = found.neurons.values()
    sent = neuron.trains[0].spikes().sum((0, 1))
    assert (sent[small] == 0).all()
    beside = {"element": int((~small).sum()), "token": 2}.get(kind.split()[-1], 0)
    assert neuron.exponents == beside
    assert neuron.total == sent.sum()
    assert (int(encoder(snn).seen), int(encoder(snn).outside)) == (24 if "token" not in kind else 12, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_share_of_the_root_mean_square_that_calibration_saw(kind: str) -> None:
    x = 3 * torch.randn(200, 4) + 1
    snn = linear(x, dead_zone=TAU, **KINDS[kind])
    want = TAU * x.double().square().mean().sqrt().item()
    assert encoder(snn).dead_zone == pytest.approx(want, rel=1e-6)
    assert encoder(snn).dead_zone == torch.tensor(encoder(snn).dead_zone).item(), "a float32 number"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_dtype_is_compared_with_the_same_number(dtype: torch.dtype) -> None:
    snn = linear(torch.randn(400, 1), dead_zone=TAU).to(dtype)
    x = torch.linspace(-1.0, 1.0, 2001, dtype=torch.float64).to(dtype)[:, None]
    small = x.double().abs() < encoder(snn).dead_zone
    assert torch.equal(snn(x) == 0, small)


def test_nan_and_infinity_are_no_small_values() -> None:
    for kind in KINDS.values():
        snn = linear(torch.randn(40, 3), dead_zone=TAU, **kind)
        with pytest.warns(mbe_plugin.RangeWarning):
            y = encoder(snn)(torch.tensor([[math.nan, math.inf, 1e-9]]))
        assert not y[0, :2].isfinite().any()


@pytest.mark.parametrize("gradient", ["slope", "surrogate"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str, gradient: str) -> None:
    """The slope goes straight through; what the surrogate says of a constant is 0."""
    snn = linear(torch.randn(400, 4), dead_zone=TAU, gradient=gradient, **KINDS[kind])
    x = torch.tensor([[0.001, -0.01, 0.0, 0.7]], requires_grad=True)
    (got,) = torch.autograd.grad(snn(x).sum(), x)
    assert (got[0, :3] == (1 if gradient == "slope" else 0)).all()
    assert got[0, 3] != 0


@pytest.mark.parametrize("kind", ["binary element", "first spike tensor"])
def test_in_a_network_closed_form_and_loop_agree_and_fewer_events_are_sent(kind: str) -> None:
    events, outputs = {}, {}
    for tau, simulate in ((0.0, "closed"), (0.3, "closed"), (0.3, "steps")):
        config = MBEConfig(time_steps=8, dead_zone=tau, simulate=simulate, **KINDS[kind])  # type: ignore[arg-type]
        snn = convert(transformer(), [tokens()], config)
        with record(snn) as found:
            outputs[tau, simulate] = snn(tokens())
        sent = {k: n for k, n in found.neurons.items() if k[1].startswith("encoders") or k[1] == "deviation"}
        events[tau, simulate] = sum(n.events for n in sent.values())
        assert all(
            n.dead_zone == 0
            for n in snn.modules()
            if isinstance(n, CalibratedNode) and n.function != "identity"
        )
    assert torch.equal(outputs[0.3, "closed"], outputs[0.3, "steps"])
    assert events[0.3, "closed"] == events[0.3, "steps"] < 0.9 * events[0.0, "closed"]


def test_of_some_sites_and_their_report() -> None:
    config = MBEConfig(
        merge=False, sites=(("*up:linear", {"dead_zone": 0.1}), ("*|deviation", {"dead_zone": 0.2}))
    )
    found = report(convert(transformer(), [tokens()], config))
    for site in found.sites:
        for neuron in site.neurons:
            has = site.site.endswith("up:linear") or neuron.role == "deviation"
            assert (neuron.dead_zone > 0) == has, (site.site, neuron.role)
    assert "none in a dead zone" in found.summary()
    assert "silent below" in str(found)


def test_layers_that_read_one_tensor_share_a_train_only_with_the_same_dead_zone() -> None:
    for tau, shared in ((0.0, True), (0.1, False)):
        config = MBEConfig(merge=False, sites=(("*attention.k:linear", {"dead_zone": tau}),))
        snn = convert(transformer(), [tokens()], config)
        q, k = (snn.mbe[f"layers~0~attention~{n}:linear"].encoders["0"] for n in "qk")
        assert (q is k) == shared
        assert (k.dead_zone > 0) == (not shared)


@pytest.mark.parametrize("product", ["mul", "matmul", "baddbmm"])
def test_in_low_energy_products_of_activations_are_precise_and_layers_have_a_dead_zone(product: str) -> None:
    """A gate's product costs little and its error reaches every weight after it."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = (nn.Linear(16, 16) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            gate, up = functional.silu(self.gate(x)), self.up(x)
            if product == "baddbmm":
                return self.down(torch.baddbmm(torch.zeros(1, 16, 16), gate, up))
            return self.down(getattr(torch, product)(gate, up))

    x = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = {
        (site.site.split(":")[0], neuron.role): neuron
        for site in report(convert(Gate(), [x], MBEConfig.low_energy())).sites
        for neuron in site.neurons
        if neuron.role.startswith("encoders")
    }
    between = [n for (path, _), n in found.items() if path == "(root)"]
    layers = [n for (path, _), n in found.items() if path != "(root)"]
    assert len(between) == 2 and all(n.dead_zone == 0 and n.bases == 128 for n in between)
    assert len(layers) == 3 and all(n.dead_zone > 0 and n.bases == 32 for n in layers)


def test_it_comes_back_from_its_files(tmp_path: Path) -> None:
    model = transformer()
    snn = convert(model, [tokens()], MBEConfig(dead_zone=0.3))
    mbe_plugin.save(snn, tmp_path)
    assert torch.equal(mbe_plugin.load(tmp_path, model)(tokens()), snn(tokens()))


def test_a_neuron_that_calibration_never_reached_has_none() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x[:0]).sum()

    snn = convert(Idle(), [torch.randn(3, 4)], MBEConfig(dead_zone=0.1))
    idle = snn.mbe["b:linear"].encoders["0"]
    assert idle.dead_zone == 0
