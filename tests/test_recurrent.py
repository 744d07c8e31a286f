"""LSTM, GRU and RNN by steps: torch's own values, one set of sites per layer and direction, sequences of any length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import WIDTH, Calling, tokens
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import mbe_plugin
from mbe_plugin import MBEConfig, UnseenSiteError, convert, count_spikes, report
from mbe_plugin.conversion.vocabulary.recurrent import RECURRENT

HIDDEN = 6
# torch's own word on its CPU kernels
pytestmark = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN:UserWarning"
)

LAYERS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # the sites of one layer in one direction
    "LSTM": (lambda: nn.LSTM(WIDTH, HIDDEN), 10),
    "deep LSTM": (lambda: nn.LSTM(WIDTH, HIDDEN, 2, bidirectional=True, batch_first=True), 40),
    "LSTM without bias": (lambda: nn.LSTM(WIDTH, HIDDEN, bias=False), 10),
    "projected LSTM": (lambda: nn.LSTM(WIDTH, HIDDEN, 2, proj_size=3), 22),
    "GRU": (lambda: nn.GRU(WIDTH, HIDDEN), 7),
    "deep GRU": (lambda: nn.GRU(WIDTH, HIDDEN, 2, bidirectional=True, dropout=0.5), 28),
    "RNN": (lambda: nn.RNN(WIDTH, HIDDEN, bidirectional=True), 6),
    "RNN with ReLU": (lambda: nn.RNN(WIDTH, HIDDEN, nonlinearity="relu", batch_first=True), 3),
}


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


QUICK_FIRST = [slow(name) if sites > 20 else name for name, (_, sites) in LAYERS.items()]
CELLS = {"LSTMCell": nn.LSTMCell, "GRUCell": nn.GRUCell, "RNNCell": nn.RNNCell}


def recurrent(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name][0]().eval()


def flat(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return [t for part in out for t in flat(part)]


def assert_as_good_as_its_neurons(got: Any, want: Any) -> None:
    """At T = 16 the fitted sigmoids and tanhs are good to a few 1e-4 of what the sequence makes of them."""
    for g, w in zip(flat(got), flat(want), strict=True):
        assert g.shape == w.shape
        assert (g - w).abs().max() < 5e-3
        assert not torch.equal(g, w)


@pytest.mark.parametrize("name", LAYERS)
def test_by_steps_it_is_torchs_own_layer(name: str) -> None:
    """The decomposition alone, in float64, against torch's kernel: outputs and last states."""
    layer = recurrent(name).double()
    states = 2 if isinstance(layer, nn.LSTM) else 1
    x, calls = tokens(5, 4).double(), []
    kernel = {"LSTM": "lstm", "GRU": "gru", "RNN": f"rnn_{getattr(layer, 'nonlinearity', '')}"}[
        type(layer).__name__
    ]
    original = getattr(torch._VF, kernel)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._VF, kernel, lambda *args: calls.append(args) or original(*args))
        want = flat(layer(x))
    got = RECURRENT[kernel](iter, *calls[0])
    assert len(got) == len(want) == 1 + states
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_every_step_has_the_same_sites_and_a_sequence_may_be_longer(name: str) -> None:
    ann = Calling(lambda m, x: m.rnn(x))
    ann.rnn = recurrent(name)
    snn = convert(ann, [tokens(5, 4), tokens(5, 4, seed=2)])
    found = report(snn)
    assert len([s for s in found.sites if s.site.startswith("rnn:")]) == LAYERS[name][1]
    assert not found.unsupported
    assert not found.kept_exact
    for shape in ((5, 4), (1, 1), (11, 3), (2, 7)):
        x = tokens(*shape, seed=3)
        with torch.no_grad():
            assert_as_good_as_its_neurons(snn(x), ann(x))


