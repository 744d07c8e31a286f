"""simulate="events": the same values as the closed form, by as many additions as are billed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, tokens, transformer
from test_deliveries import LAYERS, MASKS, MOVES, PRODUCTS, with_zeros
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mbe_plugin import ConversionError, MBEConfig, as_sequence, calibrate, convert, energy, load, record, save
from mbe_plugin.conversion.following import synapses
from mbe_plugin.operators import CalibratedNode
from mbe_plugin.recording import events_of, sent_by

pytestmark = pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")

CODES: dict[str, dict[str, Any]] = {
    "element": {"scale": "element"},
    "token": {"scale": "token"},
    "channel": {"scale": "channel"},
    "tensor": {"scale": "tensor"},
    "first spike": {"code": "first_spike", "identity_bases": 16, "margin": 0.0},
    "first spike, channel": {"code": "first_spike", "scale": "channel", "margin": 0.0},
    "first spike, dead zone": {"code": "first_spike", "dead_zone": 0.5, "margin": 0.0},
    "dead zone": {"dead_zone": 0.5},
    "published": {"family": "published", "bases": 2, "merge": False, "scale": "tensor"},
}


def both(model: nn.Module, args: tuple, **settings: Any) -> tuple[Any, Any, Any]:
    """Outputs of the closed form and by events, and what was delivered in the second."""
    calibration = calibrate(model, [(args, {})])
    closed, events = (
        convert(model, calibration, MBEConfig(simulate=simulate, **settings))  # type: ignore[arg-type]
        for simulate in ("closed", "events")
    )
    with torch.no_grad(), record(events, deliveries=True) as recording:
        out = events(*args)
    with torch.no_grad():
        return closed(*args), out, recording.deliveries


def check(model: nn.Module, *args: Tensor, close: float = 1e-12, **settings: Any) -> dict[Any, int]:
    """In float64: equal up to summation order; additions are those billed, by site and function."""
    wide = model.double().eval(), tuple(x.double() if x.is_floating_point() else x for x in args)
    want, got, deliveries = both(*wide, **settings)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert want.abs().max() > 0
    assert (got - want).abs().max() <= close * want.abs().max()
    done = {key: found.additions for key, found in deliveries.items()}
    assert done == {key: found.total for key, found in deliveries.items()}
    assert all(isinstance(n, int) for n in done.values())
    return done


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("time_steps", [1, 2, 3, 4])
def test_two_layers(code: str, time_steps: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5))
    done = check(model, with_zeros(3, 6), time_steps=time_steps, **CODES[code])
    assert min(done.values()) > 0


@pytest.mark.parametrize("code", CODES)
def test_an_encoder(code: str) -> None:
    """LayerNorm, attention written by hand, GELU, residuals; merged and not."""
    for merge in (True, False) if code in ("element", "first spike") else (True,):
        settings = {"merge": merge, **CODES[code]}
        done = check(transformer(depth=1), tokens(1, 3), time_steps=3, **settings)
        assert {function for _, function in done} == {"linear", "matmul", "mul", "sum", "read-out"}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("code", CODES)
def test_a_layer_with_weights(name: str, code: str) -> None:
    """Strides, padding, dilation, groups, transposed; a linear layer."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    [done] = check(nn.Sequential(make()), with_zeros(*shape), time_steps=3, **CODES[code]).values()
    assert done > 0


def test_a_convolutional_network() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 8, (3, 2), padding="same", dilation=2, groups=4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 2, padding=(1, 0), padding_mode="reflect"),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    x = with_zeros(2, 3, 9, 8)
    model[-1] = nn.Linear(model[:-1](x).shape[1], 5)
    for merge in (True, False):
        check(model, x, time_steps=4, merge=merge)


@pytest.mark.parametrize("op", PRODUCTS)
@pytest.mark.parametrize("code", ["element", "token", "first spike", "published"])
def test_a_product_of_two_activations(op: str, code: str) -> None:
    a, b = with_zeros(2, 3, WIDTH), with_zeros(2, 4, WIDTH).flip(0)
    added = torch.randn(2, 3, 4, dtype=torch.float64)
    products = PRODUCTS | {"baddbmm": lambda a, b: torch.baddbmm(added, a, b.mT, beta=0.5, alpha=3.0)}
    check(Calling(lambda m, a, b: products[op](a, b)), a, b, time_steps=3, **CODES[code])


