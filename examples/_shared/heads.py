"""A linear head fitted on frozen features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def fit_head(head: nn.Linear, features: Tensor, classes: Tensor, strength: float) -> None:
    """Logistic regression in place: least mean cross-entropy + |W|^2 / (2 strength n), by L-BFGS from zero.

    features [n, C], classes [n] int64. Stronger regularisation, that is a smaller strength, for larger features.
    """
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    decay = 0.5 / (strength * len(classes))
    search = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = functional.cross_entropy(head(features), classes) + decay * head.weight.square().sum()
        value.backward()
        return value

    search.step(loss)
