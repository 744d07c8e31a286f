"""report(): what became spiking, what did not, and what was counted since."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, tokens, transformer
from torch import Tensor, nn

from mbe_plugin import ConversionError, MBEConfig, Report, calibrate, convert, count_spikes, fit, report
from mbe_plugin.conversion import reset_counts
from mbe_plugin.operators import CalibratedNode


@pytest.fixture(scope="module")
def snn() -> nn.Module:
    return convert(transformer(), [tokens()], MBEConfig(time_steps=12, bases=16))


@pytest.fixture
def found(snn: nn.Module) -> Report:
    reset_counts(snn)
    return report(snn)


def test_every_site_says_what_it_became(found: Report) -> None:
    sites = {s.site: s for s in found.sites}
    assert sites["layers.0.norm:layer_norm"].operator == "LayerNorm"
    assert [n.role for n in sites["layers.0.norm:layer_norm"].neurons] == ["deviation", "rsqrt"]
    assert [n.function for n in sites["layers.1.attention:softmax"].neurons] == ["exp2", "reciprocal"]
    assert sites["layers.1:gelu"].operator == "Unary"
    assert sites["layers.1:gelu"].exact_parts == ""
    assert "mean" in sites["layers.0.norm:layer_norm"].exact_parts
    assert sites["embed:linear"].operator == "EncodedCall"
    for site in found.sites:
        for neuron in site.neurons:
            assert neuron.time_steps == 12
            assert neuron.bases in (8, 16)  # identities and functions
            assert neuron.bases_per_element == 1
            assert neuron.low < neuron.high
            assert 0 < neuron.spikes <= 12
            assert 0 <= neuron.fit_error < 0.1
        assert 0 <= site.error < 0.01
    assert found.time_steps == 12


def test_the_range_holds_what_calibration_saw_and_some_margin() -> None:
    x = torch.linspace(-3, 5, 100).reshape(10, 10)
    margins = {0.0: 0.0, 0.25: 0.25, 1.0: 1.0}
    for margin, share in margins.items():
        snn = convert(nn.Sequential(nn.GELU()), [x], MBEConfig(margin=margin))
        neuron = report(snn).sites[0].neurons[0]
        assert neuron.low == pytest.approx(-3 - 8 * share, abs=1e-2)
        assert neuron.high == pytest.approx(5 + 8 * share, abs=1e-2)


@pytest.mark.parametrize(
    ("function", "edge", "pole"),
    [
        (torch.tan, 1.2, math.pi / 2),
        (torch.digamma, 1.0, 0.0),
        (torch.erfinv, 0.8, 1.0),
        (torch.atanh, 0.9, 1.0),
    ],
)
def test_the_margin_ends_before_a_pole(
    function: Callable[[Tensor], Tensor], edge: float, pole: float
) -> None:
    x = torch.linspace(edge, 2 * edge if edge > pole else -edge, 400).reshape(20, 20)
    snn = convert(Calling(lambda m, x: function(x)), [x])
    neuron = report(snn).sites[0].neurons[0]
    if edge > pole:
        assert pole <= neuron.low < edge
    else:
        assert -pole <= neuron.low < -edge
        assert edge < neuron.high <= pole
    assert report(snn).sites[0].error < 1e-3


def test_the_errors_are_those_that_can_be_measured() -> None:
    x = torch.linspace(-3, 3, 4096).reshape(64, 64)
    snn = convert(nn.Sequential(nn.GELU()), [x], MBEConfig(time_steps=8, bases=4, margin=0.1))
    site = report(snn).sites[0]
    got, want = snn(x).double(), F.gelu(x.double())
    relative = ((got - want).square().sum() / want.square().sum()).sqrt().item()
    assert site.error == pytest.approx(relative, rel=1e-4)
    rms = (got - want).square().mean().sqrt().item()
    assert site.neurons[0].fit_error == pytest.approx(rms, rel=1e-3)


def test_spikes_are_those_of_the_first_batch(snn: nn.Module, found: Report) -> None:
    with count_spikes(snn) as counts:
        snn(tokens())
    assert found.spikes == counts.total
    assert found.exponents == counts.exponents > 0
    assert found.firing_rate == counts.firing_rate
    assert 0 < found.firing_rate < 1
    gelu = next(s for s in found.sites if s.site == "layers.0:gelu").neurons[0]
    assert gelu.spikes == counts.neurons["layers.0:gelu", "neuron"].per_element
    assert gelu.exponents == 0
    embed = next(s for s in found.sites if s.site == "embed:linear").neurons[0]
    assert embed.exponents == 1


def test_what_was_seen_since(snn: nn.Module, found: Report) -> None:
    assert all(n.seen == 0 for s in found.sites for n in s.neurons)
    snn(tokens())
    snn(tokens())
    sites = {s.site: s for s in report(snn).sites}
    assert sites["layers.0:gelu"].neurons[0].seen == 2 * 4 * 6 * 2 * WIDTH
    assert "outside the calibrated ranges since then: 0 of" in report(snn).summary()
    reset_counts(snn)
    assert all(n.seen == 0 for s in report(snn).sites for n in s.neurons)


def test_a_shared_encoder_counts_once_in_the_summary() -> None:
    """Without merging, q, k and v have one encoder, which sees the normalised input once."""
    snn = convert(transformer(), [tokens()], MBEConfig(time_steps=12, merge=False))
    reset_counts(snn)
    with count_spikes(snn) as counts:
        snn(tokens())
    elements = sum(n.elements for n in counts.neurons.values())
    summary = report(snn).summary()
    assert f"of {elements:,} values" in summary
    assert f"{len(counts.neurons)} neurons, T = 12" in summary
    sites = {s.site: s for s in report(snn).sites}
    assert sites["layers.0.attention.v:linear"].neurons[0].site == "layers.0.attention.q:linear"


def test_as_dict_goes_to_json(found: Report) -> None:
    data = json.loads(json.dumps(found.as_dict()))
    assert len(data["sites"]) == len(found.sites)
    assert data["sites"][0]["neurons"][0]["time_steps"] == 12
    assert data["blind_spots"] == list(found.blind_spots)
    assert data["kept_exact"] == {}


def test_text_has_a_row_per_neuron(found: Report) -> None:
    text = str(found)
    lines = text.splitlines()
    header = lines[0]
    for word in ("site", "operator", "error", "T", "N (active)", "range", "outside"):
        assert word in header
    rows = sum(max(len(s.neurons), 1) for s in found.sites)
    assert lines[rows + 1] == ""
    for site in found.sites:
        row = next(line for line in lines if line.startswith(f"{site.site} "))
        assert site.operator in row
    assert all(spot in text for spot in found.blind_spots)
    assert found.summary() in text


def test_markdown_is_a_table(found: Report) -> None:
    lines = found.to_markdown().splitlines()
    rows = sum(max(len(s.neurons), 1) for s in found.sites)
    table = lines[: rows + 2]
    assert {line.count("|") for line in table} == {table[0].count("|")}
    assert set(table[1]) <= set("| -")
    assert all(line.startswith("| ") and line.endswith(" |") for line in table)
    assert lines[rows + 2] == ""
    for line in found.summary().splitlines():
        assert f"- {line}" in lines
    for spot in found.blind_spots:
        assert f"- {spot}" in lines


def test_what_stays_exact_is_listed() -> None:
    def function(m: Calling, x: Tensor) -> Tensor:
        return torch.special.airy_ai(m.fc(F.gelu(x)).clamp(-1, 1) + 1) * 2.0

    config = MBEConfig(strict=False, exclude=("*gelu*",))
    found = report(convert(nn.Sequential(Calling(function)), [tokens()], config))
    assert found.kept_exact == {"0:gelu": "excluded by the configuration"}
    assert found.unsupported == {"special_airy_ai in 0": 1}
    assert found.exact["clamp"] == 1
    assert found.linear["add"] == 1
    assert found.linear["mul"] == 1
    summary = found.summary()
    assert "kept exact: 1 sites excluded by the configuration" in summary
    assert "NOT SPIKING, unsupported: special_airy_ai in 0 1" in summary
    assert "clamp 1" in summary


def test_a_site_fed_by_trains_says_so(found: Report) -> None:
    down = next(s for s in found.sites if s.site == "layers.0.down:linear")
    assert down.neurons == ()
    row = next(line for line in str(found).splitlines() if line.startswith("layers.0.down:linear "))
    assert "the operands' own trains" in row


@pytest.mark.parametrize("other", [nn.Linear(2, 2), fit("gelu", bases=4).node()])
def test_no_converted_network(other: nn.Module) -> None:
    with pytest.raises(ConversionError, match=f"this {type(other).__name__} is no converted network"):
        report(other)


@pytest.mark.parametrize("other", [None, "model", 3])
def test_no_module(other: Any) -> None:
    with pytest.raises(ConversionError, match="is no converted network"):
        report(other)


def test_progress_is_told_how_far_each_stage_is() -> None:
    told: list[tuple[str, int, int | None]] = []
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    convert(model, [tokens(), tokens()], progress=lambda *news: told.append(news))
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == [
        "calibrating, batches",
        "building neurons, sites",
        "auditing, sites",
    ]
    for stage in {stage for stage, _, _ in told}:
        done = [(d, of) for s, d, of in told if s == stage]
        assert done == sorted(done)
        assert done[-1][0] == done[-1][1]
    assert told[:3] == [("calibrating, batches", done, 2) for done in range(3)]
    assert told[-1] == ("auditing, sites", 3, 3)


def test_progress_of_a_stream_has_no_end_in_sight() -> None:
    told: list[tuple[str, int, int | None]] = []
    calibrate(
        nn.Sequential(nn.GELU()), (tokens() for _ in range(2)), progress=lambda *news: told.append(news)
    )
    assert told == [("calibrating, batches", done, None) for done in range(3)]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_as_a_bar_on_a_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    convert(nn.Sequential(nn.GELU()), [tokens()], progress=True)
    shown = capsys.readouterr().err
    stages = ("calibrating, batches", "building neurons", "auditing")
    assert all(stage in shown for stage in stages) if terminal else not shown


def test_a_neuron_is_a_line_in_print(snn: nn.Module) -> None:
    lines = [line for line in repr(snn).splitlines() if "Node(" in line]
    assert len(lines) == sum(
        isinstance(m, CalibratedNode) for _, m in snn.named_modules(remove_duplicate=False)
    )
    assert all("T=" in line and "range=[" in line and line.endswith(")") for line in lines)


def test_firing_rates_are_shares_of_the_driven_bases(snn: nn.Module) -> None:
    with count_spikes(snn) as counts:
        snn(tokens())
    for neuron in counts.neurons.values():
        assert 0 <= neuron.firing_rate <= 1
        assert neuron.counts.sum() == neuron.total
        assert neuron.counts.dtype == torch.int64
    slots = sum(n.elements * 12 for n in counts.neurons.values())
    assert math.isclose(counts.firing_rate, counts.total / slots)


def test_counting_ends_with_the_block(snn: nn.Module) -> None:
    with pytest.raises(KeyError), count_spikes(snn) as counts:
        snn(tokens())
        raise KeyError
    before = counts.total
    assert before > 0
    snn(tokens())
    assert counts.total == before


def test_counting_inside_counting(snn: nn.Module) -> None:
    with count_spikes(snn) as outer:
        with count_spikes(snn) as inner:
            snn(tokens())
        once = inner.total
        assert outer.total == once > 0
        snn(tokens())
    assert (outer.total, inner.total) == (2 * once, once)
