"""The backend 'numba' against the backend 'torch': values, spikes and ends, bit for bit, on every path that it has."""

from __future__ import annotations

import copy
import itertools
import warnings
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import fitted_neurons, scores
from networks import tokens, transformer
from oracle import FAMILIES, any_inputs, any_tables, assert_same_bits, critical_inputs, laid_out, make_tables
from sentences import EVALUATION
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import BackendError, MBEConfig, MBENode, RangeWarning, fit
from mbe_plugin.fitting.segments import identity_tables, shared_scale_tables
from mbe_plugin.kernels import operator
from mbe_plugin.neuron.first_spike import first_spike_tables
from mbe_plugin.neuron.scaling import REDUCTIONS
from mbe_plugin.neuron.tables import Tables
from mbe_plugin.operators import CalibratedNode, SharedScaleNode, Softmax, softmax
from mbe_plugin.operators.neuron import COUNTERS

pytest.importorskip("numba", reason="pip install 'mbe_plugin[fast]'")


def node(tables: Tables, reduction: str = "none", **kwargs: Any) -> MBENode:
    return MBENode(tables, reduction, **kwargs)


def library() -> dict[str, MBENode]:
    """A neuron of every reduction and family of tables that conversion makes."""
    functions = "gelu silu tanh exp2 reciprocal rsqrt sqrt rsqrt_octave sqrt_octave log2 sin identity"
    nodes = fitted_neurons(functions.split())
    for time_steps, bases in ((16, 8), (4, 2), (20, 16)):
        nodes[f"identity {time_steps}, {bases}"] = node(identity_tables(time_steps, bases), "identity")
        nodes[f"first spike {time_steps}, {bases}"] = node(first_spike_tables(time_steps, bases), "clip")
        nodes[f"shared {time_steps}, {bases}"] = node(shared_scale_tables(time_steps, bases))
    return nodes


LIBRARY = library()


def both(neuron: MBENode) -> tuple[MBENode, MBENode]:
    """The neuron on Numba and on torch."""
    pair = copy.deepcopy(neuron), copy.deepcopy(neuron)
    pair[0].backend, pair[1].backend = "numba", "torch"
    return pair


def assert_equal(neuron: MBENode, x: Tensor, where: Tensor | None = None) -> None:
    """Values and counts (in ``where``, and of all), and what the kernel says of the range."""
    fast, slow = both(neuron)
    with torch.no_grad():
        assert_same_bits(fast(x), slow(x))
        for mask in (None, where):
            for found, wanted in zip(fast.spike_counts(x, mask), slow.spike_counts(x, mask), strict=True):
                assert torch.equal(found, wanted)
        if x.numel():
            ends = fast._by_kernel(x)[1]
            assert_same_bits(ends, torch.stack(torch.aminmax(x.float())))


def every_number(dtype: torch.dtype) -> Tensor:
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


def any_bits(count: int) -> Tensor:
    return torch.randint(-(2**31), 2**31, (count,)).to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LIBRARY)
def test_every_number_of_16_bits(name: str, dtype: torch.dtype) -> None:
    x = every_number(dtype)
    assert_equal(LIBRARY[name], x, torch.rand(x.shape) < 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LIBRARY)
def test_numbers_of_16_bits_are_looked_up(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mbe_plugin.kernels.numba_cpu import calls

    monkeypatch.setattr(calls, "TABLE_FROM", 300)
    every = every_number(dtype)
    for x in (
        every,
        every[torch.isfinite(every)],
        torch.randn(30, 40).to(dtype).t(),
        torch.randn(1).expand(400).to(dtype),
    ):
        with mock.patch.object(calls, "table_of", wraps=calls.table_of) as table:
            assert_equal(LIBRARY[name], x)
        assert table.call_count == 2
    tables, reduction = LIBRARY[name].tables(), LIBRARY[name].reduction.name
    pair = [CalibratedNode(tables, reduction, -0.7, 300.0, name, 0.0) for _ in range(2)]
    pair[1].backend = "torch"
    for x in (every, torch.full((1000,), 0.5, dtype=dtype), torch.randn(100_000).to(dtype)):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RangeWarning)
            assert_same_bits(*(one(x) for one in pair))
        for counter in COUNTERS:
            assert getattr(pair[0], counter) == getattr(pair[1], counter)


@pytest.mark.parametrize("name", LIBRARY)
def test_break_points_their_neighbours_and_any_bits(name: str) -> None:
    neuron = LIBRARY[name]
    points = critical_inputs(neuron.tables())
    scales = 2.0 ** torch.tensor([0.0, 1.0, -1.0, 7.0, -60.0, 100.0])
    x = torch.cat([(points * scales[:, None]).reshape(-1), any_bits(1 << 18), torch.randn(1 << 16) * 4])
    assert_equal(neuron, x, torch.rand(x.shape) < 0.5)
    finite = x[torch.isfinite(x)]  # whose ends are no NaN
    assert_equal(neuron, finite, torch.rand(finite.shape) < 0.5)


@given(data=st.data(), tables=any_tables())
def test_any_tables_inputs_and_layouts(data: st.DataObject, tables: Tables) -> None:
    x = data.draw(any_inputs(tables))
    where = torch.rand(x.shape, generator=torch.Generator().manual_seed(x.numel())) < 0.5
    assert_equal(node(tables, simulate=data.draw(st.sampled_from(["closed", "steps"]))), x, where)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_reduction_around_every_family(family: str, reduction: str) -> None:
    for time_steps in (3, 16, 20):
        tables = make_tables(family, time_steps, seed=5)
        x = torch.cat([critical_inputs(tables), any_bits(5000), torch.randn(5000)])
        assert_equal(node(tables, reduction), x, torch.rand(x.shape) < 0.5)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layouts_give_the_strides_that_torch_gives(dtype: torch.dtype, layout: str) -> None:
    fast, slow = both(LIBRARY["gelu"])
    for shape in ((), (0,), (3, 0, 2), (1,), (255,), (256,), (257,), (2, 3, 500), (40, 1030)):
        x = laid_out((torch.randn(shape) * 3).to(dtype), layout)
        assert_equal(LIBRARY["gelu"], x, torch.rand(x.shape) < 0.5)
        if x.numel() > 1:  # the stride of one element is any number
            assert fast(x).stride() == slow(x).stride()
    assert_equal(LIBRARY["exp2"], torch.randn(7, 1).expand(7, 900))
    assert_equal(LIBRARY["exp2"], torch.randn(7, 900), torch.rand(900) < 0.5)