@pytest.mark.parametrize("name", [slow("deep LSTM"), "deep GRU", "RNN"])
def test_packed_sequences(name: str) -> None:
    def packed(m: Calling, x: Tensor, lengths: Tensor) -> Any:
        rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, state = m.rnn(rows)
        return pad_packed_sequence(out, batch_first=True)[0], state

    ann = Calling(packed)
    ann.rnn = recurrent(name)
    snn = convert(ann, [((tokens(4, 6), torch.tensor([6, 2, 5, 1])), {})])
    assert not report(snn).unsupported
    x, lengths = tokens(3, 9, seed=5), torch.tensor([4, 9, 4])
    with torch.no_grad():
        assert_as_good_as_its_neurons(snn(x, lengths), ann(x, lengths))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_cells_in_a_loop_of_the_models_own(name: str, bias: bool) -> None:
    def stepping(m: Calling, x: Tensor) -> list[Any]:
        state, states = None, []
        for column in m.fc(x).unbind(1):
            state = m.cell(column, state)
            states.append(state)
        return states

    ann = Calling(stepping)
    ann.cell = CELLS[name](WIDTH, HIDDEN, bias=bias)
    snn = convert(ann, [tokens(4, 6)])
    assert not report(snn).unsupported
    x = tokens(2, 10, seed=4)
    with torch.no_grad():
        assert_as_good_as_its_neurons(snn(x), ann(x))


def test_first_states_that_are_activations() -> None:
    def started(m: Calling, x: Tensor, h: Tensor, c: Tensor) -> Any:
        return m.rnn(x, (torch.tanh(h), c))

    ann = Calling(started)
    ann.rnn = recurrent("LSTM")
    batch = tokens(5, 4), torch.randn(1, 4, HIDDEN), torch.randn(1, 4, HIDDEN)
    snn = convert(ann, [(batch, {})])
    with torch.no_grad():
        assert_as_good_as_its_neurons(snn(*batch), ann(*batch))
    assert torch.equal(snn(*batch)[0], snn(*batch)[0])


def test_spikes_grow_with_the_sequence() -> None:
    ann = Calling(lambda m, x: m.rnn(x)[0])
    ann.rnn = recurrent("LSTM")
    snn = convert(ann, [tokens(5, 4)])
    counted = []
    for length in (3, 6):
        with torch.no_grad(), count_spikes(snn) as counts:
            snn(tokens(length, 4))
        counted.append({key: n.elements for key, n in counts.neurons.items()})
    assert counted[0].keys() == counted[1].keys()
    assert all(counted[1][key] == 2 * n for key, n in counted[0].items())


def test_gradients_reach_weights_and_inputs() -> None:
    ann = Calling(lambda m, x: m.rnn(x)[0])
    ann.rnn = recurrent("deep GRU")
    snn = convert(ann, [tokens(5, 4)], MBEConfig(gradient="slope"))
    gradients = []
    for model in (ann, snn):
        x = tokens(5, 4).requires_grad_()
        model(x).square().sum().backward()
        gradients.append([x.grad, *(p.grad for p in model.rnn.parameters())])
    for exact, found in zip(*gradients, strict=True):
        assert torch.cosine_similarity(exact.reshape(-1), found.reshape(-1), dim=0) > 0.99


def test_dropout_between_the_layers_in_training() -> None:
    ann = Calling(lambda m, x: m.rnn(x)[0])
    ann.rnn = recurrent("deep GRU")
    snn = convert(ann, [tokens(5, 4)])
    x = tokens(5, 4)
    assert torch.equal(snn(x), snn(x))
    snn.train()
    assert not torch.equal(snn(x), snn(x))


@pytest.mark.parametrize("name", ["LSTM", slow("deep LSTM")])
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    ann = Calling(lambda m, x: m.rnn(x)[0])
    ann.rnn = recurrent(name)
    snn = convert(ann, [tokens(5, 4)])
    mbe_plugin.save(snn, tmp_path)
    assert torch.equal(mbe_plugin.load(tmp_path, ann)(tokens(7, 2)), snn(tokens(7, 2)))


def test_two_calls_of_one_layer_share_its_sites() -> None:
    """The layer's steps share its sites, and so do its calls; the numbering of the caller's own goes on."""

    def twice(m: Calling, x: Tensor, times: int = 2) -> Tensor:
        for _ in range(times):
            x = x + torch.tanh(m.rnn(x)[0])
        return x

    ann = Calling(twice)
    torch.manual_seed(0)
    ann.rnn = nn.GRU(WIDTH, WIDTH)
    snn = convert(ann, [tokens(5, 4)])
    assert len([s for s in report(snn).sites if s.site.startswith("rnn:")]) == 7
    with pytest.raises(UnseenSiteError, match=r"tanh#2"):
        snn(tokens(5, 4), times=3)
