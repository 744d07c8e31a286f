"""Composites of torch.nn.functional, rewritten in functions that have spiking forms.

torch's own code for these would dispatch to itself inside an active function mode, or hide its parts.
The rewriting runs under the mode, so its parts become sites of the module that made the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """x / max(|x|, eps): a product with 1/sqrt(sum x^2)."""
    if p != 2.0:
        raise NotImplementedError(f"normalize with p={p}")
    squares = (input * input).sum(dim=dim, keepdim=True)
    return input * torch.rsqrt(squares.clamp_min(eps * eps))


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """sum of the products of the two normalised inputs."""
    return (normalize(x1, dim=dim, eps=eps) * normalize(x2, dim=dim, eps=eps)).sum(dim=dim)


def _deviation(input: Tensor, dim: Any, correction: float, keepdim: bool) -> tuple[Tensor, Tensor]:
    dims = tuple(range(input.dim())) if dim is None else dim
    mean = input.mean(dim=dims, keepdim=True)
    deviation = input - mean
    count = math.prod(input.shape[d] for d in ([dims] if isinstance(dims, int) else dims))
    variance = (deviation * deviation).sum(dim=dims, keepdim=keepdim) / max(count - correction, 0)
    return variance, mean if keepdim else mean.squeeze(dims)


def _correction(unbiased: bool | None, correction: float | None) -> float:
    if correction is not None:
        return correction
    return 0.0 if unbiased is False else 1.0


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Mean of the squared deviation."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    return _deviation(input, dim, _correction(unbiased, correction), keepdim)[0]


def std(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Square root of the variance."""
    return torch.sqrt(var(input, *args, **kwargs))


def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Variance and mean."""
    return _deviation(input, dim, _correction(unbiased, correction), keepdim)


def std_mean(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean."""
    variance, mean = var_mean(input, *args, **kwargs)
    return torch.sqrt(variance), mean


def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """Euclidean or 1-norm."""
    order = kwargs.get("ord", p)
    if order == 1:
        return input.abs().sum(dim=dim, keepdim=keepdim)
    if order not in ("fro", 2, 2.0, None):
        raise NotImplementedError(f"norm of order {order!r}")
    return torch.sqrt((input * input).sum(dim=dim, keepdim=keepdim))


def vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    """torch.linalg.vector_norm."""
    return norm(x, ord, dim, keepdim)


def cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
) -> Tensor:
    """Distances between rows: sqrt(|a|^2 + |b|^2 - 2 ab), or where that is not allowed from all differences.

    torch's own choice goes by the number of rows, which may be another after calibration; the parts may not.
    """
    if p not in (1, 2):
        raise NotImplementedError(f"cdist with p={p}")
    if p == 1 or compute_mode == "donot_use_mm_for_euclid_dist":
        return norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, dim=-1)
    squares = (x1 * x1).sum(-1).unsqueeze(-1) + (x2 * x2).sum(-1).unsqueeze(-2)
    return torch.sqrt((squares - 2 * (x1 @ x2.mT)).clamp_min(0))


def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """max + log(sum(exp(x - max)))."""
    top = input.amax(dim=dim, keepdim=True)
    total = torch.log(torch.exp(input - top).sum(dim=dim, keepdim=True)) + top
    return total if keepdim else total.squeeze(dim)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """x - logsumexp(x)."""
    x = input if dtype is None else input.to(dtype)
    return x - logsumexp(x, -1 if dim is None else dim, keepdim=True)