@pytest.mark.parametrize("way", ["torch's own", "Python's"])
@pytest.mark.parametrize("name", ["gelu", "identity 16, 8", "first spike 16, 8", "published gelu"])
def test_several_threads(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mbe_plugin.kernels.numba_cpu import teams

    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    if way == "Python's":
        monkeypatch.setattr(teams, "_runner", lambda: teams.on_python_threads)
    x = torch.randn(100_001) * 3
    assert teams.threads_for(x.numel()) == 3
    assert teams.threads_for(1000) == 1
    assert_equal(LIBRARY[name], x, torch.rand(x.shape) < 0.5)


def test_torchs_own_threads_are_used_where_it_has_gnus_interface() -> None:
    from mbe_plugin.kernels.numba_cpu import teams

    if torch.backends.openmp.is_available() and "GNU" in torch.__config__.show():
        assert teams._runner() is not teams.on_python_threads


@pytest.mark.parametrize("counted", range(2))
def test_more_than_a_lane_of_16_bits_holds(counted: int) -> None:
    x = torch.full((200_000,), 0.99)  # the same row, all spikes
    assert_equal(LIBRARY["identity 16, 8"], x if counted else -x)


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("scale", "code", "dim"),
    [*itertools.product(["tensor", "channel", "token"], ["binary", "first_spike"], [-1, 0, 1])],
)
def test_shared_scales(scale: str, code: str, dim: int, dtype: torch.dtype) -> None:
    x = (torch.randn(5, 130, 9) * torch.logspace(-3, 3, 9)).to(dtype)
    x[0, 0, :4] = torch.tensor([0.0, -0.0, 1e-40, -(2.0**9)])
    tables = (first_spike_tables if code == "first_spike" else shared_scale_tables)(8, 8)
    exponents = torch.tensor(3) if scale != "channel" else torch.arange(-5, x.shape[dim] - 5)
    made = [
        SharedScaleNode(
            tables, scale, exponents.to(torch.int32), *((-1.0, 1.0) if scale == "channel" else (-8.0, 8.0))
        )
        for _ in range(2)
    ]
    made[0].backend, made[1].backend = "numba", "torch"
    for given_x in (x, x.clone().fill_(0.25), x.transpose(0, 2).contiguous().transpose(0, 2)):
        found, wanted = (one(given_x, dim=dim) for one in made)
        assert_same_bits(found.contiguous(), wanted.contiguous())
        for counter in ("seen", "outside", "beyond"):
            assert getattr(made[0], counter) == getattr(made[1], counter)


def test_gradients_are_those_of_torch() -> None:
    for name, gradient in itertools.product(
        ["gelu", "rsqrt_octave", "identity 16, 8"], ["surrogate", "slope"]
    ):
        x = (torch.randn(3000).abs() * 2).requires_grad_()
        found = []
        for neuron in both(LIBRARY[name]):
            neuron.gradient = gradient
            y = neuron(x)
            found.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
        assert_same_bits(found[0][0], found[1][0])
        assert_same_bits(found[0][1], found[1][1])


def arguments(neuron: MBENode) -> tuple:
    return [
        getattr(neuron, n) for n in ("th", "r", "d", "w", "bias", "offset", "gain", "breakpoints")
    ], "closed"


@pytest.mark.parametrize("counted", [False, True])
def test_the_operator_is_one_of_torchs(counted: bool) -> None:
    tables, form = arguments(LIBRARY["gelu"])
    where = torch.rand(3, 50) < 0.5
    args = (torch.randn(3, 50), tables, form, "none", False, False, 0, where, counted)
    for x in (args[0], args[0].t().contiguous().t(), args[0][:, ::2]):
        call = (x, *args[1:7], where[:, : x.shape[1]], counted)
        torch.library.opcheck(torch.ops.mbe_plugin.neuron.default, call)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ["gelu", "identity 16, 8", "exp2"])
def test_compile_and_export_keep_it_whole(name: str) -> None:
    fast, slow = both(LIBRARY[name])
    x = torch.randn(3, 700)
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch._dynamo.explain(fast)(x).graph_break_count == 0
        assert_same_bits(torch.compile(fast, fullgraph=True, backend="aot_eager")(x), slow(x))
        program = torch.export.export(fast, (x,), dynamic_shapes=(({0: torch.export.Dim.AUTO},),))
        targets = [str(node.target) for node in program.graph.nodes]
        assert "mbe_plugin.neuron.default" in targets
        longer = torch.randn(5, 700)
        assert_same_bits(program.module()(longer), slow(longer))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap() -> None:
    fast, slow = both(LIBRARY["gelu"])
    x = torch.randn(4, 33)
    for dim in (0, 1):
        assert_same_bits(torch.vmap(fast, in_dims=dim)(x), torch.vmap(slow, in_dims=dim)(x))
    with pytest.raises(BackendError, match=r"under torch\.vmap .*; take backend='torch'"):
        torch.vmap(fast.spike_counts)(x)


