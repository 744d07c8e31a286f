"""Normalisations and quotients of rows by one kernel of Numba's, and neurons that count in the kernel, against torch."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any
from unittest import mock

import pytest
import torch
from oracle import assert_same_bits
from torch import Tensor

import mbe_plugin
from mbe_plugin import RangeWarning, fit
from mbe_plugin.operators import Attention, CalibratedNode, LayerNorm, RMSNorm, Softmax

pytest.importorskip("numba", reason="pip install 'mbe_plugin[fast]'")
from mbe_plugin.kernels.numba_cpu import row_calls, sums

pytestmark = pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
COUNTERS = ("seen", "outside", "beyond")
NARROW = {"identity": (-0.9, 0.8), "rsqrt": (0.3, 1.5), "exp2": (-3.0, 0.5), "reciprocal": (1.0, 4.0)}


def neuron(role: str, function: str, scalar: Any = None) -> CalibratedNode:
    found = fit(function, time_steps=8, bases=16)
    return CalibratedNode(found.tables, found.reduction, *NARROW[function], function, 0.0)


def attention_neuron(role: str, function: str, scalar: Any = None) -> Any:
    return torch.nn.Identity() if function == "weight" else neuron(role, function)


def pair(kind: type, make: Any = neuron) -> list[Any]:
    """The operator on Numba, and on torch."""
    both = [kind(make) for _ in range(2)]
    for one, backend in zip(both, ("numba", "torch"), strict=True):
        mbe_plugin.set_backend(one, backend)
    return both


def counts(operator: Any) -> dict[str, list[int]]:
    return {role: [int(getattr(n, c)) for c in COUNTERS] for role, n in operator.neurons()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [1, 3, 8, 31, 100, 384, 577, 3000])
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_normalisation_gives_the_same_bits_and_counts(kind: type, columns: int, dtype: torch.dtype) -> None:
    both = pair(kind)
    gain, shift = torch.rand(columns) + 0.5, torch.randn(columns)
    rest = ((gain, shift), (None, None), (gain.to(dtype),), (None, shift))
    with mock.patch.object(row_calls, "normalized", wraps=row_calls.normalized) as fused:
        for x in (torch.randn(7, 5, columns) * 2 + 1, torch.randn(1, columns), torch.zeros(0, columns)):
            for parameters in rest if kind is LayerNorm else ((gain,), (None,), (gain.to(dtype),)):
                found, want = (one(x.to(dtype), (columns,), *parameters) for one in both)
                assert_same_bits(found, want)
                assert found.is_contiguous()
    assert fused.call_count == (8 if kind is LayerNorm else 6), "not for the empty input"
    assert counts(both[0]) == counts(both[1])
    assert counts(both[0])["deviation"][0] > 0 and sum(counts(both[0])["rsqrt"][1:]) > 0


def test_normalisation_over_two_dimensions_of_numbers_that_are_none() -> None:
    both = pair(LayerNorm)
    x = torch.randn(6, 4, 8)
    x[1, 2, 3], x[2, 0, 0], x[3] = torch.inf, torch.nan, 0.0
    assert_same_bits(*(one(x, (4, 8), torch.rand(4, 8).fill_(0.7)) for one in both))
    assert counts(both[0]) == counts(both[1])


def test_rows_that_are_not_contiguous_or_of_float64_go_the_long_way() -> None:
    both = pair(LayerNorm)
    with mock.patch.object(row_calls, "normalized") as fused:
        x = torch.randn(12, 5).T
        assert_same_bits(*(one(x, (12,)) for one in both))
        mbe_plugin.set_backend(both[0], "auto")
        assert both[0](x.double().contiguous(), (12,)).dtype == torch.float64
        assert both[0](x.contiguous(), (12,), torch.ones(12, dtype=torch.float64)).dtype == torch.float32
    fused.assert_not_called()


def test_another_order_of_sums_leaves_normalisation_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    both, x = pair(LayerNorm), torch.randn(9, 40)
    monkeypatch.setattr(row_calls, "lanes", lambda columns: 0)
    assert_same_bits(*(one(x, (40,)) for one in both))
    assert counts(both[0]) == counts(both[1])


@pytest.mark.parametrize("columns", [1, 15, 16, 129, 2048])
def test_the_order_of_torchs_sums_is_known(columns: int) -> None:
    assert sums.lanes(columns) > 0
    x = torch.randn(500, columns)
    assert_same_bits(sums.row_sums(x, sums.lanes(columns)), x.sum(-1))


def test_the_order_of_longer_sums_is_not() -> None:
    assert sums.lanes(sums.MOST_COLUMNS + 1) == 0 == sums.lanes(0)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_gives_the_same_bits_and_counts(causal: bool) -> None:
    both = pair(Attention, attention_neuron)
    q, k, v = torch.randn(2, 3, 33, 20) * 2, torch.randn(2, 3, 33, 20), torch.randn(2, 3, 33, 5)
    mask = torch.rand(2, 1, 33, 33) < 0.6
    mask[0, 0, 3] = False  # a row that sees nothing
    q[1, 1, 4, 0] = torch.nan
    given = {"is_causal": True} if causal else {"attn_mask": mask}
    with mock.patch.object(row_calls, "divided", wraps=row_calls.divided) as fused:
        assert_same_bits(*(one(q, k, v, **given) for one in both))
    fused.assert_called_once()
    assert counts(both[0]) == counts(both[1])
    assert all(sum(found[1:]) for found in counts(both[0]).values())


@pytest.mark.parametrize("dim", [-1, 0])
def test_softmax_gives_the_same_bits_and_counts(dim: int) -> None:
    both, x = pair(Softmax), torch.randn(20, 30) * 4
    x[2] = -torch.inf
    with mock.patch.object(row_calls, "divided", wraps=row_calls.divided) as fused:
        assert_same_bits(*(one(x, dim=dim) for one in both))
    assert fused.called == (dim == -1)
    assert counts(both[0]) == counts(both[1])


def test_threads_take_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    both, x = pair(LayerNorm), torch.randn(301, 200)
    assert_same_bits(*(one(x, (200,)) for one in both))
    attention = pair(Attention, attention_neuron)
    q = torch.randn(4, 67, 64)
    assert_same_bits(*(one(q, q, q) for one in attention))
    for one, other in (both, attention):
        assert counts(one) == counts(other)


def messages(run: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(w.message) for w in caught if w.category is RangeWarning]


@pytest.mark.parametrize("widest", ["deviation", "rsqrt"])
def test_what_is_lost_is_warned_of_as_without_the_kernel(widest: str) -> None:
    def make(role: str, function: str, scalar: Any = None) -> CalibratedNode:
        made = neuron(role, function)
        if role == widest:  # a neuron without range reduction loses what leaves its range
            found = fit("tanh", time_steps=8, bases=16)
            made = CalibratedNode(found.tables, found.reduction, -0.1, 0.1, function, 0.0)
        return made

    both, x = pair(LayerNorm, make), torch.randn(5, 64)
    said = [messages(lambda one=one: one(x, (64,))) for one in both]
    assert said[0] == said[1] and len(said[0]) == 1
    assert "outside its calibrated range [-0.1, 0.1]" in said[0][0]
    assert counts(both[0]) == counts(both[1])


def test_who_listens_or_hooks_a_neuron_sees_its_calls() -> None:
    operator, x, seen = LayerNorm(neuron), torch.randn(4, 32), []
    handle = operator.rsqrt.register_forward_hook(lambda *call: seen.append(call[1][0].shape))
    with mock.patch.object(row_calls, "normalized") as fused:
        operator(x, (32,))
        handle.remove()
        operator.deviation.spike_listener = mock.Mock(counts_suffice=False, room=lambda: None)
        operator(x, (32,))
    fused.assert_not_called()
    assert seen == [(4, 1)] and operator.deviation.spike_listener.called


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("simulate", ["closed", "steps"])
def test_a_recording_is_the_same_with_kernels_that_add_to_it(
    simulate: Any, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attend = LayerNorm(neuron), Attention(attention_neuron)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x, (64,))
            return self.attend(y, y, y * 2, is_causal=True)

    block, x = Block(), torch.randn(3, 200, 64)
    for name, operator in block.named_children():
        operator.site = name
        for role, made in operator.neurons():
            made.site, made.role, made.simulate = name, role, simulate
    found = []
    for backend in ("numba", "torch"):
        mbe_plugin.set_backend(block, backend)
        with mbe_plugin.record(block) as recording, torch.no_grad():
            assert recording.neurons == {}, "a neuron that is not called sends nothing"
            values = [block(x) for _ in range(2)][-1]
        events = {key: (n.counts.tolist(), n.tally.tolist()) for key, n in recording.neurons.items()}
        found.append((values, events))
    assert_same_bits(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] and len(found[0][1]) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_neurons_count_ranges_as_torch_does(dtype: torch.dtype) -> None:
    x = torch.cat([torch.randn(2000), torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, 1e30])]).to(dtype)
    where = torch.rand(x.shape) < 0.5
    for function, low, high in (("identity", -1.003, 0.7), ("rsqrt", 0.1, 2.0), ("gelu", -0.6, 1e9)):
        found = fit(function, time_steps=4, bases=8)
        one, other = (
            CalibratedNode(found.tables, found.reduction, low, high, function, 0.0) for _ in range(2)
        )
        one.backend, other.backend = "numba", "torch"
        for mask in (None, where, where[:1].expand(x.shape)):
            assert_same_bits(one(x, where=mask), other(x, where=mask))
            assert [int(getattr(one, c)) for c in COUNTERS] == [int(getattr(other, c)) for c in COUNTERS]


def test_calls_in_other_threads_are_all_counted() -> None:
    made, x = neuron("", "identity"), torch.randn(300)

    def many() -> None:
        for _ in range(300):
            made(x)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(made.seen) == 4 * 300 * 300
    assert int(made.beyond) == 4 * 300 * int(((x < -0.9) | (x > 0.8)).sum())


def other_tables(made: CalibratedNode) -> dict[str, Tensor]:
    return {name: table * 2 for name, table in made.state_dict().items() if name in ("w", "bias")}


@pytest.mark.parametrize("way", ["in place", "another tensor", "data", "load_state_dict", "copy", "simulate"])
def test_tables_that_change_count_at_once(way: str) -> None:
    made = CalibratedNode(
        (found := fit("gelu", time_steps=8, bases=16)).tables, found.reduction, -9, 9, "gelu", 0
    )
    x = torch.randn(50)
    made(x)
    if way == "copy":
        made = copy.deepcopy(made)
    for name, table in other_tables(made).items():
        if way == "another tensor":
            setattr(made, name, table)
        elif way == "data":
            getattr(made, name).data = table
        elif way == "load_state_dict":
            made.load_state_dict({name: table}, strict=False)
        else:
            getattr(made, name).copy_(table)
    if way == "simulate":
        made.simulate = "steps"
    slow = copy.deepcopy(made)
    slow.backend = "torch"
    assert_same_bits(made(x), slow(x))
    assert int(made.seen) == int(slow.seen)


def test_tables_of_another_layout_or_device_are_not_read_as_they_lie() -> None:
    made, x = neuron("", "identity"), torch.randn(50)
    want = made(x)
    made.th = made.th.T.contiguous().T
    assert_same_bits(made(x), want)
    with pytest.raises(ValueError, match="tables are on meta"):
        made.to("meta")(x)
