"""Language modelling by a converted network: perplexity of ANN and SNN over T, and what each goes on to write.

python examples/convert_language.py [--text FILE [--test FILE]] [--model NAME_OR_PATH] [--limit N]

The network is SmolLM2-135M-Instruct (offline); --model: another causal language model, from a folder or the hub, with
its own tokenizer. The text is Genesis 1 to 3 (bundled) or --text, such as a WikiText file; without --test its last 20 %
are held out. Calibration uses the rest. Perplexity is exp(mean loss of each token but a window's first); windows do not
overlap.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from _shared.language import continuation, losses, perplexity_figures, same_start, tokens_of, windows
from _shared.networks import load_smollm2
from _shared.sweep import option_parser, report, sweep
from torch import nn
from tqdm import tqdm

from mbe_plugin.env import hide_broken_torchaudio

BUNDLED = Path(__file__).parent / "data" / "genesis.txt"


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    name, tokenizer, ann = network(options)
    ann.to(options.device)
    known, held_out = (
        windows(tokens_of(tokenizer, text), options.length).to(options.device) for text in texts(options)
    )
    held_out = held_out[: options.limit]
    prompt = held_out[:1, : options.prompt]

    rows, exact = [], continuation(ann, prompt, options.new_tokens)
    print(f"prompt: {tokenizer.decode(prompt[0])}\n   ANN: {_line(tokenizer, exact)}")
    calibration = known[: options.calibration].split(1)
    evaluation = held_out.split(options.batch)
    for row, snn in sweep(ann, calibration, evaluation, options, losses, perplexity_figures):
        spiking = continuation(snn, prompt, options.new_tokens)
        rows.append({**row, "same_generated": same_start(exact, spiking)})
        tqdm.write(f"T = {row['time_steps']:2}: {_line(tokenizer, spiking)}")
    source = options.test or options.text
    title = f"{name} on {len(held_out)} held-out windows of {options.length} tokens of {source.name}"
    report(title, rows, options.csv)


def network(options: argparse.Namespace) -> tuple[str, Any, nn.Module]:
    """Its name, tokenizer and language model."""
    if not options.model:
        return "SmolLM2-135M", *load_smollm2()
    hide_broken_torchaudio()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(options.model).eval()
    options.length = min(options.length, model.config.max_position_embeddings)
    return options.model, AutoTokenizer.from_pretrained(options.model), model


def texts(options: argparse.Namespace) -> tuple[str, str]:
    """What may be calibrated with, and what is held out."""
    text = options.text.read_text(encoding="utf-8")
    if options.test:
        return text, options.test.read_text(encoding="utf-8")
    cut = text.rfind(" ", 0, len(text) * 4 // 5)
    return text[:cut], text[cut:]


def _line(tokenizer: Any, tokens: torch.Tensor) -> str:
    return " ".join(tokenizer.decode(tokens).split())


def parse() -> argparse.Namespace:
    parser = option_parser(__doc__, "windows", "results/convert_language.csv")
    add = parser.add_argument
    add("--text", type=Path, default=BUNDLED, help="running text (Genesis 1 to 3)")
    add("--test", type=Path, help="held-out text (the last 20 %% of the other)")
    add("--model", help="a pretrained causal language model (SmolLM2-135M)")
    add("--length", type=int, default=128, help="tokens in a window (%(default)s, or the model's context)")
    add("--prompt", type=int, default=12, help="tokens to continue from (%(default)s)")
    add("--new-tokens", type=int, default=12, help="tokens to generate (%(default)s)")
    parser.set_defaults(calibration=2, batch=2, time_steps=(8, 4))
    return parser.parse_args()


if __name__ == "__main__":
    main()