def test_what_it_has_no_kernel_for_is_refused_by_name_and_goes_to_torch_by_auto() -> None:
    fast, _ = both(LIBRARY["gelu"])
    x = torch.randn(5, dtype=torch.float64)
    for call in (fast, fast.spike_counts):
        with pytest.raises(
            BackendError,
            match=r"^backend 'numba' has no kernel for an input of torch.float64; take backend='auto' or 'torch'$",
        ):
            call(x)
    fast.backend = "auto"
    assert fast(x).dtype == torch.float64
    with pytest.raises(BackendError, match="an input on meta"):
        fast.backend = "numba"
        fast(torch.empty(3, device="meta"))
    many = MBENode(identity_tables(4, 8), "identity", backend="numba")
    many.step_mode = "m"
    with pytest.raises(
        BackendError, match="'numba' in step_mode 's' only and is in 'm'; take backend='auto'"
    ):
        many(torch.randn(4, 3))


def test_the_spikes_are_read_from_the_tables_that_are_there_now() -> None:
    """Nothing derived from the tables is kept between calls, so numbers that are written over count at once."""
    fast, slow = both(fit("gelu", time_steps=8, bases=32).node())
    x = torch.randn(20_000)
    fast(x)
    for neuron in (fast, slow):
        neuron.w.data.mul_(1.5)
        neuron.breakpoints.data.add_(0.01)
    assert_same_bits(fast(x), slow(x))


def test_the_operator_without_numba_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator.numba_cpu, "missing", lambda: ["Numba is not installed (pip install x)"])
    operator._calls.cache_clear()  # which has looked before
    with pytest.raises(BackendError, match=r"neuron cannot run on the CPU here: Numba is not installed"):
        LIBRARY["gelu"]._by_kernel(torch.randn(3))


# softmax and whole networks


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("family", ["routed", "published"])
@pytest.mark.parametrize("columns", [1, 7, 256, 1000])
def test_softmax_in_one_pass(columns: int, family: str) -> None:
    found = fit("exp2", time_steps=8, bases=16 if family == "routed" else 4, family=family)

    def make(role: str, function: str, scalar: Any = None) -> CalibratedNode:
        tables = found if function == "exp2" else fit("reciprocal", time_steps=8, bases=16)
        return CalibratedNode(tables.tables, tables.reduction, -126.0, 1.0, function, 0.0)

    operators = Softmax(make), Softmax(make)
    for one, backend in zip(operators, ("numba", "torch"), strict=True):
        mbe_plugin.set_backend(one, backend)
    for x in (scores(3, 5, columns), scores(9, columns, 3).transpose(1, 2), scores(20, columns)[9:]):
        values, exact = (one.numerators(x, -1) for one in operators)
        assert_same_bits(values.contiguous(), exact.contiguous())
        for counter in ("seen", "outside", "beyond"):
            assert getattr(operators[0].exp2, counter) == getattr(operators[1].exp2, counter)
    finite = torch.randn(40, columns)
    assert_same_bits(*(one(finite) for one in operators))
    seen: list[Tensor] = []
    operators[0].exp2.register_forward_hook(lambda *call: seen.append(call[2]))
    assert_same_bits(*(one(finite) for one in operators))
    assert len(seen) == 1, "a hook sees the neuron's call"


@pytest.mark.parametrize("way", ["forward_pre", "forward", "full_backward_pre", "full_backward"])
def test_a_hook_on_all_modules_keeps_a_softmax_out_of_the_kernel(way: str) -> None:
    exp2 = CalibratedNode(LIBRARY["exp2"].tables(), "exp2", -126.0, 1.0, "exp2", 0.0)
    exp2.backend = "numba"
    assert exp2.numerators(torch.randn(3, 5), softmax._powers) is not None
    handle = getattr(torch.nn.modules.module, f"register_module_{way}_hook")(lambda *call: None)
    try:
        assert exp2.numerators(torch.randn(3, 5), softmax._powers) is None
    finally:
        handle.remove()


