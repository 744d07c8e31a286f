"""mbe_plugin.snntorch as a user of snnTorch meets it: loops over steps, hidden states, surrogates, resets, training."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import tokens, transformer
from oracle import FAMILIES, assert_same_bits, critical_inputs, make_tables
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBEConfig, MBEError, MBENode, fit
from mbe_plugin.neuron.dynamics import reference_spikes
from mbe_plugin.neuron.first_spike import first_spike_tables
from mbe_plugin.neuron.scaling import REDUCTIONS
from mbe_plugin.operators import CalibratedNode

snn = pytest.importorskip("snntorch", reason="pip install 'mbe_plugin[snntorch]'")

from snntorch import surrogate, utils  # noqa: E402

from mbe_plugin.snntorch import MBE, reset  # noqa: E402

T = 8
FUNCTIONS = ("gelu", "identity", "reciprocal", "sqrt", "rsqrt", "sqrt_octave", "rsqrt_octave", "exp2")
KINDS = [*FAMILIES, *FUNCTIONS, "published gelu", "first spike"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ROOT = Path(__file__).parents[2]


def node_of(kind: str) -> MBENode:
    if kind in FAMILIES:
        return MBENode(make_tables(kind, T))
    if kind == "first spike":
        return MBENode(first_spike_tables(T, 16), "clip")
    if kind == "published gelu":
        return fit("gelu", time_steps=T, bases=4, family="published").node()
    return fit(kind, time_steps=T, bases=8).node()


def inputs(node: MBENode, dtype: torch.dtype) -> Tensor:
    special = torch.tensor(
        [0.0, -0.0, 1e-30, 1e30, 1e-40, math.inf, -math.inf, math.nan, 0.25, 0.5, 1.0, 2.0]
    )
    values = torch.cat([torch.linspace(-5, 5, 41), special, critical_inputs(node.tables()).float()])
    return values.to(dtype)[: values.numel() // 2 * 2].reshape(2, -1)


def run(neuron: MBE, x: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
    """What a user's loop collects: spk of every step, stacked, and the last mem."""
    mem = neuron.reset_mem()
    record = []
    for step in range(steps or neuron.time_steps):
        spk, mem = neuron(x if step == 0 else None, mem)
        record.append(spk)
    return torch.stack(record), mem


# the same neuron


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_t_calls_give_what_mbenode_gives_in_one(kind: str, dtype: torch.dtype) -> None:
    node = node_of(kind)
    x = inputs(node, dtype)
    spk, mem = run(MBE(node), x)
    assert_same_bits(spk, node.weighted_spikes(x))
    trains, _ = run(MBE(node, binary=True), x)
    assert_same_bits(trains, node.spikes(x).movedim(1, -1))
    assert trains.shape == (T, *x.shape, node.bases)
    several = [node.bases_per_element] if node.bases_per_element > 1 else []
    assert list(mem.shape) == [*x.shape, *several]


def test_every_reduction_is_among_them() -> None:
    assert {node_of(kind).reduction.name for kind in KINDS} == set(REDUCTIONS)


def test_the_membrane_is_what_the_spikes_left() -> None:
    tables = make_tables("published", T)
    x = torch.linspace(-2, 3, 20)
    _, mem = run(MBE(tables), x)
    spikes = reference_spikes(x, tables)
    for n in range(tables.bases):
        left = tables.gain[n] * (x - tables.offset[n])
        for t in range(T):
            left = left - spikes[t, n] * tables.reset[t, n]
        assert_same_bits(mem[..., n].contiguous(), left)


def test_the_sum_over_the_steps_is_the_decoded_value() -> None:
    gelu = fit("gelu", time_steps=16, bases=128)
    x = torch.randn(4, 10)
    spk, _ = run(MBE(gelu), x)
    torch.testing.assert_close(spk.sum(0), gelu.node()(x))
    torch.testing.assert_close(spk.sum(0), F.gelu(x), rtol=0, atol=1e-3)


