"""Small networks for the tests of conversion; here, and not in the tests, so that they can be pickled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


class Calling(nn.Module):
    """A Linear of its own, and a forward that is any function of (module, inputs)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


class Inside(nn.Module):
    """Calling one level down, so that messages have a module path to name: ``body.inner``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"inner": Calling(function)})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.body["inner"](*args, **kwargs)


class Attending(nn.Module):
    """Attention written by hand, over the last but one dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-2, -1) / x.shape[-1] ** 0.5
        if mask is not None:
            scores = scores + mask
        return torch.softmax(scores, dim=-1) @ self.v(x)


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attending(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm(x), mask)
        return x + self.down(F.gelu(self.up(x)))


class Transformer(nn.Module):
    """A small encoder with methods beside forward, tied weights at its two ends, a scale and a dropout."""

    def __init__(self, width: int = WIDTH, depth: int = 2, repeats: int = 1) -> None:
        super().__init__()
        self.embed = nn.Linear(width, width, bias=False)
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.scale = nn.Parameter(torch.full((width,), 0.5))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, width, bias=False)
        self.head.weight = self.embed.weight
        self.repeats = repeats

    def forward_features(self, x: Tensor, mask: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        x = self.embed(x)
        if weight is not None:
            x = x * weight.to(x.dtype).unsqueeze(-1)
        for _ in range(self.repeats):
            for layer in self.layers:
                x = layer(x, mask)
        return torch.tanh(x) * self.scale

    def forward(self, x: Tensor, mask: Tensor | None = None, *, weight: Tensor | None = None) -> Tensor:
        """[B, L, width] to the same shape; mask is added to the scores, weight [B, L] multiplied."""
        return self.head(self.dropout(self.forward_features(x, mask, weight)))

    def pooled(self, x: Tensor) -> Tensor:
        """Nothing here but what forward's modules do, and their mean."""
        return self.layers[0](self.embed(x)).mean(1)

    def squashed(self, x: Tensor) -> Tensor:
        """A function of its own, which forward never reaches."""
        return torch.sigmoid(self.embed(x))

    @staticmethod
    def curved(x: Tensor) -> Tensor:
        """A static method with a function of its own."""
        return torch.tanh(x)

    def _private(self, x: Tensor) -> Tensor:
        return torch.tanh(self.embed(x))

    def stream(self, x: Tensor) -> Any:
        """A generator whose body has a function of its own."""
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
            yield x


def transformer(**settings: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(**settings).eval()


def tokens(*shape: int, seed: int = 1) -> Tensor:
    """Inputs [*shape, WIDTH]."""
    return torch.randn(*(shape or (4, 6)), WIDTH, generator=torch.Generator().manual_seed(seed))