def test_threads_take_whole_rows_of_a_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    fast, slow = (
        CalibratedNode(LIBRARY["exp2"].tables(), "exp2", -126.0, 1.0, "exp2", 0.0) for _ in range(2)
    )
    fast.backend, slow.backend = "numba", "torch"
    x = torch.randn(100, 1001)
    found = fast.numerators(x, softmax._powers)
    assert found is not None
    z, sent = softmax._powers(x, -1)
    assert_same_bits(found, torch.where(sent, slow(z, where=sent), 0.0))
    assert int(fast.seen) == int(sent.sum())
    values, ends, counts = fast._by_kernel(x, scores=True)
    assert_same_bits(values, found)
    assert_same_bits(ends, torch.stack(torch.aminmax(z)))
    assert int(counts[-1]) == int(sent.sum())


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize(
    "config",
    [
        MBEConfig(bases=16),
        MBEConfig(bases=16, merge=False, dead_zone=0.1),
        MBEConfig(code="first_spike", bases=16),
        MBEConfig(scale="token", bases=16),
        MBEConfig(scale="channel", bases=16),
        MBEConfig(simulate="steps", time_steps=4, bases=16),
        pytest.param(MBEConfig.published(time_steps=4), marks=pytest.mark.slow),
    ],
)
def test_a_network_gives_the_same_bits_counts_and_ranges(config: MBEConfig) -> None:
    found = {}
    for backend in ("numba", "torch"):
        torch.manual_seed(0)
        snn = mbe_plugin.convert(transformer(), [tokens()], replace(config, backend=backend))
        assert {n.backend for n in snn.modules() if isinstance(n, MBENode)} == {backend}
        with torch.no_grad():
            y = snn(tokens(seed=3))
            with mbe_plugin.count_spikes(snn) as spikes:
                counted = snn(tokens(seed=3))
        assert_same_bits(counted, y)
        nodes = [n for n in snn.modules() if isinstance(n, CalibratedNode)]
        ranges = [(int(n.seen), int(n.outside), int(n.beyond)) for n in nodes]
        events = {key: (n.counts.tolist(), n.tally.tolist()) for key, n in spikes.neurons.items()}
        found[backend] = y, ranges, events
    assert_same_bits(found["numba"][0], found["torch"][0])
    assert found["numba"][1:] == found["torch"][1:]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_of_16_bits(dtype: torch.dtype) -> None:
    snn = mbe_plugin.convert(transformer().to(dtype), [tokens().to(dtype)])
    found = []
    for backend in ("numba", "torch"):
        mbe_plugin.set_backend(snn, backend)
        with torch.no_grad():
            found.append(snn(tokens(seed=3).to(dtype)))
    assert_same_bits(*found)


@pytest.mark.slow
def test_minilm_gives_the_same_bits(minilm: nn.Module, minilm_tokenizer: Any) -> None:
    batch = dict(minilm_tokenizer(EVALUATION[:8], return_tensors="pt", padding=True))
    snn = mbe_plugin.convert(minilm, [batch])
    found = []
    for backend in ("numba", "torch"):
        mbe_plugin.set_backend(snn, backend)
        with torch.no_grad():
            found.append(snn(**batch).last_hidden_state)
    assert_same_bits(*found)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_network_is_compiled_in_one_graph_and_exported() -> None:
    """Each of its neurons as one call of the operator, where backend 'torch' has some dozens of torch's."""
    snn = mbe_plugin.convert(transformer(depth=1), [tokens()], MBEConfig(bases=16, backend="numba"))
    x = tokens(seed=3)
    torch._dynamo.reset()
    with torch.no_grad():
        wanted = snn(x)
        assert_same_bits(torch.compile(snn, fullgraph=True, backend="aot_eager")(x), wanted)
        program = torch.export.export(snn, (x,))
    assert_same_bits(program.module()(x), wanted)
    called = sum(str(node.target) == "mbe_plugin.neuron.default" for node in program.graph.nodes)
    assert called == len({m for m in snn.modules() if isinstance(m, CalibratedNode)})
