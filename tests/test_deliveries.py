"""record(deliveries=True): events at the synapses, against the functions themselves on the counts of explicit trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, tokens, transformer
from test_recording import CONFIGS as RECORDED
from test_recording import Heard, overheard
from torch import Tensor, nn

from mbe_plugin import ConversionError, MBEConfig, convert, record
from mbe_plugin.conversion.following.fan_out import arrivals, by_the_function
from mbe_plugin.conversion.vocabulary.catalogue import RULES
from mbe_plugin.conversion.vocabulary.rules import Call, MultilinearRule
from mbe_plugin.operators import SharedScaleNode
from mbe_plugin.recording import Ledger, told

CONFIGS = RECORDED | {
    "first spike": MBEConfig(time_steps=6, identity_bases=16, code="first_spike"),
    "dead zone": MBEConfig(time_steps=6, dead_zone=0.3),
}


class Counted:
    """What one overheard call sent per element, float64: spikes, all events, and exponents that elements share."""

    def __init__(self, heard: Heard) -> None:
        node, took = heard.node, heard.took_part
        x = heard.x = torch.where(heard.x.abs() < node.dead_zone, 0.0, heard.x)
        trains = heard.spikes()
        self.spikes = trains.double().sum((0, 1))
        self.shared = torch.zeros_like(self.spikes)
        if node.reduction.kind not in ("none", "clip"):
            side = (x != 0) & torch.isfinite(x) if node.reduction.kind == "exponent" else torch.isfinite(x)
        else:
            side = self._constants(heard) != 0
            if isinstance(node, SharedScaleNode) and node.shared == "token":
                self.shared.narrow(heard.dim, 0, 1).fill_(1)
        self.events = self.spikes + (side & took).double()

    @staticmethod
    def _constants(heard: Heard) -> Tensor:
        """What the neuron reads out of no spikes at all: the constant of the bank."""
        tables = heard.node.tables()
        if not tables.bias.any():
            return torch.zeros_like(heard.x)
        x = heard.x.float()
        if isinstance(heard.node, SharedScaleNode):
            x = heard.node.scaled(x, heard.dim)[0]
        segment = torch.bucketize(
            (x.abs() if tables.mirrored else x).contiguous(), tables.breakpoints, right=True
        )
        mirror = (tables.breakpoints.numel() + 1) * (x < 0) if tables.mirrored else 0
        return tables.bias[segment + mirror]


def counted(snn: nn.Module, *args: Any) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str], Counted]]:
    """The recorded deliveries of one forward, and what each of its neurons sent in its first call."""
    with torch.no_grad(), overheard(snn) as heard, record(snn, deliveries=True) as rec:
        snn(*args)
    assert rec.deliveries is not None
    assert sum(d.total for d in rec.deliveries.values()) == rec.synaptic_operations
    return rec.deliveries, {key: Counted(calls[0]) for key, calls in heard.items()}


def check(found: Any, function: Callable[..., Tensor], *sent: Counted) -> None:
    """The definition: a function that is linear in each operand, on the counts."""
    spikes = function(*(s.spikes for s in sent)).sum()
    events = function(*(s.events for s in sent)).sum()
    ones = [torch.ones_like(s.spikes) for s in sent]
    for place, s in enumerate(sent):
        events = events + function(*ones[:place], s.shared, *ones[place + 1 :]).sum()
    assert (found.spikes, found.side) == (int(spikes), int(events - spikes))
    assert found.products == int(function(*ones).sum())
    assert found.spikes > 0


def with_zeros(*shape: int) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(4))
    return torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.2, 0.0, x)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, groups=2), (2, 4, 9)),
    "conv2d": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=2, groups=2),
        (2, 4, 7, 8),
    ),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding="same", groups=4), (1, 4, 5, 5)),
    "one image": (lambda: nn.Conv2d(3, 2, 3, padding=1, bias=False), (3, 5, 4)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (1, 2, 3, 4, 3)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 4, 3, 4),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("config", ["routed", "published", "token", "first spike", "dead zone"])
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_a_layer_with_weights(name: str, config: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make(), with_zeros(*shape)
    snn = convert(nn.Sequential(layer), [x], CONFIGS[config])
    deliveries, sent = counted(snn, x)
    [found], [encoded] = deliveries.values(), sent.values()
    ones = nn.utils.skip_init(nn.Linear, 1, 1)  # a layer without values of its own
    ones = make().double()
    for parameter in ones.parameters():
        nn.init.constant_(parameter, float(parameter.dim() > 1))
    check(found, ones, encoded)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_a_linear_layer_on_every_kind_of_neuron(config: str) -> None:
    x = with_zeros(3, 4, WIDTH)
    snn = convert(nn.Sequential(nn.Linear(WIDTH, 5)), [x], CONFIGS[config])
    deliveries, sent = counted(snn, x)
    check(deliveries["0:linear", "linear"], lambda c: c.sum() * 5, *sent.values())


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matmul": lambda a, b: a @ b.transpose(-2, -1),
    "linear": lambda a, b: F.linear(a, b[0]),
    "einsum": lambda a, b: torch.einsum("bik,bjk->bij", a, b),
    "mul": lambda a, b: a * b[:, :1],
    "baddbmm": lambda a, b: torch.baddbmm(torch.zeros(()), a, b.mT),
}


@pytest.mark.parametrize("op", PRODUCTS)
@pytest.mark.parametrize("config", ["routed", "published", "token", "first spike", "dead zone"])
@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_a_product_of_two_activations(op: str, config: str) -> None:
    def product(m: Calling, a: Tensor, b: Tensor) -> Tensor:
        return PRODUCTS[op](a, b)

    a, b = with_zeros(2, 3, WIDTH), with_zeros(2, 4, WIDTH).flip(0)
    snn = convert(Calling(product), [((a, b), {})], CONFIGS[config])
    deliveries, sent = counted(snn, a, b)
    plain = {"matmul": torch.matmul, "mul": torch.mul, "linear": F.linear, "baddbmm": torch.bmm}
    function = plain.get(op, lambda x, y: torch.einsum("bik,bjk->bij", x, y))
    check(deliveries[f"(root):{op}(a,a)", op], function, *sent.values())


def test_pairs_are_the_outer_product_of_explicit_trains() -> None:
    """METHOD eq. 11, written out: slots of one train against slots of the other."""
    a, b = with_zeros(1, 2, 3), with_zeros(1, 2, 3).flip(-1)
    snn = convert(Calling(lambda m, a, b: a @ b.mT), [((a, b), {})], MBEConfig(time_steps=4))
    with torch.no_grad(), record(snn, trains=True, deliveries=True) as rec:
        snn(a, b)
    first, second = (n.trains[0].spikes().flatten(0, 1) for n in rec.neurons.values())
    pairs = torch.einsum("pxik,qxkj->pqxijk", first, second)
    assert set(pairs.unique().tolist()) == {0.0, 1.0}
    [found] = rec.by_site()["(root):matmul(a,a)"].deliveries.values()
    assert found.spikes == int(pairs.sum())


def attended(heard: dict[tuple[str, str], Counted]) -> dict[str, Counted]:
    return {role: c for (_, role), c in heard.items()}


def plus(*parts: tuple[Tensor, Tensor]) -> tuple[int, int]:
    spikes = sum(int(s) for s, _ in parts)
    return spikes, sum(int(e) for _, e in parts) - spikes


def both(function: Callable[..., Tensor], *sent: Counted) -> tuple[Tensor, Tensor]:
    return function(*(s.spikes for s in sent)).sum(), function(*(s.events for s in sent)).sum()


MASKS = {
    "none": {},
    "bool": {"attn_mask": torch.rand(5, 6, generator=torch.Generator().manual_seed(1)) > 0.4},
    "added": {"attn_mask": torch.zeros(5, 6).masked_fill(torch.arange(6) > 3, -torch.inf)},
    "causal": {"is_causal": True},
    "grouped": {"enable_gqa": True},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("most", [1 << 24, 64, 12], ids=["at once", "by heads", "by rows"])
def test_attention(mask: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores, their sum, weights times values and the division; a masked weight sends nothing."""
    monkeypatch.setattr("mbe_plugin.operators.softmax.MOST_SCORES", most)
    heads = 1 if mask == "grouped" else 2
    q, k, v = with_zeros(2, 2, 5, WIDTH), with_zeros(2, heads, 6, WIDTH), with_zeros(2, heads, 6, 3)
    model = Calling(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, **MASKS[mask]))
    snn = convert(model, [((q, k, v), {})], MBEConfig(time_steps=5))
    with torch.no_grad(), overheard(snn) as heard, record(snn, deliveries=True) as rec:
        snn(q, k, v)
    roles = {
        role: Counted(calls[0]) if len(calls) == 1 else rows_of(calls, 2, 2, 5)
        for (_, role), calls in heard.items()
    }
    found = {function: d for (_, function), d in (rec.deliveries or {}).items()}
    query, key, value = roles["query"], roles["key"], roles["value"]
    exp2, inverse, mixed = roles["softmax.exp2"], roles["softmax.reciprocal"], roles["mixed"]
    scores = both(lambda a, b: a @ b.mT, query, key)
    values = both(torch.matmul, exp2, value)
    assert (found["matmul"].spikes, found["matmul"].side) == plus(scores, values)
    assert (found["sum"].spikes, found["sum"].side) == plus(both(lambda e: e, exp2))
    assert (found["mul"].spikes, found["mul"].side) == plus(both(torch.mul, mixed, inverse))
    assert found["matmul"].products == 2 * 2 * 5 * 6 * (WIDTH + 3)
    if mask == "causal":
        assert not exp2.events[..., 0, 1:].any()


