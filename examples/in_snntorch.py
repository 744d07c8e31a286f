"""A converted MiniLM in snnTorch's loops: a frozen backbone under a spiking head that learns, and the network itself.

python examples/in_snntorch.py [--time-steps T] [--epochs N] [--calibration N]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import snntorch as snn
import torch
from _shared.heads import fit_head
from _shared.networks import load_minilm
from _shared.sentences import HEAD_STRENGTH, MiniLMClassifier, Sentence, split
from snntorch import functional as SF
from snntorch import surrogate
from spikingjelly.activation_based.functional import set_step_mode
from torch import Tensor, nn
from torch.nn import functional

import mbe_plugin
from mbe_plugin.snntorch import MBE, reset

DATA = Path(__file__).parent / "data" / "sentiment.txt"


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    tokenizer, bert = load_minilm()
    data = split(DATA, None, seed=0)
    sentences, classes = tokenized(tokenizer, data.train), labels(data.train)
    unseen, unseen_classes = tokenized(tokenizer, data.test), labels(data.test)

    ann = MiniLMClassifier(bert, classes=2).eval()
    with torch.no_grad():
        _, embeddings = ann(**sentences)
    fit_head(ann.head, embeddings, classes, HEAD_STRENGTH)
    few = {name: tokens[: options.calibration] for name, tokens in sentences.items()}
    converted = mbe_plugin.convert(ann, [few], mbe_plugin.MBEConfig(time_steps=options.time_steps))

    # a frozen backbone: its features go through an MBE encoder, step by step, to a leaky neuron per class
    converted.requires_grad_(False)
    with torch.no_grad():
        _, features = converted(**sentences)
    head = spiking_head(features.shape[1], options.time_steps)
    losses = fit_spiking(head, features, classes, options.time_steps, options.epochs)
    print(f"loss of the spiking head: {losses[0]:.3f} before, {losses[-1]:.3f} after {options.epochs} epochs")

    # the network itself: step mode 'm' gives its outputs over time, [T, B, classes], as snnTorch's functions take them
    with torch.no_grad(), mbe_plugin.record(converted) as rec:
        _, features = converted(**unseen)
    set_step_mode(converted, "m")
    with torch.no_grad():
        outputs, _ = converted(**mbe_plugin.as_sequence(unseen, options.time_steps))
        found = {
            "the ANN": ann(**unseen)[0][None],
            "the converted network": outputs,
            "the spiking head on it": run(head, features, options.time_steps),
        }
    print(f"accuracy on {len(data.test)} held-out sentences, T = {options.time_steps}:")
    for name, outputs in found.items():
        print(f"  {name:<23} {SF.accuracy_rate(outputs, unseen_classes):.1%}")
    print(
        f"the converted network sent {rec.total / len(data.test):,.0f} spikes per sentence, in {rec.firing_rate:.1%} of "
        "the slots that its neurons could fill"
    )


def tokenized(tokenizer: Any, sentences: list[Sentence]) -> dict[str, Tensor]:
    return dict(tokenizer([text for _, text in sentences], padding=True, return_tensors="pt"))


def labels(sentences: list[Sentence]) -> Tensor:
    return torch.tensor([int(label) for label, _ in sentences])


def spiking_head(width: int, time_steps: int) -> nn.Sequential:
    """An MBE neuron per feature, which sends it in T weighted spikes, and a leaky neuron per class."""
    encoder = mbe_plugin.fit("identity", time_steps=time_steps)
    return nn.Sequential(
        MBE(encoder, init_hidden=True, static_input=True),
        nn.Linear(width, 2),
        snn.Leaky(beta=0.95, spike_grad=surrogate.fast_sigmoid(), init_hidden=True, output=True),
    )


def run(net: nn.Module, features: Tensor, time_steps: int) -> Tensor:
    """The last neurons' membranes [T, B, classes]; reset() reaches the MBE neurons as well as snnTorch's."""
    reset(net)
    return torch.stack([net(features)[1] for _ in range(time_steps)])


def fit_spiking(
    head: nn.Module, features: Tensor, classes: Tensor, time_steps: int, epochs: int
) -> list[float]:
    """Train through time, by the surrogate gradient; the loss before every epoch and at the end."""
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    losses = []
    for epoch in range(epochs + 1):
        loss = functional.cross_entropy(run(head, features, time_steps).sum(0), classes)
        losses.append(loss.item())
        if epoch < epochs:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time-steps", type=int, default=8, help="T (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=40, help="of the spiking head (default: %(default)s)")
    parser.add_argument("--calibration", type=int, default=16, help="sentences (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
