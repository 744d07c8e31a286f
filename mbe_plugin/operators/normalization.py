"""LayerNorm, RMSNorm and GroupNorm by spikes (METHOD section 2, fig. 5c)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbe_plugin.operators.base import SpikingOperator
from mbe_plugin.operators.neuron import NeuronFactory


class Normalization(SpikingOperator):
    """(x - mean) / sqrt(mean((x - mean)^2) + eps), with or without the mean.

    The deviation is encoded once; its train is multiplied with itself (the squares) and with the train
    of the 1/sqrt neuron. Mean and sums are accumulations. gamma and beta are the model's own.
    """

    exact_parts = "the mean, the sum of squares, gamma and beta"

    def __init__(self, make: NeuronFactory, *, centered: bool) -> None:
        super().__init__()
        self.centered = centered
        self.deviation = make("deviation", "identity")
        self.rsqrt = make("rsqrt", "rsqrt")

    def normalize(self, x: Tensor, dims: Sequence[int], eps: float) -> Tensor:
        """x normalised over dims, in float32 (float64 for float64)."""
        work = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        if self.centered:
            work = work - work.mean(dim=list(dims), keepdim=True)
        deviation = self.deviation(work, dim=dims[-1])
        variance = (deviation * deviation).mean(dim=list(dims), keepdim=True)
        return deviation * self.rsqrt(variance + eps)


class LayerNorm(Normalization):
    """Called like torch.nn.functional.layer_norm."""

    def __init__(self, make: NeuronFactory) -> None:
        super().__init__(make, centered=True)

    def forward(
        self,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        cudnn_enable: bool = True,
    ) -> Tensor:
        """LayerNorm over the last len(normalized_shape) dimensions."""
        dims = range(-len(normalized_shape), 0)
        # contiguous like torch's own, for code that takes a view of the output
        return _affine(self.normalize(input, dims, eps), weight, bias).to(input.dtype).contiguous()


class RMSNorm(Normalization):
    """Called like torch.nn.functional.rms_norm."""

    def __init__(self, make: NeuronFactory) -> None:
        super().__init__(make, centered=False)

    def forward(
        self,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        """RMSNorm over the last len(normalized_shape) dimensions."""
        eps = torch.finfo(input.dtype).eps if eps is None else eps
        dims = range(-len(normalized_shape), 0)
        return _affine(self.normalize(input, dims, eps), weight, None).to(input.dtype)


class GroupNorm(Normalization):
    """Called like torch.nn.functional.group_norm: input [B, C, ...]."""

    def __init__(self, make: NeuronFactory) -> None:
        super().__init__(make, centered=True)

    def forward(
        self,
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        cudnn_enabled: bool = True,
    ) -> Tensor:
        """Each group of channels is normalised over its channels and places."""
        grouped = input.reshape(input.shape[0], num_groups, -1)
        out = self.normalize(grouped, (-1,), eps).reshape(input.shape)
        return _affine(out, *_per_channel(input, weight, bias)).to(input.dtype)


class BatchNorm(Normalization):
    """Called like torch.nn.functional.batch_norm with training=True and no running statistics: input [B, C, ...]."""

    def __init__(self, make: NeuronFactory) -> None:
        super().__init__(make, centered=True)

    def forward(
        self,
        input: Tensor,
        running_mean: None = None,
        running_var: None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Each channel is normalised over the batch and its places."""
        channels = input.transpose(0, 1)
        out = self.normalize(channels.flatten(1), (-1,), eps).reshape(channels.shape).transpose(0, 1)
        return _affine(out, *_per_channel(input, weight, bias)).to(input.dtype).contiguous()


class NormalizationUnit(Normalization):
    """Stands for a whole module that probing showed to be a LayerNorm or an RMSNorm over its last dimension.

    gain_offset is 1 for models that multiply with (1 + weight), else 0.
    """

    def __init__(self, make: NeuronFactory, *, centered: bool, eps: float, gain_offset: float) -> None:
        super().__init__(make, centered=centered)
        self.eps, self.gain_offset = eps, gain_offset

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The module's output for x [..., C]."""
        gain = weight + self.gain_offset if weight is not None and self.gain_offset else weight
        return _affine(self.normalize(x, (-1,), self.eps), gain, bias).to(x.dtype)


def _per_channel(
    input: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """weight and bias [C] in a shape that multiplies [B, C, ...]."""
    shape = [1, -1, *[1] * (input.dim() - 2)]
    return tuple(None if p is None else p.reshape(shape) for p in (weight, bias))  # type: ignore[return-value]


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias
