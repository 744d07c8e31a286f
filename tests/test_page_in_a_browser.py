"""The page of a report in a real browser: headless Chromium, where one is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import torch
from matplotlib.image import imread
from networks import tokens, transformer
from page_parser import Page
from test_page import hostile
from torch import nn

from mbe_plugin import MBEConfig, convert, report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--virtual-time-budget=10000",
)
VERMILION, SKY_BLUE = (0xD5, 0x5E, 0x00), (0x56, 0xB4, 0xE9)
# what a reader does, before what he sees is written into the page: dots stand for the script
PROBE = """<script>
const faults = [];
addEventListener("error", (event) => faults.push(event.message));
addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => faults.push(`refused: ${event.blockedURI}`));
function probe() {
  if (!document.documentElement.dataset.charts) return setTimeout(probe, 50);
  const seen = (() => { ... })();
  setTimeout(() => {
    const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
    document.body.insertAdjacentHTML("beforeend", "<output id=probe></output>");
    document.getElementById("probe").textContent = JSON.stringify({ seen, faults, loaded });
  }, 200);
}
setTimeout(probe, 50);
</script>"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed"
)


@pytest.fixture(scope="module")
def snn() -> nn.Module:
    return convert(transformer(), [tokens()], MBEConfig(time_steps=6, bases=16))


