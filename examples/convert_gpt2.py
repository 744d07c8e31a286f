"""Language modelling by a converted network: perplexity of ANN and SNN over T, and generated text.

python examples/convert_gpt2.py [--text FILE [--test FILE]] [--model NAME_OR_PATH] [--limit N]

Without --test the last 20 % of the text are held out; calibration uses the rest. By default a small GPT-2
over words is trained on the spot, on Genesis 1 to 3 (bundled) or on --text, such as a WikiText file.
--model: a pretrained causal language model from a folder or the hub, with its own tokenizer; nothing is
trained. Perplexity is exp(mean loss of each token but the first, in windows without overlap).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _shared.sweep import Row, Tensors, option_parser, report, sweep
from _words import Words, small_gpt2, train, windows
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from mbe_plugin.environment import hide_broken_torchaudio

BUNDLED = Path(__file__).parent / "data" / "genesis.txt"


@dataclass(frozen=True)
class Task:
    """A language model, its tokens for fitting and for evaluation, and how they read."""

    name: str
    ann: nn.Module
    known: Tensor
    held_out: Tensor
    length: int
    decode: Callable[[Tensor], str]


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    hide_broken_torchaudio()
    task = pretrained(options) if options.model else trained_here(options)
    task.ann.to(options.device)
    known, held_out = (windows(t, task.length).to(options.device) for t in (task.known, task.held_out))
    held_out = held_out[: options.limit]
    prompt = held_out[:1, : options.prompt]

    rows, exact = [], continuation(task.ann, prompt, options.new_tokens)
    print(f"prompt: {task.decode(prompt[0])}\n   ANN: {task.decode(exact)}")
    calibration = known[: options.calibration].split(8)
    for row, snn in sweep(task.ann, calibration, held_out.split(options.batch), options, losses, figures):
        spiking = continuation(snn, prompt, options.new_tokens)
        rows.append({**row, "same_generated": _same_start(exact, spiking)})
        tqdm.write(f"T = {row['time_steps']:2}: {task.decode(spiking)}")
    source = options.test or options.text
    report(f"{task.name} on {len(held_out)} held-out windows of {source.name}", rows, options.csv)


def losses(network: nn.Module, window: Tensor) -> Tensors:
    """Of every token but a window's first: its loss, and the token thought likeliest; [n] each."""
    logits = network(input_ids=window).logits[:, :-1].flatten(0, 1).float()
    loss = functional.cross_entropy(logits, window[:, 1:].flatten(), reduction="none")
    return loss.double(), logits.argmax(-1)


def figures(exact: Tensors, spiking: Tensors) -> Row:
    """Perplexities, the SNN's surplus in percent, and how often both think the same token likeliest."""
    ann, snn = (math.exp(loss.mean().item()) for loss, _ in (exact, spiking))
    return {
        "items": len(exact[0]),
        "ann_perplexity": ann,
        "snn_perplexity": snn,
        "lost_percent": 100 * (snn / ann - 1),
        "agreement": 100 * (exact[1] == spiking[1]).double().mean().item(),
    }


def continuation(network: nn.Module, prompt: Tensor, new_tokens: int) -> Tensor:
    """What greedy search adds to one prompt [1, L]."""
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    whole = network.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    return whole[0, prompt.shape[1] :].cpu()


def _same_start(exact: Tensor, spiking: Tensor) -> str:
    """How many generated tokens are the same before the first other one, of how many."""
    shorter = min(len(exact), len(spiking))
    return f"{int((exact[:shorter] == spiking[:shorter]).cumprod(0).sum())}/{len(exact)}"


def trained_here(options: argparse.Namespace) -> Task:
    known, held_out = _texts(options)
    words = Words(known, options.words)
    length = options.length or 64
    model = small_gpt2(len(words.names), length, options.width, options.depth)
    tokens = words.encode(known)
    train(model, tokens, length, options.steps)
    name = f"GPT-2 of {options.depth} layers, width {options.width}, {len(words.names)} words, trained here"
    return Task(name, model, tokens, words.encode(held_out), length, words.decode)


def pretrained(options: argparse.Namespace) -> Task:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(options.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    known, held_out = (tokenizer(text, return_tensors="pt")["input_ids"][0] for text in _texts(options))
    length = options.length or min(1024, model.config.max_position_embeddings)
    return Task(options.model, model, known, held_out, length, tokenizer.decode)


def _texts(options: argparse.Namespace) -> tuple[str, str]:
    """What may be trained on and calibrated with, and what is held out."""
    text = options.text.read_text(encoding="utf-8")
    if options.test:
        return text, options.test.read_text(encoding="utf-8")
    cut = text.rfind(" ", 0, len(text) * 4 // 5)
    return text[:cut], text[cut:]


def parse() -> argparse.Namespace:
    parser = option_parser(__doc__, "windows", "results/convert_gpt2.csv")
    add = parser.add_argument
    add("--text", type=Path, default=BUNDLED, help="running text (Genesis 1 to 3)")
    add("--test", type=Path, help="held-out text (the last 20 %% of the other)")
    add("--model", help="a pretrained causal language model (a small one, trained here)")
    add("--length", type=int, help="tokens in a window (64; with --model its context, at most 1024)")
    add("--prompt", type=int, default=12, help="tokens to continue from (%(default)s)")
    add("--new-tokens", type=int, default=24, help="tokens to generate (%(default)s)")
    add("--words", type=int, default=2000, help="vocabulary of the small model (%(default)s)")
    add("--width", type=int, default=64, help="of the small model (%(default)s)")
    add("--depth", type=int, default=2, help="of the small model (%(default)s)")
    add("--steps", type=int, default=60, help="training steps of the small model (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
