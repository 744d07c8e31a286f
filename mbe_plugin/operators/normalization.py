"""LayerNorm, RMSNorm and GroupNorm by spikes (arXiv:2508.07710, fig. 5c)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbe_plugin.kernels import numba_cpu
from mbe_plugin.kernels.backends import PLAIN
from mbe_plugin.kernels.numba_cpu import DTYPES
from mbe_plugin.neuron.scaling import compute_dtype
from mbe_plugin.operators.base import SpikingOperator
from mbe_plugin.operators.neuron import CalibratedNode, NeuronFactory, fusing, words_inside


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
        work = self._centered(x.to(compute_dtype(x)), dims)
        deviation = self.deviation(work, dim=dims[-1])
        return deviation * self.rsqrt(_mean_square(deviation, dims) + eps)

    def _centered(self, work: Tensor, dims: Sequence[int]) -> Tensor:
        return work - work.mean(dim=list(dims), keepdim=True) if self.centered else work

    def over_last(
        self, x: Tensor, dims: int, eps: float, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """x normalised over its last dimensions, times weight plus bias, in x's dtype; in one pass where that can be."""
        if not (_is_differentiated(weight) or _is_differentiated(bias)):
            columns = x.shape[-dims:].numel()
            y = self._on_cpu(x, columns, eps, weight, bias)
            y = self._on_gpu(x, columns, eps, weight, bias) if y is None else y
            if y is not None:
                return y
        return _affine(self.normalize(x, range(-dims, 0), eps), weight, bias).to(x.dtype)

    def _on_gpu(
        self, x: Tensor, columns: int, eps: float, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor | None:
        """over_last by one kernel of Triton's, or None where it has none for such neurons or rows."""
        neurons = fusing("triton", x, self.deviation, self.rsqrt)
        if neurons is None:
            return None
        from mbe_plugin.kernels.triton_gpu import norms

        deviation, rsqrt = (neuron.asked_inside(x) for neuron in neurons)
        if deviation.form != "identity" or not 0 < columns <= norms.MOST_COLUMNS:
            return None
        return norms.normalized(x, columns, eps, self.centered, weight, bias, deviation, rsqrt)

    def _on_cpu(
        self, x: Tensor, columns: int, eps: float, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor | None:
        """The same by one of Numba's."""
        told = words_inside(x, self.deviation, self.rsqrt)
        if told is None or not x.numel() or not (_suits(weight, columns) and _suits(bias, columns)):
            return None
        with torch._C.DisableTorchFunction():
            work = x.to(torch.float32)
            found = numba_cpu.for_rows().normalized(work, columns, eps, self.centered, weight, bias, *told)
            if found is None:
                return None
            y, *lost = found
            if any(lost):
                self._say_lost(work.view(-1, columns), eps, lost)
            return y.to(x.dtype)

    def _say_lost(self, rows: Tensor, eps: float, lost: Sequence[bool]) -> None:
        """Warn of what a kernel has seen leave the range of the deviation's neuron, or of the other."""
        first, second = self.deviation, self.rsqrt
        assert isinstance(first, CalibratedNode) and isinstance(second, CalibratedNode)
        if first.notice.given and second.notice.given:
            return
        deviation = self._centered(rows, (-1,))
        if lost[0]:
            first.say_lost(deviation)
        if lost[1]:
            second.say_lost(_mean_square(first.decoded(deviation), (-1,)) + eps)


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


def _mean_square(deviation: Tensor, dims: Sequence[int]) -> Tensor:
    return (deviation * deviation).mean(dim=list(dims), keepdim=True)


def _suits(parameter: Tensor | None, columns: int) -> bool:
    """Whether Numba's kernel can read a gain or a shift."""
    if parameter is None:
        return True
    plain = type(parameter) in PLAIN and parameter.is_cpu and parameter.dtype in DTYPES
    return plain and parameter.numel() == columns


def _is_differentiated(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad and torch.is_grad_enabled()


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias
