"""save_html(): the page says what the report, the recording and the bill say, of every site, and loads nothing."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, tokens, transformer
from page_parser import Page
from torch import nn

from mbe_plugin import (
    ConversionError,
    MBEConfig,
    RangeWarning,
    Report,
    convert,
    energy,
    load,
    record,
    report,
    reset_counts,
    save,
)
from mbe_plugin.neuron.dynamics import reference_spikes
from mbe_plugin.operators import CalibratedNode

BATCH = tokens(seed=3) * 4  # beyond the ranges that calibration met
HOW = "mbe_plugin.report(snn).save_html(path, batch)"


def page_of(snn: nn.Module, folder: Path, batch: Any = None) -> Page:
    report(snn).save_html(folder / "page.html", batch)
    return Page((folder / "page.html").read_text(encoding="utf-8"))


def converted(**settings: Any) -> nn.Module:
    return convert(transformer(), [tokens()], MBEConfig(time_steps=6, bases=16, **settings))


@pytest.fixture(scope="module")
def snn() -> nn.Module:
    return converted(exclude=("layers.1:gelu",))


@pytest.fixture(scope="module")
def made(snn: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Report]:
    """The page with a batch, and the report right after it."""
    reset_counts(snn)
    with pytest.warns(RangeWarning):  # once per network
        page = page_of(snn, tmp_path_factory.mktemp("page"), BATCH)
    return page, report(snn)


def test_every_site_is_in_the_tree(snn: nn.Module, made: tuple[Page, Report]) -> None:
    page, after = made
    assert sorted(page.sites) == sorted(site.name for site in snn.mbe_conversion.sites)
    assert set(page.sites) == {s.site for s in after.sites} | {"layers.1:gelu"}
    assert "exact: excluded by the configuration" in page.words


def test_the_errors_are_the_reports(made: tuple[Page, Report]) -> None:
    page, after = made
    assert page.numbers("errors", 3) == {site.site: site.error for site in after.sites}
    assert page.numbers("errors", 2) == {site.site: depth for depth, site in enumerate(after.sites)}


def test_the_events_are_the_recordings(snn: nn.Module, made: tuple[Page, Report]) -> None:
    page, _ = made
    with torch.no_grad(), record(snn, deliveries=True) as recording:
        snn(BATCH)
    spikes, side, events, delivered = (page.numbers("events", column) for column in (2, 3, 4, 5))
    assert sum(n or 0 for n in spikes.values()) == recording.total
    assert sum(n or 0 for n in side.values()) == recording.exponents
    assert sum(n or 0 for n in events.values()) == recording.events
    assert sum(n or 0 for n in delivered.values()) == recording.synaptic_operations
    assert spikes["softmax"] == sum(
        n.total for (site, _), n in recording.neurons.items() if site.endswith(":softmax")
    )


@pytest.mark.parametrize(("accounting", "column"), [("complete", 1), ("memory", 4), ("published", 7)])
def test_the_energies_are_those_of_every_accounting(
    snn: nn.Module, made: tuple[Page, Report], accounting: str, column: int
) -> None:
    page, _ = made
    whole = energy(snn, BATCH, accounting=accounting)
    spiking, dense, share = (page.numbers("energy", column + place) for place in range(3))
    for numbers, total in ((spiking, whole.snn), (dense, whole.ann)):
        assert numbers["all"] == pytest.approx(total)
        assert sum(n or 0 for n in numbers.values()) == pytest.approx(2 * total)
    assert share["all"] == pytest.approx(whole.share)
    assert f"{whole.share:.2%}" in {row[column + 2][0] for row in page.tables["energy"]}


def test_the_ranges_are_those_after_the_batch(made: tuple[Page, Report]) -> None:
    page, after = made
    neurons = [n for s in after.sites for n in s.neurons if n.site == s.site]
    rows = {(row[0][0], row[1][0]): row for row in page.tables["ranges"]}
    assert len(rows) == len(neurons)
    for neuron in neurons:
        numbers = [float(cell[1] or "nan") for cell in rows[neuron.site, neuron.role][3:]]
        assert numbers == [
            neuron.low,
            neuron.high,
            neuron.fit_error,
            neuron.spikes,
            neuron.seen,
            neuron.outside,
            neuron.beyond,
        ]
    assert any(neuron.outside > 0 for neuron in neurons)
    assert all(neuron.seen > 0 for neuron in neurons)


def test_every_neuron_has_its_approximation_and_its_raster(snn: nn.Module, made: tuple[Page, Report]) -> None:
    page, _ = made
    nodes = {f"{m.site}|{m.role}": m for m in snn.modules() if isinstance(m, CalibratedNode)}
    assert set(page.data["neurons"]) == set(nodes)
    for name, node in nodes.items():
        shown = page.data["neurons"][name]
        curve = page.data["curves"][shown["curve"]]
        x = torch.tensor(curve["x"], dtype=torch.float64)
        assert curve["decoded"] == pytest.approx(node.decoded(x.float()).tolist(), rel=0.02, abs=0.02)
        raster = shown["raster"]
        membranes = torch.tensor(raster["inputs"])
        assert 0 < len(membranes) <= 24
        assert set(raster["step"]) <= set(range(1, 7))
        if node.reduction.name == "none":  # the reference, on what the page says came in
            spikes = reference_spikes(membranes, node.tables())
            found = sorted(
                zip(*(part.tolist() for part in spikes.nonzero(as_tuple=True)), strict=True),
                key=lambda spike: (spike[2], spike[0], spike[1]),
            )
            said = list(zip(raster["step"], raster["basis"], raster["element"], strict=True))
            assert said == [(step + 1, basis, element) for step, basis, element in found]


def sixth_digit(x: torch.Tensor) -> torch.Tensor:
    """Half of the last of six digits, by which a number is rounded."""
    return 0.5 * 10.0 ** (x.abs().clamp_min(1e-30).log10().floor() - 5)


def test_the_curve_of_gelu_is_gelu(made: tuple[Page, Report]) -> None:
    page, _ = made
    curve = page.data["curves"][page.data["neurons"]["layers.0:gelu|neuron"]["curve"]]
    x = torch.tensor(curve["x"], dtype=torch.float64)
    (slope,) = torch.autograd.grad(F.gelu(x.requires_grad_()).sum(), x)
    x, exact = x.detach(), torch.tensor(curve["exact"], dtype=torch.float64)
    assert bool(
        ((exact - F.gelu(x)).abs() <= slope.abs() * sixth_digit(x) + sixth_digit(exact) + 1e-12).all()
    )
    errors = (torch.tensor(curve["decoded"]) - torch.tensor(curve["exact"])).tolist()
    assert curve["error"] == pytest.approx(errors, abs=1e-5)
    assert 0 < max(abs(e) for e in curve["error"]) < 0.05


def test_what_stayed_exact_and_what_is_not_seen_is_said(made: tuple[Page, Report]) -> None:
    page, after = made
    rows = {(row[0][0], row[2][0]): float(row[1][1] or "nan") for row in page.tables["kept"]}
    assert rows["layers.1:gelu", "excluded by the configuration"] == 1
    for name, count in after.linear.items():
        assert rows[name, "linear with fixed weights, outside operators"] == count
    for name, count in after.exact.items():
        assert rows[name, "exact by design, outside operators"] == count
    for spot in after.blind_spots:
        assert " ".join(spot.split()) in page.words


def test_configuration_and_versions_are_said(made: tuple[Page, Report]) -> None:
    page, _ = made
    for said in ("time_steps 6", "exclude ('layers.1:gelu',)", "calibration batches 1"):
        assert said in page.words
    assert f"torch {metadata.version('torch')}" in page.words


def test_nothing_is_loaded(made: tuple[Page, Report]) -> None:
    page, _ = made
    assert all(address.startswith("#neuron=") for address in page.addresses)
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(page.elements)
    assert page.elements.count("script") == 3


def test_the_style_names_no_file_and_the_browser_may_fetch_none(tmp_path: Path) -> None:
    snn = convert(nn.Sequential(nn.GELU()), [tokens()])
    page_of(snn, tmp_path)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "http" not in policy[1]


def test_without_a_batch_it_says_how_to_get_the_rest(snn: nn.Module, tmp_path: Path) -> None:
    page = page_of(snn, tmp_path)
    assert f"Energy needs a batch: {HOW}" in page.words
    assert f"Its raster needs a batch: {HOW}" in page.words
    assert "energy" not in page.tables
    assert sum(n or 0 for n in page.numbers("events", 2).values()) == report(snn).spikes
    assert all(neuron["raster"] is None for neuron in page.data["neurons"].values())
    drawn = {name for name in page.ids if name.startswith("chart-")}
    assert drawn == set(page.data["charts"])


def test_a_network_without_counts_says_so(tmp_path: Path) -> None:
    snn = convert(nn.Sequential(nn.GELU()), [tokens()])
    snn.mbe_conversion.spikes = snn.mbe_conversion.latency = None
    page = page_of(snn, tmp_path)
    assert "No counts were kept in this network; they need a batch" in page.words
    assert "events" not in page.tables


def test_energy_that_cannot_be_counted_is_said_with_the_site(tmp_path: Path) -> None:
    weight = torch.randn(WIDTH, 2, dtype=torch.complex64)
    snn = convert(Calling(lambda m, x: (torch.complex(x, -x) @ weight).real), [tokens()])
    page = page_of(snn, tmp_path, tokens())
    assert "The energy of this batch cannot be counted: (root):matmul(a,w): no fan-out is known" in page.words
    assert page.numbers("events", 2)["matmul"] == report(snn).spikes
    assert all(neuron["raster"] for neuron in page.data["neurons"].values())


HOSTILE = """</script><script>document.title='hit'</script><img src=x onerror="document.title='hit'">&amp;'"""


