"""The backend 'triton' against the backend 'torch', bit for bit: by Triton's interpreter on the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from interpreter import Interpreter, interpreter
from kernel_cases import counted_forward, scores
from networks import WIDTH, tokens, transformer
from oracle import FAMILIES, assert_same_bits, critical_inputs, laid_out, make_tables
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import BackendError, MBEConfig, MBENode, fit
from mbe_plugin.fitting.segments import identity_tables, shared_scale_tables
from mbe_plugin.hosts import features
from mbe_plugin.kernels import backends, operator
from mbe_plugin.kernels.asked import Asked
from mbe_plugin.neuron.first_spike import first_spike_tables
from mbe_plugin.neuron.scaling import REDUCTIONS
from mbe_plugin.neuron.tables import Tables, mirrored_tables
from mbe_plugin.operators import Attention, CalibratedNode, LayerNorm, RMSNorm, SharedScaleNode, Softmax
from mbe_plugin.operators.neuron import COUNTERS
from mbe_plugin.operators.softmax import _powers

pytest.importorskip("triton", reason="pip install triton")
if not features.has_recipes():  # an older host, on which the suite runs once more
    pytest.skip(
        "Triton's kernels do not know the host; SpikingJelly 2.0's run tests them", allow_module_level=True
    )

SMALL = 256  # elements of a program, where there are to be several

Kernel = Callable[..., operator.Found]


@pytest.fixture(scope="module")
def triton() -> Iterator[Interpreter]:
    with interpreter() as it:
        yield it


@pytest.fixture(scope="module")
def kernel(triton: Interpreter) -> Kernel:
    """calls.neuron(x, asked, block), interpreted; by one program where no block is given."""

    def run(x: Tensor, asked: Asked, block: int = 0) -> operator.Found:
        block = block or max(16, 1 << (x.numel() - 1).bit_length())
        found: operator.Found = run_there(
            triton, "mbe_plugin.kernels.triton_gpu.calls", "neuron", x, asked, block
        )
        return found

    return run


def run_there(triton: Interpreter, module: str, function: str, *args: Any) -> Any:
    """A function's result, interpreted; what it has added to counters is brought back into them."""
    result, counters = triton.run("triton_parts", "with_counters", module, function, args)
    asked = [a for a in args if isinstance(a, Asked) and a.counters is not None]
    for one, numbers in zip(asked, counters, strict=True):
        for counter, number in zip(one.counters, numbers, strict=True):
            counter.copy_(number)
    return result


@pytest.fixture
def everywhere(kernel: Kernel) -> Iterator[None]:
    """Every neuron that is not on backend 'torch' runs interpreted, as if its inputs were on a GPU."""

    def ranged(neuron: CalibratedNode, x: Tensor, dtype: torch.dtype | None = None) -> dict[str, Any]:
        counters = [getattr(neuron, name) for name in COUNTERS]
        limits = {"calibrated": neuron.calibrated, "accurate": neuron._accurate_numbers(dtype or x.dtype)}
        return {**limits, "counters": counters}

    with (
        mock.patch.object(operator, "neuron", kernel),
        mock.patch.object(backends, "runs_on", lambda name, x: "torch" if name == "torch" else "triton"),
        mock.patch.object(CalibratedNode, "_ranged", ranged),
    ):
        yield


def asked_of(neuron: MBENode, x: Tensor, where: Tensor | None = None, **more: Any) -> Asked:
    with mock.patch.object(operator, "neuron", lambda x, asked: asked):
        asked: Any = neuron._by_kernel(x, where, **more)
    return asked


def library() -> dict[str, MBENode]:
    """A neuron of every form and reduction that conversion makes."""
    nodes = {
        name: fit(name, time_steps=16, bases=64).node() for name in "gelu exp2 rsqrt reciprocal sqrt".split()
    }
    nodes["rsqrt_octave"] = fit("rsqrt_octave", time_steps=8, bases=32).node()
    nodes["sqrt_octave"] = fit("sqrt_octave", time_steps=4, bases=16).node()
    signed = mirrored_tables(fit("reciprocal", time_steps=8, bases=8).tables)
    nodes["signed reciprocal"] = MBENode(signed, "reciprocal")
    nodes["published gelu"] = fit("gelu", time_steps=8, bases=4, family="published").node()
    nodes["identity"] = MBENode(identity_tables(16, 8), "identity")
    nodes["identity by steps"] = MBENode(identity_tables(4, 8), "identity", simulate="steps")
    nodes["first spike"] = MBENode(first_spike_tables(16, 8), "clip")
    nodes["first spike of many"] = MBENode(first_spike_tables(16, 256), "clip")
    nodes["shared"] = MBENode(shared_scale_tables(8, 8))
    for node in nodes.values():
        node.backend = "torch"
    return nodes


