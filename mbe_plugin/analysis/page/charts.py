"""The charts of a page, by Bokeh, which is needed here only: it draws them in the browser, from what is made here.

Bokeh was measured against Plotly: its script adds 1.3 MB to a page instead of 4.8, and runs in a fifth of the time.
Colours that depend on light or dark are set by page.js.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mbe_plugin.analysis.colours import ANN, OKABE_ITO, SIDE_EVENTS, SNN, SPIKES, place_of
from mbe_plugin.analysis.page.seen import Seen
from mbe_plugin.analysis.page.tables import Table
from mbe_plugin.analysis.rows.places import Row, layer_ticks
from mbe_plugin.analysis.rows.sent import rates_in

MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "star", "hex", "plus")
TICKS = 9  # names of layers along an axis
BAR = 34  # pixels of an operator's bars


def library() -> tuple[Any, str]:
    """Bokeh, and its script; ImportError with the command that installs it."""
    try:
        import bokeh.embed
        import bokeh.plotting
        import bokeh.resources
    except ImportError as error:
        raise ImportError(
            "the page of a report is drawn by Bokeh; install it with: pip install 'mbe_plugin[html]'"
        ) from error
    scripts = bokeh.resources.Resources(mode="inline", components=["bokeh"]).js_raw
    return bokeh, "\n".join(scripts)


def charts(bokeh: Any, found: Seen, tables: dict[str, Table]) -> dict[str, Any]:
    """By name, as Bokeh's own JSON; named as the elements of the page that hold them."""
    drawn = {
        "chart-errors": _errors(bokeh, tables["errors"].rows),
        "chart-approximation": _lines(bokeh, {"exact": OKABE_ITO[0], "decoded": SNN}, "output", 260),
        "chart-difference": _lines(bokeh, {"error": SNN}, "decoded - exact", 150),
    }
    if found.recording:
        drawn["chart-rates"] = _rates(bokeh, rates_in(found.recording, found.operators))
        drawn["chart-events"] = _events(bokeh, tables["events"].rows)
    if found.trains:
        drawn["chart-raster"] = _raster(bokeh)
    for name in found.energies:
        drawn[f"chart-energy-{name}"] = _energy(bokeh, tables["energy"].rows, name)
    return {name: bokeh.embed.json_item(chart, name) for name, chart in drawn.items()}


def _figure(bokeh: Any, height: int, **settings: Any) -> Any:
    # without a ground of its own: what is drawn before page.js sets the colours would leave a light edge on a dark page
    return bokeh.plotting.figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        background_fill_color=None,
        border_fill_color=None,
        **{"tools": "", **settings},
    )


def _errors(bokeh: Any, rows: Sequence[Row]) -> Any:
    shown = [row for row in rows if row["error"] > 0]
    figure = _figure(
        bokeh,
        340,
        tools="hover,tap",
        tooltips=[("site", "@site"), ("operator", "@operator"), ("error", "@error{0.0e+0}")],
        y_axis_type="log",
        y_axis_label="relative error",
    )
    figure.yaxis.formatter = bokeh.models.PrintfTickFormatter(format="%.0e")
    _scatter(bokeh, figure, shown, "error", "errors")
    return figure


def _rates(bokeh: Any, rows: Sequence[Row]) -> Any:
    named = [{**row, "neuron": f"{row['site']}|{row['role']}"} for row in rows]
    figure = _figure(
        bokeh,
        300,
        tools="hover,tap",
        tooltips=[("site", "@site"), ("neuron", "@role"), ("firing rate", "@firing_rate{0.0 %}")],
        y_axis_label="firing rate",
    )
    figure.y_range.start = 0
    figure.yaxis.formatter = bokeh.models.NumeralTickFormatter(format="0 %")
    _scatter(bokeh, figure, named, "firing_rate", "rates")
    return figure


def _scatter(bokeh: Any, figure: Any, rows: Sequence[Row], y: str, name: str) -> None:
    """A mark for each row, in their order; a click on it is followed to its neuron by page.js."""
    columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    places = place_of(columns.get("operator", []))
    columns["place"] = list(range(len(rows)))
    columns["colour"] = [OKABE_ITO[places[row["operator"]] % len(OKABE_ITO)] for row in rows]
    columns["mark"] = [MARKERS[places[row["operator"]] % len(MARKERS)] for row in rows]
    source = bokeh.models.ColumnDataSource(columns, name=name)
    if rows:
        figure.scatter(
            "place",
            y,
            source=source,
            color="colour",
            marker="mark",
            size=7,
            alpha=0.85,
            legend_group="operator",
        )
        _legend_above(figure)
        figure.legend.ncols = 2
    ticks = layer_ticks(rows, TICKS)
    figure.xaxis.ticker = list(ticks)
    figure.xaxis.major_label_overrides = ticks
    figure.xaxis.major_label_orientation = 0.6


