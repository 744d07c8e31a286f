"""A text as windows of tokens, what a language model makes of them, and what it goes on to write."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Tensors = tuple[Tensor, ...]


def windows(tokens: Tensor, length: int) -> Tensor:
    """Consecutive windows without overlap [n, length]; what is left at the end is dropped."""
    if len(tokens) < length:
        raise SystemExit(f"the text has {len(tokens)} tokens, fewer than one window of {length}")
    return tokens[: len(tokens) // length * length].view(-1, length)


def tokens_of(tokenizer: Any, text: str) -> Tensor:
    """The whole text's token numbers [n]."""
    return tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][0]


def losses(network: nn.Module, window: Tensor) -> Tensors:
    """Of every token but a window's first: its loss, and the token thought likeliest; [n] each."""
    return token_losses(network(input_ids=window).logits, window)


def token_losses(logits: Tensor, window: Tensor) -> Tensors:
    """The same from the logits [B, L, V] of windows [B, L]."""
    before = logits[:, :-1].flatten(0, 1).float()
    loss = functional.cross_entropy(before, window[:, 1:].flatten(), reduction="none")
    return loss.double(), before.argmax(-1)


def divergences(exact: Tensor, spiking: Tensor) -> Tensor:
    """Of every token's logits [..., V]: the Kullback-Leibler divergence from the ANN's probabilities, in nats [...].

    What the loss rises by where the ANN's probabilities are true; its standard error is far smaller than the loss's.
    """
    known, found = exact.log_softmax(-1), spiking.log_softmax(-1)
    return (known.exp() * (known - found)).sum(-1)


def perplexity_figures(exact: Tensors, spiking: Tensors) -> dict[str, Any]:
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


def same_start(exact: Tensor, spiking: Tensor) -> str:
    """How many generated tokens are the same before the first other one, of how many."""
    shorter = min(len(exact), len(spiking))
    return f"{int((exact[:shorter] == spiking[:shorter]).cumprod(0).sum())}/{len(exact)}"