def rows_of(calls: list[Heard], *rows: int) -> Counted:
    """Calls that took their turns by the first dimension, then the second, ..., as one of so many rows."""
    parts = [Counted(call) for call in calls]
    whole = parts[0]
    whole.spikes = torch.cat([p.spikes.flatten(0, -2) for p in parts]).unflatten(0, rows)
    whole.events = torch.cat([p.events.flatten(0, -2) for p in parts]).unflatten(0, rows)
    return whole


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("norm", ["layer", "rms", "group"])
def test_a_normalization_into_weights(norm: str, merge: bool) -> None:
    """Merged: W (r d) = r (W d), if one r serves all that an output sums; else pairs, or the value encoded again."""
    made = {"layer": nn.LayerNorm(WIDTH), "rms": nn.RMSNorm(WIDTH), "group": nn.GroupNorm(2, WIDTH)}[norm]
    x = with_zeros(3, WIDTH)
    snn = convert(nn.Sequential(made, nn.Linear(WIDTH, 5)), [x], MBEConfig(time_steps=5, merge=merge))
    deliveries, sent = counted(snn, x)
    site = next(site for site, _ in deliveries if site.startswith("0:"))
    deviation, root = sent[site, "deviation"], sent[site, "rsqrt"]
    squares = both(lambda d: d * d, deviation)
    normal = both(lambda d, r: d * r, deviation, root)
    assert (deliveries[site, "mul"].spikes, deliveries[site, "mul"].side) == plus(squares, normal)
    linear = deliveries["1:linear", "linear"]
    if merge and norm == "group":  # two roots
        assert (linear.spikes, linear.side) == plus(both(lambda d, r: d * r * 5, deviation, root))
    elif merge:
        weights = both(lambda d: d * 5, deviation)
        assert (linear.spikes, linear.side) == plus(weights, both(lambda r: r * 5, root))
    else:
        check(linear, lambda c: c.sum() * 5, sent["1:linear", "encoders.0"])