def _events(bokeh: Any, rows: Sequence[Row]) -> Any:
    rows = [row for row in rows if row["events"]]  # others only receive
    names = [row["operator"] for row in rows][::-1]
    figure = _figure(bokeh, BAR * len(rows) + 110, y_range=names, x_axis_label="events sent")
    source = bokeh.models.ColumnDataSource(
        {key: [row[key] for row in rows] for key in ("operator", "spikes", "side_events")}
    )
    parts = ["spikes", "side_events"]
    colours = [SPIKES, SIDE_EVENTS]
    figure.hbar_stack(
        parts, y="operator", height=0.7, color=colours, source=source, legend_label=["spikes", "side events"]
    )
    _finish_bars(bokeh, figure, "0.[0] a")
    return figure


def _energy(bokeh: Any, rows: Sequence[Row], accounting: str) -> Any:
    shown = [row for row in rows if row["operator"] != "all"]
    names = [row["operator"] for row in shown][::-1]
    figure = _figure(bokeh, BAR * len(shown) + 130, y_range=names, x_axis_label="µJ", title=accounting)
    for shift, name, colour in ((0.2, "snn", SNN), (-0.2, "ann", ANN)):
        values = [(row[f"{accounting} {name}"] or 0) / 1e6 for row in shown]
        places = [(row["operator"], shift) for row in shown]  # Bokeh's offset from the middle of a category
        figure.hbar(places, right=values, height=0.38, color=colour, legend_label=name.upper())
    _finish_bars(bokeh, figure, "0.[00] a")
    return figure


def _finish_bars(bokeh: Any, figure: Any, format: str) -> None:
    _legend_above(figure)
    figure.x_range.start = 0
    figure.ygrid.grid_line_color = None
    figure.xaxis.formatter = bokeh.models.NumeralTickFormatter(format=format)
    figure.xaxis.ticker.desired_num_ticks = 4


def _legend_above(figure: Any) -> None:
    legend = figure.legend[0]
    figure.add_layout(legend, "above")
    legend.orientation, legend.margin, legend.padding = "horizontal", 0, 2


def _lines(bokeh: Any, colours: dict[str, str], label: str, height: int) -> Any:
    """Lines over a neuron's input; the numbers come with the click."""
    figure = _figure(bokeh, height, y_axis_label=label, x_axis_label="input")
    figure.xaxis.name = "input"  # page.js puts the unit in
    source = bokeh.models.ColumnDataSource({"x": [], **{name: [] for name in colours}}, name="curve")
    for place, (name, colour) in enumerate(colours.items()):
        width = 5 if len(colours) > 1 and not place else 1.6  # the exact values lie beneath
        figure.line("x", name, source=source, color=colour, line_width=width, legend_label=name)
    if len(colours) == 1:
        figure.legend.visible = False
        figure.yaxis.formatter = bokeh.models.PrintfTickFormatter(format="%.1e")
    else:
        _legend_above(figure)
    figure.x_range.range_padding = 0
    return figure


def _raster(bokeh: Any) -> Any:
    """A line for each element, a column for each step; the numbers come with the click."""
    figure = _figure(
        bokeh,
        280,
        tools="hover",
        tooltips=[("input", "@input"), ("step", "@step"), ("basis", "@basis")],
        x_axis_label="time step",
        y_axis_label="element",
        x_range=bokeh.models.Range1d(0.5, 1.5, name="steps"),
    )
    names = ("step", "element", "basis", "input", "colour")
    source = bokeh.models.ColumnDataSource({name: [] for name in names}, name="raster")
    figure.rect("step", "element", source=source, width=0.24, height=0.8, color="colour", line_color=None)
    figure.xgrid.grid_line_color = None
    figure.xaxis.ticker = bokeh.models.BasicTicker(min_interval=1, num_minor_ticks=0)
    return figure