WEIGHT = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "vector": lambda x: F.linear(x[0, 0], WEIGHT[0]),
    "one output": lambda x: F.linear(x, WEIGHT[0, 0]),
    "addmm": lambda x: torch.addmm(WEIGHT[0, :, 0], x[0], WEIGHT[0].T, beta=2.0, alpha=0.5),
    "addbmm": lambda x: torch.addbmm(WEIGHT[0, :3, :5], x, WEIGHT.mT),
    "mv": lambda x: x[0] @ WEIGHT[0, 0],
    "one matrix for all": lambda x: x.expand(4, 2, 3, WIDTH) @ WEIGHT[0].T,
    "one activation for all": lambda x: x[0] @ WEIGHT.mT,
    "weights on the left": lambda x: WEIGHT @ x.mT,
    "reflected": lambda x: x.mT.__rmatmul__(WEIGHT),
    "einsum": lambda x: torch.einsum("bik,bjk->bij", x, WEIGHT),
    "tensordot": lambda x: torch.tensordot(x, WEIGHT[0], dims=([2], [1])),
    "bilinear": lambda x: F.bilinear(
        x[:, :2], x[:, 1:], WEIGHT[:, :, :5].mT.reshape(2, 5, 5).repeat(1, 2, 2)[:, :8, :8]
    ),
    "addcmul": lambda x: torch.addcmul(WEIGHT[:, :3], x, x.flip(1), value=3.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_functions_with_weights(name: str) -> None:
    for code in ("element", "token"):
        check(Calling(lambda m, x: FUNCTIONS[name](x)), with_zeros(2, 3, WIDTH), time_steps=3, **CODES[code])


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("most", [1 << 24, 12], ids=["at once", "by rows"])
def test_attention(mask: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbe_plugin.operators.softmax.MOST_SCORES", most)
    monkeypatch.setattr(synapses, "AT_ONCE", 100)
    heads = 1 if mask == "grouped" else 2
    q, k, v = with_zeros(2, 2, 5, WIDTH), with_zeros(2, heads, 6, WIDTH), with_zeros(2, heads, 6, 3)
    options = {
        n: o.double() if isinstance(o, Tensor) and o.is_floating_point() else o
        for n, o in MASKS[mask].items()
    }
    model = Calling(
        lambda m, q, k, v: F.linear(F.scaled_dot_product_attention(q, k, v, **options), WEIGHT[0, :, :3])
    )
    check(model, q, k, v, time_steps=3)
    check(model, q, k, v, **CODES["first spike"], time_steps=6)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("norm", ["layer", "rms", "group", "batch"])
def test_a_normalization_into_weights(norm: str, merge: bool) -> None:
    made = {
        "layer": nn.LayerNorm(WIDTH),
        "rms": nn.RMSNorm(WIDTH),
        "group": nn.GroupNorm(2, WIDTH),
        "batch": nn.BatchNorm1d(WIDTH, track_running_stats=False),
    }[norm]
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    for code in ("element", "token"):
        settings = {"merge": merge, **CODES[code]}
        check(nn.Sequential(made, nn.Linear(WIDTH, 5)), with_zeros(4, WIDTH), time_steps=4, **settings)


ARRANGED: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: F.linear(x, WEIGHT[0]),
    "one output": lambda x: F.linear(x, WEIGHT[0, 0]),
    "weights of its own": lambda x: F.linear(WEIGHT, x[0]),
    "addmm": lambda x: torch.addmm(WEIGHT[0, :, 0], x[0], WEIGHT[0].T, alpha=0.5),
    "addbmm": lambda x: torch.addbmm(WEIGHT[0, :3, :5], x, WEIGHT.mT),
    "one activation for all": lambda x: x[0] @ WEIGHT.mT,
    "weights on the left": lambda x: WEIGHT @ x.mT,
    "vector": lambda x: F.linear(x[0, 0], WEIGHT[0]),
    "vector on the right": lambda x: WEIGHT @ x[0, 0],
    "other dimension": lambda x: WEIGHT[:, :, :3] @ x,
    "einsum": lambda x: torch.einsum("bik,bjk->bij", x, WEIGHT),
    "convolution": lambda x: F.conv1d(x.mT, WEIGHT.permute(1, 2, 0)),
    "mixed rows": lambda x: F.linear(x.flip(1).repeat(1, 2, 1)[:, 1::2], WEIGHT[0]),
}


@pytest.mark.parametrize("name", ARRANGED)
def test_a_factor_that_a_row_shares(name: str) -> None:
    """r (W d) where an output sums over one row of LayerNorm or softmax alone, gain and offset included; else W (r d)."""
    gain, offset = WEIGHT[0, 0], WEIGHT[1, 1]
    norm = Calling(lambda m, x: ARRANGED[name](F.layer_norm(x, (WIDTH,), gain, offset)))
    softmax = Calling(lambda m, x: ARRANGED[name](torch.softmax(x, -1)))
    for model in (norm, softmax):
        check(model, with_zeros(2, 3, WIDTH), time_steps=3)


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "leaky": F.leaky_relu,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": lambda x: torch.log(x.abs() + 1),
    "sin": torch.sin,
    "cube": lambda x: torch.pow(x, 3),
    "square": torch.square,
    "root": lambda x: torch.sqrt(x.abs()),
    "quotient": lambda x: x / (x.abs() + 1),
    "inverse": lambda x: 2.0 / (x.square() + 1),
    "softmax": lambda x: torch.softmax(x, -1),
    "gate": lambda x: torch.sigmoid(x) * torch.tanh(x),
    "expm1 in a product": lambda x: torch.expm1(x) * torch.sigmoid(x),
    "masked": lambda x: torch.tanh(x.masked_fill(x > 1, -torch.inf)),
}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("name", UNARY)
def test_functions_into_weights(name: str, merge: bool) -> None:
    check(Calling(lambda m, x: m.fc(UNARY[name](x))), with_zeros(3, WIDTH), time_steps=4, merge=merge)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("emitter", ["gelu", "layer_norm"])