@pytest.mark.parametrize("merge", [True, False])
def test_a_softmax_and_a_gate_into_weights(merge: bool) -> None:
    def gated(m: Calling, x: Tensor) -> Tensor:
        return m.fc(torch.softmax(x, -1)) + m.fc(torch.sigmoid(x) * torch.tanh(x))

    x = with_zeros(3, WIDTH)
    snn = convert(Calling(gated), [x], MBEConfig(time_steps=5, merge=merge))
    deliveries, sent = counted(snn, x)
    softmax, gate, tanh = "(root):softmax", "(root):sigmoid", "(root):tanh"
    exp2, inverse = sent[softmax, "exp2"], sent[softmax, "reciprocal"]
    check_all = {
        (softmax, "sum"): both(lambda e: e, exp2),
        (softmax, "mul"): both(torch.mul, exp2, inverse),
        (gate, "read-out"): both(lambda e: e, sent[gate, "neuron"]),
        (tanh, "read-out"): both(lambda e: e, sent[tanh, "neuron"]),
    }
    operands = [sent[gate, "neuron"], sent[tanh, "neuron"]]
    if not merge:
        operands = [sent["(root):mul(a,a)", f"encoders.{i}"] for i in range(2)]
    check_all["(root):mul(a,a)", "mul"] = both(torch.mul, *operands)
    for key, want in check_all.items():
        assert (deliveries[key].spikes, deliveries[key].side) == plus(want), key
    if merge:  # the sum of a row serves all that an output sums, the factors of a gate do not
        weights = (both(lambda e: e * WIDTH, exp2), both(lambda i: i * WIDTH, inverse))
        pairs = both(lambda g, t: g * t * WIDTH, *operands)
        linear = deliveries["fc:linear", "linear"]
        assert (linear.spikes, linear.side) == plus(*weights, pairs)


