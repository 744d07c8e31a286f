"""MBE neurons and converted networks in SpikingJelly, as its users write their scripts; 2.0 and 0.0.0.0.14.

What only one generation of the host offers is looked for by name, and skipped with that reason where it is missing.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, tokens, transformer
from spikingjelly.activation_based import base, functional, layer, monitor, neuron, surrogate
from torch import Tensor, nn

from mbe_plugin import MBEConfig, MBENode, Tables, as_sequence, convert, count_spikes, fit, record
from mbe_plugin.operators import CalibratedNode

T, CLASSES = 4, 3
SMALL = MBEConfig(time_steps=T)


def has(module: Any, name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not hasattr(module, name), reason=f"this SpikingJelly has no {module.__name__}.{name}"
    )


def node(function: str = "gelu", **settings: Any) -> MBENode:
    return fit(function, domain=(-4, 4), time_steps=T, bases=16, **settings).node()


class Block(nn.Module):
    """A feed-forward block of a Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def converted_block(config: MBEConfig = SMALL) -> nn.Module:
    torch.manual_seed(0)
    return convert(Block().eval(), [4 * torch.randn(64, WIDTH)], config)


def mixed(config: MBEConfig = SMALL) -> nn.Sequential:
    """The host's layers and LIF neurons, a converted block and an MBE neuron, one after the other."""
    torch.manual_seed(0)
    return nn.Sequential(
        layer.Linear(WIDTH, WIDTH),
        neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
        layer.Linear(WIDTH, WIDTH),
        converted_block(config),
        node(),
        layer.Linear(WIDTH, WIDTH),
        neuron.IFNode(surrogate_function=surrogate.ATan()),
        layer.Linear(WIDTH, CLASSES),
    )


@pytest.fixture(autouse=True)
def few_warnings() -> Iterator[None]:
    """Inputs of small random networks, in training above all, leave what a few calibration values reached."""
    import warnings

    from mbe_plugin import RangeWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RangeWarning)
        yield


# an MBE neuron alone: the contract of the host's FewSpikeNode


@has(neuron, "FewSpikeNode")
def test_it_offers_what_the_few_spike_node_offers() -> None:
    host = neuron.FewSpikeNode(neuron.FewSpikeTable([1.0], [1.0], [1.0]))
    own = {name for name in vars(type(host)) if not name.startswith("_")} - {"K"}  # K is our time_steps
    assert own <= set(dir(node()))
    assert isinstance(host, base.StepModule)
    assert isinstance(node(), base.StepModule)
    assert isinstance(node().surrogate_function, type(host.surrogate_function))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_both_step_modes(dtype: torch.dtype) -> None:
    m, x = node(), torch.randn(3, 5).to(dtype)
    y = m(x)
    functional.set_step_mode(m, "m")
    y_seq = m(as_sequence(x, T))
    assert (y.dtype, y.shape, y_seq.dtype, y_seq.shape) == (dtype, x.shape, dtype, (T, *x.shape))
    torch.testing.assert_close(y_seq.sum(0), y, atol=8 * torch.finfo(dtype).eps, rtol=0)


def test_repeated_calls_and_resets_change_nothing() -> None:
    m, x = node(), torch.randn(3, 5)
    y = m(x)
    functional.reset_net(m)
    assert torch.equal(m(x), y)
    assert torch.equal(m(x), y)
    functional.detach_net(m)
    assert not list(m.named_memories())


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("x", [torch.arange(T), torch.ones(T, dtype=torch.bool), 1.0, [1.0] * T, None])
def test_what_is_no_floating_tensor_is_a_type_error(mode: str, x: Any) -> None:
    m = node()
    m.step_mode = mode
    with pytest.raises(TypeError, match="an MBE neuron takes a"):
        m(x)


def test_what_the_constructor_refuses() -> None:
    tables = fit("gelu", domain=(-4, 4), time_steps=T, bases=16)
    with pytest.raises(
        TypeError, match="is made of mbe_plugin.Tables, got Fit; the neuron of a Fit is fit.node()"
    ):
        MBENode(tables)
    with pytest.raises(ValueError, match="step_mode can only be"):
        MBENode(tables.tables, step_mode="x")
    with pytest.raises(ValueError, match="step_mode can only be"):
        node().step_mode = "multi"


