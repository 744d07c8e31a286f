"""figures and rows: a picture by one call each, and the numbers in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib
import pytest
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from networks import tokens, transformer
from torch import nn

from mbe_plugin import (
    ConversionError,
    MBEConfig,
    calibrate,
    convert,
    energy,
    figures,
    locate_error,
    record,
    report,
)
from mbe_plugin.analysis.colours import OKABE_ITO
from mbe_plugin.analysis.rows.places import BETWEEN, layer_of
from mbe_plugin.figures import rows

matplotlib.use("Agg")


BATCH = tokens(seed=3)


@pytest.fixture(scope="module")
def snn() -> nn.Module:
    return convert(transformer(), [tokens()], MBEConfig(time_steps=6, bases=16))


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def points(axes: Any) -> list[float]:
    """The heights of all marks."""
    return [float(y) for line in axes.lines for y in line.get_ydata()]


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        ("encoder.layer.0.attention.self:softmax", "encoder.layer.0"),
        ("encoder.layer.11:gelu", "encoder.layer.11"),
        ("blocks.3.mlp.7:linear", "blocks.3"),
        ("0:linear", "0"),
        ("embeddings.norm1:layer_norm", "embeddings"),
        ("conv2d.body:linear", "conv2d"),
        ("(root):tanh", "(root)"),
        ("pooler.dense", "pooler"),
    ],
)
def test_a_layer_ends_at_the_first_number(site: str, layer: str) -> None:
    assert layer_of(site) == layer


def test_firing_rates_are_those_of_the_recording(snn: nn.Module) -> None:
    with torch.no_grad(), record(snn) as recording:
        snn(BATCH)
    found = rows.firing_rate(snn, BATCH)
    assert [(row["site"], row["role"]) for row in found] == list(recording.neurons)
    for row, neuron in zip(found, recording.neurons.values(), strict=True):
        slots = neuron.elements * neuron.time_steps * neuron.bases_per_element
        assert row["firing_rate"] == pytest.approx(int(neuron.counts.sum()) / slots)
    axes = figures.firing_rate(snn, BATCH)
    assert sorted(points(axes)) == sorted(row["firing_rate"] for row in found)
    labels = {text.get_text() for text in axes.get_legend().get_texts()}
    assert labels == {"linear", "layer_norm", "matmul", "softmax", "gelu", "tanh"}


def test_without_a_batch_the_first_calibration_batch_counts(snn: nn.Module) -> None:
    found = rows.events(snn)
    assert sum(row["spikes"] for row in found) == report(snn).spikes
    assert sum(row["side_events"] for row in found) == report(snn).exponents
    assert all(row["delivered"] is None for row in found)


def test_events_by_operator(snn: nn.Module) -> None:
    with torch.no_grad(), record(snn, deliveries=True) as recording:
        snn(BATCH)
    found = {row["operator"]: row for row in rows.events(snn, BATCH)}
    assert sum(row["spikes"] for row in found.values()) == recording.total
    assert sum(row["delivered"] for row in found.values()) == recording.synaptic_operations
    gelus = [n for (site, _), n in recording.neurons.items() if site.endswith(":gelu")]
    assert found["gelu"]["spikes"] == sum(n.total for n in gelus)
    assert found["gelu"]["neurons"] == len(gelus) == 2
    widths = [bar.get_width() for bar in figures.events(snn, BATCH).patches]
    assert sum(widths) == recording.total + recording.exponents


@pytest.mark.parametrize("accounting", ["complete", "memory", "published"])
def test_energy_by_operator_adds_up(snn: nn.Module, accounting: str) -> None:
    whole = energy(snn, BATCH, accounting=accounting, baseline="int8")
    found = rows.energy(snn, BATCH, accounting, "int8")
    assert sum(row["snn"] for row in found) == pytest.approx(whole.snn)
    assert sum(row["ann"] for row in found) == pytest.approx(whole.ann)
    by_site = whole.by_site()
    softmax = sum(spent.snn for site, spent in by_site.items() if site.endswith(":softmax"))
    assert next(row["snn"] for row in found if row["operator"] == "softmax") == pytest.approx(softmax)
    assert {row["accounting"] for row in found} == {accounting}
    assert (BETWEEN in {row["operator"] for row in found}) == (accounting != "published")
    axes = figures.energy(snn, BATCH, accounting, "int8")
    drawn = sum(bar.get_width() for bar in axes.patches)
    assert drawn == pytest.approx((whole.snn + whole.ann) / 1e6)
    assert f"{whole.share:.1%}" in axes.get_title()
    assert accounting in axes.get_title()


def test_error_by_site(snn: nn.Module) -> None:
    found = rows.error(snn)
    assert [(row["site"], row["error"]) for row in found] == [(s.site, s.error) for s in report(snn).sites]
    assert [row["depth"] for row in found] == list(range(len(found)))
    axes = figures.error(snn)
    assert axes.get_yscale() == "log"
    assert sorted(points(axes)) == sorted(row["error"] for row in found if row["error"])


def test_error_of_the_output(snn: nn.Module) -> None:
    ann = transformer()
    located = {found.site: found for found in locate_error(snn, ann, BATCH)}
    found = rows.error(snn, ann, BATCH)
    for row in found:
        assert row["output"] == located[row["site"]].output
        assert row["accumulated"] == located[row["site"]].accumulated
    assert sorted(points(figures.error(snn, ann, BATCH))) == sorted(
        row["output"] for row in found if row["output"]
    )
    with pytest.raises(ValueError, match="pass ann= and batch=, or neither"):
        rows.error(snn, ann)


def test_a_raster_is_what_the_train_says(snn: nn.Module) -> None:
    with torch.no_grad(), record(snn, sites="layers.0:gelu", trains=True) as recording:
        snn(BATCH)
    [train] = recording.neurons["layers.0:gelu", "neuron"].trains
    elements = train.membrane.numel()
    found = rows.raster(snn, BATCH, "layers.0:gelu", elements=elements)
    spikes = train.spikes().reshape(6, 16, elements)
    assert len(found) == int(spikes.sum())
    assert all(spikes[row["step"] - 1, row["basis"], row["element"]] == 1 for row in found)
    inputs = train.membrane.reshape(-1)
    assert all(row["input"] == inputs[row["element"]].item() for row in found)
    few = rows.raster(snn, BATCH, "layers.0:gelu", elements=10)
    assert 5 <= len({row["element"] for row in few}) <= 10
    [lines] = figures.raster(snn, BATCH, "layers.0:gelu").collections
    assert len(lines.get_segments()) == len(rows.raster(snn, BATCH, "layers.0:gelu"))


def test_a_raster_says_what_is_not_there(snn: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"no site of this network is named 'layers\.7:gelu'"):
        rows.raster(snn, BATCH, "layers.7:gelu")
    with pytest.raises(ValueError, match="has no neuron 'deviation'; its neurons are neuron"):
        rows.raster(snn, BATCH, "layers.0:gelu", "deviation")
    with pytest.raises(ValueError, match="down:linear has no neuron: it stays exact, or reads the trains"):
        rows.raster(snn, BATCH, "layers.0.down:linear")


def test_elements_that_took_no_part_are_not_in_a_raster() -> None:
    """What a mask leaves out sends nothing, and would look like a silent neuron."""
    mask = torch.zeros(4, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    snn = convert(transformer(), [((tokens(), mask), {})], MBEConfig(time_steps=6))
    found = rows.raster(snn, ((BATCH, mask), {}), "layers.0.attention:softmax", "exp2", elements=10_000)
    elements = {row["element"] for row in found}
    assert max(elements) < 4 * 21  # of 36 scores a row of queries sees 21
    assert all(torch.isfinite(torch.tensor(row["input"])) for row in found)


@pytest.mark.parametrize(
    "config",
    [
        MBEConfig(time_steps=12, bases=16),
        MBEConfig(time_steps=12, bases=16, scale="token"),
        MBEConfig(time_steps=12, bases=16, scale="channel"),
        MBEConfig(time_steps=12, bases=16, scale="tensor"),
        MBEConfig(time_steps=12, bases=16, identity_bases=256, code="first_spike", center=True),
    ],
    ids=lambda config: f"{config.code}-{config.scale}",
)
def test_an_approximation_is_close_to_the_function(config: MBEConfig) -> None:
    network = convert(transformer(), [tokens()], config)
    gelu = rows.approximation(network, "layers.0:gelu")
    x = torch.tensor([row["x"] for row in gelu], dtype=torch.float64)
    assert torch.equal(F.gelu(x), torch.tensor([row["exact"] for row in gelu], dtype=torch.float64))
    node = network.mbe["layers~0:gelu"].neuron
    assert torch.equal(x[[0, -1]].float(), node.calibrated)
    assert [row["decoded"] for row in gelu] == node.decoded(x.float()).tolist()
    for site, role in (("embed:linear", None), ("layers.0.norm:layer_norm", "rsqrt")):
        for row in rows.approximation(network, site, role):
            assert row["decoded"] == pytest.approx(row["exact"], rel=0.03, abs=0.03)
    assert len(figures.approximation(network, "layers.0:gelu").lines) == 2


def test_a_dead_zone_shows_in_the_approximation() -> None:
    config = MBEConfig(code="first_spike", dead_zone=0.5, identity_bases=32)
    snn = convert(transformer(), [tokens()], config)
    node = snn.mbe["embed:linear"].encoders["0"]
    found = rows.approximation(snn, "embed:linear")
    silent = [row["decoded"] for row in found if abs(row["x"]) < node.dead_zone]
    assert len(silent) > 5
    assert set(silent) == {0.0}


def test_the_frontier_is_measured_at_each_t() -> None:
    ann, held_out = transformer(), [BATCH, tokens(seed=4)]
    found = rows.frontier(ann, [tokens()], held_out, (3, 9), MBEConfig(bases=16))
    assert [row["time_steps"] for row in found] == [3, 9]
    snn = convert(ann, [tokens()], MBEConfig(time_steps=9, bases=16))
    with torch.no_grad():
        cosines = [
            torch.cosine_similarity(ann(b).flatten(1).double(), snn(b).flatten(1).double()) for b in held_out
        ]
    assert found[1]["cosine"] == pytest.approx(torch.cat(cosines).min().item(), abs=1e-12)
    assert found[1]["energy"] == energy(snn, BATCH).share
    assert found[1]["cosine"] > found[0]["cosine"]
    axes = figures.frontier(ann, calibrate(ann, [tokens()]), held_out, (3, 9), MBEConfig(bases=16))
    [line] = axes.lines
    assert sorted(line.get_ydata()) == pytest.approx(sorted(1 - row["cosine"] for row in found))
    assert [text.get_text() for text in axes.texts] == ["T = 3", "T = 9"]
    with pytest.raises(ValueError, match="got none in held_out"):
        rows.frontier(ann, [tokens()], [])


def test_a_figure_goes_where_it_is_asked_to(snn: nn.Module) -> None:
    _, panels = plt.subplots(1, 2)
    assert figures.events(snn, ax=panels[1]) is panels[1]
    assert not panels[0].patches
    assert len(plt.get_fignums()) == 1


def test_the_colours_are_the_palette_of_okabe_and_ito() -> None:
    """Their published values, in red, green and blue."""
    published = {(86, 180, 233), (213, 94, 0), (0, 158, 115), (230, 159, 0), (0, 114, 178), (204, 121, 167)}
    assert {tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in OKABE_ITO} == published


def test_rows_are_ready_for_a_table(snn: nn.Module) -> None:
    for found in (rows.firing_rate(snn), rows.events(snn), rows.error(snn), rows.energy(snn, BATCH)):
        assert len({tuple(row) for row in found}) == 1
        assert all(isinstance(v, (str, int, float, type(None))) for row in found for v in row.values())


def test_another_module_is_refused() -> None:
    for look in (rows.firing_rate, rows.events, rows.error):
        with pytest.raises(ConversionError, match="this Linear is no converted network"):
            look(nn.Linear(2, 2))


def test_a_network_without_counts_asks_for_a_batch(snn: nn.Module) -> None:
    kept, snn.mbe_conversion.spikes = snn.mbe_conversion.spikes, None
    try:
        with pytest.raises(ConversionError, match="pass batch="):
            rows.firing_rate(snn)
        assert rows.firing_rate(snn, BATCH)
    finally:
        snn.mbe_conversion.spikes = kept


def test_without_matplotlib_the_numbers_are_there_and_the_picture_says_what_to_install() -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
import torch
import mbe_plugin
from mbe_plugin import figures
snn = mbe_plugin.convert(torch.nn.Sequential(torch.nn.GELU()), [torch.randn(4, 8)])
print(len(figures.rows.firing_rate(snn)))
figures.firing_rate(snn)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1"
    assert done.stderr.strip().endswith(
        "ImportError: plots need matplotlib; install it with: pip install matplotlib"
    )
