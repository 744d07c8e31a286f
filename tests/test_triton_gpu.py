"""The backend 'triton' on a CUDA GPU, against the backend 'torch' on the CPU, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from kernel_cases import counted_forward
from networks import tokens, transformer
from oracle import assert_same_bits, critical_inputs
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBEConfig, MBENode, fit
from mbe_plugin.fitting.segments import identity_tables
from mbe_plugin.neuron.first_spike import first_spike_tables
from mbe_plugin.operators import CalibratedNode, Softmax

pytestmark = pytest.mark.gpu
pytest.importorskip("triton", reason="pip install triton")

LIBRARY: dict[str, Callable[[], MBENode]] = {
    **{
        name: lambda name=name: fit(name, time_steps=16, bases=64).node()
        for name in "gelu exp2 rsqrt rsqrt_octave reciprocal sqrt sqrt_octave".split()
    },
    "published gelu": lambda: fit("gelu", time_steps=16, bases=4, family="published").node(),
    "identity": lambda: MBENode(identity_tables(16, 8), "identity"),
    "identity by steps": lambda: MBENode(identity_tables(16, 8), "identity", simulate="steps"),
    "first spike": lambda: MBENode(first_spike_tables(16, 256), "clip"),
}


def both(name: str) -> tuple[MBENode, MBENode]:
    """A neuron on Triton and the GPU, and the same on torch and the CPU."""
    slow = LIBRARY[name]()
    slow.backend = "torch"
    fast = copy.deepcopy(slow).cuda()
    fast.backend = "triton"
    return fast, slow


def inputs(neuron: MBENode) -> Tensor:
    short = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16).float()
    bits = torch.randint(-(2**31), 2**31, (1 << 18,)).to(torch.int32).view(torch.float32)
    return torch.cat([critical_inputs(neuron.tables()), short, bits, torch.randn(1001) * 3])


@contextmanager
def nothing_waits() -> Iterator[None]:
    """A call that waits for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LIBRARY)
def test_values_and_spikes(name: str, dtype: torch.dtype) -> None:
    fast, slow = both(name)
    x = inputs(slow).to(dtype)
    where = torch.rand(x.shape) < 0.5
    on_gpu, asked = x.cuda(), where.cuda()
    with torch.no_grad():
        assert_same_bits(fast(on_gpu).cpu(), slow(x))
    found = fast.spike_counts(on_gpu, asked)
    for got, want in zip(found, slow.spike_counts(x, where), strict=True):
        assert torch.equal(got.cpu(), want)


def test_layouts_and_no_elements() -> None:
    fast, slow = both("gelu")
    for x in (
        torch.randn(300, 70).t(),
        torch.randn(300, 140)[:, ::2],
        torch.randn(7, 1).expand(7, 90),
        torch.randn(0, 3),
        torch.randn(3, 50, 3, 4, 64)[:, :, 1].transpose(1, 2),  # rows that lie apart
        torch.randn(90, 77)[:, 3:60],
    ):
        found, want = fast(x.cuda()), slow(x)
        assert_same_bits(found.cpu(), want)
        assert found.stride() == want.stride()


def test_nothing_is_waited_for() -> None:
    fast, _ = both("gelu")
    x = torch.randn(10_000, device="cuda")
    counted = CalibratedNode(fast.tables(), "none", -1.0, 1.0, "gelu", 0.0).cuda()
    for attempt in range(2):  # the first time kernels are compiled and loaded
        with torch.no_grad(), nothing_waits() if attempt else torch.no_grad():
            fast(x)
            fast.spike_counts(x)
            counted(x)
    assert int(counted.outside) == 2 * int((x.abs() > 1).sum())


