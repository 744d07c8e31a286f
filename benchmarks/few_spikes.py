"""A plain few-spikes neuron (Stoeckl & Maass 2021) for a scalar function: the host's FewSpikeNode, searched.

One neuron, K = T steps, 3 K free numbers. The output weights are solved by least squares inside a
seeded search over thresholds and resets, so the comparison is not lost to a poor optimiser.
"""

from __future__ import annotations

import numpy as np
import torch
from spikingjelly.activation_based.neuron import FewSpikeNode, FewSpikeTable

BATCH = 16


def fit_few_spikes(
    x: np.ndarray, y: np.ndarray, steps: int, shorter: FewSpikeNode | None = None, evaluations: int = 3000
) -> FewSpikeNode:
    """The node of least squared error on points x [M] after ``evaluations`` candidates, two or three starts.

    The first step is the constant: its threshold lies below all inputs and its reset is 0 or moves x to 0.
    shorter: a node of fewer steps whose tables, continued by halving, are a start too.
    """
    starts = []
    for shift in (0.0, float(x.min())):
        halving = (x.max() - shift) * 0.5 ** np.arange(1, steps)
        starts.append(np.stack([np.append(x.min() - 1e-3, halving), np.append(shift, halving)]))
    if shorter is not None:
        known = torch.stack([shorter.theta, shorter.h]).double().numpy()
        more = np.abs(known[:, -1:]) * 0.5 ** np.arange(1, steps - shorter.K + 1)
        starts.append(np.concatenate([known, more], axis=1))
    found = [_search(x, y, start, evaluations // len(starts)) for start in starts]
    _, table, weights = min(found, key=lambda f: f[0])
    return FewSpikeNode(FewSpikeTable(*(torch.from_numpy(v).float() for v in (*table, weights))))


def _search(x: np.ndarray, y: np.ndarray, start: np.ndarray, evaluations: int) -> tuple:
    random = np.random.Generator(np.random.PCG64(0))
    best = (*_score(x, y, start), start)
    scale = np.ptp(x)
    for _ in range(evaluations // BATCH):
        for size in 10.0 ** random.uniform(-4, -0.7, BATCH):
            moves = random.random(start.shape) < 0.3
            moves[:, 0] = False
            step = size * random.standard_normal(start.shape) * moves
            tried = best[2] * (1 + step) + 0.01 * scale * step
            error, weights = _score(x, y, tried)
            if error < best[0]:
                best = (error, weights, tried)
    return best[0], best[2], best[1]


def _score(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> tuple[float, np.ndarray]:
    membrane, spikes = x.astype(np.float32), []
    for threshold, reset in table.T.astype(np.float32):
        spike = (membrane >= threshold).astype(np.float32)
        membrane = membrane - spike * reset
        spikes.append(spike)
    trains = np.stack(spikes).astype(np.float64)
    gram = trains @ trains.T + 1e-9 * len(x) * np.eye(len(trains))
    weights = np.linalg.solve(gram, trains @ y)
    return float(((y - weights @ trains) ** 2).mean()), weights


def spikes_per_element(node: FewSpikeNode, x: torch.Tensor) -> float:
    """Mean number of spikes over inputs x, by the host's multi-step output."""
    node.step_mode = "m"
    sequence = node(torch.cat([x[None], torch.zeros(node.K - 1, *x.shape)]))
    node.step_mode = "s"
    fired = (sequence != 0).sum().item()
    return fired / x.numel()
