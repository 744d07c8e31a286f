"use strict";
// The page's own script: it sorts tables, switches between light and dark, and shows the neuron that the address names.
// Bokeh draws; what it draws was made in Python and lies in #data.

const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;

// what the address says behind its #: neuron=SITE|ROLE, theme=light or dark; so a view can be linked to, and tested
function asked(name) {
  return new URLSearchParams(location.hash.slice(1)).get(name);
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function models() {
  return Bokeh.documents.flatMap((document) => document.roots().flatMap((chart) => [...chart.references()]));
}

function named(name) {
  return models().filter((model) => model.name === name);
}

// A chart is a canvas, which style sheets do not reach: it takes the page's colours from here.
function colourCharts() {
  const style = getComputedStyle(root);
  const [ink, soft, line, card] = ["ink", "soft", "line", "card"].map((name) => style.getPropertyValue(`--${name}`).trim());
  const axis = {
    axis_label_text_color: soft, major_label_text_color: soft, axis_line_color: line, major_tick_line_color: line,
    minor_tick_line_color: null, axis_label_text_font_style: "normal",
  };
  const looks = {
    Figure: { outline_line_color: line },
    Legend: { label_text_color: ink, background_fill_color: card, border_line_color: null },
    Title: { text_color: ink },
    LinearAxis: axis, LogAxis: axis, CategoricalAxis: axis,
  };
  for (const model of models()) {
    if (model.type in looks) model.setv(looks[model.type]);
    if (model.type === "Grid" && model.grid_line_color !== null) model.grid_line_color = line;
  }
}

function showNeuron(key) {
  const neuron = data.neurons[key];
  if (!neuron) return;
  document.getElementById("neuron-name").textContent = `${neuron.site}, ${neuron.role}: ${neuron.function}`;
  const facts = document.getElementById("neuron-facts");
  facts.replaceChildren(...Object.entries(neuron.facts).flatMap(([name, value]) => [text("dt", name), text("dd", value)]));
  for (const source of named("curve")) source.data = data.curves[neuron.curve];
  for (const axis of named("input")) axis.axis_label = neuron.unit;
  showRaster(neuron);
  for (const link of document.querySelectorAll("#tree a")) {
    const chosen = new URLSearchParams(link.hash.slice(1)).get("neuron") === key;
    link.toggleAttribute("aria-current", chosen);
    for (let around = link.closest("details"); chosen && around; around = around.parentNode.closest("details")) {
      around.open = true;
    }
  }
  root.dataset.neuron = key;
}

function showRaster(neuron) {
  const note = document.getElementById("raster-note");
  if (!note) return;
  const { element, step, basis, inputs } = neuron.raster ?? { element: [], step: [], basis: [], inputs: [] };
  const colour = basis.map((n) => data.palette[n % data.palette.length]);
  const input = element.map((n) => inputs[n]);
  for (const source of named("raster")) source.data = { element, step, basis, input, colour };
  for (const steps of named("steps")) steps.end = neuron.time_steps + 0.5;
  note.textContent = neuron.raster
    ? `${step.length} spikes of ${inputs.length} evenly spread elements of its first call; colour: basis.`
    : "This batch does not reach it.";
}

function text(tag, content) {
  const element = document.createElement(tag);
  element.textContent = content;
  return element;
}

// Numbers by their value, not by how they are written; what has none comes last. A second click turns the order round.
function sortBy(header) {
  const table = header.closest("table");
  const column = [...header.parentNode.children].indexOf(header);
  const descending = header.getAttribute("aria-sort") !== "descending" && header.classList.contains("number");
  const down = descending || header.getAttribute("aria-sort") === "ascending";
  const value = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (left === "" || right === "") return (left === "") - (right === "");
    const order = header.classList.contains("number") ? left - right : (left > right) - (left < right);
    return down ? -order : order;
  });
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  table.tBodies[0].append(...rows);
}

function followAddress() {
  const theme = asked("theme");
  if (theme) root.dataset.theme = theme;
  showNeuron(asked("neuron") ?? root.dataset.neuron ?? data.first);
  if (asked("neuron")) document.getElementById("neuron").scrollIntoView({ block: "nearest" });
  colourCharts();
}

async function start() {
  for (const header of document.querySelectorAll("th")) header.firstChild.addEventListener("click", () => sortBy(header));
  for (const [name, chart] of Object.entries(data.charts)) await Bokeh.embed.embed_item(chart, name);
  for (const source of [...named("errors"), ...named("rates")]) {
    source.selected.change.connect(() => {
      const key = source.data.neuron?.[source.selected.indices[0]];
      if (key) location.hash = new URLSearchParams({ neuron: key });
    });
  }
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    colourCharts();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colourCharts);
  addEventListener("hashchange", followAddress);
  followAddress();
  root.dataset.charts = Object.keys(data.charts).length; // all are drawn: a test waits for it
}

start();