def test_a_copy_and_a_state_dict() -> None:
    m, x = node(), torch.randn(3, 5)
    again = copy.deepcopy(m)
    assert torch.equal(again(x), m(x))
    assert again.surrogate_function is not m.surrogate_function
    other = MBENode(Tables(**{**vars(m.tables()), "weight": torch.zeros(m.bases)}), m.reduction.name)
    assert not torch.equal(other(x), m(x))
    other.load_state_dict(m.state_dict())
    assert torch.equal(other(x), m(x))


@pytest.mark.parametrize("mode", ["s", "m"])
def test_gradients_by_the_surrogate_of_the_instance(mode: str) -> None:
    m = MBENode(node().tables(), surrogate_function=surrogate.ATan(alpha=4.0), step_mode=mode)
    x = torch.randn(T, 5, requires_grad=True)
    m(x).sum().backward()
    assert x.grad.abs().sum() > 0
    if mode == "m":
        assert torch.equal(x.grad, x.grad[:1].expand(T, -1)), "every step reaches the one membrane"


@has(base, "to_functional_forward")
@pytest.mark.parametrize("mode", ["s", "m"])
def test_its_functional_form_has_no_states(mode: str) -> None:
    m, x = node(), torch.randn(T, 5)
    m.step_mode = mode
    for transition in (m.functional_forward, base.to_functional_forward(m)):
        (y,), states = transition((x,), ())
        assert torch.equal(y, m(x))
        assert states == ()
    with pytest.raises(ValueError, match="expected 0 states, but got 1"):
        base.to_functional_forward(m)((x,), (x,))


@has(base, "to_functional_forward")
@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_network_with_it_in_functional_form(mode: str) -> None:
    net = mixed()
    functional.set_step_mode(net, mode)
    x = torch.randn(T, 5, WIDTH)
    x = x if mode == "m" else x[0]
    want = net(x)
    functional.reset_net(net)
    states = tuple(base.extract_memories(net))
    (y,), after = base.to_functional_forward(net)((x,), states)
    assert torch.equal(y, want)
    assert len(after) == len(states) == 2


# step modes of networks


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_converted_network_between_layers_of_the_host(mode: str) -> None:
    """Against the parts, called one by one; in 's' the whole is called once per step."""
    net, x = mixed(), torch.randn(T, 5, WIDTH)
    functional.set_step_mode(net, mode)
    steps = [x] if mode == "m" else list(x)
    with torch.no_grad():
        found = [net(part) for part in steps]
        functional.reset_net(net)
        assert torch.equal(net(steps[0]), found[0]), "a reset begins again"
        functional.reset_net(net)
        for part, y in zip(steps, found, strict=True):
            for module in net:
                part = module(part)
            assert torch.equal(part, y)
    assert net[3].step_mode == net[4].step_mode == mode


def test_the_sum_over_the_steps_of_what_follows_in_mode_s() -> None:
    """The block's sequence, through a linear layer of the host without bias, sums to what mode 's' gives."""
    net = nn.Sequential(converted_block(), layer.Linear(WIDTH, 3, bias=False))
    x = torch.randn(5, WIDTH)
    with torch.no_grad():
        want = net(x)
        functional.set_step_mode(net, "m")
        y_seq = net(as_sequence(x, T))
        functional.set_step_mode(net, "s")
        assert torch.equal(net(x), want)
    assert y_seq.shape == (T, 5, 3)
    torch.testing.assert_close(y_seq.sum(0), want)


def test_a_whole_transformer_takes_the_spikes_of_lif_neurons() -> None:
    """Two heads of the host around it, one step mode for all."""
    snn = convert(transformer(), [tokens()], SMALL)
    net = nn.Sequential(layer.Linear(5, WIDTH), neuron.LIFNode(), snn, layer.Linear(WIDTH, 2))
    functional.set_step_mode(net, "m")
    x = 3 * torch.randn(T, 2, 6, 5)
    with torch.no_grad():
        spikes = net[1](net[0](x))
        functional.reset_net(net)
        y_seq = net(x)
        functional.set_step_mode(snn, "s")
        want = snn(spikes.sum(0))
    torch.testing.assert_close(y_seq.sum(0), want @ net[3].weight.T + T * net[3].bias)