def test_a_fit_tables_and_a_node_are_the_same_neuron() -> None:
    found, x = fit("exp2", time_steps=T), torch.randn(5)
    wanted, _ = run(MBE(found), x)
    for same in (MBE(found.node()), MBE(found.tables, found.reduction), MBE(found.tables, reduction="exp2")):
        assert_same_bits(run(same, x)[0], wanted)


def test_a_converted_networks_neuron_is_taken_over() -> None:
    converted = mbe_plugin.convert(nn.Sequential(nn.GELU()), [tokens()], MBEConfig(time_steps=T))
    [node] = [m for m in converted.modules() if isinstance(m, CalibratedNode)]
    assert_same_bits(run(MBE(node), tokens())[0], node.weighted_spikes(tokens()))
    shared = mbe_plugin.convert(nn.Sequential(nn.Linear(8, 8)), [tokens()], MBEConfig(scale="token"))
    [node] = [m for m in shared.modules() if isinstance(m, CalibratedNode)]
    with pytest.raises(TypeError, match="units of a scale that other elements share; .* scale='element'"):
        MBE(node)


# calls, membranes, resets


def test_one_call_too_many_says_how_to_reset() -> None:
    neuron = MBE(fit("gelu", time_steps=3))
    run(neuron, torch.randn(4))
    with pytest.raises(
        MBEError, match=r"has T = 3 steps and was called once more; reset it .*snntorch\.reset\(net\)"
    ):
        neuron(torch.randn(4))
    neuron.reset_mem()
    neuron(torch.randn(7))