def test_a_train_that_three_layers_read_is_delivered_to_each() -> None:
    snn = convert(transformer(depth=1), [tokens()], MBEConfig(time_steps=5, merge=False))
    deliveries, sent = counted(snn, tokens())
    for name in "qkv":
        found = deliveries[f"layers.0.attention.{name}:linear", "linear"]
        check(found, lambda c: c.sum() * WIDTH, sent["layers.0.attention.q:linear", "encoders.0"])


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "reshape and transpose": lambda y: y.reshape(3, 2, 4).transpose(1, 2).flatten(1).contiguous(),
    "slice and expand": lambda y: y[:1, None].expand(4, 2, WIDTH),
    "repeat": lambda y: y.repeat(2, 1)[::3],
    "split and chunk": lambda y: y.split([1, 2])[1].chunk(2)[0],
    "in place": lambda y: y.unsqueeze_(0),
    "cast": lambda y: y.double().float().to(torch.float32),
    "gather": lambda y: y.gather(1, torch.arange(WIDTH).flip(0)[None].expand(3, -1)),
    "pool": lambda y: F.max_pool1d(y.repeat(1, 2), 2),
    "dropout": lambda y: F.dropout(y, 0.5, training=False),
    "mix rows": lambda y: y.roll(1),
}


@dataclass
class Moved:
    """Counts of a train after a movement."""

    spikes: Tensor
    events: Tensor


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("emitter", ["gelu", "layer_norm"])
def test_counts_follow_a_train_that_moves(move: str, emitter: str) -> None:
    """The counts of a moved train are the moved counts; here of the position of each value in what was moved."""

    def moving(m: Calling, x: Tensor) -> Tensor:
        y = F.gelu(x) if emitter == "gelu" else F.layer_norm(x, (WIDTH,))
        return m.fc(MOVES[move](y))

    x = with_zeros(3, WIDTH)
    snn = convert(Calling(moving), [x], MBEConfig(time_steps=5))
    values: list[Tensor] = []
    handle = snn.fc.register_forward_pre_hook(lambda m, args: values.append(args[0]))
    deliveries, sent = counted(snn, x)
    handle.remove()

    def move_counts(counts: Tensor) -> Tensor:
        if move != "pool":
            return MOVES[move](counts.expand(3, WIDTH))
        with torch.no_grad():  # the larger of two
            operator = snn.mbe["(root):" + emitter]
            y = operator(x) if emitter == "gelu" else operator(x, (WIDTH,))
        which = y.repeat(1, 2).unflatten(1, (WIDTH, 2)).argmax(-1, keepdim=True)
        counts = counts.expand(3, WIDTH).repeat(1, 2).unflatten(1, (WIDTH, 2))
        return counts.gather(-1, which)[..., 0]

    moved = [Moved(move_counts(c.spikes), move_counts(c.events)) for c in sent.values()]
    found = deliveries["fc:linear", "linear"]
    if move == "mix rows":  # one row's values with several 1/sqrt
        wanted = [both(lambda *c: WIDTH * torch.stack(c).prod(0), *moved)]
    else:  # W (r d) = r (W d)
        wanted = [both(lambda d: WIDTH * d, moved[0])]
        wanted += [both(lambda r: WIDTH * r[..., :1], root) for root in moved[1:]]
    assert (found.spikes, found.side) == plus(*wanted)


SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "linear": ((2, 3, 4), (5, 4)),
    "matmul": ((2, 3, 4), (4, 5)),
    "mm": ((3, 4), (4, 5)),
    "bmm": ((2, 3, 4), (2, 4, 5)),
    "mv": ((3, 4), (4,)),
    "addmm": ((3, 4), (4, 5)),
    "baddbmm": ((2, 3, 4), (2, 4, 5)),
    "addbmm": ((2, 3, 4), (2, 4, 5)),
    "addmv": ((3, 4), (4,)),
    "mul": ((3, 4), (3, 1)),
    "conv1d": ((2, 4, 6), (4, 2, 3)),
    "conv2d": ((2, 4, 6, 5), (4, 2, 3, 2)),
    "conv_transpose1d": ((2, 4, 6), (4, 3, 3)),
    "conv_transpose2d": ((2, 4, 6, 5), (4, 3, 3, 2)),
}


