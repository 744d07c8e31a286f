"""center=True: a layer's input is sent as its distance to a constant per channel, which the layer's bias takes in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import tokens, transformer
from torch import Tensor, nn
from torch.nn import functional

import mbe_plugin
from mbe_plugin import MBEConfig, convert, energy, record
from mbe_plugin.operators import CalibratedNode, SharedScaleNode
from mbe_plugin.operators.distribution import PARTS, Spread, quiet_center

CONFIG = MBEConfig(
    code="first_spike", time_steps=10, identity_bases=16, center=True, dead_zone=0.3, merge=False
)


def skewed(rows: int = 40, channels: int = 6) -> Tensor:
    """Most values near -0.1, as a GELU's, a few large; channels shifted."""
    x = torch.randn(rows, channels, generator=torch.Generator().manual_seed(7))
    return functional.gelu(2 * x - 1) + torch.arange(channels) / 10


def layer(x: Tensor, config: MBEConfig = CONFIG) -> tuple[nn.Linear, nn.Module, SharedScaleNode]:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(x.shape[-1], 4))
    snn = convert(ann, [x], config)
    [node] = [m for m in snn.modules() if isinstance(m, SharedScaleNode)]
    return ann[0], snn, node


def coded(distance: Tensor, node: SharedScaleNode) -> Tensor:
    """Plain arithmetic: 8 segments of the octave, T = 10 octaves below the scale, silent in the dead zone."""
    mantissa, exponent = torch.frexp(distance.double().abs())
    middle = 0.5 + ((mantissa - 0.5) * 16).floor() / 16 + 1 / 32
    silent = (distance.abs() < node.dead_zone) | (exponent <= node.exponents - 10)
    return torch.where(silent, 0.0, distance.sign() * middle * 2.0**exponent)


@pytest.mark.parametrize("scale", ["tensor", "channel"])
def test_the_value_is_the_center_plus_the_code_of_the_distance(scale: str) -> None:
    x = skewed()
    ann, snn, node = layer(x, replace(CONFIG, scale=scale))  # type: ignore[arg-type]
    read = node.center.double() + coded(x - node.center, node)
    want = read @ ann.weight.double().T + ann.bias.double()
    with torch.no_grad():
        assert torch.allclose(snn(x).double(), want, atol=1e-5)


def test_without_a_dead_zone_the_center_is_the_median() -> None:
    x = skewed()
    _, _, node = layer(x, replace(CONFIG, dead_zone=0.0))
    assert torch.allclose(node.center, x.quantile(0.5, dim=0), atol=1e-6)


def test_no_constant_silences_more_of_the_square() -> None:
    """Against all constants of a fine grid; what the dead zone silences is right in the mean."""
    x = skewed(2000)
    _, _, node = layer(x)
    zone = node.dead_zone
    grid = torch.linspace(-1, 3, 4001, dtype=torch.float64)[:, None, None]
    most = (zone**2 - (x.double() - grid) ** 2).clamp_min(0).sum(1).max(0).values
    off = x.double() - node.center.double()
    assert ((zone**2 - off**2).clamp_min(0).sum(0) > 0.995 * most).all()
    silent = off.abs() < zone
    assert ((off * silent).sum(0) / silent.sum(0)).abs().max() < 0.05 * zone  # of 128 rows


def test_the_spread_is_the_same_in_few_calls_or_many() -> None:
    x = skewed(1024)
    wanted = x.double().sort(dim=0).values.reshape(PARTS, -1, x.shape[1]).mean(1)
    for rows in (1024, 100, 7):
        spread, zone = Spread(), 0.2
        for call in x.split(rows):
            spread.add(call)
        center = spread.center(zone)
        assert center is not None
        assert torch.allclose(center, quiet_center(wanted.float(), zone), atol=0.1 * zone)
        assert spread.parts is not None
        assert torch.allclose(spread.parts.double().mean(0), wanted.mean(0), rtol=1e-5)
        spread.add(x[:, :2])  # another number of channels: nothing is known of any
        assert spread.center(zone) is None