def hostile() -> nn.Module:
    named = nn.ModuleDict({HOSTILE.replace(".", "·"): nn.Sequential(nn.Linear(WIDTH, 4), nn.GELU())})
    first = next(iter(named.values()))
    model = nn.Sequential(first)
    model._modules = named._modules
    type_name = type("<b>Bold</b>", (nn.Sequential,), {})
    model.__class__ = type_name
    return convert(model, [tokens()], MBEConfig(time_steps=4))


def test_hostile_names_are_words(tmp_path: Path) -> None:
    page = page_of(hostile(), tmp_path, tokens())
    assert "<b>Bold</b> as a spiking network" in page.words
    assert page.elements.count("script") == 3
    assert "img" not in page.elements
    name = HOSTILE.replace(".", "·")
    assert {site.partition(":")[0] for site in page.sites} == {f"{name}.0", f"{name}.1"}
    assert {n["site"] for n in page.data["neurons"].values()} == set(page.sites)


def test_equal_curves_are_kept_once(tmp_path: Path) -> None:
    """Fifty layers of the same function and range: what is drawn does not grow with them."""
    model = nn.Sequential(*(nn.Sigmoid() for _ in range(50)))
    x = torch.linspace(0, 1, 64).reshape(8, 8)
    page = page_of(convert(model, [x], MBEConfig(time_steps=4, bases=4)), tmp_path)
    assert len(page.data["neurons"]) == 50
    assert len({neuron["curve"] for neuron in page.data["neurons"].values()}) == len(page.data["curves"])
    softmaxes = nn.Sequential(*(nn.Softmax(-1) for _ in range(50)))
    page = page_of(convert(softmaxes, [x], MBEConfig(time_steps=4, bases=4)), tmp_path)
    assert len(page.data["neurons"]) == 100
    assert len(page.data["curves"]) < 60


