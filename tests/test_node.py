"""MBENode: the host's few-spike contract, and the dynamics of the reference under it."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from features import offered
from hypothesis import given
from hypothesis import strategies as st
from oracle import FAMILIES, assert_same_bits, critical_inputs, laid_out, make_tables, neighbours
from spikingjelly.activation_based import base, functional, surrogate
from torch import Tensor, nn

from mbe_plugin.fitting.segments import identity_tables
from mbe_plugin.neuron import Tables, first_spike_tables, halving_table, segment_tables
from mbe_plugin.neuron.dynamics import reference_decode, reference_spikes
from mbe_plugin.neuron.scaling import REDUCTIONS
from mbe_plugin.node import MBENode

CODE = ("threshold", "reset", "intensity")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
FUNCTION: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sqrt_octave": torch.sqrt,
    "rsqrt_octave": torch.rsqrt,
    "exp2": torch.exp2,
}
ONE_SIGN = ("reciprocal", "sqrt", "rsqrt", "sqrt_octave", "rsqrt_octave")


def chords(function: Callable[[Tensor], Tensor], low: float, high: float, time_steps: int) -> Tables:
    """A function as the chords of four segments: nothing fitted, good to about a hundredth."""
    edges = torch.linspace(low, high, 5, dtype=torch.float64)
    y = function(edges)
    return segment_tables(time_steps, edges, y[1:] - y[:-1], y[:-1])


def reduced_node(reduction: str, time_steps: int = 12) -> MBENode:
    if reduction == "identity":
        return MBENode(identity_tables(time_steps, 8), "identity")
    octave = reduction == "reciprocal" or reduction.endswith("octave")
    low, high = (0.0, 1.0) if reduction == "exp2" else (0.5, 1.0 if octave else 2.0)
    return MBENode(chords(FUNCTION[reduction], low, high, time_steps), reduction)


def nodes() -> dict[str, MBENode]:
    plain = {family: MBENode(make_tables(family, 8)) for family in FAMILIES}
    plain["first spike"] = MBENode(first_spike_tables(8, 16), "clip")
    return plain | {name: reduced_node(name) for name in FUNCTION}


NODES = list(nodes())


def inputs(node: MBENode, dtype: torch.dtype = torch.float32) -> Tensor:
    """Ordinary values, critical ones, and every special value."""
    simple = torch.linspace(-5.0, 5.0, 41, dtype=torch.float64)
    powers = neighbours(torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0]))
    special = torch.tensor([0.0, -0.0, 1e-30, 1e30, 1e-40, -1e-40, math.inf, -math.inf, math.nan])
    critical = critical_inputs(node.tables())
    return torch.cat([simple, powers.double(), special.double(), critical.double()]).to(dtype)


def ordinary(node: MBENode, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values inside the domain of every function, none of them special."""
    low = 0.3 if node.reduction.name in ONE_SIGN else -3.0
    return torch.linspace(low, 3.7, 48, dtype=torch.float64).reshape(4, 3, 4).to(dtype)


# the contract of the host's FewSpikeNode


def test_it_is_what_the_host_looks_for() -> None:
    node = MBENode(make_tables("published", 6))
    assert isinstance(node, base.MemoryModule)
    assert isinstance(node, base.StepModule)
    assert node.step_mode == "s"
    assert (node.time_steps, node.bases, node.bases_per_element) == (6, 4, 4)
    assert not list(node.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time_steps", [1, 4, 16])
def test_one_basis_is_the_hosts_few_spike_node(time_steps: int, dtype: torch.dtype) -> None:
    neurons = "spikingjelly.activation_based.neuron"
    FewSpikeNode, FewSpikeTable = offered(neurons, "FewSpikeNode"), offered(neurons, "FewSpikeTable")
    tables = make_tables("published one basis", time_steps)
    tables = dataclasses.replace(tables, weight=torch.ones(1), bias=torch.zeros(1))
    columns = [t[:, 0].to(dtype) for t in (tables.threshold, tables.reset, tables.intensity)]
    ours, host = MBENode(tables), FewSpikeNode(FewSpikeTable(*columns))
    x = critical_inputs(tables, dtype)
    assert torch.equal(ours(x), host(x))
    functional.set_step_mode(ours, "m")
    functional.set_step_mode(host, "m")
    x_seq = torch.zeros(time_steps, *x.shape, dtype=dtype)
    x_seq[0] = x
    assert torch.equal(ours(x_seq), host(x_seq))
    assert torch.equal(ours.spikes(x)[:, 0] * columns[2][:, None], host(x_seq))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NODES)