def test_events_move_with_their_value(move: str, emitter: str) -> None:
    def moving(m: Calling, x: Tensor) -> Tensor:
        y = F.gelu(x) if emitter == "gelu" else F.layer_norm(x, (WIDTH,))
        return m.fc(MOVES[move](y).to(x.dtype))

    close = 1e-5 if move == "cast" else 1e-12  # it goes through float32
    check(Calling(moving), with_zeros(3, WIDTH), time_steps=4, close=close)


def test_events_of_several_values_put_together() -> None:
    def forward(m: Calling, x: Tensor) -> Tensor:
        left, right = F.gelu(x), torch.tanh(x)
        return m.fc(torch.cat([left[:, :4], right[:, 4:]], -1)) + m.fc(F.pad(left[:, 1:], (1, 0)))

    check(Calling(forward), with_zeros(3, WIDTH), time_steps=4)


def test_an_infinite_activation_and_one_that_is_no_number() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.GELU())
    x = torch.tensor([[1.0, 2.0, 3.0], [torch.inf, 1.0, 1.0], [torch.nan, 1.0, 1.0]])
    snns = [convert(model, [x[:1]], MBEConfig(simulate=s, time_steps=4)) for s in ("closed", "events")]  # type: ignore[arg-type]
    with torch.no_grad():
        want, got = (snn(x) for snn in snns)
    torch.testing.assert_close(got, want, equal_nan=True)
    assert got[1:].isfinite().sum() == want[1:].isfinite().sum()


def by_events(model: nn.Module, *args: Any, **settings: Any) -> nn.Module:
    return convert(model, [(args, {})], MBEConfig(**{"simulate": "events", "time_steps": 4, **settings}))


