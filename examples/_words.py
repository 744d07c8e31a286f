"""A text as words, and a small GPT-2 trained on it on the spot."""

from __future__ import annotations

import re
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

UNKNOWN = "<unk>"
WORDS = re.compile(r"<unk>|@[-.,]@|\w+|[^\w\s]")  # @-@ is WikiText's hyphen inside a word


class Words:
    """The most frequent words and punctuation marks of a text; every other word is <unk>."""

    def __init__(self, text: str, size: int) -> None:
        counts = Counter(WORDS.findall(text))
        del counts[UNKNOWN]
        self.names = [UNKNOWN] + [word for word, _ in counts.most_common(size - 1)]
        self.numbers = {word: i for i, word in enumerate(self.names)}

    def encode(self, text: str) -> Tensor:
        return torch.tensor([self.numbers.get(word, 0) for word in WORDS.findall(text)])

    def decode(self, numbers: Tensor) -> str:
        return " ".join(self.names[i] for i in numbers.tolist())


def windows(tokens: Tensor, length: int) -> Tensor:
    """Consecutive windows without overlap [n, length]; what is left at the end is dropped."""
    if len(tokens) < length:
        raise SystemExit(f"the text has {len(tokens)} tokens, fewer than one window of {length}")
    return tokens[: len(tokens) // length * length].view(-1, length)


def small_gpt2(words: int, length: int, width: int, depth: int) -> nn.Module:
    """GPT-2 with random weights: heads of 32, context of ``length`` words, no special tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_positions": length, "n_embd": width, "n_layer": depth, "n_head": max(1, width // 32)}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1)
    config = GPT2Config(vocab_size=words, bos_token_id=None, eos_token_id=None, **shape, **dropout)
    return GPT2LMHeadModel(config)


def train(model: nn.Module, tokens: Tensor, length: int, steps: int, batch: int = 16) -> None:
    """AdamW on windows drawn at random, learning rate up to 3e-3 and down again; leaves eval mode."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    with tqdm(total=steps, desc="training a small GPT-2") as bar:
        for _ in range(steps):
            starts = torch.randint(len(tokens) - length + 1, (batch,))
            chosen = torch.stack([tokens[s : s + length] for s in starts])
            logits = model(input_ids=chosen).logits[:, :-1]
            loss = functional.cross_entropy(logits.flatten(0, 1), chosen[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.2f}")
            bar.update()
    model.eval()
