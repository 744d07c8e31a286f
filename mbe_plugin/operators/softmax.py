"""Softmax by spikes (arXiv:2508.07710, eq. 13): 2^x neuron, accumulated sum, 1/x neuron, product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbe_plugin.kernels import numba_cpu
from mbe_plugin.operators.base import SpikingOperator
from mbe_plugin.operators.neuron import (
    CalibratedNode,
    NeuronFactory,
    fusing,
    within,
    words_inside,
)
from mbe_plugin.operators.unary import LOG2_E

DEEPEST = -125.0  # 2^-125 of the row's largest is where a weight is sent no more
WEIGHT = "weight"  # the function of a neuron that encodes 2^z once more; an nn.Identity where it need not
# Attention scores held at a time. More of them take turns: heads first, then queries. On a CPU so few that they stay in its
# cache; elsewhere, and for who records trains or compiles, so many that turns are rare.
MOST_SCORES, MOST_IN_CACHE = 1 << 24, 1 << 20
TILED_FROM = MOST_SCORES  # scores from which on a GPU one kernel does it all in tiles, without storing them


class Softmax(SpikingOperator):
    """p_ij = 2^z_ij * (1 / sum_j 2^z_ij) with z = (x - c) log2 e, c a whole power of two at the row's maximum.

    The shift c is a whole number in log2 units, so it only moves exponents and any tiling of the row gives the
    same result. Masked entries (-inf) send no spikes; a row masked throughout gives zeros.
    """

    exact_parts = "the row maximum, the row sum"

    def __init__(self, make: NeuronFactory) -> None:
        super().__init__()
        self.exp2 = make("exp2", "exp2")
        self.reciprocal = make("reciprocal", "reciprocal")

    def numerators(self, x: Tensor, dim: int) -> Tensor:
        """2^z, the read-outs of the 2^x neuron, zero where masked."""
        if x.shape[dim] == 0:
            return x  # rows without entries have no maximum
        if isinstance(self.exp2, CalibratedNode) and dim in (-1, x.dim() - 1) and x.is_contiguous():
            found = self.exp2.numerators(x, _powers)
            if found is not None:
                return found
        z, sent = _powers(x, dim)
        # a NaN score must stay visible, so only masked entries are set to zero
        y = self.exp2(z, where=sent)
        return torch.where(sent | z.isnan(), y, 0.0)

    def inverse_of(self, total: Tensor) -> Tensor:
        """1 / total by the reciprocal neuron; 0 for a row without any weight."""
        empty = total == 0
        inverse = self.reciprocal(torch.where(empty, 1.0, total), where=~empty)
        return torch.where(empty, 0.0, inverse)

    def forward(
        self, input: Tensor, dim: int = -1, _stacklevel: int = 3, dtype: torch.dtype | None = None
    ) -> Tensor:
        """softmax(input) along dim, as torch.nn.functional.softmax."""
        out_dtype = dtype or input.dtype
        x = input.to(torch.float64 if out_dtype == torch.float64 else torch.float32)
        numerators = self.numerators(x, dim)
        total = numerators.sum(dim=dim, keepdim=True)
        along_rows = dim in (-1, x.dim() - 1)
        return (self.divided(numerators, total) if along_rows else numerators * self.inverse_of(total)).to(
            out_dtype
        )

    def divided(self, x: Tensor, total: Tensor, encoder: nn.Module | None = None) -> Tensor:
        """encoder(x) / total by the reciprocal neuron, for rows x [..., C] and their totals [..., 1]."""
        y = self._divided_on_cpu(x, total, encoder)
        if y is not None:
            return y
        return (x if encoder is None else encoder(x)) * self.inverse_of(total)

    def _divided_on_cpu(self, x: Tensor, total: Tensor, encoder: nn.Module | None) -> Tensor | None:
        """divided() by one kernel of Numba's, or None where it has none for such neurons or rows."""
        told = None
        if x.dtype == total.dtype == torch.float32 and x.numel() and total.is_contiguous():
            told = words_inside(x, *([] if encoder is None else [encoder]), self.reciprocal)
        followed = total.requires_grad and torch.is_grad_enabled()
        if told is None or followed or total.shape[:-1] != x.shape[:-1]:
            return None
        with torch._C.DisableTorchFunction():
            y, *lost = numba_cpu.for_rows().divided(x, total, None if encoder is None else told[0], told[-1])
            if lost[0]:
                encoder.say_lost(x)  # type: ignore[union-attr, operator]  # a CalibratedNode, as the other
            if lost[1]:
                self.reciprocal.say_lost(total, total != 0)  # type: ignore[operator]
            return y