def test_the_sum_of_mode_m_is_mode_s_of_the_sum(name: str, dtype: torch.dtype) -> None:
    node = nodes()[name]
    x = ordinary(node, dtype)
    x_seq = torch.zeros(node.time_steps, *x.shape, dtype=dtype)
    x_seq[0], x_seq[-1] = x / 2, x - x / 2
    want = node(x_seq.sum(0))
    functional.set_step_mode(node, "m")
    got = node(x_seq)
    assert got.shape == x_seq.shape
    assert got.dtype == want.dtype == dtype
    # any order of n rounded additions is within n * eps * sum |terms| of the exact sum, in either mode
    additions = node.time_steps * node.bases_per_element + 3
    terms = got.double().abs().sum(0) + 2 * (node.w.abs() * node.d).sum() + node.bias.abs().max()
    if node.reduction.kind != "none":
        terms = got.double().abs().sum(0) + want.double().abs()
    bound = 2 * additions * torch.finfo(dtype).eps * terms
    assert ((got.double().sum(0) - want.double()).abs() <= bound).all()


@pytest.mark.parametrize("name", NODES)
def test_both_modes_agree_on_what_is_not_finite(name: str) -> None:
    node = nodes()[name]
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    decoded, summed = node(x), node.weighted_spikes(x).sum(0)
    assert torch.equal(decoded[:3].isnan(), summed[:3].isnan())
    finite = decoded.isfinite()
    assert torch.equal(finite, summed.isfinite())
    assert torch.equal(decoded[~finite & ~decoded.isnan()], summed[~finite & ~summed.isnan()])
    assert not decoded[0].isfinite(), "NaN must not come out finite"


@pytest.mark.parametrize("name", FUNCTION)
def test_what_sends_no_spikes_arrives_whole_at_step_0(name: str) -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan])
    sequence = reduced_node(name).weighted_spikes(x)
    assert_same_bits(sequence[0], reduced_node(name)(x))
    assert torch.equal(sequence[1:], torch.zeros(11, 3))


@pytest.mark.parametrize("steps", [1, 7, 9])
def test_a_wrong_leading_dimension_is_a_value_error(steps: int) -> None:
    node = MBENode(make_tables("published", 8), step_mode="m")
    with pytest.raises(ValueError, match=rf"\[T, \.\.\.\] with T = 8, got \[{steps}, 3\]"):
        node(torch.rand(steps, 3))
    with pytest.raises(ValueError, match=r"got \[\]"):
        node(torch.tensor(1.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_an_input_that_is_not_floating_is_a_type_error_that_names_its_dtype(dtype: torch.dtype) -> None:
    node = MBENode(make_tables("published", 4))
    x = torch.ones(4, 3).to(dtype)
    for call in (node, node.spikes, node.spike_counts, node.weighted_spikes, node.multi_step_forward):
        with pytest.raises(TypeError, match=str(dtype)):
            call(x)
    with pytest.raises(TypeError, match="takes a torch.Tensor, got list"):
        node([1.0, 2.0])


@pytest.mark.parametrize("name", NODES)
def test_no_state_stays_between_calls(name: str) -> None:
    node = nodes()[name]
    x = inputs(node)
    before, numbers = {k: v.clone() for k, v in node.state_dict().items()}, node(x)
    node(x * 3 + 1)
    node.spikes(x[:5])
    assert_same_bits(node(x), numbers)
    functional.reset_net(node)
    assert_same_bits(node(x), numbers)
    for key, value in node.state_dict().items():
        assert_same_bits(value, before[key])


def test_the_hosts_walkers_reach_it_in_a_network() -> None:
    network = nn.Sequential(nn.Linear(3, 4), MBENode(make_tables("routed", 5)), nn.Flatten())
    functional.set_step_mode(network[1], "m")
    assert network[1].step_mode == "m"
    assert network[1](torch.rand(5, 2, 4)).shape == (5, 2, 4)
    functional.set_step_mode(network[1], "s")
    functional.reset_net(network)
    assert network(torch.rand(2, 3)).shape == (2, 4)


def test_an_unknown_option_is_a_value_error_that_says_what_is_known() -> None:
    tables = make_tables("published", 4)
    with pytest.raises(ValueError, match="reduction must be one of .*'rsqrt'.*, got 'log'"):
        MBENode(tables, "log")
    with pytest.raises(ValueError, match="simulate must be one of .*'closed', 'steps'.*, got 'fast'"):
        MBENode(tables, simulate="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='step_mode .* got "x"'):
        MBENode(tables, step_mode="x")


def test_an_input_on_another_device_is_a_value_error_that_names_both() -> None:
    with pytest.raises(ValueError, match="tables are on cpu, its input on meta"):
        MBENode(make_tables("published", 4))(torch.ones(3, device="meta"))


# spikes and values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NODES)
def test_both_simulations_give_the_reference_spikes_and_values(name: str, dtype: torch.dtype) -> None:
    node = nodes()[name]
    x, tables = inputs(node, dtype), node.tables()
    work = x.to(torch.float64 if dtype == torch.float64 else torch.float32)
    reduced, exponent, active = node.reduction.split(work)
    if name in ONE_SIGN:
        active = active & (work > 0)
    spikes = reference_spikes(reduced, tables)
    want = node.reduction.restore(reference_decode(spikes, reduced, tables), exponent, active, work)
    if name in ONE_SIGN:
        want = want.masked_fill(work < 0, math.nan)
    if active is not None:
        spikes = spikes * active
    counts = spikes.sum(2).to(torch.int64)
    for simulate in ("closed", "steps"):
        node.simulate = simulate
        assert_same_bits(node(x), want.to(dtype))
        got, exponents = node.spike_counts(x)
        assert torch.equal(got, counts)
        assert exponents == (0 if active is None else int(active.sum()))
    assert_same_bits(node.spikes(x), spikes.to(dtype))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4)])