def test_the_library_that_draws_is_asked_for_by_name(
    snn: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == "bokeh" or name.startswith("bokeh.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(ImportError, match=r"pip install 'mbe_plugin\[html\]'"):
        report(snn).save_html(tmp_path / "page.html", BATCH)
    assert not (tmp_path / "page.html").exists()


def test_a_report_brings_its_network(tmp_path: Path) -> None:
    """Nobody else need hold it."""
    made = report(convert(nn.Sequential(nn.GELU()), [tokens()]))
    gc.collect()
    made.save_html(tmp_path / "page.html", tokens())
    assert Page((tmp_path / "page.html").read_text(encoding="utf-8")).sites == ["0:gelu"]


def test_a_report_is_plain_data_as_before(snn: nn.Module, tmp_path: Path) -> None:
    found = report(snn)
    assert found == report(snn)
    assert "network" not in " ".join(found.as_dict())
    for copied in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert copied == found
        with pytest.raises(ConversionError, match="copied or loaded without its network"):
            copied.save_html(tmp_path / "page.html")


def test_a_network_from_a_folder_has_the_same_page(snn: nn.Module, tmp_path: Path) -> None:
    save(snn, tmp_path / "snn")
    loaded = load(tmp_path / "snn", transformer())
    reset_counts(snn)
    before, after = page_of(snn, tmp_path), page_of(loaded, tmp_path)
    assert after.tables == before.tables
    assert all(after.data[part] == before.data[part] for part in ("neurons", "curves"))
    assert after.sites == before.sites


def test_a_small_share_outside_is_not_rounded_to_nothing(tmp_path: Path) -> None:
    snn = convert(nn.Sequential(nn.GELU()), [tokens()], MBEConfig(time_steps=4))
    x = torch.zeros(200, 1000)
    x[0, 0] = 100.0
    with pytest.warns(RangeWarning):
        page = page_of(snn, tmp_path, x)
    assert {row[8][0] for row in page.tables["ranges"]} == {"5.0e-06"}
    assert page.data["neurons"]["0:gelu|neuron"]["facts"]["outside its range"] == "5.0e-06"


def test_a_network_of_the_published_neurons_has_a_page(tmp_path: Path) -> None:
    """Free codes, no range reduction, fits without samples."""
    with pytest.warns(RangeWarning):  # the paper's ranges have no margin
        snn = convert(transformer(), [tokens()], MBEConfig.published(time_steps=4, bases=4))
    page = page_of(snn, tmp_path, tokens())
    assert len(page.sites) == len(report(snn).sites)
    assert page.data["neurons"]["layers.0:gelu|neuron"]["facts"]["code"] == "free"