# containers


@pytest.mark.parametrize("stateful", [True, False])
def test_step_mode_container(stateful: bool) -> None:
    """What is inside stays in mode 's', as the host has it: each step is a whole call."""
    snn, x = converted_block(), torch.randn(T, 5, WIDTH)
    modes = ("s",) if "step_mode" in inspect.signature(layer.StepModeContainer).parameters else ()
    container = layer.StepModeContainer(stateful, *modes, snn)
    functional.set_step_mode(container, "m")
    assert (container.step_mode, snn.step_mode) == ("m", "s")
    with torch.no_grad():
        torch.testing.assert_close(container(x), torch.stack([snn(step) for step in x]))


@pytest.mark.parametrize("name", ["MultiStepContainer", "SeqToANNContainer", "TLastMultiStepContainer"])
def test_containers_over_time(name: str) -> None:
    if not hasattr(layer, name):
        pytest.skip(f"this SpikingJelly has no layer.{name}")
    for module in (converted_block(), node()):
        x = torch.randn(T, 5, WIDTH)
        last = name.startswith("TLast")
        with torch.no_grad():
            found = getattr(layer, name)(module)(x.movedim(0, -1) if last else x)
            want = torch.stack([module(step) for step in x])
        torch.testing.assert_close(found.movedim(-1, 0) if last else found, want)


def test_functions_over_time() -> None:
    snn, x = converted_block(), torch.randn(T, 5, WIDTH)
    with torch.no_grad():
        want = torch.stack([snn(step) for step in x])
        torch.testing.assert_close(functional.multi_step_forward(x, (snn,)), want)
        torch.testing.assert_close(functional.seq_to_ann_forward(x, snn), want)
        snn.step_mode = "m"
        twice = functional.chunk_multi_step_forward(T, torch.cat([x, x]), snn)
        assert torch.equal(twice, torch.cat([snn(x), snn(x)]))


@has(layer, "TLastSeqToANNContainer")
def test_vmap_over_time_is_refused() -> None:
    """The host's t_last container runs its modules under torch.vmap, where neurons cannot look at values."""
    from mbe_plugin import ConversionError

    with pytest.raises(ConversionError, match="is called under torch.vmap"):
        layer.TLastSeqToANNContainer(converted_block())(torch.randn(5, WIDTH, T))


@has(layer, "MultiStepContainer")
def test_the_host_refuses_a_network_in_mode_m_inside_a_container() -> None:
    if not hasattr(neuron, "FewSpikeNode"):
        pytest.skip("0.0.0.0.14 asserts it, in other words")
    snn = converted_block()
    snn.step_mode = "m"
    with pytest.raises(ValueError, match="Block.step_mode must be 's' inside this container"):
        layer.MultiStepContainer(snn)


# temporal-difference operators: sequences whose sum is the value, as ours


@pytest.fixture
def td() -> Any:
    operators = "spikingjelly.activation_based.ann2snn.operators"
    return pytest.importorskip(operators, reason="this SpikingJelly has no TD operators")


def test_td_operators_are_fed_and_feed(td: Any) -> None:
    snn = converted_block()
    before, after = td.TDLayerNorm(WIDTH), td.TDLinear(WIDTH, 3)
    net = nn.Sequential(before, snn, after)
    functional.set_step_mode(net, "m")
    x = torch.randn(T, 5, WIDTH)
    with torch.no_grad():
        y_seq = net(x)
        snn.step_mode = "s"
        value = snn(F.layer_norm(x.sum(0), (WIDTH,), before.weight, before.bias))
        want = F.linear(value, after.weight, after.bias)
    assert y_seq.shape == (T, 5, 3)
    torch.testing.assert_close(y_seq.sum(0), want, atol=1e-4, rtol=1e-3)


def test_td_products_of_two_networks(td: Any) -> None:
    one, other = converted_block(), convert(nn.Sequential(nn.Linear(WIDTH, WIDTH)), [tokens()], SMALL)
    x = torch.randn(2, 5, WIDTH)
    with torch.no_grad():
        want = one(x) @ other(x).mT
        for snn in (one, other):
            snn.step_mode = "m"
        x_seq = as_sequence(x, T)
        found = td.SNNMatrixOperator()(one(x_seq), other(x_seq).mT)
    torch.testing.assert_close(found.sum(0), want)


