"""SpikingJelly 2.0's counters and its energy profiler see our events, and agree with ours."""

from __future__ import annotations

import pytest
import torch
from networks import WIDTH, tokens, transformer
from torch import nn

from mbe_plugin import MBEConfig, convert, energy, record
from mbe_plugin.hosts.op_counter import estimate_simple_energy, events_counted

op_counter = pytest.importorskip(
    "spikingjelly.activation_based.op_counter", reason="the installed SpikingJelly has no op_counter"
)


def counters() -> tuple:
    return op_counter.MACCounter(), op_counter.ACCounter(), op_counter.SynOpCounter()


def host_counts(snn: nn.Module, *x: torch.Tensor) -> tuple[int, int, int]:
    mac, ac, synop = counters()
    with torch.no_grad(), events_counted(mac, ac, synop), op_counter.DispatchCounterMode([mac, ac, synop]):
        snn(*x)
    assert all(torch.ops.mbe_plugin.deliveries.default not in c.rules for c in (mac, ac, synop))
    return mac.get_total(), ac.get_total(), synop.get_total()


def test_an_mlp_has_our_accumulations_and_no_products() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 3))
    snn = convert(model, [tokens()], MBEConfig(time_steps=5))
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(tokens())
    assert rec.deliveries is not None
    synaptic = sum(d.total for d in rec.deliveries.values() if d.products)
    assert host_counts(snn, tokens()) == (0, rec.synaptic_operations, synaptic)


def test_without_us_the_host_sees_dense_products_and_no_synaptic_operation() -> None:
    snn = convert(nn.Sequential(nn.Linear(WIDTH, 12)), [tokens()])
    mac, ac, synop = counters()
    with torch.no_grad(), op_counter.DispatchCounterMode([mac, ac, synop]):
        snn(tokens())
    assert (mac.get_total(), synop.get_total()) == (tokens().numel() * 12, 0)


def test_residual_connections_and_exact_sites_are_counted_by_the_host_itself() -> None:
    snn = convert(transformer(depth=1), [tokens()], MBEConfig(time_steps=5, exclude=("head:*",)))
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(tokens())
    mac, ac, synop = host_counts(snn, tokens())
    assert mac == tokens().numel() * WIDTH  # the head
    residuals = 2 * tokens().numel()
    assert ac == rec.synaptic_operations + residuals
    assert 0 < synop < ac


def test_modules_keep_their_own_share() -> None:
    snn = convert(nn.Sequential(nn.Linear(WIDTH, 12), nn.Linear(12, 3)), [tokens()])
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(tokens())
    ac = op_counter.ACCounter()
    with torch.no_grad(), events_counted(ac), op_counter.DispatchCounterMode([ac]):
        snn(tokens())
    by_site = {site: part.synaptic_operations for site, part in rec.by_site().items()}
    scopes = ac.get_counts()
    shares = {name: sum(found.values()) for name, found in scopes.items()}
    assert [n for name, n in shares.items() if name.endswith(".0")] == [by_site["0:linear"]]
    assert [n for name, n in shares.items() if name.endswith(".1")] == [by_site["1:linear"]]


def layers_with_weights(kind: str) -> tuple[nn.Module, torch.Tensor]:
    if kind == "convolution":  # whose borders events do not leave
        layer = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        return nn.Sequential(layer, nn.GELU(), nn.Conv2d(4, 2, 1)), torch.randn(2, 3, 7, 7)
    return nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, 3)), tokens()


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("code", ["binary", "first_spike"])
def test_the_simple_energy_estimate(kind: str, code: str) -> None:
    """The host's figures for AC and for the weights that are read, against our deliveries, and our own energy()."""
    model, x = layers_with_weights(kind)
    snn = convert(model, [x], MBEConfig(time_steps=6, code=code, merge=False))  # type: ignore[arg-type]
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(x)
    assert rec.deliveries is not None
    synaptic = sum(d.total for d in rec.deliveries.values() if d.products)
    found = estimate_simple_energy(snn, x)
    assert found.energy_mac_pj == 0
    assert found.energy_ac_pj == pytest.approx(0.9 * rec.synaptic_operations)
    ours = energy(snn, x).by_kind()
    assert found.energy_ac_pj == pytest.approx(ours["accumulate"].snn + ours["read-out"].snn)
    assert found.counts["synop"] == synaptic == ours["accumulate"].snn_operations
    assert found.counts["weight_read_bytes"] == 4 * synaptic
    assert found.breakdown_pj["parameter_memory_pj"] == pytest.approx(
        24.96 * (4 * synaptic + found.counts["bias_read_bytes"])
    )
    assert (
        estimate_simple_energy(snn, (x,)).counts
        == estimate_simple_energy(snn, {"input": x}).counts
        == found.counts
    )
    dense = op_counter.estimate_simple_energy(snn, x).counts
    assert dense["bias_read_bytes"] == found.counts["bias_read_bytes"], "rules are as before"
    assert dense["synop"] == 0 < dense["mac"]
    assert (
        dense["weight_read_bytes"] == op_counter.estimate_simple_energy(model, x).counts["weight_read_bytes"]
    )


