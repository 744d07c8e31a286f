"""The backend 'cupy' against 'torch', bit for bit: its CUDA source run on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import mmap
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_on_cpu import STREAM, FakeCupy, assembled, fake_cupy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_cases import fitted_neurons
from networks import WIDTH, tokens
from oracle import FAMILIES, any_inputs, any_tables, assert_same_bits, critical_inputs, laid_out, make_tables
from spikingjelly.activation_based import functional, surrogate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import mbe_plugin
from mbe_plugin import BackendError, MBEConfig, MBENode, fit
from mbe_plugin.conversion.backend import runnable
from mbe_plugin.fitting.segments import identity_tables, shared_scale_tables
from mbe_plugin.kernels import backends, cupy_gpu
from mbe_plugin.kernels.cupy_gpu import calls, kernel
from mbe_plugin.kernels.cupy_gpu.base import CKernel2D, host_kernel_class
from mbe_plugin.neuron.first_spike import first_spike_tables
from mbe_plugin.neuron.scaling import REDUCTIONS
from mbe_plugin.neuron.tables import Tables
from mbe_plugin.stepped import SteppedNode

OUTPUTS, DTYPES = list(kernel.CORES), list(kernel.NUMBERS)
SHORT = [torch.float16, torch.bfloat16]
SPECIAL = [
    math.inf,
    -math.inf,
    math.nan,
    0.0,
    -0.0,
    1e-45,
    -1e-40,
    1.2e-38,
    -1.2e-38,
    3.4e38,
    -3.4e38,
    1.0,
    -1.0,
]


def node(tables: Tables, reduction: str = "none", **kwargs: Any) -> MBENode:
    return MBENode(tables, reduction, step_mode="m", **kwargs)


def library() -> dict[str, MBENode]:
    """A neuron of every reduction, and of every form of tables that there is."""
    functions = "gelu exp2 reciprocal rsqrt sqrt rsqrt_octave sqrt_octave identity"
    nodes = fitted_neurons(functions.split())
    nodes["identity T=20"] = node(identity_tables(20, 16), "identity")
    nodes["first spike"] = node(first_spike_tables(16, 8), "clip")
    nodes["shared scale"] = node(shared_scale_tables(4, 2))
    nodes["one step"] = node(make_tables("published", 1))
    nodes["octaves"] = node(make_tables("banks of the octave", 5), "identity")
    for neuron in nodes.values():
        neuron.step_mode = "m"
    assert {neuron.reduction.name for neuron in nodes.values()} == set(REDUCTIONS)
    return nodes


LIBRARY = library()
# of every way through the kernel one; the others' 16-bit numbers are tried with --full
QUICK = ("gelu", "identity", "exp2", "rsqrt_octave", "published gelu", "first spike", "octaves")


def both(neuron: MBENode) -> tuple[MBENode, MBENode]:
    """The neuron on CuPy and on torch."""
    pair = copy.deepcopy(neuron), copy.deepcopy(neuron)
    pair[0].backend, pair[1].backend = "cupy", "torch"
    return pair


def assert_equal(neuron: MBENode, x: Tensor, where: Tensor | None = None, spelt: bool = True) -> None:
    """Decoded values, weighted spikes, counts (in ``where``, and of all) and, ``spelt``, the trains."""
    fast, slow = both(neuron)
    with torch.no_grad():
        assert_same_bits(fast.single_step_forward(x), slow.single_step_forward(x))
        assert_same_bits(fast.weighted_spikes(x), slow.weighted_spikes(x))
        if spelt:
            assert_same_bits(fast.spikes(x), slow.spikes(x))
        for mask in (None, where):
            for found, wanted in zip(fast.spike_counts(x, mask), slow.spike_counts(x, mask), strict=True):
                assert torch.equal(found, wanted)


def special(neuron: MBENode) -> Tensor:
    """Break points and code boundaries with their neighbours, and what is no ordinary number."""
    return torch.cat([critical_inputs(neuron.tables()), torch.tensor(SPECIAL)])


# the source, for GPUs


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("output", OUTPUTS)
def test_nvrtc_compiles_every_kernel_and_contracts_nothing(
    output: str, dtype: torch.dtype, arch: str
) -> None:
    made = kernel.MultiStepKernel(output, dtype)
    ptx = assembled(made.full_codes, (*kernel.OPTIONS, f"--gpu-architecture={arch}"))
    assert f".visible .entry {made.kernel_name}(" in ptx
    assert not re.search(r"\bfma\b|\.ftz\b|div\.(approx|full)|sqrt\.approx\.ftz", ptx)
    assert not re.search(r"(?<!r)sqrt\.approx|rcp\.approx", ptx)
    assert ".local" not in ptx, "the steps are in registers"
    if output in ("decoded", "sequence"):
        assert "sqrt.rn.f32" in ptx and "rcp.rn.f32" in ptx


def test_without_our_options_it_would_contract() -> None:
    code = kernel.MultiStepKernel("sequence", torch.float32).full_codes
    assert "fma.rn.ftz.f32" in assembled(code, ("-use_fast_math", "--gpu-architecture=sm_80"))


# the source, on the CPU


@pytest.mark.parametrize("name", LIBRARY)
def test_float32_at_break_points_and_special_values(cupy: FakeCupy, name: str) -> None:
    x = special(LIBRARY[name])
    random = torch.randint(-(2**31), 2**31, (3000,), dtype=torch.int64).to(torch.int32).view(torch.float32)
    x = torch.cat([x, random, 3 * torch.randn(1000)])
    assert_equal(LIBRARY[name], x, torch.rand(x.shape) < 0.5)


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LIBRARY]
)
def test_every_number_of_sixteen_bits(cupy: FakeCupy, name: str, dtype: torch.dtype) -> None:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    assert_equal(LIBRARY[name], x.view(256, 256), torch.rand(256, 256) < 0.5, spelt=False)
    assert_equal(LIBRARY[name], special(LIBRARY[name]).to(dtype))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("time_steps", [2, 20])
def test_every_form_of_tables(cupy: FakeCupy, family: str, time_steps: int) -> None:
    neuron = node(make_tables(family, time_steps, seed=3))
    assert_equal(neuron, special(neuron))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    tables=any_tables(),
    reduction=st.sampled_from(sorted(REDUCTIONS)),
    dtype=st.sampled_from(DTYPES),
)
def test_any_shape_layout_and_reduction(
    cupy: FakeCupy, data: st.DataObject, tables: Tables, reduction: str, dtype: torch.dtype
) -> None:
    x = data.draw(any_inputs(tables)).to(dtype)
    assert_equal(node(tables, reduction), x, torch.arange(x.numel()).view(x.shape) % 2 == 0)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (257,), (3, 5, 7)])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_shapes_and_layouts(cupy: FakeCupy, shape: tuple[int, ...], layout: str) -> None:
    x = laid_out(torch.randn(shape), layout)
    assert_equal(LIBRARY["gelu"], x, laid_out(torch.rand(shape) < 0.5, layout))
    x_seq = torch.randn(16, *shape)
    fast, slow = both(LIBRARY["gelu"])
    assert_same_bits(fast(x_seq), slow(x_seq))
    assert fast(x_seq).shape == (16, *shape)


def test_counts_that_have_no_room_in_a_block(cupy: FakeCupy) -> None:
    neuron = node(identity_tables(16, 1024), "identity")
    assert neuron.time_steps * neuron.bases > kernel.SLOTS_OF_A_BLOCK
    assert_equal(neuron, torch.randn(500), torch.rand(500) < 0.5, spelt=False)


def test_a_thread_goes_on_with_further_elements(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MOST_BLOCKS", 2)
    monkeypatch.setattr(kernel, "COUNTING_BLOCKS", 2)
    assert_equal(LIBRARY["gelu"], torch.randn(3 * kernel.THREADS * 2 + 5))


def test_indices_have_64_bits(cupy: FakeCupy) -> None:
    """The last block of 2^30 + 5 elements and T = 4 steps, in memory that is there only where it is touched."""
    elements, neuron = 2**30 + 5, fit("gelu", time_steps=4, bases=16).node()
    given = torch.tensor([-1.5, -0.25, 0.5, 1.0, 2.0], dtype=torch.bfloat16)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        memory = [mmap.mmap(-1, 2 * elements * times, flags=flags) for times in (1, 4)]
    except OSError as error:
        pytest.skip(f"no address space for 10 GB: {error}")
    x, y = (torch.frombuffer(part, dtype=torch.bfloat16) for part in memory)
    x[-5:] = given
    made = kernel.MultiStepKernel("sequence", torch.bfloat16)
    tables = dict(zip(kernel.TABLE_FIELDS, neuron._buffers_by_field().values(), strict=True))
    numbers = dict.fromkeys(kernel.SCALARS, 0) | {"time_steps": 4, "bases": 16, "banks": 16, "per_bank": 1}
    values = made.get_ptrs(dict(sorted({"x": x, "y": y, "N": elements, **tables, **numbers}.items())))
    blocks = -(-elements // kernel.THREADS)
    cupy.run(made.full_codes, made.kernel_name, blocks, kernel.THREADS, values, first=blocks - 1)
    neuron.backend = "torch"
    assert_same_bits(y.view(4, elements)[:, -5:], neuron.weighted_spikes(given))


# how it is called


def test_kernels_are_made_once_with_our_options(cupy: FakeCupy) -> None:
    for name in ("gelu", "exp2", "first spike"):
        fast, _ = both(LIBRARY[name])
        for size in (3, 5):
            fast(torch.randn(16 if name != "gelu T=4" else 4, size))
    assert [made.name for made in cupy.made] == ["mbe_sequence_float"]
    assert cupy.made[0].options == kernel.OPTIONS
    assert "--fmad=false" in kernel.OPTIONS and not any("fast" in option for option in kernel.OPTIONS)


@pytest.mark.parametrize("modern", [True, False])
def test_launches_are_on_torchs_stream_and_the_inputs_device(
    monkeypatch: pytest.MonkeyPatch, built: Path, modern: bool
) -> None:
    with fake_cupy(monkeypatch, built, modern) as cupy:
        fast, _ = both(LIBRARY["gelu"])
        fast(torch.randn(16, 3, dtype=torch.float16))
        fast(torch.randn(16, 0))
    assert cupy.launches == [("mbe_sequence_half", STREAM, torch.device("cpu"))]


class Sizes(TorchDispatchMode):
    """How many bytes each operator's results have."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.found.append((func.name(), out.nbytes))
        return out