# monitors


@pytest.mark.parametrize("mode", ["s", "m"])
def test_output_monitor_on_neurons_records_decoded_values(mode: str) -> None:
    snn, x = converted_block(), torch.randn(5, WIDTH)
    functional.set_step_mode(snn, mode)
    inputs, outputs = monitor.InputMonitor(snn, MBENode), monitor.OutputMonitor(snn, MBENode)
    with torch.no_grad():
        snn(x if mode == "s" else as_sequence(x, T))
    neurons = {n: m for n, m in snn.named_modules() if isinstance(m, CalibratedNode)}
    assert list(neurons) == outputs.monitored_layers == inputs.monitored_layers
    assert len(outputs.records) == len(neurons), "each neuron is seen once, in mode 'm' too"
    for name, m in neurons.items():
        (membrane,), (decoded,) = inputs[name], outputs[name]
        assert torch.equal(m.single_step_forward(membrane), decoded)
        torch.testing.assert_close(m.sequence(membrane).sum(0), decoded)
        torch.testing.assert_close(m.weighted_spikes(membrane).sum(0), decoded)
        assert set(m.spikes(membrane).unique().tolist()) <= {0.0, 1.0}
    inputs.remove_hooks()
    outputs.remove_hooks()
    outputs.clear_recorded_data()
    snn.step_mode = "s"
    snn(x)
    assert not outputs.records


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("scale", ["element", "token", "channel", "tensor"])
def test_recorded_trains_are_what_the_monitors_saw(scale: Any, mode: str) -> None:
    """The page's table: decoded values, weighted spikes, binary spikes."""
    snn, x = converted_block(MBEConfig(time_steps=T, scale=scale)), torch.randn(5, WIDTH)
    functional.set_step_mode(snn, mode)
    outputs = monitor.OutputMonitor(snn, MBENode)
    with torch.no_grad(), record(snn, trains=True) as recorded:
        snn(x if mode == "s" else as_sequence(x, T))
    for name in outputs.monitored_layers:
        m, (decoded,) = snn.get_submodule(name), outputs[name]
        (train,) = recorded.neurons[m.site, m.role].trains
        assert train.spikes().shape == (T, m.bases, *decoded.shape)
        torch.testing.assert_close(train.weighted().sum(0), decoded)


def test_output_monitor_on_a_converted_network_records_its_sequence() -> None:
    net = nn.Sequential(layer.Linear(WIDTH, WIDTH), converted_block())
    functional.set_step_mode(net, "m")
    seen = monitor.OutputMonitor(net, type(net[1]))
    y_seq = net(torch.randn(T, 5, WIDTH))
    assert seen.monitored_layers == ["1"]
    assert seen["1"][0] is y_seq
    seen.disable()
    net(torch.randn(T, 5, WIDTH))
    assert len(seen.records) == 1


def test_output_monitor_on_a_single_neuron_records_weighted_spikes_in_mode_m() -> None:
    net = nn.Sequential(layer.Linear(WIDTH, WIDTH), node(), neuron.IFNode())
    functional.set_step_mode(net, "m")
    x = torch.randn(T, 5, WIDTH)
    seen = monitor.OutputMonitor(net, MBENode)
    spikes = monitor.OutputMonitor(net, neuron.IFNode, lambda s: s.detach().mean())
    net(x)
    assert torch.equal(seen["1"][0], net[1].weighted_spikes(net[0](x).sum(0)))
    assert 0 <= float(spikes.records[0]) <= 1