@pytest.mark.parametrize("op", SHAPES)
def test_the_fast_sum_is_the_definition(op: str) -> None:
    """On random counts, for either and both of the operands."""
    rule = RULES[op]
    assert isinstance(rule, MultilinearRule)
    operands = [torch.randint(0, 9, shape).float() for shape in SHAPES[op]]
    function = getattr(F, op, None) or getattr(torch, op)
    added = [torch.zeros(())] if op.startswith(("add", "badd")) else []
    options = {"groups": 2, "stride": 2, "padding": 1} if op.startswith("conv") else {}
    call = Call(function, (*added, *operands), options, rule.operands((*added, *operands), options))
    named = dict(zip(call.operands, operands, strict=True))
    for chosen in (list(named), *([n] for n in named), []):
        counts = {name: named[name] for name in chosen}
        assert arrivals(rule, call, counts) == by_the_function(rule, call, counts), chosen


def test_what_cannot_be_followed_is_refused_by_name() -> None:
    x = with_zeros(4, WIDTH)
    snn = convert(Calling(lambda m, x: torch.fft.fft(x).real), [x])
    message = r"\(root\):fft_?.*: no fan-out is known for fft.*record without deliveries"
    with pytest.raises(ConversionError, match=message), record(snn, deliveries=True):
        snn(x)
    snn = convert(nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 2)), [x])
    message = "1:linear reads operand 0 as a train whose events could not be followed to it"
    with pytest.raises(ConversionError, match=message), record(snn, deliveries=True):
        snn[1](x)
    with (
        pytest.raises(ValueError, match="deliveries are counted whole; leave out most=8"),
        record(snn, most=8, deliveries=True),
    ):
        pass
    with record(snn) as rec:
        snn(x)
    with pytest.raises(ValueError, match=r"record\(snn, deliveries=True\)"):
        rec.synaptic_operations  # noqa: B018


def test_deliveries_change_no_bit_and_only_the_chosen_sites_are_counted() -> None:
    snn = convert(transformer(depth=1), [tokens()], MBEConfig(time_steps=5))
    with torch.inference_mode():
        plain = snn(tokens())
        with (
            record(snn, deliveries=True) as every,
            record(snn, sites="*.attention*", deliveries=True) as some,
        ):
            assert torch.equal(snn(tokens()), plain)
        assert torch.equal(snn(tokens()), plain)
    assert some.deliveries is not None
    assert set(some.deliveries) == {k for k in every.deliveries or {} if ".attention" in k[0]}
    for key, found in some.deliveries.items():
        assert (found.total, found.products) == (every.deliveries[key].total, every.deliveries[key].products)


def test_step_mode_m_delivers_what_one_forward_delivers() -> None:
    from mbe_plugin import as_sequence

    snn = convert(transformer(depth=1), [tokens()], MBEConfig(time_steps=4))
    found = []
    for mode, x in (("s", tokens()), ("m", as_sequence(tokens(), 4))):
        snn.step_mode = mode
        with torch.no_grad(), record(snn, deliveries=True) as rec:
            snn(x)
        found.append({k: (d.spikes, d.side) for k, d in (rec.deliveries or {}).items()})
    assert found[0] == found[1]


def test_powers_and_quotients() -> None:
    """x^3 is a product of three trains, one after the other; a / b with a constant a is the read-out of 1/b."""

    def forward(m: Calling, x: Tensor) -> Tensor:
        return torch.pow(x, 3) + 2.0 / (x.square() + 1) + x / (x.abs() + 1)

    x = with_zeros(3, WIDTH)
    snn = convert(Calling(forward), [x], MBEConfig(time_steps=5))
    deliveries, sent = counted(snn, x)
    cube, square = sent["(root):pow(3)", "neuron"], sent["(root):square", "neuron"]
    pairs, triples = both(lambda c: c * c, cube), both(lambda c: c * c * c, cube)
    found = deliveries["(root):pow(3)", "mul"]
    assert (found.spikes, found.side) == plus(pairs, triples)
    found = deliveries["(root):square", "mul"]
    assert (found.spikes, found.side) == plus(both(lambda c: c * c, square))
    inverse = sent["(root):div(w,a)", "reciprocal"]
    found = deliveries["(root):div(w,a)", "read-out"]
    assert (found.spikes, found.side) == plus(both(lambda c: c, inverse))
    numerator, inverse = (sent["(root):div(a,a)", role] for role in ("numerator", "reciprocal"))
    found = deliveries["(root):div(a,a)", "mul"]
    assert (found.spikes, found.side) == plus(both(torch.mul, numerator, inverse))


