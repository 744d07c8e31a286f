"""SpikingJelly 2.0's counters and its energy profiler see our events, and agree with ours."""

from __future__ import annotations

import pytest
import torch
from networks import WIDTH, tokens, transformer
from torch import nn

from mbe_plugin import MBEConfig, convert, record
from mbe_plugin.hosts.op_counter import events_counted

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


def test_the_simple_energy_profiler() -> None:
    snn = convert(nn.Sequential(nn.Linear(WIDTH, 12), nn.Linear(12, 3)), [tokens()])
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(tokens())
    profiler = op_counter.SimpleEnergyProfiler()
    profiler.bind_model(snn)
    ours = profiler.mac_counter, profiler.ac_counter, profiler.synop_counter
    with torch.no_grad(), events_counted(*ours), profiler:
        snn(tokens())
    report = profiler.get_report()
    assert report.energy_mac_pj == 0
    assert report.energy_ac_pj == pytest.approx(0.9 * rec.synaptic_operations)


def test_the_forward_is_the_same_and_a_counter_needs_rules() -> None:
    snn = convert(nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU()), [tokens()])
    plain = snn(tokens())
    mac, ac, synop = counters()
    with events_counted(mac, ac, synop), op_counter.DispatchCounterMode([mac, ac, synop]):
        assert torch.equal(snn(tokens()), plain)
    with pytest.raises(TypeError, match="int has no rules to add to; pass counters of"), events_counted(3):
        pass