@pytest.mark.parametrize("name", NODES)
def test_any_shape_and_layout(name: str, shape: tuple[int, ...], layout: str) -> None:
    node = nodes()[name]
    values = torch.rand(shape) * 3 + 0.1
    x = laid_out(values, layout)
    assert_same_bits(node(x), node(values))
    assert node.spikes(x).shape == (node.time_steps, node.bases, *shape)
    assert node.weighted_spikes(x).shape == (node.time_steps, *shape)
    counts, _ = node.spike_counts(x)
    assert counts.shape == (node.time_steps, node.bases)
    assert counts.dtype == torch.int64
    flat = node.spikes(values).reshape(node.time_steps, node.bases, -1)
    assert torch.equal(counts, flat.sum(2).to(torch.int64))


@given(st.integers(1, 20), st.sampled_from([2, 4, 8, 16, 32]), st.floats(width=32))
def test_the_identity_is_the_same_by_bits_and_by_steps(time_steps: int, bases: int, value: float) -> None:
    node, x = MBENode(identity_tables(time_steps, bases), "identity"), torch.tensor([value])
    by_bits = node(x)
    node.simulate = "steps"
    assert_same_bits(node(x), by_bits)


@pytest.mark.parametrize(
    ("time_steps", "bases"), [(20, 8), (20, 16), (20, 32), (19, 16), (19, 32), (16, 128), (16, 512), (1, 2)]
)
def test_the_identity_is_the_same_where_float32_runs_out_of_bits(time_steps: int, bases: int) -> None:
    node = MBENode(identity_tables(time_steps, bases), "identity")
    x = torch.cat([inputs(node), torch.rand(1000) - 0.5])
    by_bits = node(x)
    node.simulate = "steps"
    assert_same_bits(node(x), by_bits)


def test_an_identity_with_an_altered_negative_side_is_not_taken_for_the_bit_trick() -> None:
    tables = identity_tables(6, 4)
    x = torch.linspace(-2.0, 2.0, 101)
    for name in ("weight", "bias", "offset", "gain"):
        changed = getattr(tables, name).clone()
        changed[-1] *= 0.5
        node = MBENode(dataclasses.replace(tables, **{name: changed}), "identity")
        fast = node(x)
        node.simulate = "steps"
        assert_same_bits(fast, node(x))


@pytest.mark.parametrize("name", ONE_SIGN)
def test_tables_of_one_sign_serve_no_negative_input(name: str) -> None:
    node = reduced_node(name)
    x = torch.tensor([-2.0, -1e-3, -1e30])
    for simulate in ("closed", "steps"):
        node.simulate = simulate
        assert node(x).isnan().all()
        counts, exponents = node.spike_counts(x)
        assert (counts.sum(), exponents) == (0, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTION)
def test_special_values_read_what_the_function_reads(name: str, dtype: torch.dtype) -> None:
    node = reduced_node(name)
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0], dtype=dtype)
    want = FUNCTION[name](x)
    if name == "reciprocal":
        want[1] = math.nan  # tables of one sign
    for simulate in ("closed", "steps"):
        node.simulate = simulate
        got = node(x)
        if name == "exp2":
            assert_same_bits(got[:3], want[:3])
            assert got[3].item() == pytest.approx(1.0, abs=0.01)
        else:
            assert_same_bits(got, want)