@pytest.mark.parametrize("function", [torch.log, torch.sin])
def test_what_is_sent_beside_every_train_of_a_logarithm_and_a_sine(function: Callable[..., Tensor]) -> None:
    """The exponent of the input, the sign of the half turn; what takes no part sends nothing."""
    x = with_zeros(3, WIDTH).abs() * 4
    snn = convert(Calling(lambda m, x: m.fc(function(x + 1))), [x])
    with torch.no_grad(), record(snn, deliveries=True) as rec:
        snn(x - 1)  # for the logarithm, some of 0 and below
    assert rec.deliveries is not None
    [found] = [d for (_, role), d in rec.deliveries.items() if role == "read-out"]
    [neuron] = [n for (site, _), n in rec.neurons.items() if not site.startswith("fc")]
    assert found.side == neuron.elements == (int((x > 0).sum()) if function is torch.log else x.numel())
    assert found.spikes == neuron.total


def test_complex_numbers_are_refused_by_name() -> None:
    weight = torch.randn(WIDTH, 2, dtype=torch.complex64)
    x = with_zeros(3, WIDTH)
    snn = convert(Calling(lambda m, x: (torch.complex(x, -x) @ weight).real), [x])
    with (
        pytest.raises(
            ConversionError, match=r"\(root\):matmul\(a,w\): the events of its operands could not be followed"
        ),
        record(snn, deliveries=True),
    ):
        snn(x)


def test_no_counts_stay_on_the_tensors_of_the_caller() -> None:
    """Nor are those of an earlier forward taken for this one's: a layer of its own reads them as a train."""
    x = with_zeros(3, WIDTH)
    snn = convert(nn.Sequential(nn.GELU(), nn.Linear(WIDTH, 2)), [x])
    seen: list[Tensor] = []
    snn[1].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad(), record(snn, deliveries=True):
        snn(x)
        hidden = snn[0](x)
        assert not [name for name in vars(hidden) if "sent" in name]
        with pytest.raises(ConversionError, match="could not be followed to it"):
            snn[1](seen[0])


@pytest.mark.compiled
@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # torch's own
def test_a_compiled_forward_is_refused() -> None:
    snn = convert(nn.Sequential(nn.GELU()), [tokens()])
    torch._dynamo.reset()
    compiled = torch.compile(snn, backend="eager")
    with torch.no_grad():
        compiled(tokens())
    message = "a compiled forward cannot be recorded"
    for counting in (record(snn, deliveries=True), told(Ledger())):
        with torch.no_grad(), counting, pytest.raises(torch._dynamo.exc.Unsupported, match=message):
            compiled(tokens())


def test_attention_in_turns_delivers_what_it_delivers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into weights, too: pairs that have been put together are pairs, with the row's factor that they had."""
    q = with_zeros(2, 5, WIDTH)
    snn = convert(
        Calling(lambda m, q: m.fc(F.scaled_dot_product_attention(q, q, q))), [q], MBEConfig(time_steps=4)
    )
    found = []
    for most in (1 << 24, 25, 10):
        monkeypatch.setattr("mbe_plugin.operators.softmax.MOST_SCORES", most)
        with torch.no_grad(), record(snn, deliveries=True) as rec:
            snn(q)
        found.append({key: (d.spikes, d.side) for key, d in (rec.deliveries or {}).items()})
    assert found[0] == found[1] == found[2]
    assert {function for _, function in found[0]} == {"matmul", "sum", "mul", "linear"}


def test_rows_with_factors_of_their_own_that_one_output_sums() -> None:
    """addbmm sums over the batch: no factor of a row can wait for the sum."""
    weights = torch.randn(3, WIDTH, 5)
    x = with_zeros(3, 4, WIDTH)
    model = Calling(lambda m, x: torch.addbmm(torch.zeros(()), F.layer_norm(x, (WIDTH,)), weights))
    deliveries, sent = counted(convert(model, [x], MBEConfig(time_steps=4)), x)
    deviation, root = sent["(root):layer_norm", "deviation"], sent["(root):layer_norm", "rsqrt"]
    found = deliveries["(root):addbmm(a,w)", "addbmm"]
    assert (found.spikes, found.side) == plus(both(lambda d, r: 5 * d * r, deviation, root))