def test_three_numbers_by_hand() -> None:
    """docs/energy.md: two spikes and two side events meet two outputs each."""
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 7.0]]))
        layer.bias.copy_(torch.tensor([0.25, 0.0]))
    x = torch.tensor([[1.0, 0.7, 0.0]])
    snn = by_events(nn.Sequential(layer), x, identity_bases=8)
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        out = snn(x)
    assert rec.deliveries["0:linear", "linear"].additions == 8
    # 1.0: segment [1/2, 5/8) of 2^1, no spike, half a step of 1/128; 0.7: 5/8 + (9 + 1/2) / 128
    one, other = 2 * (0.5 + 0.5 / 128), 0.625 + 9.5 / 128
    assert torch.equal(out, torch.tensor([[one + 2 * other + 0.25, -one + 0.5 * other]]))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_list_of_a_neuron_is_its_train(code: str, dtype: torch.dtype) -> None:
    """In the order of time, as many as the closed form counts, and together the decoded value."""
    x = with_zeros(3, 4, WIDTH).to(dtype)
    snn = convert(nn.Sequential(nn.Linear(WIDTH, 2)).to(dtype), [x], MBEConfig(time_steps=5, **CODES[code]))
    [node] = [m for m in snn.modules() if isinstance(m, CalibratedNode)]
    listed = list(events_of(node, x).by_step())
    steps = [step for step, _, _ in listed]
    assert steps == sorted(steps)
    assert set(steps) <= set(range(5))
    sent, value = sent_by(node, x), torch.zeros(x.numel(), dtype=dtype)
    found = torch.zeros(x.numel())
    for _, place, amount in listed:
        assert len(set(place.tolist())) == len(place) > 0
        found[place] += 1
        value[place] += amount
    assert torch.equal(found.reshape(x.shape), sent.events)
    eps = torch.finfo(dtype).eps
    with torch.no_grad():
        torch.testing.assert_close(value.reshape(x.shape), node(x), rtol=16 * eps, atol=16 * eps)


def test_a_pair_is_there_when_the_later_of_the_two_is() -> None:
    x = with_zeros(3, WIDTH)
    snn = convert(nn.Sequential(nn.Linear(WIDTH, 2)), [x], MBEConfig(time_steps=3))
    [node] = [m for m in snn.modules() if isinstance(m, CalibratedNode)]
    one, other = events_of(node, x), events_of(node, x.flip(0))
    arrived: dict[int, int] = {}
    for step, place, _ in one.times(other).by_step():
        arrived[step] = arrived.get(step, 0) + len(place)
    so_far = {}
    for t in range(3):
        counts = [
            sum(torch.bincount(place, minlength=x.numel()) for step, place, _ in e.by_step() if step <= t)
            for e in (one, other)
        ]
        so_far[t] = int((counts[0] * counts[1]).sum())
    assert {t: sum(n for s, n in arrived.items() if s <= t) for t in range(3)} == so_far


class Dense(TorchDispatchMode):
    """Products of dense numbers whose operands are all something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm", "convolution", "mv"):
            operands = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
            if all(bool(t.any()) for t in operands):
                self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_no_dense_product_is_left() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = F.gelu(self.conv(x))
            return self.fc(F.scaled_dot_product_attention(y, y, y)) @ self.fc.weight

    x = with_zeros(2, 4, 6)
    calibration = calibrate(Small(), [x])
    found = {}
    for simulate in ("closed", "events"):
        snn = convert(Small(), calibration, MBEConfig(simulate=simulate, time_steps=4))  # type: ignore[arg-type]
        with torch.no_grad(), Dense() as dense:
            snn(x)
        found[simulate] = sorted(dense.found)
    assert found["events"] == []
    assert len(found["closed"]) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_layer_in_other_dtypes(dtype: torch.dtype) -> None:
    """n additions of float32 numbers differ by n roundings of the sum of magnitudes; 16 bits round what is decoded."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 16).to(dtype)
    x = torch.randn(5, 64).to(dtype)
    want, got, _ = both(nn.Sequential(layer), (x,), time_steps=8)
    assert got.dtype == dtype
    magnitudes = F.linear(x.abs().double(), layer.weight.abs().double(), layer.bias.abs().double())
    roundings = 64 * 9 if dtype == torch.float32 else 4
    assert ((got - want).abs().double() <= roundings * torch.finfo(dtype).eps * magnitudes).all()
    assert want.abs().max() > 0.5