def _powers(x: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """z of the scores x, 0 for what is masked or too small, and which are sent."""
    lowest = torch.finfo(x.dtype).min
    log2 = (x * LOG2_E).clamp_min(lowest)  # finite masks stay finite, as in the ANN
    shift = torch.ceil(log2.detach().amax(dim=dim, keepdim=True))
    z = log2 - shift
    sent = (z > DEEPEST) & (x != -torch.inf)
    return torch.where(sent | z.isnan(), z, 0.0), sent


class Attention(SpikingOperator):
    """softmax(q k^T * scale + mask) v: two products of activations around a softmax by spikes.

    The 2^x neuron's own train meets v's train, unless the factory makes a neuron of function WEIGHT, which encodes it once
    more; the row's 1/sum multiplies the encoded result, so no row's factor meets a value. Called like
    torch.nn.functional.scaled_dot_product_attention.
    """

    exact_parts = "the mask, the row maximum, the row sum"

    def __init__(self, make: NeuronFactory, coded: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.query = nn.Identity() if "query" in coded else make("query", "identity")
        self.key = nn.Identity() if "key" in coded else make("key", "identity")
        self.value = nn.Identity() if "value" in coded else make("value", "identity")
        self.softmax = Softmax(within(make, "softmax"))
        self.weights = make("weights", WEIGHT)
        self.mixed = make("mixed", "identity")

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """query [..., L, E], key [..., S, E], value [..., S, V] -> [..., L, V]."""
        q, k, v = _encode(self.query, query, -1), _encode(self.key, key, -1), _encode(self.value, value, -2)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        if enable_gqa and (self._turns(q, k) > 1 or q.device.type != "cpu"):
            k, v = (_for_each_head(t, q.shape[-3]) for t in (k, v))
        if not dropout_p:
            out = _in_one_pass(self, q, k, v, scale, attn_mask, is_causal)
            if out is not None:
                return out.to(query.dtype)
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        q, k, v = q.to(wide) * scale, k.to(wide), v.to(wide)
        mixed, total = self._in_turns(q, k, v, attn_mask, is_causal, dropout_p, 0)
        out = self.softmax.divided(mixed, total, self.mixed)
        return out.to(query.dtype)

    def _in_turns(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout_p: float, first: int
    ) -> tuple[Tensor, Tensor]:
        """Weights times v and the weights' sum for scaled queries q, of which the first row is number ``first``."""
        heads, rows = q.shape[:-2], q.dim() - 2
        turns = self._turns(q, k)
        dim = next((d for d, size in enumerate(heads) if size > 1), rows)
        if turns <= 1 or q.shape[dim] <= 1:
            return self._weighed(q, k, v, mask, causal, dropout_p, first)
        parts, size = [], max(q.shape[dim] // turns, 1)
        for start in range(0, q.shape[dim], size):

            def part(tensor: Tensor, some: slice = slice(start, start + size)) -> Tensor:
                return _part(tensor, dim - q.dim(), some)

            keys, values = (k, v) if dim == rows else (part(k), part(v))
            row = first + start if dim == rows else first
            masked = None if mask is None else part(mask)
            parts.append(self._in_turns(part(q), keys, values, masked, causal, dropout_p, row))
        mixed, totals = zip(*parts, strict=True)
        return torch.cat(mixed, dim), torch.cat(totals, dim)

    def _turns(self, q: Tensor, k: Tensor) -> int:
        """How many, so that no more scores are held at a time than may be."""
        scores = q.shape[:-1].numel() * k.shape[-2]
        return 1 if scores <= min(MOST_SCORES, MOST_IN_CACHE) else -(-scores // self._most(q))

    def _most(self, q: Tensor) -> int:
        listener = getattr(self.softmax.exp2, "spike_listener", None)
        listened = listener is not None and not listener.counts_suffice
        at_ease = listened or q.device.type != "cpu" or torch.compiler.is_compiling()
        return MOST_SCORES if at_ease else min(MOST_SCORES, MOST_IN_CACHE)

    def _weighed(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout_p: float, first: int
    ) -> tuple[Tensor, Tensor]:
        scores = _masked(_product(q, k.transpose(-2, -1)), mask, causal, first)
        weights = _encode(self.weights, self.softmax.numerators(scores, -1), -1)
        total = weights.sum(dim=-1, keepdim=True)
        if dropout_p:
            weights = torch.dropout(weights, dropout_p, True)
        return _product(weights, v), total


def _in_one_pass(
    of: Attention, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, is_causal: bool
) -> Tensor | None:
    """The output rows by one kernel, or None where it may or can not, or need not."""
    if q.shape[:-1].numel() * k.shape[-2] < TILED_FROM:
        return None
    coded = [] if isinstance(of.weights, nn.Identity) else [of.weights]
    neurons = fusing("triton", q, of.softmax.exp2, of.softmax.reciprocal, of.mixed, *coded)
    operands = [t for t in (q, k, v, mask) if t is not None]
    followed = torch.is_grad_enabled() and any(t.requires_grad for t in operands)
    if neurons is None or followed or torch.is_autocast_enabled(q.device.type):
        return None
    from mbe_plugin.kernels.triton_gpu import attention

    exp2, reciprocal, mixed, *weights = (neuron.asked_inside(q) for neuron in neurons)
    identities = {asked.form for asked in (mixed, *weights)} == {"identity"}
    if not identities or not attention.has_kernel(q, k, v, mask):
        return None
    coder = weights[0] if weights else None
    return attention.attended(q, k, v, float(scale), mask, is_causal, exp2, reciprocal, coder, mixed)


def _for_each_head(t: Tensor, heads: int) -> Tensor:
    """Keys or values of groups of heads, repeated for each of them."""
    return t if t.shape[-3] == heads else t.repeat_interleave(heads // t.shape[-3], dim=-3)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, where b [..., groups, M, N] may serve groups of a's heads [..., heads, L, M], without being repeated."""
    if a.dim() < 3 or b.dim() < 3 or b.shape[-3] >= a.shape[-3]:
        return a @ b
    grouped = a.reshape(*a.shape[:-3], b.shape[-3], -1, a.shape[-1]) @ b
    return grouped.reshape(*grouped.shape[:-3], *a.shape[-3:-1], b.shape[-1])


def _encode(encoder: nn.Module, x: Tensor, dim: int) -> Tensor:
    return x if isinstance(encoder, nn.Identity) else encoder(x, dim=dim)


def _part(tensor: Tensor, dim: int, some: slice) -> Tensor:
    """Some entries along dim, which is counted from the last; everything where there is but one or no such dimension."""
    dim += tensor.dim()
    return tensor if dim < 0 or tensor.shape[dim] == 1 else tensor[(slice(None),) * dim + (some,)]


def _masked(scores: Tensor, mask: Tensor | None, is_causal: bool, first: int) -> Tensor:
    rows, columns = scores.shape[-2:]
    if is_causal:
        keep = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).tril(first)
        scores = scores.masked_fill(~keep, -torch.inf)
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -torch.inf)
    return scores + mask