def test_weights_of_layers_that_stay_exact_are_read_densely() -> None:
    snn = convert(
        nn.Sequential(nn.Linear(WIDTH, 12), nn.Linear(12, 3)), [tokens()], MBEConfig(exclude=("1:*",))
    )
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(tokens())
    found = estimate_simple_energy(snn, tokens())
    rows = tokens()[..., 0].numel()
    assert found.counts["mac"] == rows * 12 * 3
    assert found.counts["weight_read_bytes"] == 4 * (rec.synaptic_operations + rows * 12 * 3)


def test_a_layer_that_is_called_twice_reads_its_weights_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.tanh(self.fc(x)))

    snn = convert(Twice(), [tokens()], MBEConfig(time_steps=5))
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(tokens())
    assert rec.deliveries is not None
    synaptic = sum(d.total for (site, _), d in rec.deliveries.items() if site.startswith("fc:"))
    assert estimate_simple_energy(snn, tokens()).counts["weight_read_bytes"] == 4 * synaptic


def test_models_of_other_hardware_say_why_they_do_not_apply() -> None:
    for held, words in (
        (
            op_counter.LemaireEnergyProfiler(),
            "_LemaireCounter: Lemaire's formulas are of layers with IF and LIF",
        ),
        (op_counter.NeuroMCEnergyProfiler(), "NeuroMCEnergyProfiler: NeuroMC maps convolutions"),
        (
            op_counter.SpikeSimEnergyProfiler()._counter,
            "SpikeSimCounter: SpikeSim's crossbars add up binary inputs",
        ),
    ):
        with pytest.raises(TypeError, match=f"events cannot be counted for {words}"), events_counted(held):
            pass


def test_what_those_models_make_of_a_converted_network() -> None:
    """As docs/hosts/spikingjelly.md says: refusals, or dense products in place of events."""
    model, x = layers_with_weights("linear")
    snn = convert(model, [x], MBEConfig(time_steps=5))
    with pytest.raises(ValueError, match="Lemaire formulas do not support"):
        op_counter.estimate_lemaire_energy(snn, x)
    with pytest.warns(RuntimeWarning, match="its energy is omitted"):
        counts = op_counter.estimate_lemaire_energy(
            snn, x, config=op_counter.LemaireEnergyConfig(strict=False)
        ).counts
    rows = x[..., 0].numel()
    assert (counts["synop"], counts["mac"]) == (0, rows * (WIDTH * 12 + 12 * 3))
    with pytest.raises(ValueError, match="NeuroMC runtime does not support these aten ops"):
        op_counter.estimate_neuromc_runtime_energy(snn, x)
    with pytest.raises(ValueError, match="No supported Conv2d"):
        op_counter.estimate_spikesim_energy(snn, x)
    model, x = layers_with_weights("convolution")
    snn = convert(model, [x], MBEConfig(time_steps=5))
    cycles = [op_counter.estimate_spikesim_energy(m.eval(), x).counts for m in (snn, model)]
    assert cycles[0] == cycles[1], "of one dense step, whatever T"


def test_the_forward_is_the_same_and_a_counter_needs_rules() -> None:
    snn = convert(nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU()), [tokens()])
    plain = snn(tokens())
    mac, ac, synop = counters()
    with events_counted(mac, ac, synop), op_counter.DispatchCounterMode([mac, ac, synop]):
        assert torch.equal(snn(tokens()), plain)
    with pytest.raises(TypeError, match="int has no rules to add to; pass counters of"), events_counted(3):
        pass