def test_energy_bills_the_additions() -> None:
    snn = by_events(transformer(depth=1), tokens())
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(tokens())
    done = sum(found.additions for found in rec.deliveries.values())
    kinds = energy(snn, tokens()).by_kind()
    assert done == kinds["accumulate"].snn_operations + kinds["read-out"].snn_operations
    assert all(found.additions is None for found in energy_of_closed().values())


def energy_of_closed() -> dict[Any, Any]:
    snn = by_events(transformer(depth=1), tokens(), simulate="closed")
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(tokens())
    return rec.deliveries or {}


def test_it_runs_the_same_however_it_is_called(tmp_path: Path) -> None:
    """Recorded or not, in inference mode, as a copy, from a file, and each of two at once for some sites."""
    model = transformer(depth=1)
    snn = by_events(model, tokens())
    with torch.no_grad():
        want = snn(tokens())
    save(snn, tmp_path)
    again = [snn, deepcopy(snn), pickle.loads(pickle.dumps(snn)), load(tmp_path, model)]
    for network in again:
        with torch.inference_mode(), record(network, sites="*.attention*", deliveries=True) as rec:
            assert torch.equal(network(tokens()), want)
        assert rec.deliveries
        assert all(d.additions == d.total for d in rec.deliveries.values())
        assert {".attention" in site for site, _ in rec.deliveries} == {True}


def test_step_mode_m_is_run_by_events_once() -> None:
    snn = by_events(transformer(depth=1), tokens())
    with torch.no_grad():
        want = snn(tokens())
        snn.step_mode = "m"
        with record(snn, deliveries=True) as rec:
            sequence = snn(as_sequence(tokens(), 4))
    torch.testing.assert_close(sequence.sum(0), want, rtol=1e-5, atol=1e-6)
    assert all(d.additions == d.total for d in (rec.deliveries or {}).values())


def test_what_cannot_be_run_by_events_is_refused_by_name() -> None:
    x = with_zeros(4, WIDTH)
    snn = by_events(Calling(lambda m, x: torch.fft.fft(x).real), x)
    with (
        torch.no_grad(),
        pytest.raises(ConversionError, match=r"\(root\):fft: no synapses are known for fft"),
    ):
        snn(x)
    weight = torch.randn(WIDTH, 2, dtype=torch.complex64)
    snn = by_events(Calling(lambda m, x: (torch.complex(x, -x) @ weight).real), x)
    message = r"\(root\):matmul\(a,w\): the events of its operands could not be followed .*convert with simulate='closed'"
    with torch.no_grad(), pytest.raises(ConversionError, match=message):
        snn(x)
    snn = by_events(nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 2)), x)
    message = "1:linear reads operand 0 as a train whose events could not be followed to it"
    with torch.no_grad(), pytest.raises(ConversionError, match=message):
        snn[1](x)
    with pytest.raises(
        ConversionError, match=r"linear is run by its events, which have no gradients.*no_grad\(\)"
    ):
        snn(x)
    snn = by_events(nn.Sequential(nn.GELU()), x)
    with pytest.raises(ConversionError, match="0:gelu is run by its events, which have no gradients"):
        snn(x.clone().requires_grad_())
    snn = by_events(Calling(lambda m, x: m.fc(F.dropout(F.gelu(x), 0.5, training=m.training))), x)
    with torch.no_grad(), pytest.raises(ConversionError, match="fc:linear.*dropout in training mode"):
        snn.train()(x)


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_forward_is_refused() -> None:
    snn = by_events(nn.Sequential(nn.GELU()), tokens())
    torch._dynamo.reset()
    with (
        torch.no_grad(),
        pytest.raises(torch._dynamo.exc.Unsupported, match="gelu is run by its events, which a compiled"),
    ):
        torch.compile(snn, backend="eager")(tokens())