@pytest.mark.parametrize("name", FUNCTION)
def test_a_range_reduction_shifts_the_same_spikes(name: str) -> None:
    """A shift of the exponent (of x itself for 2^x) shifts the output and changes no spike."""
    node, x = reduced_node(name), torch.linspace(1.0, 3.99, 50)
    shifted = x + 8 if name == "exp2" else x * 256.0
    factor = 256.0 if name == "exp2" else 256.0**node.reduction.power
    moved = x.frac() == shifted.frac() if name == "exp2" else torch.ones(50, dtype=torch.bool)
    assert moved.sum() >= 5
    assert torch.equal(node.spikes(x[moved]), node.spikes(shifted[moved]))
    assert torch.equal(node(x[moved]) * factor, node(shifted[moved]))


# what may happen to a module


def every_bit(node: MBENode) -> dict[str, Tensor]:
    return {k: v.view(torch.int32) for k, v in node.state_dict().items()}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.half(),
        lambda n: n.bfloat16(),
        lambda n: n.double(),
        lambda n: n.to(torch.float16),
        lambda n: n.double().half().float(),
        lambda n: n.to("cpu", torch.bfloat16),
    ],
    ids=["half", "bfloat16", "double", "to", "round trip", "device and dtype"],
)
def test_conversions_keep_the_bits_of_the_tables(name: str, change: Callable[[MBENode], MBENode]) -> None:
    node = nodes()[name]
    x, before = ordinary(node), every_bit(copy.deepcopy(node))
    want = node(x)
    after = every_bit(change(node))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert_same_bits(node(x), want)


def test_tables_follow_a_device() -> None:
    node = MBENode(make_tables("routed", 4)).half().to("meta")
    assert {v.device.type for v in node.buffers()} == {"meta"}
    assert {v.dtype for v in node.buffers()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NODES)
def test_a_gpu_gives_the_same_spikes_and_values(name: str) -> None:
    node = nodes()[name]
    x = inputs(node)
    want, spikes = node(x), node.spikes(x)
    node.cuda()
    assert_same_bits(node(x.cuda()).cpu(), want)
    assert torch.equal(node.spikes(x.cuda()).cpu(), spikes)


def through_pickle(node: MBENode) -> MBENode:
    return pickle.loads(pickle.dumps(node))


def through_torch_save(node: MBENode) -> MBENode:
    buffer = io.BytesIO()
    torch.save(node, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save])
@pytest.mark.parametrize("name", NODES)
def test_a_copy_is_equal_and_independent(name: str, duplicate: Callable[[MBENode], MBENode]) -> None:
    node = nodes()[name]
    node.simulate = "steps"
    node.step_mode = "m"
    twin = duplicate(node)
    assert (twin.simulate, twin.step_mode, twin.reduction) == ("steps", "m", node.reduction)
    assert (twin.mirrored, twin.halving) == (node.mirrored, node.halving)
    x = ordinary(node)
    want = node.single_step_forward(x)
    assert_same_bits(twin.single_step_forward(x), want)
    assert twin.surrogate_function is not node.surrogate_function
    twin.bias.add_(1.0)
    assert_same_bits(node.single_step_forward(x), want)


@pytest.mark.parametrize("family", FAMILIES)
def test_state_dict_round_trip(family: str) -> None:
    source, target = (MBENode(make_tables(family, 8, seed)) for seed in (1, 2))
    x = inputs(source)
    assert not torch.equal(source(x).nan_to_num(), target(x).nan_to_num())
    target.load_state_dict(source.state_dict())
    assert_same_bits(target(x), source(x))
    assert torch.equal(target.spikes(x), source.spikes(x))


def test_loading_tables_that_do_not_halve_drops_the_closed_form_and_back() -> None:
    tables = make_tables("published", 8)
    free = MBENode(tables)
    halving = MBENode(dataclasses.replace(tables, **dict.fromkeys(CODE, halving_table(8, 4))))
    x = torch.linspace(-2.0, 3.0, 101)
    want_free, want_halving = free(x), halving(x)
    state = copy.deepcopy(halving.state_dict())
    halving.load_state_dict(free.state_dict())
    assert_same_bits(halving(x), want_free)
    halving.load_state_dict(state, assign=True)
    assert halving.halving
    assert_same_bits(halving(x), want_halving)