def test_restart_is_for_loops_that_cannot_reset() -> None:
    neuron, x = MBE(fit("gelu", time_steps=3), restart=True, init_hidden=True), torch.randn(2, 4)
    rounds = torch.stack([neuron(x[step // 3] if step % 3 == 0 else None) for step in range(6)])
    wanted = MBE(fit("gelu", time_steps=3))
    assert_same_bits(rounds[:3], run(wanted, x[0])[0])
    assert_same_bits(rounds[3:], run(wanted, x[1])[0])


def test_later_calls_take_none_or_zeros_and_refuse_what_cannot_be_right() -> None:
    x, node = torch.randn(4), node_of("gelu")
    wanted = node.weighted_spikes(x)
    neuron = MBE(node, init_hidden=True)
    got = [neuron(x), *(neuron(torch.zeros(4) if step % 2 else None) for step in range(T - 1))]
    assert_same_bits(torch.stack(got), wanted)
    reset(neuron)
    neuron(x)
    with pytest.raises(ValueError, match="call 2 brings input, but .* the first call needs the whole value"):
        neuron(x)
    with pytest.raises(ValueError, match=r"was \[4\] at the first call and is \[3\] at call 2"):
        neuron(torch.zeros(3))


def test_a_static_input_may_come_at_every_call() -> None:
    x, node = torch.randn(4), node_of("gelu")
    neuron = MBE(node, init_hidden=True, static_input=True)
    assert_same_bits(torch.stack([neuron(x.clone()) for _ in range(T)]), node.weighted_spikes(x))
    reset(neuron)
    neuron(x)
    with pytest.raises(ValueError, match="every call brings the same input, but call 2 brings another"):
        neuron(x + 1)


def test_a_published_neuron_integrates_later_currents() -> None:
    """u + gain x before the comparison; all of it at step 0 is MBENode's mode 'm'."""
    tables = make_tables("published", T)
    current = torch.rand(T, 6) * 0.3
    neuron = MBE(tables, binary=True, init_hidden=True)
    got = torch.stack([neuron(x) for x in current])
    membrane = tables.gain * (current[0, :, None] - tables.offset)
    for t in range(T):
        membrane = membrane + (tables.gain * current[t, :, None] if t else 0)
        spikes = (membrane >= tables.threshold[t]).float()
        membrane = membrane - spikes * tables.reset[t]
        assert_same_bits(got[t], spikes)
    assert got.any()


def test_mem_may_be_kept_detached_or_left_out_and_nothing_else() -> None:
    x, node = torch.randn(4), node_of("published")
    neuron = MBE(node)
    spk, mem = neuron(x)
    got = [spk]
    for step in range(T - 1):
        spk, mem = neuron(None, mem.detach()) if step % 2 else neuron()
        got.append(spk)
    assert_same_bits(torch.stack(got), node.weighted_spikes(x))
    neuron.reset_mem()
    with pytest.raises(ValueError, match="takes no membrane of an earlier input"):
        neuron(x, mem)
    neuron(x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"mem must be what the last call returned, \[4, 4\], got \[4\]"):
        neuron(None, torch.zeros(4))


def test_hidden_states_and_output_are_as_in_leaky() -> None:
    x = torch.rand(2, 3)
    for settings in ({}, {"init_hidden": True}, {"init_hidden": True, "output": True}, {"output": True}):
        ours, theirs = MBE(fit("gelu", time_steps=4), **settings), snn.Leaky(beta=0.9, **settings)
        assert type(ours(x)) is type(theirs(x))
    with pytest.raises(TypeError, match="`mem` should not be passed as an argument while `init_hidden=True`"):
        MBE(fit("gelu", time_steps=4), init_hidden=True)(x, x)


@pytest.mark.parametrize("wrong", [None, torch.ones(3, dtype=torch.int64), [1.0]])
def test_the_first_call_takes_a_floating_tensor(wrong: Any) -> None:
    got = "torch.int64" if isinstance(wrong, Tensor) else type(wrong).__name__
    with pytest.raises(TypeError, match=f"takes the value as a floating tensor, got {got}"):
        MBE(fit("gelu", time_steps=4))(wrong)


def test_reset_reaches_both_hosts_neurons_at_any_depth() -> None:
    leaky = snn.Leaky(beta=0.9, init_hidden=True)
    inner = nn.Sequential(MBE(fit("gelu", time_steps=2), init_hidden=True), leaky)
    net = nn.ModuleDict({"deep": nn.Sequential(nn.Linear(3, 3), inner)})
    x = torch.rand(2, 3)
    inner(x)
    utils.reset(net)
    assert inner[0].mem.numel()
    assert leaky.mem.any(), "the host's looks at direct children, and passes MBE by"
    reset(net)
    assert inner[0].mem.numel() == 0
    assert not leaky.mem.any()
    copied = copy.deepcopy(net)
    copied["deep"][1](x)
    reset(copied)
    assert not copied["deep"][1][1].mem.any()


def test_a_neuron_is_let_go() -> None:
    """The host's list of instances holds every neuron for good."""
    before = len(snn.SpikingNeuron.instances)
    neuron = MBE(fit("gelu", time_steps=2))
    assert len(snn.SpikingNeuron.instances) == before
    assert isinstance(neuron, snn.SpikingNeuron)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", 0.9),
        ("threshold", 1.0),
        ("reset_mechanism", "zero"),
        ("reset_delay", False),
        ("inhibition", True),
        ("graded_spikes_factor", 2.0),
        ("learn_graded_spikes_factor", True),
        ("state_quant", round),
        ("learn_beta", True),
    ],
)
def test_arguments_without_a_meaning_are_refused(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"MBE takes no {name}: \w+"):
        MBE(fit("gelu", time_steps=4), **{name: value})


def test_other_wrong_arguments() -> None:
    gelu = fit("gelu", time_steps=4)
    with pytest.raises(TypeError, match="MBE takes no alpha: "):
        MBE(gelu, alpha=1)
    with pytest.raises(TypeError, match="takes Tables, a Fit or an MBENode, got float"):
        MBE(0.9)
    with pytest.raises(TypeError, match="a Fit has its own reduction; leave out reduction='exp2'"):
        MBE(gelu, "exp2")
    with pytest.raises(ValueError, match="reduction must be one of"):
        MBE(gelu.tables, "log")
    with pytest.raises(AttributeError):
        MBE(gelu).reset_mechanism = "zero"


# gradients


def test_it_fires_at_equality_where_leaky_does_not() -> None:
    """u = threshold = 1/2 at step 0: a spike here, none there, and the surrogate's derivative at 0 in both."""
    half, one, zero = torch.full((1, 1), 0.5), torch.ones(1), torch.zeros(1)
    tables = mbe_plugin.Tables(half, half, half, one, zero, zero, one, torch.empty(0))
    x = torch.tensor([0.5], requires_grad=True)
    spikes, _ = MBE(tables, binary=True, spike_grad=surrogate.fast_sigmoid(25))(x)
    assert spikes.item() == 1
    theirs, _ = snn.Leaky(beta=1.0, threshold=0.5, spike_grad=surrogate.fast_sigmoid(25))(x)
    assert theirs.item() == 0
    for out in (spikes, theirs):
        assert torch.autograd.grad(out.sum(), x)[0].item() == 1.0, "1 / (1 + 25 |0|)^2"


SURROGATES = {
    "atan": surrogate.atan(),
    "fast_sigmoid": surrogate.fast_sigmoid(slope=5),
    "sigmoid": surrogate.sigmoid(slope=5),
    "straight_through_estimator": surrogate.straight_through_estimator(),
    "triangular": surrogate.triangular(),
    "spike_rate_escape": surrogate.spike_rate_escape(),
    "SSO": surrogate.SSO(),
    "SFS": surrogate.SFS(),
    "custom": surrogate.custom_surrogate(lambda input_, gradient, spikes: gradient / (1 + input_.abs())),
}  # LSO calls another function's backward in both versions, and fails in snn.Leaky too


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_changes_the_gradient_and_no_spike(name: str) -> None:
    node = node_of("published gelu")
    x = torch.linspace(-2, 2, 30).requires_grad_()
    spk, _ = run(MBE(node, spike_grad=SURROGATES[name]), x)
    assert_same_bits(spk.detach(), node.weighted_spikes(x.detach()))
    gradient = torch.autograd.grad(spk.sum(), x)[0]
    assert gradient.isfinite().all()
    assert gradient.any()


def test_the_gradient_is_that_of_the_loop() -> None:
    """Written out by hand in float64, with the surrogate's own formula."""
    tables = make_tables("published", T)
    x = torch.linspace(-2, 3, 15, dtype=torch.float64).requires_grad_()
    spk, _ = run(MBE(tables, spike_grad=surrogate.fast_sigmoid(slope=4)), x)
    got = torch.autograd.grad(spk.sum(), x)[0]
    want = torch.zeros(15, dtype=torch.float64)
    th, r, d = (t.double() for t in (tables.threshold, tables.reset, tables.intensity))
    for n in range(tables.bases):
        gain = tables.gain[n].double()
        u, du = (
            gain * (x.detach() - tables.offset[n].double()),
            torch.full((15,), gain.item(), dtype=torch.float64),
        )
        for t in range(T):
            v = u - th[t, n]
            ds = du / (1 + 4 * v.abs()) ** 2
            want += tables.weight[n].double() * d[t, n] * ds
            u, du = u - (v >= 0) * r[t, n], du - r[t, n] * ds
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_without_a_surrogate_no_gradient() -> None:
    x = torch.randn(4, requires_grad=True)
    spk, _ = run(MBE(make_tables("published", 4), surrogate_disable=True, binary=True), x)
    assert not spk.requires_grad


LEARNED = {"threshold": "th", "reset": "r", "intensity": "d", "weight": "w", "bias": "bias"}


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("kind", ["published", "gelu"])
def test_tables_learn(kind: str, name: str) -> None:
    """Towards another function: 1.3 gelu + 0.1; only what was asked for moves."""
    torch.manual_seed(0)
    neuron = MBE(node_of(kind), **{f"learn_{name}": True}, spike_grad=surrogate.fast_sigmoid(5))
    assert [n for n, _ in neuron.named_parameters()] == [f"node.{LEARNED[name]}"]
    before = {n: b.clone() for n, b in neuron.named_buffers() if n != "mem"}
    x = torch.linspace(-3, 3, 64)
    optimizer = torch.optim.Adam(neuron.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        loss = (run(neuron, x)[0].sum(0) - 1.3 * F.gelu(x) - 0.1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for n, buffer in neuron.named_buffers():
        assert n == "mem" or torch.equal(buffer, before[n])
    learned = neuron.node.tables()
    assert_same_bits(run(neuron, x)[0].detach(), MBENode(learned, simulate="steps").weighted_spikes(x))


# networks


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(64, 6)
    return x, (x[:, 0] * x[:, 1] > 0).long()


class Net(nn.Module):
    """As in snnTorch's tutorials: a state per layer, passed along."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 24)
        self.mbe = MBE(fit("gelu", time_steps=T), spike_grad=surrogate.fast_sigmoid(5), learn_weight=True)
        self.fc2 = nn.Linear(24, 2)
        self.lif = snn.Leaky(beta=0.9, spike_grad=surrogate.fast_sigmoid(5))

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.mbe.reset_mem(), self.lif.reset_mem()
        current, record = self.fc1(x), []
        for step in range(T):
            spk, mem1 = self.mbe(current if step == 0 else None, mem1)
            _, mem2 = self.lif(self.fc2(spk), mem2)
            record.append(mem2)
        return torch.stack(record)


def sequential(**settings: Any) -> nn.Sequential:
    gradient = surrogate.fast_sigmoid(5)
    return nn.Sequential(
        nn.Linear(6, 24),
        MBE(fit("gelu", time_steps=T), spike_grad=gradient, init_hidden=True, static_input=True, **settings),
        nn.Linear(24, 2),
        snn.Leaky(beta=0.9, spike_grad=gradient, init_hidden=True, output=True),
    )


def train(net: nn.Module, forward: Any, steps: int = 25) -> list[float]:
    x, y = data()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(forward(x).sum(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_network_with_leaky_trains() -> None:
    torch.manual_seed(0)
    net = Net()
    losses = train(net, net)
    assert losses[-1] < 0.8 * losses[0]
    assert net.fc1.weight.grad.abs().sum() > 0


def stepped(net: nn.Module, x: Tensor) -> Tensor:
    reset(net)
    return torch.stack([net(x)[1] for _ in range(T)])


def test_a_sequential_with_hidden_states_trains() -> None:
    torch.manual_seed(0)
    net = sequential()
    losses = train(net, lambda x: stepped(net, x))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.filterwarnings("ignore:The module snntorch.backprop:DeprecationWarning")
def test_the_hosts_own_training_loop() -> None:
    """backprop.BPTT resets by snntorch.utils.reset alone, so the neuron restarts by itself."""
    from snntorch import backprop
    from snntorch import functional as SF

    torch.manual_seed(0)
    x, y = data()
    net = sequential(restart=True)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = [
        backprop.BPTT(net, loader, optimizer, SF.ce_rate_loss(), num_steps=T, time_var=False).item()
        for _ in range(8)
    ]
    assert losses[-1] < losses[0]


def test_a_copy_of_a_network_in_training_begins_anew() -> None:
    net = sequential()
    x, _ = data()
    wanted = stepped(net, x)
    reset(net)
    net[:2](x)  # a graph hangs on its membranes
    copied = copy.deepcopy(net)
    assert copied[1].mem.numel() == 0
    torch.testing.assert_close(stepped(copied, x), wanted)
    with torch.no_grad():
        copied[0].weight.zero_()
    assert net[0].weight.any()


def test_the_state_dict_holds_the_tables_and_no_membrane() -> None:
    net, other = MBE(fit("gelu", time_steps=T, bases=8)), MBE(fit("silu", time_steps=T, bases=8))
    x = torch.linspace(-3, 3, 50)
    assert not torch.equal(run(net, x)[0], run(other, x)[0])
    assert sorted(net.state_dict()) == sorted(f"node.{n}" for n in MBENode(fit("gelu").tables).state_dict())
    other.load_state_dict(net.state_dict())
    assert_same_bits(run(other, x)[0], run(net, x)[0])


@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_conversions_keep_the_bits_of_the_tables(change: str) -> None:
    neuron = MBE(node_of("gelu"), learn_weight=True, learn_threshold=True)
    before = {k: v.clone() for k, v in neuron.state_dict().items()}
    net = getattr(nn.Sequential(nn.Linear(2, 2), neuron), change)()
    assert net[0].weight.dtype != torch.float32
    for key, value in neuron.state_dict().items():
        assert_same_bits(value, before[key])
    x = torch.randn(3, 2).to(net[0].weight.dtype)
    assert run(neuron, x)[0].dtype == x.dtype


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU: torch.cuda.is_available() is False"
)
def test_it_follows_a_device() -> None:
    x = torch.randn(3, 4)
    wanted, _ = run(MBE(node_of("gelu")), x)
    got, _ = run(MBE(node_of("gelu")).cuda(), x.cuda())
    assert_same_bits(got.cpu(), wanted)


def test_an_input_on_another_device_names_both() -> None:
    with pytest.raises(ValueError, match="tables are on cpu, its input on meta"):
        MBE(node_of("gelu"))(torch.ones(3, device="meta"))


# a converted network in snnTorch's loops


@pytest.fixture(scope="module")
def converted() -> Iterator[nn.Module]:
    yield mbe_plugin.convert(transformer(depth=1), [tokens()], MBEConfig(time_steps=T))


def test_a_converted_network_is_a_frozen_backbone(converted: nn.Module) -> None:
    """Its features drive an MBE encoder and a Leaky head, trained in a snnTorch loop."""
    backbone = copy.deepcopy(converted).requires_grad_(False)
    x = tokens(64, 6)
    y = (x[:, 0, 0] > 0).long()
    torch.manual_seed(0)
    head = nn.Sequential(
        MBE(fit("identity", time_steps=T), init_hidden=True, static_input=True),
        nn.Linear(8, 2),
        snn.Leaky(beta=0.9, init_hidden=True, output=True),
    )
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-2)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(stepped(head, backbone(x).mean(1)).sum(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")  # its values move as it learns
def test_a_converted_network_is_trained_itself(converted: nn.Module) -> None:
    """All of its weights, with a Leaky read-out behind it that sees the same features at every step."""
    torch.manual_seed(0)
    net, x = copy.deepcopy(converted).requires_grad_(True), tokens(32, 6)
    y = (x[:, 0, 0] > 0).long()
    readout = nn.Sequential(nn.Linear(8, 2), snn.Leaky(beta=0.9, init_hidden=True, output=True))
    optimizer = torch.optim.Adam([*net.parameters(), *readout.parameters()], lr=1e-2)
    losses = []
    for _ in range(8):
        features = net(x).mean(1)
        loss = F.cross_entropy(stepped(readout, features).mean(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_reset_leaves_a_converted_network_as_it_is(converted: nn.Module) -> None:
    wanted = converted(tokens())
    reset(nn.Sequential(converted))
    assert_same_bits(converted(tokens()), wanted)


# the import


def test_by_attribute_and_lazily() -> None:
    assert mbe_plugin.snntorch.MBE is MBE
    assert "snntorch" in dir(mbe_plugin)


def test_without_snntorch_the_import_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['snntorch'] = None\n"
        "import mbe_plugin\n"
        "try:\n    mbe_plugin.snntorch\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "pip install 'mbe_plugin[snntorch]'" in done.stdout, done.stderr
