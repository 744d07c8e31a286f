"""Values beyond a calibrated range: which neurons lose accuracy there, and warn, and which only count them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable

import pytest
import torch
from networks import Calling, tokens
from torch import Tensor, nn

from mbe_plugin import MBEConfig, RangeWarning, convert, fit, report
from mbe_plugin.fitting.segments import identity_tables
from mbe_plugin.neuron.scaling import REDUCTIONS
from mbe_plugin.neuron.tables import mirrored_tables
from mbe_plugin.operators import CalibratedNode

STEPS = 8
LOW, HIGH = 1.0, 4.0  # the calibrated range: two octaves, so that every mantissa is in it
EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "signed reciprocal": torch.reciprocal,
    "reciprocal": torch.reciprocal,
    "rsqrt": torch.rsqrt,
    "sqrt": torch.sqrt,
    "rsqrt_octave": torch.rsqrt,
    "sqrt_octave": torch.sqrt,
    "exp2": torch.exp2,
}
SIGNED = ("identity", "signed reciprocal")
POSITIVE = ("reciprocal", "rsqrt", "rsqrt_octave")


def reduced(name: str) -> CalibratedNode:
    if name == "identity":
        tables, reduction = identity_tables(STEPS, 8), name
    else:
        found = fit(name.removeprefix("signed "), time_steps=STEPS, bases=8)
        tables, reduction = found.tables, found.reduction
    tables = mirrored_tables(tables) if name == "signed reciprocal" else tables
    node = CalibratedNode(tables, reduction, -HIGH if name in SIGNED else LOW, HIGH, name, 0.0)
    node.site, node.role = "here", "neuron"
    return node


def counted(node: CalibratedNode) -> tuple[int, int, int]:
    return int(node.seen), int(node.outside), int(node.beyond)


def silent(node: nn.Module, x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return node(x)


def inside(name: str, dtype: torch.dtype) -> Tensor:
    """Numbers of the calibrated range, with mantissas that every dtype has."""
    x = torch.arange(LOW, HIGH, 2.0**-5, dtype=torch.float64)
    return (torch.cat([x, -x]) if name in SIGNED else x).to(dtype)


def outside_range(name: str, dtype: torch.dtype) -> Tensor:
    """The same mantissas (for 2^x the same fractions) at every exponent of the dtype, as far as accuracy is claimed."""
    limits = torch.finfo(dtype)
    x = inside(name, torch.float64)
    if name == "exp2":  # further down, whole numbers: fractions do not fit beside them in 16 bits
        lowest, highest = round(math.log2(limits.smallest_normal)), math.frexp(limits.max)[1] - 1
        shifted = [x.frac() + k for k in range(lowest, highest)]
        shifted.append(torch.tensor([highest, lowest * 2.0, lowest * 10.0, -limits.max / 2]))
    else:
        lowest, highest = (math.frexp(v)[1] for v in (limits.smallest_normal, limits.max / 4))
        step = 2 if "sqrt" in name else 1  # an even shift keeps a root's mantissas
        shifted = [x * 2.0**k for k in range(lowest // 2 * 2, highest // 2 * 2, step)]
    beyond = torch.cat(shifted).to(dtype)
    low, high = reduced(name).accurate_range(dtype)  # type: ignore[misc]  # all of these have one
    return beyond[(beyond >= low) & (beyond <= high) & ~((beyond.abs() >= LOW) & (beyond.abs() < HIGH))]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXACT)
def test_beyond_the_range_a_reduced_neuron_is_as_accurate_as_within(name: str, dtype: torch.dtype) -> None:
    """Against float64: a relative error no larger, down to the smallest normal number of the dtype."""
    node = reduced(name)
    x, far = inside(name, dtype), outside_range(name, dtype)
    assert far.abs().max() > torch.finfo(dtype).max / 8 or name == "exp2"
    within = ((node.single_step_forward(x.double()) / EXACT[name](x.double())) - 1).abs().max()
    got, want = node.single_step_forward(far).double(), EXACT[name](far.double())
    rounding = torch.finfo(dtype).eps if dtype.itemsize == 2 else 4 * torch.finfo(torch.float32).eps
    bound = (within + rounding) * want.abs() + torch.finfo(dtype).smallest_normal
    assert ((got - want).abs() <= bound).all()
    assert got.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXACT)
def test_what_stays_accurate_is_counted_and_no_warning(name: str, dtype: torch.dtype) -> None:
    node, far = reduced(name), outside_range(name, dtype)
    low, high = node.calibrated.tolist()
    silent(node, far)
    assert counted(node) == (far.numel(), 0, int(((far < low) | (far > high)).sum()))
    assert node.beyond > 0
    node.reset_counts()
    assert counted(node) == (0, 0, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", EXACT)
def test_what_is_not_finite_is_a_loss_in_every_neuron(name: str, value: float) -> None:
    node = reduced(name)
    with pytest.warns(RangeWarning, match=r"here \(neuron\) met -?(nan|inf), outside its calibrated range"):
        node(torch.tensor([LOW, value, 100.0]))
    assert counted(node) == (3, 1, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in (*POSITIVE, "sqrt", "sqrt_octave") for value in (-1.0, -1e-30)),
        *((name, 0.0) for name in POSITIVE),
        ("exp2", 127.9),
        ("exp2", 1e30),
    ],
)
def test_what_lies_outside_the_functions_domain_or_overflows_is_a_loss(name: str, value: float) -> None:
    node = reduced(name)
    with pytest.warns(
        RangeWarning, match=re.escape(f"met {value:g}, outside its calibrated range [1, 4], where accur")
    ):
        node(torch.tensor([LOW, value]))
    assert counted(node) == (2, 1, 0)


def test_a_range_wider_than_the_numbers_of_16_bits_holds_no_infinity() -> None:
    node = reduced("identity")
    node.calibrated.mul_(2e4)
    with pytest.warns(RangeWarning, match="met inf"):
        node(torch.tensor([math.inf, 1.0], dtype=torch.float16))
    assert counted(node) == (2, 1, 0)


def test_where_says_which_elements_are_counted() -> None:
    node = reduced("rsqrt")
    x = torch.tensor([0.5, 0.5, -1.0, 2.0])
    node(x, where=torch.tensor([True, False, False, True]))
    assert counted(node) == (2, 0, 1)


def test_every_reduction_is_covered_here() -> None:
    assert {reduced(name).reduction.name for name in EXACT} | {"none", "clip"} == set(REDUCTIONS)


# in networks


def shares(snn: nn.Module) -> dict[str, tuple[int, int]]:
    """Per site, how many values were outside and beyond."""
    return {
        site.site: tuple(
            round(sum(getattr(n, c) * n.seen for n in site.neurons)) for c in ("outside", "beyond")
        )
        for site in report(snn).sites
    }


def test_a_network_of_accurate_neurons_does_not_warn_and_its_report_says_beyond() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Softmax(-1))
    snn = convert(model, [tokens()])
    far = tokens(seed=5) * 1000
    out = silent(snn, far)
    torch.testing.assert_close(out, model(far), rtol=1e-3, atol=1e-4)
    found = shares(snn)
    assert all(outside == 0 for outside, _ in found.values())
    assert found["0:linear"][1] > 100
    beyond = sum(n for _, n in found.values())
    summary = report(snn).summary()
    assert "outside the calibrated ranges since then: 0 of" in summary
    assert f"beyond the recorded range, as accurate there: {beyond:,}" in summary
    row = next(line for line in str(report(snn)).splitlines() if line.startswith("0:linear "))
    assert row.split()[-2] == "0" and float(row.split()[-1]) > 0
    assert str(report(snn)).splitlines()[0].split()[-2:] == ["outside", "beyond"]


def test_a_fitted_domain_still_warns_beside_neurons_that_do_not() -> None:
    snn = convert(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)), [tokens()])
    with pytest.warns(RangeWarning, match=r"1:gelu \(neuron\) met .* where accuracy is lost") as caught:
        snn(tokens(seed=5) * 1000)
    assert len(caught) == 1
    found = shares(snn)
    assert found["1:gelu"][0] > 0
    assert found["1:gelu"][1] == 0
    assert found["0:linear"][0] == 0 < found["0:linear"][1]


@pytest.mark.parametrize("mistake", [-2.0, 0.0])
def test_a_negative_number_or_zero_into_one_over_the_root_warns(mistake: float) -> None:
    snn = convert(Calling(lambda m, x: torch.rsqrt(x)), [tokens().abs() + 0.1])
    x = tokens().abs() + 0.1
    x[0, 0, 0] = mistake
    with pytest.warns(RangeWarning, match=rf"rsqrt \(neuron\) met {mistake:g}"):
        snn(x)


@pytest.mark.parametrize(
    ("scale", "outside", "beyond"), [("token", 0, 1), ("tensor", 1, 0), ("channel", 1, 0)]
)
def test_a_scale_from_the_data_holds_what_a_calibrated_one_does_not(
    scale: str, outside: int, beyond: int
) -> None:
    layer = nn.Linear(2, 1, bias=False)
    snn = convert(nn.Sequential(layer), [torch.tensor([[0.5, 0.75]])], MBEConfig(scale=scale, margin=0.0))
    x = torch.tensor([[0.25, 64.0]])
    if outside:
        with pytest.warns(RangeWarning, match="met 64"):
            got = snn(x)
    else:
        got = silent(snn, x)
    assert shares(snn) == {"0:linear": (outside, beyond)}
    close = (got - layer(x)).abs().max() < 1e-3 * layer(x).abs().max()
    assert bool(close) == (not outside)


def test_a_scale_per_tensor_is_accurate_up_to_its_power_of_two() -> None:
    """Calibrated to 5, the scale is 8: what lies between is beyond the range and loses nothing."""
    layer = nn.Linear(2, 2)
    snn = convert(nn.Sequential(layer), [torch.tensor([[5.0, -5.0]])], MBEConfig(scale="tensor", margin=0.0))
    x = torch.tensor([[7.9, -6.3]])
    assert (silent(snn, x) - layer(x)).abs().max() < 1e-3
    assert shares(snn) == {"0:linear": (0, 2)}
    with pytest.warns(RangeWarning, match="met 8.1"):
        snn(torch.tensor([[8.1, 1.0]]))


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # torch's own code under compilation
def test_compiled_neurons_count_the_same() -> None:
    for node in (
        reduced("rsqrt"),
        reduced("identity"),
        CalibratedNode(fit("gelu").tables, "none", -8, 8, "gelu", 0.0),
    ):
        x = torch.tensor([2.0, 9.0, -1.0, math.nan, 3.0, -9.0])
        torch._dynamo.reset()
        with torch.no_grad():
            torch.compile(node, fullgraph=True, backend="aot_eager")(x)
            compiled = counted(node)
            node.reset_counts()
            node.notice.given = True
            node(x)
        assert compiled == counted(node)
        assert compiled[1] > 0


def test_off_the_cpu_the_notice_looks_at_losses_only() -> None:
    """There no neuron looks at its own counts; after the forward all are looked at together."""
    snn = convert(nn.Sequential(nn.Linear(3, 3), nn.GELU()), [torch.randn(50, 3)])
    notice = snn._mbe_sites.notice
    for node in notice.nodes:
        node.beyond += 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notice.check()
    notice.nodes[0].outside += 1
    with pytest.warns(RangeWarning, match=r"0:linear \(encoders.0\) met values"):
        notice.check()


@pytest.mark.gpu
def test_on_a_gpu_the_counts_are_the_same() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8))
    here, there = convert(model, [tokens()]), convert(model, [tokens()]).cuda()
    far = tokens(seed=5) * 100
    for snn, x in ((here, far), (there, far.cuda())):
        with pytest.warns(RangeWarning, match="1:gelu"):
            snn(x)
        snn(x * math.inf)
    assert shares(here) == shares(there)