@pytest.mark.parametrize("dead_zone", [0.05, 0.3, 3.0])
def test_steps_that_only_silent_values_would_reach_are_not_taken(dead_zone: float) -> None:
    x = skewed()
    config = replace(CONFIG, center=False, dead_zone=dead_zone, time_steps=20)
    _, snn, node = layer(x, config)
    smallest = torch.tensor([[node.dead_zone]])
    assert node.time_steps < 20
    assert node.decoded(smallest) > 0, "what is not silent is sent"
    with torch.no_grad(), record(snn) as rec:
        snn(torch.full((1, 6), node.dead_zone))
    [sent] = rec.neurons.values()
    assert sent.last_step == node.time_steps


def test_common_values_send_nothing() -> None:
    x = skewed()
    sent = {}
    for center in (False, True):
        _, snn, _ = layer(x, replace(CONFIG, center=center))
        with torch.no_grad(), record(snn, deliveries=True) as rec:
            snn(x)
        sent[center] = rec.synaptic_operations
    assert sent[True] < 0.7 * sent[False]


def test_a_centered_neuron_costs_a_subtraction_and_the_layer_no_more() -> None:
    x = skewed()
    _, snn, node = layer(x)
    found = energy(snn, x).by_kind()
    distance = x - node.center
    spikes = int((coded(distance, node) != 0).sum())
    assert found["accumulate"].snn_operations == spikes * 4
    # the distance; the biases; 8 amplitudes' sums put together, if not every event is multiplied
    assert found["addition"].snn_operations == x.numel() + len(x) * 4


def test_steps_add_up_and_every_simulation_agrees(tmp_path: Path) -> None:
    x = skewed()
    _, snn, _ = layer(x)
    with torch.no_grad():
        want = snn(x)
        snn.step_mode = "m"
        assert torch.allclose(snn(mbe_plugin.as_sequence(x, 10)).sum(0), want, atol=1e-6)
        snn.step_mode = "s"
        for simulate in ("steps", "events"):
            other = convert(nn.Sequential(layer(x)[0]), [x], replace(CONFIG, simulate=simulate))  # type: ignore[arg-type]
            assert torch.allclose(other(x), want, atol=1e-6)
        mbe_plugin.save(snn, tmp_path / "saved")
        torch.manual_seed(0)
        again = mbe_plugin.load(tmp_path / "saved", nn.Sequential(nn.Linear(6, 4)))
        assert torch.equal(again(x), want)


def test_a_convolution_is_centered_by_its_channels() -> None:
    x = skewed(2 * 25, 3).reshape(2, 5, 5, 3).permute(0, 3, 1, 2)
    ann = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    snn = convert(ann, [x], replace(CONFIG, identity_bases=256, dead_zone=0.0, time_steps=16))
    [node] = [m for m in snn.modules() if isinstance(m, SharedScaleNode)]
    assert node.centered and node.center.shape == (3,)
    with torch.no_grad():
        assert (snn(x) - ann(x)).abs().max() < 0.01 * ann(x).abs().max()


def test_only_layers_with_a_calibrated_scale_are_centered() -> None:
    snn = convert(transformer(), [tokens()], CONFIG)
    for node in (m for m in snn.modules() if isinstance(m, CalibratedNode) and m.function == "identity"):
        assert getattr(node, "centered", False) == node.role.startswith("encoders") & node.site.endswith(
            ":linear"
        )
    binary = convert(transformer(), [tokens()], MBEConfig(center=True))
    assert not any(isinstance(m, SharedScaleNode) for m in binary.modules())


def test_the_report_says_it() -> None:
    assert "distance to the channel center" in mbe_plugin.report(layer(skewed())[1]).summary()


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match="center must be True or False, got 'median'"):
        MBEConfig(center="median")  # type: ignore[arg-type]


def test_a_calibration_without_centers_says_so() -> None:
    """It serves every other configuration with the same bits, and is refused where centers are asked for."""
    ann, x = transformer(depth=1), tokens()
    known = mbe_plugin.calibrate(ann, [x], centers=False)
    assert not any(stat.spread.waiting for site in known.sites for stat in site.roles.values())
    with torch.no_grad():
        assert torch.equal(convert(ann, known)(x), convert(ann, mbe_plugin.calibrate(ann, [x]))(x))
    with pytest.raises(mbe_plugin.CalibrationError, match="calibrate with centers=True"):
        convert(ann, known, CONFIG)
