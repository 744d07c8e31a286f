"""In which order torch adds up a row of float32 on this machine, so that a kernel can add in the same one."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

LANES = (1, 4, 8, 16, 32)  # numbers of a processor's vector
ROWS = 64  # of random numbers, whose sums two orders will not round alike throughout
MOST_COLUMNS = 1 << 14  # beyond, torch's threads may share a row
LEVELS, STEP, ABREAST = 4, 16, 4


@cache
def lanes(columns: int) -> int:
    """How many numbers a vector of torch's sum over rows of so many columns has; 0 where its order is another."""
    if not 0 < columns <= MOST_COLUMNS:
        return 0
    numbers = torch.Generator("cpu").manual_seed(columns)
    x = torch.randn(ROWS, columns, generator=numbers, device="cpu", dtype=torch.float32)
    sums = x.sum(-1), torch.cat([row.sum(-1, keepdim=True) for row in x])
    means = [x.mean(-1), *(total / columns for total in sums)]
    for found in LANES:
        total = row_sums(x, found)
        if all(torch.equal(total, other) for other in sums) and all(torch.equal(means[0], m) for m in means):
            return found
    return 0


def row_sums(x: Tensor, lanes: int) -> Tensor:
    """The sums of the rows of x [R, C] as rows.row_sum adds them up: SumKernel.cpp's cascade in torch."""
    rows, columns = x.shape
    groups, vectors = columns // (ABREAST * lanes), columns // lanes
    whole = x[:, : vectors * lanes].reshape(rows, vectors, lanes)
    partial = [x.new_zeros(rows, ABREAST, lanes) for _ in range(LEVELS)]
    for done in range(1, groups + 1):
        partial[0] = partial[0] + whole[:, ABREAST * (done - 1) : ABREAST * done]
        for level in range(1, LEVELS):
            if done % STEP**level:
                break
            partial[level] = partial[level] + partial[level - 1]
            partial[level - 1] = torch.zeros_like(partial[0])
    for level in range(1, LEVELS):
        partial[0] = partial[0] + partial[level]
    first, *others = partial[0].unbind(1)
    for vector in [*whole[:, ABREAST * groups :].unbind(1), *others]:
        first = first + vector
    total = x.new_zeros(rows)
    for number in [*x[:, vectors * lanes :].unbind(1), *first.unbind(1)]:
        total = total + number
    return total
