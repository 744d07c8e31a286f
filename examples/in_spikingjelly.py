"""A pretrained Transformer, converted, between the layers and neurons of a SpikingJelly network. Offline.

python examples/in_spikingjelly.py [--time-steps T] [--epochs N] [--calibration N] [--limit N]

all-MiniLM-L6-v2 becomes a spiking network without training. One functional.set_step_mode(net, "m") turns it and the
host's layers to sequences [T, ...]: its last neurons' weighted spikes drive LIF neurons, and these a read-out, which are
trained on the bundled sentences. The host's monitors watch both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from _shared.networks import load_minilm
from _shared.sentences import Sentence, split
from spikingjelly.activation_based import functional, layer, monitor, neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional as F

import mbe_plugin

BUNDLED = Path(__file__).parent / "data" / "sentiment.txt"
HIDDEN = 64  # LIF neurons


class Embedder(nn.Module):
    """The mean of the last hidden states over real tokens: input_ids, attention_mask [B, L] -> [B, 384]."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The sentences' embeddings."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask[..., None].to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)


class Classifier(nn.Module):
    """The embedder, and a head of LIF neurons on it; [B, classes] in step mode 's', [T, B, classes] in 'm'."""

    def __init__(self, embedder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.head = nn.Sequential(
            layer.Linear(width, HIDDEN),
            neuron.LIFNode(surrogate_function=surrogate.ATan(), v_reset=None, detach_reset=True),
            layer.Linear(HIDDEN, classes),
        )

    def forward(self, **tokens: Tensor) -> Tensor:
        """Scores of the sentences with these input_ids and attention_mask."""
        return self.head(self.embedder(**tokens))


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    data = split(BUNDLED, None, options.seed)
    train, test = data.train[: options.limit], data.test[: options.limit]
    tokenizer, bert = load_minilm()

    started = time.perf_counter()
    calibration = [tokenized(tokenizer, train[: options.calibration])]
    config = mbe_plugin.MBEConfig(time_steps=options.time_steps)
    embedder = mbe_plugin.convert(Embedder(bert).eval(), calibration, config, progress=True)
    print(f"converted in {time.perf_counter() - started:.0f} s: {len(embedder.mbe_conversion.sites)} sites")

    net = Classifier(embedder.requires_grad_(False), bert.config.hidden_size, len(data.labels))
    tokens = tokenized(tokenizer, test)
    with torch.no_grad():
        decoded = net.embedder(**tokens)  # step mode 's': values
    functional.set_step_mode(net, "m")
    sequences = [embedded(net.embedder, tokenizer, part) for part in (train, test)]  # [T, B, 384]
    difference = (sequences[1].sum(0) - decoded).abs().max().item()
    print(f"the sequence's sum and the value of mode 's' differ by {difference:.1e} at most")
    share = sequences[1].abs().mean((1, 2)) / decoded.abs().mean()
    print("mean magnitude of the steps, as a share of the value's:", " ".join(f"{s:.3f}" for s in share))

    labels = [torch.tensor([data.labels.index(label) for label, _ in part]) for part in (train, test)]
    fit(net.head, sequences[0], labels[0], options.epochs)
    spikes = monitor.OutputMonitor(net, neuron.LIFNode, lambda s: s.mean().item())
    with torch.no_grad(), mbe_plugin.count_spikes(net) as counts:
        accuracy = (
            net(**mbe_plugin.as_sequence(tokens, options.time_steps)).mean(0).argmax(-1) == labels[1]
        ).float()
    print(f"{len(test)} held-out sentences, whole network in step mode 'm': {accuracy.mean():.1%} right")
    print(f"LIF neurons fire in {spikes.records[0]:.1%} of their steps", end=", ")
    print(f"the Transformer's neurons send {counts.total / len(test):,.0f} spikes per sentence")


def embedded(embedder: nn.Module, tokenizer: Any, sentences: list[Sentence]) -> Tensor:
    """The embeddings' sequences [T, B, 384], once for all epochs: the Transformer is not trained."""
    steps = embedder.mbe_conversion.config.time_steps
    with torch.no_grad():
        return embedder(**mbe_plugin.as_sequence(tokenized(tokenizer, sentences), steps))


def fit(head: nn.Module, x_seq: Tensor, labels: Tensor, epochs: int) -> None:
    """Train by the mean output over time, as SpikingJelly's users do."""
    optimizer = torch.optim.Adam(head.parameters(), 5e-3)
    for _ in range(epochs):
        loss = F.cross_entropy(head(x_seq).mean(0), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(head)
    print(f"{epochs} epochs of the head, loss {loss.item():.3f}")


def tokenized(tokenizer: Any, sentences: list[Sentence]) -> dict[str, Tensor]:
    texts = [text for _, text in sentences]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time-steps", type=int, default=8, help="T (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=40, help="of the head (default: %(default)s)")
    parser.add_argument("--calibration", type=int, default=16, help="sentences (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="sentences at most, to train and to test with (all)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