LIBRARY = library()


def every_number(dtype: torch.dtype) -> Tensor:
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


def any_bits(count: int) -> Tensor:
    return torch.randint(-(2**31), 2**31, (count,)).to(torch.int32).view(torch.float32)


def assert_equal(kernel: Kernel, neuron: MBENode, x: Tensor, block: int = 0) -> None:
    """Values, counts of half of the elements, and what leaves a range."""
    where = torch.rand(x.shape) < 0.5
    limits = {"calibrated": torch.tensor([-0.3, 0.7]), "accurate": (-1.1, 1.1)}
    values, _, counts = kernel(x, asked_of(neuron, x, where, counted=True, **limits), block)
    with torch.no_grad():
        assert_same_bits(values, neuron(x))
    spikes, sent = neuron.spike_counts(x, where)
    assert torch.equal(counts[:-4], spikes.reshape(-1))
    assert counts[-4:-2].tolist() == [sent, where.sum()]
    beyond = [
        where & ~((x >= torch.tensor(-to)) & (x <= torch.tensor(to + up)))
        for to, up in ((0.3, 0.4), (1.1, 0))
    ]
    left, lost = (int(b.sum()) for b in beyond)
    assert counts[-2:].tolist() == [lost, left - lost]


@pytest.mark.parametrize("name", LIBRARY)
def test_every_bfloat16_number_break_points_and_any_bits(kernel: Kernel, name: str) -> None:
    points = critical_inputs(LIBRARY[name].tables())
    x = torch.cat([points, points * 2.0**-60, every_number(torch.bfloat16).float(), any_bits(20_000)])
    assert_equal(kernel, LIBRARY[name], x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gelu", "exp2", "rsqrt", "identity", "first spike"])
def test_every_number_of_16_bits(kernel: Kernel, name: str, dtype: torch.dtype) -> None:
    x = every_number(dtype)
    assert_equal(kernel, LIBRARY[name], x[torch.isfinite(x)])
    with torch.no_grad():
        assert_same_bits(kernel(x, asked_of(LIBRARY[name], x))[0], LIBRARY[name](x))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_reduction_around_every_family(kernel: Kernel, family: str) -> None:
    for reduction, time_steps in [*itertools.product(REDUCTIONS, [3]), ("none", 20)]:
        tables = make_tables(family, time_steps, seed=5)
        points = critical_inputs(tables)
        x = torch.cat([points, points * 2.0**-100, any_bits(500), torch.randn(500)])
        assert_equal(kernel, MBENode(tables, reduction, backend="torch"), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_shapes_and_layouts(kernel: Kernel, layout: str, dtype: torch.dtype) -> None:
    neuron = LIBRARY["sqrt_octave"]
    for shape in ((), (0,), (3, 0, 2), (1,), (127,), (5, 205)):
        x = laid_out((torch.randn(shape) * 3).to(dtype), layout)
        assert_equal(kernel, neuron, x, SMALL)
        if x.numel() > 1:  # the stride of one element is any number
            assert kernel(x, asked_of(neuron, x), SMALL)[0].stride() == neuron(x).stride()
    assert_equal(kernel, neuron, torch.randn(7, 1).expand(7, 90), SMALL)


def apart(*shape: int) -> Tensor:
    """As networks lay out what one projection makes of queries, keys and values: rows lie apart."""
    return torch.randn(shape[0], shape[2], 3, shape[1], *shape[3:])[:, :, 1].transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_lie_apart_are_not_copied(kernel: Kernel, dtype: torch.dtype) -> None:
    from mbe_plugin.kernels.triton_gpu import calls

    neuron = LIBRARY["identity"]
    wide = torch.randn(6, 80, dtype=torch.float32)
    inputs = [
        apart(2, 3, 5, 16),
        apart(1, 3, 5, 16),
        apart(2, 1, 5, 16),
        apart(2, 3, 1, 16),
        apart(2, 3, 5, 1),
    ]
    for x in [
        *inputs,
        wide[:, 7:60],
        wide[::2],
        wide[:, :1],
        wide.t()[3:50],
        wide.view(2, 3, 80)[:, :2, 4:9],
    ]:
        x = torch.empty_strided(x.shape, x.stride(), dtype=dtype).copy_(x)
        assert_equal(kernel, neuron, x, SMALL)
        found = kernel(x, asked_of(neuron, x), SMALL)[0]
        assert found.shape == x.shape and found.is_contiguous() == neuron(x).is_contiguous()
    for x in (inputs[0], wide[:, 7:60], wide[::2]):
        for where in (torch.rand(1, x.shape[-1]) < 0.5, torch.rand(x.shape[-1]) < 0.5):
            _, read, mask, rows = calls._laid_out(x, asked_of(neuron, x, where))
            assert read is x and rows is not None and mask is not None and mask.shape == x.shape
            counts = kernel(x, asked_of(neuron, x, where, counted=True), SMALL)[2]
            assert torch.equal(counts[:-1], neuron.spike_counts(x, where.expand(x.shape))[0].reshape(-1))


@pytest.mark.parametrize("signs", ["one", "mirrored", "octaves"])
@pytest.mark.parametrize("points", ["even", "crowded", "all at one place"])
def test_banks_are_found_by_cells(kernel: Kernel, points: str, signs: str) -> None:
    segments, time_steps = 20, 5
    at = {
        "even": torch.linspace(0.51, 0.99, segments - 1),
        "crowded": torch.cat([torch.linspace(0.6, 0.6001, segments - 2), torch.tensor([0.9])]),
        "all at one place": torch.full((segments - 1,), 0.625),
    }[points]
    banks = segments * (1 if signs == "one" else 2)
    halves = torch.exp2(-torch.arange(1.0, time_steps + 1))[:, None].expand(-1, banks)
    read_out = [torch.randn(banks), torch.randn(banks), torch.rand(banks) / 2, torch.rand(banks) * 3]
    read_out[1][::3] = -0.0
    mirrored = {"mirrored": signs != "one", "octaves": signs == "octaves"}
    tables = Tables(halves, halves, halves, *read_out, at, **mirrored)
    x = torch.cat([critical_inputs(tables), any_bits(2000), torch.randn(500) * 2, at * 8, -at])
    for reduction in ("none", "identity"):
        assert_equal(kernel, MBENode(tables, reduction, backend="torch"), x)


def test_without_counting_nothing_is_counted(kernel: Kernel) -> None:
    x = torch.randn(500)
    assert kernel(x, asked_of(LIBRARY["gelu"], x))[2].tolist() == []


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", ["tensor", "channel", "token"])
def test_shared_scales(everywhere: None, scale: str, dtype: torch.dtype) -> None:
    x = (torch.randn(5, 30, 9) * torch.logspace(-3, 3, 9)).to(dtype)
    x[0, 0, :4] = torch.tensor([0.0, -0.0, 1e-40, -(2.0**9)])
    for make, dim in itertools.product((shared_scale_tables, first_spike_tables), (-1, 0, 1)):
        exponents = torch.tensor(3) if scale != "channel" else torch.arange(-5, x.shape[dim] - 5)
        limits = (-1.0, 1.0) if scale == "channel" else (-8.0, 8.0)
        pair = [SharedScaleNode(make(8, 8), scale, exponents.to(torch.int32), *limits) for _ in range(2)]
        pair[1].backend = "torch"
        for given in (x, x.transpose(0, 2).contiguous().transpose(0, 2)):
            where = torch.rand(given.shape) < 0.7
            found, wanted = (one(given, dim=dim, where=where) for one in pair)
            assert_same_bits(found.contiguous(), wanted.contiguous())
            for counter in COUNTERS:
                assert getattr(pair[0], counter) == getattr(pair[1], counter)


# softmax and whole networks


def softmax(family: str) -> Softmax:
    found = fit("exp2", time_steps=4, bases=16 if family == "routed" else 4, family=family)

    def make(role: str, function: str, scalar: Any = None) -> CalibratedNode:
        tables = found if function == "exp2" else fit("reciprocal", time_steps=8, bases=16)
        return CalibratedNode(tables.tables, tables.reduction, -3.0, 1.0, function, 0.0)

    return Softmax(make)


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("family", ["routed", "published"])
def test_softmax_in_one_pass(everywhere: None, kernel: Kernel, family: str) -> None:
    pair = softmax(family), softmax(family)
    mbe_plugin.set_backend(pair[1], "torch")
    for columns in (1, 7, 127):
        x = scores(3, 5, columns)
        with mock.patch.object(CalibratedNode, "count_range") as count:
            assert pair[0].exp2.numerators(x, _powers) is not None
        count.assert_not_called()  # the kernel counts what leaves the range
        pair[0].exp2.reset_counts()
        values, exact = (one.numerators(x, -1) for one in pair)
        assert_same_bits(values, exact)
        for counter in COUNTERS:
            assert getattr(pair[0].exp2, counter) == getattr(pair[1].exp2, counter)
        finite = torch.randn(40, columns)
        assert_same_bits(*(one(finite) for one in pair))
        for one in pair:
            one.exp2.reset_counts()


def test_rows_longer_than_a_program_takes_at_once(kernel: Kernel) -> None:
    neuron = CalibratedNode(fit("exp2", time_steps=4, bases=16).tables, "exp2", -126.0, 1.0, "exp2", 0.0)
    neuron.backend = "torch"
    for columns in (127, 257):  # several rows to a program, and a program of several parts to a row
        x = scores(20, columns)
        values, _, counts = kernel(x, asked_of(neuron, x, counted=True, scores=True), SMALL)
        z, sent = _powers(x, -1)
        assert_same_bits(values, torch.where(sent | z.isnan(), neuron(z, where=sent), 0.0))
        spikes, exponents = neuron.spike_counts(z, sent)
        assert torch.equal(counts[:-1], spikes.reshape(-1))
        assert counts[-1] == exponents


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize(
    "config",
    [
        MBEConfig(bases=16, time_steps=4),
        MBEConfig(bases=16, time_steps=4, merge=False, dead_zone=0.1),
        MBEConfig(code="first_spike", bases=16, time_steps=4),
    ],
)
def test_a_network_gives_the_same_bits_counts_and_ranges(everywhere: None, config: MBEConfig) -> None:
    snn = mbe_plugin.convert(transformer(depth=1), [tokens()], replace(config, backend="torch"))
    found = [counted_forward(snn, backend, tokens(seed=3) * 3) for backend in ("auto", "torch")]
    assert_same_bits(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


# parts by themselves


def test_elements_beyond_32_bits_are_found(triton: Interpreter) -> None:
    for program, block in ((2**22 + 3, 1024), (2**31 - 1, 1024), (5, 128)):
        assert triton.run("triton_parts", "start_of", program, block) == program * block


@pytest.mark.parametrize(("inner", "along", "wide"), [(3, 5, False), (1, 7, False), (2**31, 3, True)])
@pytest.mark.parametrize("shared", ["channel", "token"])
def test_scales_beyond_32_bits_are_found(
    triton: Interpreter, shared: str, inner: int, along: int, wide: bool
) -> None:
    exponents = torch.arange(200, dtype=torch.int32)
    near_end = 12 * inner * along - 6 if shared == "channel" else 5 * along * inner - 6
    for start in (0, 16, near_end if inner < 100 else 2**31 * along - 6):
        places = [start + i for i in range(16)]
        index = [
            i // inner % along if shared == "channel" else i // (inner * along) * inner + i % inner
            for i in places
        ]
        if max(index) < len(exponents):
            found = triton.run("triton_parts", "exponents_from", exponents, start, inner, along, shared, wide)
            assert found.tolist() == index


def test_whole_numbers_below(triton: Interpreter) -> None:
    x = torch.cat([every_number(torch.bfloat16).float(), any_bits(1 << 16)])
    assert_same_bits(triton.run("triton_parts", "wholes", x), torch.floor(x))


# what can be chosen


def test_a_cpu_tensor_is_refused_by_name() -> None:
    neuron = MBENode(identity_tables(4, 8), "identity")
    neuron._backend = "triton"  # as on a machine with a GPU
    for call in (neuron, neuron.spike_counts):
        with pytest.raises(
            BackendError,
            match="^backend 'triton' has no kernel for an input on cpu; take backend='auto' or 'torch'$",
        ):
            call(torch.randn(3))


# operators in one pass


@pytest.fixture
def fused(everywhere: None, triton: Interpreter) -> Iterator[list[str]]:
    """Operators take their own kernels, interpreted; the names of those that ran."""
    from mbe_plugin.kernels.triton_gpu import attention, norms
    from mbe_plugin.operators import softmax as softmax_module

    ran: list[str] = []

    def through(module: Any, name: str) -> Any:
        def run(*args: Any) -> Any:
            ran.append(name)
            return run_there(triton, module.__name__, name, *args)

        return mock.patch.object(module, name, run)

    with (
        through(norms, "normalized"),
        through(attention, "attended"),
        mock.patch.object(softmax_module, "TILED_FROM", 0),
    ):
        yield ran


def norm_pair(kind: type, **kwargs: Any) -> list[Any]:
    """The operator on the kernel, and on torch."""

    def make(role: str, function: str, scalar: Any = None) -> CalibratedNode:
        if function == "identity":
            return CalibratedNode(identity_tables(8, 8), "identity", -1.0, 1.0, function, 0.0)
        found = fit(function, time_steps=8, bases=16)
        return CalibratedNode(found.tables, found.reduction, 0.5, 2.0, function, 0.0)

    pair = [kind(make, **kwargs) for _ in range(2)]
    mbe_plugin.set_backend(pair[1], "torch")
    return pair


def assert_close_and_counted_alike(pair: list[Any], found: Tensor, want: Tensor) -> None:
    """Up to sums' order, which may carry few values over a step of their code."""
    assert found.dtype == want.dtype and found.shape == want.shape
    if found.numel():
        error = (found.float() - want.float()).abs()
        assert float(error.max()) <= 2.0**-10 * float(want.float().abs().max())
        assert float(error.median()) <= 1e-6
    assert_counted_alike(pair)


def assert_counted_alike(pair: list[Any]) -> None:
    """Up to a value that a sum's order carries over a limit."""
    for (role, here), (_, there) in zip(pair[0].neurons(), pair[1].neurons(), strict=True):
        for counter in COUNTERS:
            counts = int(getattr(here, counter)), int(getattr(there, counter))
            assert abs(counts[0] - counts[1]) <= 1, (role, counter, counts)


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("columns", [1, 60, 129])
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_normalisation_in_one_pass(fused: list[str], kind: type, columns: int) -> None:
    pair = norm_pair(kind)
    for rows in ((3, 5), (0,), (1,)):
        x = torch.randn(*rows, columns) * 2 + 1
        gain, shift = torch.rand(columns) + 0.5, torch.randn(columns)
        rest = {LayerNorm: ((gain, shift), (None, None)), RMSNorm: ((gain,), (None,))}[kind]
        for parameters in rest:
            found, want = (one(x, (columns,), *parameters, 1e-5) for one in pair)
            assert_close_and_counted_alike(pair, found, want)
    assert fused == ["normalized"] * 6


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_normalisation_of_whole_numbers_is_exact(fused: list[str]) -> None:
    """Where the sums are exact in any order, so is everything: values and spikes."""
    pair = norm_pair(LayerNorm)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randint(-8, 8, (40, 64)).to(dtype)
        x[:, 0] -= x.sum(1)  # the mean is 0
        x[3, 5], x[4, 6] = torch.inf, torch.nan
        gain = torch.rand(64).to(dtype)
        found, want = (one(x, (64,), gain, None, 1e-5) for one in pair)
        assert_same_bits(found, want)
    assert len(fused) == 2


def test_what_others_look_at_is_not_fused(fused: list[str]) -> None:
    pair = norm_pair(LayerNorm)
    x, gain = torch.randn(4, 8), torch.ones(8, requires_grad=True)
    pair[0](x, (8,), gain)
    pair[0](x.requires_grad_(), (8,))
    with torch.no_grad():
        pair[0].rsqrt.spike_listener = mock.Mock()
        pair[0](x, (8,))
        pair[0].rsqrt.spike_listener = None
        handle = pair[0].deviation.register_forward_hook(lambda *call: None)
        pair[0](x, (8,))
        assert fused == []
        handle.remove()
        pair[0](x, (8,))
    assert fused == ["normalized"]


def attention_pair(coded_weights: bool = False) -> list[Attention]:
    """The operator on the kernel, and on torch."""

    def make(role: str, function: str, scalar: Any = None) -> Any:
        if function == "weight" and not coded_weights:
            return nn.Identity()
        if function in ("identity", "weight"):
            return CalibratedNode(identity_tables(8, 8), "identity", -0.6, 0.6, function, 0.0)
        found = fit(function, time_steps=4, bases=16)
        return CalibratedNode(found.tables, found.reduction, -3.0, 1.5, function, 0.0)

    pair = [Attention(make) for _ in range(2)]
    mbe_plugin.set_backend(pair[1], "torch")
    return pair


def masks(queries: int, keys: int) -> dict[str, dict[str, Any]]:
    some = torch.rand(2, 1, queries, keys) < 0.6
    some[0, 0, 3] = False  # a row that sees nothing
    return {
        "none": {},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": some},
        "added": {"attn_mask": torch.randn(queries, keys).masked_fill(some[1, 0], -torch.inf)},
        "padding": {"attn_mask": some[:, :, :1]},
    }


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("coded_weights", [False, True])
@pytest.mark.parametrize("mask", masks(4, 1))
def test_attention_in_one_pass(fused: list[str], mask: str, coded_weights: bool) -> None:
    pair = attention_pair(coded_weights)
    q, k, v = torch.randn(2, 1, 33, 20) * 2, torch.randn(2, 1, 40, 20), torch.randn(2, 1, 40, 5)
    given = masks(33, 40)[mask]
    found, want = (one(q, k, v, **given) for one in pair)
    assert_close_and_counted_alike(pair, found, want)
    assert fused == ["attended"]


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("scale", [0.25, 0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_of_16_bits_as_networks_lay_it_out(
    fused: list[str], dtype: torch.dtype, scale: float
) -> None:
    pair = attention_pair()
    projected = (torch.randn(2, 21, 3, 3, 16) / 2).to(dtype)  # [batch, rows, q k v, heads, width]
    operands = [t.transpose(1, 2) for t in projected.unbind(2)]
    found, want = (one(*operands, scale=scale) for one in pair)
    assert found.dtype == dtype and found.stride(-1) == 1
    error = (found.float() - want.float()).abs()
    assert float(error.max()) <= torch.finfo(dtype).eps * float(want.float().abs().max()), "a last digit"
    assert float((error == 0).float().mean()) > 0.99
    assert_counted_alike(pair)
    assert fused == ["attended"]


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("causal", [False, True])
def test_the_numerators_of_attention_are_exact(fused: list[str], causal: bool) -> None:
    """Scores of whole numbers are exact in any order, and with values of 1 and 0 each output is a single numerator."""
    pair = attention_pair()
    q, k = torch.randint(-3, 4, (2, 50, 16)).float(), torch.randint(-3, 4, (2, 40, 16)).float()
    q[0, 7, 0] = torch.nan
    v = torch.eye(40).expand(2, 40, 40)
    found, want = (one(q, k, v, is_causal=causal, scale=0.25) for one in pair)
    # the sum of a row may be rounded otherwise, and with it the row's factor
    rows = (found == want).all(-1) | (want.isnan() & found.isnan()).all(-1)
    assert float(rows.float().mean()) > 0.95
    assert fused == ["attended"]


def test_short_attention_keeps_its_scores(fused: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mbe_plugin.operators import softmax as softmax_module

    monkeypatch.setattr(softmax_module, "TILED_FROM", 7 * 9 + 1)
    pair = attention_pair()
    q, k = torch.randn(7, 4) / 8, torch.randn(9, 4) / 8
    assert_same_bits(*(one(q, k, k) for one in pair))
    assert fused == []


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.down(nn.functional.scaled_dot_product_attention(y, y, y) + x)


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("merge", [True, False])
def test_a_network_of_such_operators(fused: list[str], merge: bool) -> None:
    """What comes out of them is an activation to what follows, whose neurons get all that they get otherwise."""
    snn = mbe_plugin.convert(Block(), [tokens()], MBEConfig(bases=16, merge=merge, backend="torch"))
    nodes = [n for n in snn.modules() if isinstance(n, CalibratedNode)]
    found = []
    for backend in ("torch", "auto"):
        mbe_plugin.set_backend(snn, backend)
        for neuron in nodes:
            neuron.reset_counts()
        with torch.no_grad():
            found.append((snn(tokens(seed=3)), [int(n.seen) for n in nodes]))
    assert fused == ["normalized", "attended"]
    assert float((found[0][0] - found[1][0]).abs().max()) <= 1e-3 * float(found[0][0].abs().max())
    assert found[0][1] == found[1][1]
    assert all(found[0][1])