def test_a_graph_of_cuda_is_captured_and_replayed() -> None:
    fast, slow = both("gelu")
    x = torch.randn(5000, device="cuda")
    fast.spike_counts(x)
    fast(x)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        y, counts = fast(x), fast.spike_counts(x)
    for seed in range(3):
        x.copy_(torch.randn(5000, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        assert_same_bits(y.cpu(), slow(x.cpu()))
        assert torch.equal(counts[0].cpu(), slow.spike_counts(x.cpu())[0])


def test_torchs_current_stream_is_taken() -> None:
    fast, slow = both("identity")
    x = torch.zeros(1 << 20, device="cuda")
    fast(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # another stream would read x too early
        x.fill_(0.3)
        y = fast(x)
    stream.synchronize()
    assert_same_bits(y.cpu(), slow(torch.full((1 << 20,), 0.3)))


def test_another_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    fast, slow = both("gelu")
    x = torch.randn(1000)
    y = fast.to("cuda:1")(x.to("cuda:1"))
    assert y.device == torch.device("cuda", 1)
    assert_same_bits(y.cpu(), slow(x))


def test_more_elements_than_32_bits_count() -> None:
    size = 2**31 + 3000
    if torch.cuda.mem_get_info()[0] < 5 * size:
        pytest.skip("needs 11 GB of free memory")
    fast, slow = both("identity")
    x = torch.zeros(size, dtype=torch.bfloat16, device="cuda")
    x[-1500:] = torch.linspace(-3, 3, 1500)
    assert_same_bits(fast(x)[-2000:].cpu(), slow(x[-2000:].cpu()))
    assert int(fast.spike_counts(x)[1]) == int(torch.count_nonzero(x[-1500:]))


def test_compile_keeps_it_whole() -> None:
    fast, slow = both("gelu")
    x = torch.randn(3, 700)
    torch._dynamo.reset()
    with torch.no_grad():
        assert_same_bits(torch.compile(fast, fullgraph=True, backend="aot_eager")(x.cuda()).cpu(), slow(x))


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize(
    "config",
    [
        MBEConfig(bases=16),
        MBEConfig(bases=16, merge=False, dead_zone=0.1),
        MBEConfig(code="first_spike", bases=16),
        MBEConfig(scale="channel", bases=16),
        MBEConfig.published(time_steps=4),
    ],
)
def test_a_network_gives_torchs_bits_counts_and_ranges(config: MBEConfig) -> None:
    snn = mbe_plugin.convert(transformer(), [tokens()], config).cuda()
    found = [counted_forward(snn, backend, tokens(seed=3).cuda() * 3) for backend in ("triton", "torch")]
    assert_same_bits(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_a_networks_forward_is_captured() -> None:
    snn = mbe_plugin.convert(transformer(depth=1), [tokens()], MBEConfig(bases=16)).cuda()
    neurons = [each for each in snn.modules() if isinstance(each, CalibratedNode)]
    x = tokens().cuda()
    with torch.no_grad():
        snn(x)
        for each in neurons:
            each.reset_counts()
        want = snn(x)
        once = [int(each.seen) for each in neurons]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = snn(x)
        graph.replay()
        assert_same_bits(y.cpu(), want.cpu())
        assert [int(each.seen) for each in neurons] == [2 * seen for seen in once], "a replay counts, too"
        next(each for each in neurons if each._kept_bits is None).w.mul_(0.5)
        graph.replay()
        assert_same_bits(y.cpu(), snn(x).cpu())  # numbers in tables are read anew


def test_softmax() -> None:
    def make(role: str, function: str, scalar: object = None) -> nn.Module:
        found = fit(function, time_steps=8, bases=16)
        return CalibratedNode(found.tables, found.reduction, -126.0, 1.0, function, 0.0)

    here, there = Softmax(make), Softmax(make).cuda()
    mbe_plugin.set_backend(here, "torch")
    x = torch.randn(50, 3001) * 5
    x[3] = -torch.inf
    assert_same_bits(there.numerators(x.cuda(), -1).cpu(), here.numerators(x, -1))


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_operators_in_one_pass(causal: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a step of a code, where a sum is rounded otherwise, or a last digit of 16 bits."""
    from mbe_plugin.operators import Attention, LayerNorm
    from mbe_plugin.operators import softmax as softmax_module

    def make(role: str, function: str, scalar: object = None) -> nn.Module:
        if function in ("identity", "weight"):
            return CalibratedNode(identity_tables(8, 8), "identity", -1.0, 1.0, function, 0.0)
        found = fit(function, time_steps=8, bases=64)
        return CalibratedNode(found.tables, found.reduction, -5.0, 1.0, function, 0.0)

    monkeypatch.setattr(softmax_module, "TILED_FROM", 0)
    q, k, v = torch.randn(2, 300, 3, 4, 64).to("cuda", dtype).transpose(1, 3).unbind(2)
    x, gain = torch.randn(500, 768).to("cuda", dtype), torch.rand(768).to("cuda", dtype)
    calls = {
        Attention: lambda one: one(q, k, v, is_causal=causal),
        LayerNorm: lambda one: one(x, (768,), gain, gain),
    }
    for kind, call in calls.items():
        one = kind(make).cuda()
        neurons = [each for each in one.modules() if isinstance(each, CalibratedNode)]
        results, counted = [], []
        with torch.no_grad():
            call(one)
            for backend in ("triton", "torch"):
                mbe_plugin.set_backend(one, backend)
                for each in neurons:
                    each.reset_counts()
                with nothing_waits() if backend == "triton" else nullcontext():
                    results.append(call(one).float())
                counted.append([(int(n.seen), int(n.outside), int(n.beyond)) for n in neurons])
        error = (results[0] - results[1]).abs()
        largest = {torch.float32: 2.0**-8, torch.bfloat16: 2.0**-7}[dtype]
        assert float(error.max()) <= largest * float(results[1].abs().max())
        assert float(error.median()) <= 1e-6
        for here, there in zip(*counted, strict=True):
            assert here[0] == there[0] and here[1] == there[1]
            assert abs(here[2] - there[2]) <= 1e-4 * here[0]