def test_attribute_monitor_reads_the_counters() -> None:
    snn = converted_block()
    seen = monitor.AttributeMonitor("seen", False, snn, CalibratedNode, int)
    snn(torch.randn(5, WIDTH))
    snn(torch.randn(5, WIDTH))
    snn.step_mode = "m"
    snn(torch.randn(T, 5, WIDTH))
    name = seen.monitored_layers[0]
    assert seen[name] == [n * seen[name][0] for n in (1, 2, 3)]


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", ["GradInputMonitor", "GradOutputMonitor"])
def test_gradient_monitors(kind: str, mode: str) -> None:
    snn, x = converted_block(), torch.randn(5, WIDTH)
    functional.set_step_mode(snn, mode)
    seen = getattr(monitor, kind)(snn, MBENode, lambda g: g if isinstance(g, Tensor) else g[0])
    whole = getattr(monitor, kind)(nn.Sequential(snn), type(snn))
    given = (x if mode == "s" else as_sequence(x, T)).requires_grad_()
    y = snn(given)
    y.square().sum().backward()
    assert sorted(seen.name_records_index) == sorted(seen.monitored_layers)
    assert len(seen.records) == len(seen.monitored_layers)
    assert all(torch.isfinite(g).all() for g in seen.records)
    want = given.grad if kind == "GradInputMonitor" else 2 * y
    torch.testing.assert_close(whole.records[0], want)


# counters of operations, copies, compilation


def test_op_counters_run() -> None:
    op_counter = pytest.importorskip(
        "spikingjelly.activation_based.op_counter", reason="this SpikingJelly has no op_counter"
    )
    snn, x = converted_block(), torch.randn(5, WIDTH)
    macs = op_counter.MACCounter()
    with torch.no_grad(), op_counter.DispatchCounterMode([macs, op_counter.ACCounter()]):
        snn(x)
    single = macs.get_total()
    assert single >= 2 * 5 * WIDTH * 16  # the two linear layers at least
    snn.step_mode = "m"
    with torch.no_grad(), op_counter.DispatchCounterMode([macs]):
        snn(as_sequence(x, T))
    assert macs.get_total() > single
    with count_spikes(snn) as counts:
        snn(as_sequence(x, T))
    assert counts.total > 0


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_mixed_network_is_copied_and_stored(mode: str) -> None:
    net, x = mixed(), torch.randn(T, 5, WIDTH)
    functional.set_step_mode(net, mode)
    again = copy.deepcopy(net)
    x = x if mode == "m" else x[0]
    with torch.no_grad():
        want = net(x)
        assert torch.equal(again(x), want)
        for parameter in again.parameters():
            parameter.add_(1)
        again.load_state_dict(net.state_dict())
        functional.reset_net(again)
        assert torch.equal(again(x), want)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_neuron_of_a_mixed_network_is_compiled() -> None:
    net = nn.Sequential(layer.Linear(WIDTH, WIDTH), node(), layer.Linear(WIDTH, 3))
    for mode in ("s", "m"):
        functional.set_step_mode(net, mode)
        torch._dynamo.reset()
        x = torch.randn(T, 5, WIDTH)
        with torch.no_grad():
            compiled = torch.compile(net, backend="eager", fullgraph=True)
            torch.testing.assert_close(compiled(x), net(x))


# training


def task() -> tuple[Tensor, Tensor]:
    """Three clouds that a linear layer before the first neurons cannot tell apart for those behind."""
    torch.manual_seed(0)
    labels = torch.arange(30) % CLASSES
    return 2 * torch.randn(CLASSES, WIDTH)[labels] + 0.3 * torch.randn(30, WIDTH), labels


def rate(net: nn.Module, x: Tensor, mode: str) -> Tensor:
    """The mean output over T presentations of x, by the host's two habits."""
    if mode == "m":
        return net(x.expand(T, *x.shape)).mean(0)
    return torch.stack([net(x) for _ in range(T)]).mean(0)


@pytest.mark.parametrize("gradient", ["surrogate", "slope"])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_mixed_network_trains(mode: str, gradient: Any) -> None:
    net = mixed(MBEConfig(time_steps=T, gradient=gradient))
    functional.set_step_mode(net, mode)
    x, labels = task()
    optimizer = torch.optim.Adam(net.parameters(), 4e-2)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(rate(net, x, mode), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(net)
        losses.append(float(loss.detach()))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net[3].parameters())
    assert net[0].weight.grad.abs().sum() > 0
    assert losses[-1] < 0.7 * losses[0], losses


def test_a_reset_leaves_a_converted_network_as_it_is() -> None:
    snn, x = converted_block(), torch.randn(5, WIDTH)
    with torch.no_grad():
        y = snn(x)
        functional.reset_net(snn)
        assert torch.equal(snn(x), y)