def test_loading_another_identity_drops_the_bit_trick() -> None:
    node, x = MBENode(identity_tables(6, 4), "identity"), torch.linspace(-2.0, 2.0, 101)
    state = node.state_dict() | {"w": node.w * 0.5}
    node.load_state_dict(state)
    fast = node(x)
    node.simulate = "steps"
    assert_same_bits(fast, node(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_come_back_as_they_went_in(family: str) -> None:
    tables = make_tables(family, 7)
    back = MBENode(tables).tables()
    assert back.mirrored == tables.mirrored
    for name, value in tables.as_dict().items():
        assert_same_bits(back.as_dict()[name], value)


def test_the_methods_symbols_name_the_buffers() -> None:
    node = MBENode(make_tables("routed mirrored", 5))
    assert {k: list(v.shape) for k, v in node.state_dict().items()} == {
        "th": [5, 6],
        "r": [5, 6],
        "d": [5, 6],
        "w": [6],
        "bias": [6],
        "offset": [6],
        "gain": [6],
        "breakpoints": [2],
    }


def test_print_shows_steps_bases_and_reduction() -> None:
    shown = repr(reduced_node("rsqrt"))
    assert "T=12, N=4, per_element=1, reduction=rsqrt, simulate=closed, step_mode=s" in shown


# gradients


class HandWritten(torch.autograd.Function):
    """A step with the derivative of a sigmoid of slope 3."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v >= 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        s = torch.sigmoid(3.0 * v)
        return gradient * 3.0 * s * (1 - s)


def loop(x: Tensor, tables: Tables) -> Tensor:
    """METHOD eq. 5-8 for parallel bases, by autograd over a plain loop."""
    cast = {name: value.to(x) for name, value in tables.as_dict().items()}
    total = torch.zeros_like(x)
    for n in range(tables.bases):
        membrane = cast["gain"][n] * (x - cast["offset"][n])
        output = torch.zeros_like(x)
        for t in range(tables.time_steps):
            spike = HandWritten.apply(membrane - cast["threshold"][t, n])
            membrane = membrane - spike * cast["reset"][t, n]
            output = output + spike * cast["intensity"][t, n]
        total = total + cast["weight"][n] * output
    return total + cast["bias"][0]


@pytest.mark.parametrize("family", ["published", "published one basis", "parallel halving"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_the_loop(family: str, dtype: torch.dtype) -> None:
    tables = make_tables(family, 8)
    x = torch.linspace(-3.0, 3.0, 61, dtype=dtype, requires_grad=True)
    weight = torch.rand(61, dtype=dtype)
    y = MBENode(tables, surrogate_function=surrogate.Sigmoid(alpha=3.0))(x)
    want = loop(x, tables)
    assert torch.equal(y, want)
    (got,) = torch.autograd.grad((y * weight).sum(), x)
    (expected,) = torch.autograd.grad((want * weight).sum(), x)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", NODES)
def test_gradients_reach_the_input_in_both_modes_and_do_not_change_the_output(name: str) -> None:
    node = nodes()[name]
    x = ordinary(node).requires_grad_()
    y = node(x)
    assert_same_bits(y.detach(), node(x.detach()))
    (single,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(single).all()
    assert single.abs().sum() > 0
    node.step_mode = "m"
    x_seq = (x.detach() / node.time_steps).expand(node.time_steps, *x.shape).clone().requires_grad_()
    (multi,) = torch.autograd.grad(node(x_seq).sum(), x_seq)
    assert multi.shape == x_seq.shape
    assert torch.equal(multi[0], multi[-1])
    (want,) = torch.autograd.grad(node.single_step_forward(total := x_seq.sum(0)).sum(), total)
    torch.testing.assert_close(multi[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    x = torch.linspace(-1.0, 1.0, 9).to(dtype).requires_grad_()
    MBENode(make_tables("published", 6))(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("name", NODES)
def test_without_gradients_the_output_has_none(name: str) -> None:
    node = nodes()[name]
    x = ordinary(node).requires_grad_()
    with torch.no_grad():
        y = node(x)
    assert not y.requires_grad
    assert node(x).requires_grad
    assert_same_bits(node(x).detach(), y)


def test_a_surrogate_function_belongs_to_one_instance() -> None:
    tables = make_tables("published", 8)
    first, second = MBENode(tables), MBENode(tables)
    assert first.surrogate_function is not second.surrogate_function
    x = torch.linspace(-2.0, 2.0, 31, requires_grad=True)
    (before,) = torch.autograd.grad(second(x).sum(), x)
    first.surrogate_function = surrogate.ATan(alpha=5.0)
    (after,) = torch.autograd.grad(second(x).sum(), x)
    (other,) = torch.autograd.grad(first(x).sum(), x)
    assert torch.equal(before, after)
    assert not torch.allclose(before, other)


def test_every_reduction_is_covered_here() -> None:
    assert set(REDUCTIONS) == {"none", "clip", *FUNCTION}
