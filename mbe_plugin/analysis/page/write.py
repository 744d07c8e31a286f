"""Writing a page: one file that holds its style, its scripts and its numbers, and loads nothing."""

from __future__ import annotations

import dataclasses
import importlib
import json
import platform
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from torch import nn

from mbe_plugin.analysis.colours import OKABE_ITO
from mbe_plugin.analysis.page import charts, tables
from mbe_plugin.analysis.page.neurons import neurons
from mbe_plugin.analysis.page.seen import Seen, seen
from mbe_plugin.analysis.page.tree import tree
from mbe_plugin.analysis.report import Report, conversion_of
from mbe_plugin.analysis.rows.places import Row

LIBRARIES = ("torch", "spikingjelly", "snntorch", "transformers", "timm", "numba", "numpy")


def save_page(snn: nn.Module, made: Report, path: str | Path, batch: Any = None) -> None:
    """See Report.save_html."""
    bokeh, script = charts.library()
    Path(path).write_text(page(seen(snn, made, batch), bokeh, script), encoding="utf-8")


def page(found: Seen, bokeh: Any, script: str) -> str:
    """The page as HTML."""
    made = {
        "errors": tables.errors(found),
        "events": tables.events(found),
        "energy": tables.energies(found),
        "ranges": tables.ranges(found),
        "kept": tables.kept(found),
    }
    by_name, curves = neurons(found)
    drawn = charts.charts(bokeh, found, made)
    data = {
        "charts": drawn,
        "neurons": by_name,
        "curves": curves,
        "first": _first(by_name),
        "palette": OKABE_ITO,
    }
    return _template().render(
        found=found,
        name=type(found.snn).__name__,
        tree=tree(found),
        tables=made,
        charts=list(drawn),
        data=_script_safe(json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))),
        config=_configuration(found),
        versions=versions(),
        bokeh=script,
        style=_part("page.css"),
        script=_part("page.js"),
    )


def _first(by_name: dict[str, Row]) -> str | None:
    """Which neuron is shown before any is clicked: one that computes something, rather than encodes."""
    functions = (name for name, neuron in by_name.items() if neuron["function"] != "identity")
    return next(functions, next(iter(by_name), None))


def versions() -> dict[str, str]:
    """Of this package, of Python and of the libraries that decide a result, of those that are installed."""
    # by name: an import of the package that offers report() would be a circle, over which mypy's cache stumbles
    own = importlib.import_module("mbe_plugin").__version__
    found = {"mbe_plugin": own, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _configuration(found: Seen) -> dict[str, str]:
    """Every option of the conversion, and the number of calibration batches."""
    conversion = conversion_of(found.snn)
    options = {
        field.name: str(getattr(conversion.config, field.name))
        for field in dataclasses.fields(conversion.config)
    }
    return {**options, "calibration batches": str(conversion.batches)}


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined  # comes with torch

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_part("page.html"))


def _part(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _script_safe(text: str) -> str:
    """JSON that may stand in a script element: no name in it can end the element, or begin a comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, (list, tuple)) else value