@pytest.fixture(scope="module")
def path(snn: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.html"
    report(snn).save_html(file, tokens())
    return file


def run(file: Path, *flags: str, **asked: str) -> str:
    """What Chromium prints; asked: what stands behind the # of the address."""
    assert CHROMIUM is not None
    address = f"{file.as_uri()}#{urlencode(asked)}"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={file.parent / 'profile'}", *flags, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def looked_at(file: Path, script: str, **asked: str) -> dict[str, Any]:
    """The page with a script of ours in it: what that gives, which errors were raised, and what was loaded."""
    probed = file.with_name("probed.html")
    page = file.read_text(encoding="utf-8")
    probed.write_text(page.replace("<body>", "<body>" + PROBE.replace("...", script), 1), encoding="utf-8")
    found = re.search(r'<output id="probe">(.*?)</output>', run(probed, "--dump-dom", **asked), re.DOTALL)
    assert found is not None, "the charts were not drawn"
    return json.loads(unescape(found[1]))


def test_all_charts_are_drawn_and_nothing_is_loaded(path: Path) -> None:
    script = 'return [...document.querySelectorAll("[id^=chart-]")].map((e) => e.shadowRoot ? 1 : e.children.length);'
    found = looked_at(path, script)
    assert found["faults"] == []
    assert found["loaded"] == []
    assert len(found["seen"]) == len(Page(path.read_text(encoding="utf-8")).data["charts"]) == 9
    assert all(count > 0 for count in found["seen"])


@pytest.mark.slow
def test_a_click_in_the_tree_shows_the_neuron(path: Path) -> None:
    script = """
      const link = [...document.querySelectorAll("#tree a")].find((a) => a.closest("li").dataset.site === "layers.1:gelu");
      link.click();
      dispatchEvent(new HashChangeEvent("hashchange"));
      const source = (name) => named(name)[0].data;
      const text = (name) => document.getElementById(name).textContent;
      return { name: text("neuron-name"), facts: text("neuron-facts"), note: text("raster-note"),
               x: source("curve").x, steps: source("raster").step };
    """
    found = looked_at(path, script)
    assert found["faults"] == []
    seen, data = found["seen"], Page(path.read_text(encoding="utf-8")).data
    neuron = data["neurons"]["layers.1:gelu|neuron"]
    assert seen["name"] == "layers.1:gelu, neuron: gelu"
    assert seen["x"] == data["curves"][neuron["curve"]]["x"]
    assert seen["steps"] == neuron["raster"]["step"]
    assert seen["note"].startswith(f"{len(neuron['raster']['step'])} spikes of")
    assert neuron["facts"]["range"] in seen["facts"]


@pytest.mark.slow
def test_the_address_names_a_neuron(path: Path) -> None:
    dom = run(path, "--dump-dom", neuron="layers.0:gelu|neuron")
    assert "layers.0:gelu, neuron: gelu" in dom
    assert 'data-neuron="layers.0:gelu|neuron"' in dom


@pytest.mark.slow
def test_a_mark_in_a_chart_leads_to_its_neuron(path: Path) -> None:
    script = """
      const source = named("errors")[0];
      source.selected.indices = [source.data.site.indexOf("head:linear")];
      dispatchEvent(new HashChangeEvent("hashchange"));
      return document.getElementById("neuron-name").textContent;
    """
    found = looked_at(path, script)
    assert (found["seen"], found["faults"]) == ("head:linear, encoders.0: identity", [])


@pytest.mark.slow
def test_a_click_on_a_header_sorts_by_number_and_by_word(snn: nn.Module, path: Path) -> None:
    script = """
      const table = document.getElementById("table-errors");
      const words = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
      const click = (n) => { table.tHead.rows[0].cells[n].querySelector("button").click(); return words(); };
      return [click(3), click(3), click(0), click(0)];
    """
    errors = {site.site: site.error for site in report(snn).sites}
    down, up, words, back = looked_at(path, script)["seen"]
    assert [errors[site] for site in down] == sorted(errors.values(), reverse=True)
    assert [errors[site] for site in up] == sorted(errors.values())
    assert words == sorted(errors)
    assert back == words[::-1]


def test_names_are_not_run(tmp_path: Path) -> None:
    report(hostile()).save_html(tmp_path / "page.html", tokens())
    found = looked_at(tmp_path / "page.html", "return document.title;")
    assert found == {"seen": "<b>Bold</b> as a spiking network", "faults": [], "loaded": []}


@pytest.mark.slow
def test_the_switch_goes_from_light_to_dark_and_back(path: Path) -> None:
    script = """
      const ground = () => getComputedStyle(document.body).backgroundColor;
      const click = () => { document.getElementById("theme").click(); return ground(); };
      return [ground(), click(), click()];
    """
    light, dark, again = looked_at(path, script)["seen"]
    assert (light, again) == ("rgb(255, 255, 255)", "rgb(255, 255, 255)")
    assert dark == "rgb(20, 23, 27)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "theme", "ground"),
    [((), "", (255, 255, 255)), (("--force-dark-mode",), "", (20, 23, 27)), ((), "dark", (20, 23, 27))],
    ids=["light", "dark, as the system is", "dark, as asked for"],
)
def test_it_can_be_looked_at(
    path: Path, tmp_path: Path, flags: tuple[str, ...], theme: str, ground: tuple[int, int, int]
) -> None:
    """The ground, and the colours of the exact and the decoded line, in the picture of the page."""
    picture = tmp_path / "page.png"
    size = "--window-size=1280,1600"
    run(path, *flags, size, f"--screenshot={picture}", **({"theme": theme} if theme else {}))
    pixels = torch.from_numpy(imread(picture))[..., :3].mul(255).round().int()
    assert tuple(pixels[2, 2].tolist()) == ground
    for colour in (VERMILION, SKY_BLUE):
        near = (pixels - torch.tensor(colour)).abs().amax(-1) < 12
        assert int(near.sum()) > 200


def test_a_phone_need_not_be_pushed_sideways(path: Path, tmp_path: Path) -> None:
    """In a frame of a phone's width nothing is wider than the frame; tables scroll inside theirs."""
    frame = tmp_path / "phone.html"
    style = "width:390px;height:800px;border:0"
    script = 'return [innerWidth, document.documentElement.scrollWidth, document.querySelector(".scroll").scrollWidth];'
    page = path.read_text(encoding="utf-8").replace("<body>", "<body>" + PROBE.replace("...", script), 1)
    inside = page.replace("&", "&amp;").replace('"', "&quot;")
    tell = (
        "<script>setInterval(() => { const found = frames[0].document.getElementById('probe');"
        "if (found) document.getElementById('said').textContent = found.textContent; }, 50)</script>"
    )
    frame.write_text(
        f'<iframe style="{style}" srcdoc="{inside}"></iframe><p id="said"></p>{tell}', encoding="utf-8"
    )
    said = re.search(r'<p id="said">(.*?)</p>', run(frame, "--dump-dom"), re.DOTALL)
    assert said is not None
    width, wide, table = json.loads(unescape(said[1]))["seen"]
    assert width == 390
    assert wide <= 390
    assert table > 390