def test_nothing_of_t_times_the_size_is_made_but_the_sequence(cupy: FakeCupy) -> None:
    fast, _ = both(LIBRARY["published gelu"])
    x_seq = torch.randn(8, 5000, dtype=torch.bfloat16)
    with Sizes() as sizes:
        fast(x_seq)
    large = [(name, size) for name, size in sizes.found if size > x_seq[0].nbytes]
    assert large == [("mbe_plugin::multi_step", x_seq.nbytes)]


def test_the_kernel_is_the_hosts_where_it_has_one() -> None:
    host = host_kernel_class()
    assert issubclass(kernel.MultiStepKernel, host or CKernel2D)
    made = kernel.MultiStepKernel("counts", torch.float32)
    assert made.cparams["x"] == "const float *" and made.cparams["N"] == "const long long"
    for name in ("x", "index"):
        with pytest.raises(ValueError, match=name):
            made.add_param("float *", name)
    with pytest.raises(ValueError, match="y"):
        made.check_keys({name: 0 for name in made.cparams if name != "y"})


def test_tensors_of_other_kinds_are_refused() -> None:
    made = kernel.MultiStepKernel("decoded", torch.float16)
    with pytest.raises(TypeError, match="x of the kernel mbe_decoded_half is Half, got torch.float32"):
        made.check_ctypes({"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="the input is on cpu, gain on meta"):
        made.check_device(torch.device("cpu"), {"gain": torch.zeros(1, device="meta")})


def test_it_is_an_operator_that_compilers_keep_whole(cupy: FakeCupy) -> None:
    fast, slow = both(LIBRARY["gelu"])
    tables = list(fast._buffers_by_field().values())
    for output in OUTPUTS:
        arguments = (torch.randn(3, 5), tables, output, "none", False, False, True)
        torch.library.opcheck(calls.multi_step, arguments, test_utils=("test_schema", "test_faketensor"))
    x = torch.randn(16, 4)
    compiled = torch.compile(fast, fullgraph=True, backend="eager")
    assert_same_bits(compiled(x), slow(x))


def test_under_vmap_a_batch_is_another_dimension(cupy: FakeCupy) -> None:
    fast, slow = both(LIBRARY["gelu"])
    x = torch.randn(4, 3, 5)
    for at in (0, 1, 2):
        found = torch.vmap(fast.weighted_spikes, in_dims=at, out_dims=at + 1)(x)
        assert_same_bits(found, slow.weighted_spikes(x))
        assert_same_bits(torch.vmap(fast.single_step_forward, at, at)(x), slow.single_step_forward(x))
    with pytest.raises(BackendError, match="under torch.vmap backend 'cupy' counts no events"):
        torch.vmap(lambda row: fast.spike_counts(row)[0])(x)


# what can be chosen


def test_asked_for_by_name_it_runs_or_raises(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = both(LIBRARY["gelu"])
    with pytest.raises(
        BackendError,
        match="^backend 'cupy' has no kernel for an input of torch.float64; take backend='auto' or 'torch'$",
    ):
        fast(torch.randn(16, 2, dtype=torch.float64))
    monkeypatch.setattr(cupy_gpu, "DEVICE", "cuda")
    for call in (fast.single_step_forward, fast.spikes, fast.weighted_spikes, fast.spike_counts):
        with pytest.raises(
            BackendError, match="^backend 'cupy' has no kernel for an input on cpu; take backend="
        ):
            call(torch.randn(2))


def test_auto_takes_it_in_step_mode_m_and_says_so_once(
    cupy: FakeCupy, caplog: pytest.LogCaptureFixture
) -> None:
    automatic, want = copy.deepcopy(LIBRARY["gelu"]), both(LIBRARY["gelu"])[1]
    x = torch.randn(16, 3)
    with caplog.at_level(logging.INFO, "mbe_plugin"):
        assert_same_bits(automatic(x), want(x))
        assert_same_bits(automatic(x.double()), want(x.double()))
        automatic(x)
    assert [name for name, _, _ in cupy.launches] == ["mbe_sequence_float"] * 2
    assert caplog.messages == [backends.automatic_on_gpu()]
    assert "is cupy for float32" in caplog.messages[0]


def test_auto_is_torch_without_cupy(
    monkeypatch: pytest.MonkeyPatch, built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    automatic = copy.deepcopy(LIBRARY["gelu"])
    with fake_cupy(monkeypatch, built):
        monkeypatch.setitem(sys.modules, "cupy", None)
        with caplog.at_level(logging.INFO, "mbe_plugin"):
            automatic(torch.randn(16, 3))
    assert caplog.messages == [
        f"backend 'auto' in step_mode 'm' is torch: CuPy is not installed ({backends.cupy_install()})"
    ]


# gradients


def gradients_of(neuron: MBENode, x_seq: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    x_seq = x_seq.clone().requires_grad_()
    out = neuron(x_seq)
    (out * weights).sum().backward()
    assert x_seq.grad is not None
    return out.detach(), x_seq.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gradient", ["surrogate", "slope"])
@pytest.mark.parametrize("name", ["gelu", "published gelu", "reciprocal", "exp2", "first spike", "identity"])
def test_gradients_are_those_of_torch(cupy: FakeCupy, name: str, gradient: str, dtype: torch.dtype) -> None:
    if gradient == "slope" and name == "published gelu":
        pytest.skip("published tables have no slope")
    neuron = copy.deepcopy(LIBRARY[name])
    neuron.gradient = gradient
    fast, slow = both(neuron)
    x, weights = (torch.randn(neuron.time_steps, 7, dtype=dtype) for _ in range(2))
    for found, wanted in zip(gradients_of(fast, x, weights), gradients_of(slow, x, weights), strict=True):
        assert_same_bits(found, wanted)
    assert [name for name, _, _ in cupy.launches] == [f"mbe_sequence_{kernel.NUMBERS[dtype].lower()}"]


def test_second_derivatives(cupy: FakeCupy) -> None:
    def second(neuron: MBENode) -> Tensor:
        x = torch.linspace(-1, 1, 9, dtype=torch.float32).requires_grad_()
        first = torch.autograd.grad(neuron.weighted_spikes(x).pow(2).sum(), x, create_graph=True)[0]
        return torch.autograd.grad(first.sum(), x)[0]

    fast, slow = both(LIBRARY["gelu T=4"])
    assert second(slow).abs().max() > 0
    torch.testing.assert_close(second(fast), second(slow))


class Learning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(4.0))

    def forward(self, v: Tensor) -> Tensor:
        return surrogate.heaviside(v) + (v * self.slope).sigmoid() - (v * self.slope).sigmoid().detach()


@pytest.mark.parametrize("fire", [surrogate.Sigmoid(spiking=False), Learning()], ids=["smooth", "learning"])
def test_a_surrogate_that_it_cannot_follow(cupy: FakeCupy, fire: nn.Module) -> None:
    neuron = copy.deepcopy(LIBRARY["gelu"])
    neuron.surrogate_function = fire
    fast, slow = both(neuron)
    x, weights = torch.randn(2, 16, 5)
    with pytest.raises(
        BackendError, match="no kernel for a surrogate function that learns or sends no spikes; take"
    ):
        fast(x.requires_grad_())
    fast.backend = "auto"
    for found, wanted in zip(
        gradients_of(fast, x.detach(), weights), gradients_of(slow, x.detach(), weights), strict=True
    ):
        assert_same_bits(found, wanted)
    assert cupy.launches == []


def test_tables_that_learn_keep_their_gradient(cupy: FakeCupy) -> None:
    neuron = SteppedNode(make_tables("published", 4), "none", learn=["weight"])
    neuron.step_mode = "m"
    neuron(torch.randn(4, 5)).sum().backward()
    assert neuron.w.grad is not None and cupy.launches == []
    neuron.backend = "cupy"
    with pytest.raises(BackendError, match="no kernel for tables that learn"):
        neuron(torch.randn(4, 5))
    with torch.no_grad():
        neuron(torch.randn(4, 5))
    assert len(cupy.launches) == 1


# networks


def test_a_converted_network(cupy: FakeCupy) -> None:
    net = nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3), nn.Tanh())
    config = MBEConfig(time_steps=4, bases=8, backend="torch")
    snn = mbe_plugin.convert(net, [tokens(2, 5, WIDTH)], config)
    with pytest.raises(BackendError, match="has the backend 'cupy' in step_mode 'm' only and is in 's'"):
        mbe_plugin.set_backend(snn, "cupy")
    functional.set_step_mode(snn, "m")
    x = torch.randn(4, 2, 5, WIDTH)
    want = snn(x)
    mbe_plugin.set_backend(snn, "cupy")
    assert_same_bits(snn(x), want)
    assert {name for name, _, _ in cupy.launches} == {"mbe_decoded_float", "mbe_sequence_float"}


def test_a_configuration_cannot_ask_for_it(cupy: FakeCupy) -> None:
    with pytest.raises(
        BackendError, match="a converted network has the backend 'cupy' in step_mode 'm' only"
    ):
        mbe_plugin.convert(nn.GELU(), [tokens()], MBEConfig(backend="cupy"))
    assert runnable(MBEConfig(backend="cupy")).backend == "auto"  # what a saved network wishes for


# on a GPU

on_gpu = pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LIBRARY)
def test_gpu_equals_torch_there(name: str, dtype: torch.dtype) -> None:
    neuron = copy.deepcopy(LIBRARY[name]).cuda()
    x = torch.cat([special(LIBRARY[name]), 3 * torch.randn(5000)]).to("cuda", dtype)
    assert_equal(neuron, x, torch.rand(x.shape, device="cuda") < 0.5)
    if dtype != torch.float32:
        every = torch.arange(-(2**15), 2**15, device="cuda").to(torch.int16).view(dtype)
        assert_equal(neuron, every, spelt=False)


@pytest.mark.gpu
@on_gpu
def test_gpu_streams_graphs_and_no_waiting() -> None:
    fast, slow = both(LIBRARY["gelu"].cuda())
    x = torch.randn(16, 1000, device="cuda")
    want = slow(x)
    fast(x)  # compiled before the capture
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            found = fast(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert_same_bits(found, want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = fast(x)
    x.neg_()
    graph.replay()
    assert_same_bits(captured, slow(x))


@pytest.mark.gpu
@on_gpu
def test_gpu_more_than_2_31_elements() -> None:
    neuron = fit("gelu", time_steps=4, bases=16).node().cuda()
    neuron.step_mode = "m"
    fast, slow = both(neuron)
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("less than 16 GiB of GPU memory are free")
    x = torch.zeros(2**31 + 7, dtype=torch.bfloat16, device="cuda")
    x[-7:] = torch.linspace(-2, 2, 7)
    assert_same_bits(fast.single_step_forward(x)[-7:], slow.single_step_forward(x[-7:]))
