"""LayerNorm, RMSNorm and GroupNorm by spikes (METHOD section 2, fig. 5c)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbe_plugin.operators.base import SpikingOperator
from mbe_plugin.operators.neuron import CalibratedNode, NeuronFactory, fusing


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

    def over_last(
        self, x: Tensor, dims: int, eps: float, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """x normalised over its last dimensions, times weight plus bias, in x's dtype; on a GPU in one pass."""
        neurons = fusing(x, self.deviation, self.rsqrt)
        if neurons and not any(_is_differentiated(p) for p in (weight, bias)):
            y = _in_one_pass(neurons, x, x.shape[-dims:].numel(), eps, self.centered, weight, bias)
            if y is not None:
                return y
        return _affine(self.normalize(x, range(-dims, 0), eps), weight, bias).to(x.dtype)


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
        # contiguous like torch's own, for code that takes a view of the output
        return self.over_last(input, len(normalized_shape), eps, weight, bias).contiguous()


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
        return self.over_last(input, len(normalized_shape), eps, weight, None)


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
        return self.over_last(x, 1, self.eps, gain, bias)


def _per_channel(
    input: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """weight and bias [C] in a shape that multiplies [B, C, ...]."""
    shape = [1, -1, *[1] * (input.dim() - 2)]
    return tuple(None if p is None else p.reshape(shape) for p in (weight, bias))  # type: ignore[return-value]


def _in_one_pass(
    neurons: list[CalibratedNode],
    x: Tensor,
    columns: int,
    eps: float,
    centered: bool,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor | None:
    """Normalization.over_last by one kernel, or None where it has none for such neurons or rows."""
    from mbe_plugin.kernels.triton_gpu import norms

    deviation, rsqrt = (neuron.asked_inside(x.device) for neuron in neurons)
    if deviation.form != "identity" or not 0 < columns <= norms.MOST_COLUMNS:
        return None
    y, counts = norms.normalized(x, columns, eps, centered, weight, bias, deviation, rsqrt)
    neurons[0].count_inside(x.numel(), counts[:2])
    neurons[1].count_inside(x.numel() // columns, counts[2:])
    return y


def _is_differentiated(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad and torch.is_grad_enabled()


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias
