"""Sentence classification by a converted network: accuracy of ANN and SNN over the time steps T.

python examples/convert_sentences.py [--train FILE [--test FILE]] [--model NAME_OR_PATH] [--limit N]

Files have lines `label text`; without --test the last 20 % of the shuffled lines are held out. By default
all-MiniLM-L6-v2 with a linear head, which is fitted on the training sentences and converted with the rest
(offline). --model: a fine-tuned Hugging Face sequence classifier such as a RoBERTa, from a folder or the
hub; its labels are the file's, as numbers or by the names in its config.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from _shared.heads import fit_head
from _shared.networks import load_minilm
from _shared.sentences import HEAD_STRENGTH, MiniLMClassifier, Split, batches_by_length, split
from _shared.sweep import Row, Tensors, accuracy_figures, evaluate, option_parser, report, sweep
from torch import Tensor, nn
from tqdm import tqdm

from mbe_plugin.env import hide_broken_torchaudio

BUNDLED = Path(__file__).parent / "data" / "sentiment.txt"


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    data = split(options.train, options.test, options.seed)
    if options.model:
        tokenizer, ann, classes = fine_tuned(options.model, data.labels)
    else:
        tokenizer, ann, classes = minilm(data, options)
    ann.to(options.device)

    calibration, _ = batches_by_length(
        tokenizer, _texts(data.train[: options.calibration]), 8, options.device
    )
    chosen = data.test[: options.limit]
    batches, order = batches_by_length(tokenizer, _texts(chosen), options.batch, options.device)
    labels = torch.tensor([classes[chosen[i][0]] for i in order])

    def compare(exact: Tensors, spiking: Tensors) -> Row:
        return {**accuracy_figures(exact[0], spiking[0], labels), **_cosines(exact[1:], spiking[1:])}

    rows = [row for row, _ in sweep(ann, calibration, batches, options, outputs, compare)]
    name = options.model or "MiniLM with a linear head"
    source = (options.test or options.train).name
    title = f"{name} on {len(chosen)} of {len(data.test)} held-out sentences of {source}, accuracies in %"
    report(title, rows, options.csv)


def outputs(network: nn.Module, batch: dict[str, Tensor]) -> Tensors:
    """Logits, and embeddings where the network gives them."""
    out: Any = network(**batch)
    return out if isinstance(out, tuple) else (out.logits,)


def _cosines(exact: Tensors, spiking: Tensors) -> Row:
    if not exact:
        return {}
    cosines = torch.cosine_similarity(exact[0].double(), spiking[0].double())
    return {"minimum_cosine": cosines.min().item()}


def minilm(data: Split, options: argparse.Namespace) -> tuple[Any, nn.Module, dict[str, int]]:
    """Tokenizer, MiniLM with a head fitted on the training sentences, and every label's class."""
    tokenizer, bert = load_minilm()
    classes = {label: i for i, label in enumerate(data.labels)}
    ann = MiniLMClassifier(bert, len(classes)).to(options.device).eval()
    chosen = data.train[: options.training]
    batches, order = batches_by_length(tokenizer, _texts(chosen), 32, options.device)
    with tqdm(total=len(batches), desc="embedding the training sentences", disable=None) as bar:
        embeddings = evaluate(ann, batches, lambda network, batch: network(**batch)[1:], bar.update)[0]
    wanted = torch.tensor([classes[chosen[i][0]] for i in order], device=options.device)
    fit_head(ann.head, embeddings.to(options.device), wanted, HEAD_STRENGTH)
    return tokenizer, ann, classes


def fine_tuned(name: str, labels: list[str]) -> tuple[Any, nn.Module, dict[str, int]]:
    """Tokenizer, classifier, and the class of every label in the files."""
    hide_broken_torchaudio()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(name).eval()
    names = {str(i): i for i in range(model.config.num_labels)} | dict(model.config.label2id)
    unknown = [label for label in labels if label not in names]
    if unknown:
        raise SystemExit(f"{name} has the labels {sorted(names)}, not the file's {unknown}")
    return AutoTokenizer.from_pretrained(name), model, {label: names[label] for label in labels}


def _texts(sentences: list[tuple[str, str]]) -> list[str]:
    return [text for _, text in sentences]


def parse() -> argparse.Namespace:
    parser = option_parser(__doc__, "sentences", "results/convert_sentences.csv")
    parser.add_argument("--train", type=Path, default=BUNDLED, help="lines `label text` (a bundled sample)")
    parser.add_argument("--test", type=Path, help="lines `label text` (20 %% of the other file)")
    parser.add_argument("--model", help="a fine-tuned sequence classifier (MiniLM with a linear head)")
    parser.add_argument("--training", type=int, metavar="N", help="fit the head on at most N sentences (all)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