def softmin(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """softmax(-x)."""
    return F.softmax(-input, dim=dim, dtype=dtype)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b)."""
    a, b = input.chunk(2, dim=dim)
    return a * torch.sigmoid(b)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """max(x, 0) + weight * min(x, 0), each by a rectifier."""
    shape = [1, -1] + [1] * (input.dim() - 2) if input.dim() > 1 else [-1]
    return F.relu(input) - weight.reshape(shape) * F.relu(-input)


def float_power(input: Tensor | float, exponent: Tensor | float) -> Tensor:
    """A power in float64, which the result keeps."""

    def wide(value: Any) -> Any:
        return value.to(torch.float64) if isinstance(value, Tensor) else value

    return torch.pow(wide(input), wide(exponent))


def float_power_(input: Tensor, exponent: Tensor | float) -> Tensor:
    """The same in place; torch has it for float64 only."""
    return input.copy_(float_power(input, exponent))


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value * tensor1 / tensor2."""
    return input + value * (tensor1 / tensor2)


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """input + weight * (end - input)."""
    return input + weight * (end - input)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """A group norm with one channel per group, or the linear form with running statistics."""
    if use_input_stats:
        return F.group_norm(input, input.shape[1], weight, bias, eps)
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False, out: None = None
) -> Tensor:
    """(I + N)^-1 B for a nilpotent N: the product of (I - N)(I + N^2)(I + N^4)... with B."""
    if not (left and unitriangular):
        raise NotImplementedError("solve_triangular with a diagonal of its own, or from the right")
    power = -(A.triu(1) if upper else A.tril(-1))
    solution = B + power @ B
    for _ in range(max(A.shape[-1] - 1, 1).bit_length() - 1):
        power = power @ power
        solution = solution + power @ solution
    return solution


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Of an image [B, C, H, W] at grid [B, h, w, 2]: the four neighbours, gathered, times their weights."""
    if input.dim() != 4 or mode != "bilinear" or padding_mode not in ("zeros", "border"):
        raise NotImplementedError(f"grid_sample ({mode}, {padding_mode}, {input.dim() - 2} dimensions)")
    height, width = input.shape[-2:]
    x, y = (_pixel(grid[..., i], size, align_corners) for i, size in enumerate((width, height)))
    if padding_mode == "border":
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    right_share, lower_share = x - left, y - top
    corner = right_share * lower_share
    shares = {
        (0, 0): 1 - right_share - lower_share + corner,
        (1, 0): right_share - corner,
        (0, 1): lower_share - corner,
        (1, 1): corner,
    }
    parts = [_neighbour(input, left + i, top + j) * s.unsqueeze(1) for (i, j), s in shares.items()]
    return torch.stack(parts).sum(0)


def _pixel(coordinate: Tensor, size: int, align_corners: bool | None) -> Tensor:
    """From [-1, 1] to pixels."""
    return (coordinate + 1) * ((size - 1) / 2) if align_corners else ((coordinate + 1) * size - 1) / 2


def _neighbour(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """image [B, C, H, W] at whole pixels x, y [B, h, w] -> [B, C, h, w]; zero outside."""
    height, width = image.shape[-2:]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
    flat = index.flatten(1).unsqueeze(1).expand(-1, image.shape[1], -1)
    found = image.flatten(2).gather(2, flat).unflatten(2, x.shape[1:])
    return found.masked_fill(~inside.unsqueeze(1), 0.0)


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """nn.MultiheadAttention's forward: projections, attention per head, output projection."""
    if static_k is not None or static_v is not None or bias_k is not None or add_zero_attn:
        raise NotImplementedError("MultiheadAttention with bias_k, add_zero_attn or static keys")
    batched = query.dim() == 3
    if not batched:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    joint = None if use_separate_proj_weight else in_proj_weight
    weights = separate if joint is None else joint.chunk(3)
    biases = [None] * 3 if in_proj_bias is None else list(in_proj_bias.chunk(3))
    q, k, v = (
        _heads(F.linear(x, w, b), num_heads)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
        if w is not None
    )
    mask = _merged_mask(attn_mask, key_padding_mask, q, k)
    dropped = dropout_p if training else 0.0
    attention: Tensor | None = None
    if need_weights:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        attention = F.softmax(scores if mask is None else scores + mask, dim=-1)
        mixed = F.dropout(attention, dropped) @ v
        attention = attention.mean(dim=1) if average_attn_weights else attention
        attention = attention if batched else attention.squeeze(0)
    else:
        causal = is_causal and mask is None
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropped, causal)
    length, batch, width = query.shape
    joined = mixed.permute(2, 0, 1, 3).reshape(length, batch, width)
    out = F.linear(joined, out_proj_weight, out_proj_bias)
    return (out if batched else out.squeeze(1)), attention


def _heads(x: Tensor, heads: int) -> Tensor:
    """[L, B, E] -> [B, heads, L, E / heads]."""
    length, batch, width = x.shape
    return x.reshape(length, batch, heads, width // heads).permute(1, 2, 0, 3)


def _merged_mask(mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """Additive mask broadcastable to [B, heads, L, S]."""
    merged: Tensor | None = None
    if mask is not None:
        merged = _additive(mask, q)
        if merged.dim() == 3:
            merged = merged.reshape(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if padding is not None:
        padded = _additive(padding, q)[:, None, None, :]
        merged = padded if merged is None else merged + padded
    return merged


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill(mask, -torch.inf)


DECOMPOSITIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        normalize,
        cosine_similarity,
        var,
        std,
        var_mean,
        std_mean,
        norm,
        vector_norm,
        cdist,
        logsumexp,
        log_softmax,
        softmin,
        glu,
        prelu,
        float_power,
        float_power_,
        addcdiv,
        lerp,
        instance_norm,
        multi_head_attention_forward,
        solve_triangular,
        grid_sample,
    )
}
DECOMPOSITIONS["linalg_vector_norm"] = vector_norm
DECOMPOSITIONS["linalg_solve_triangular"] = solve_triangular
DECOMPOSITIONS["linalg_norm"] = vector_norm

# the loss is not part of the network: it stays exact and is reported
LOSSES = frozenset(
    "cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss "
    "kl_div huber_loss ctc_loss cosine_embedding_loss".split()
)
