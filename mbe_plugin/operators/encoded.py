"""Linear maps and products: every activation among the operands is encoded by an identity neuron.

One operator serves Linear, convolution, matmul, einsum and elementwise products. With the operands' trains
D_k S_k (slots k over basis and step) the product of two activations is sum_kl D_kl S_kl (arXiv:2508.07710,
eq. 9-12), which separates into decode(x1) * decode(x2); it is simulated so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.operators.base import SpikingOperator


class Memo:
    """The last encoding of one forward: layers that read the same tensor share one spike train."""

    def __init__(self) -> None:
        self.encoder: nn.Module | None = None
        self.input: Tensor | None = None
        self.version = -1
        self.output: Tensor | None = None
        self._writes = 0

    def encode(self, encoder: nn.Module, x: Tensor, dim: int) -> Tensor:
        """encoder(x, dim), or the same result again for the same tensor."""
        if torch.compiler.is_compiling():
            return _encoded(encoder, x, dim)
        version = self.version_of(x)
        if encoder is self.encoder and x is self.input and version == self.version:
            assert self.output is not None
            return self.output
        self.encoder, self.input, self.version = encoder, x, version
        self.output = _encoded(encoder, x, dim)
        return self.output

    def written(self) -> None:
        """The forward has written into some tensor."""
        self._writes += 1

    def version_of(self, x: Tensor) -> int:
        """How often x was written into; for inference tensors, which do not say, how often any tensor was."""
        return self._writes if x.is_inference() else x._version


def _encoded(encoder: nn.Module, x: Tensor, dim: int) -> Tensor:
    """encoder(x, dim); of complex numbers the real and the imaginary parts, each by a train of its own."""
    if not x.is_complex():
        return encoder(x, dim=dim)
    parts = encoder(as_real(x), dim=dim if dim >= 0 else dim - 1)
    return torch.view_as_complex(parts.contiguous())


def as_real(x: Tensor) -> Tensor:
    """x; complex numbers [...] as their parts [..., 2]."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


class EncodedCall(SpikingOperator):
    """A (multi)linear torch function with its activations encoded.

    encoders maps an operand's position (as the catalogue counts them) to its neuron; operands without
    one are weights, or arrive as spike trains already. The accumulations are additions.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], dims: Mapping[str, int]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.dims = dict(dims)

    def forward(
        self,
        function: Callable[..., Any],
        operands: Mapping[str, Tensor],
        place: Callable[[Mapping[str, Tensor]], tuple[tuple, dict]],
        memo: Memo,
    ) -> Any:
        """function with its operands replaced by decoded ones; ``place`` puts them back into the call."""
        encoded: dict[str, Tensor] = {}
        for name, encoder in self.encoders.items():
            operand = operands[name]
            for twin in encoded:
                if operands[twin] is operand:
                    encoded[name] = encoded[twin]
                    break
            else:
                encoded[name] = memo.encode(encoder, operand, self.dims[name])
        args, kwargs = place(encoded)
        return function(*args, **kwargs)


class Quotient(SpikingOperator):
    """a / b for an activation b: the product of a's train with that of 1/b."""

    def __init__(self, numerator: nn.Module | None, reciprocal: nn.Module) -> None:
        super().__init__()
        self.numerator, self.reciprocal = numerator, reciprocal

    def forward(self, a: Tensor | float, b: Tensor) -> Tensor:
        """a / b; a may be a number or a constant tensor."""
        inverse = self.reciprocal(b)
        if self.numerator is not None and isinstance(a, Tensor):
            a = self.numerator(a)
        return a * inverse


class Power(SpikingOperator):
    """x^n for a small whole n: the product of n equal trains."""

    def __init__(self, neuron: nn.Module, exponent: int) -> None:
        super().__init__()
        self.neuron, self.exponent = neuron, exponent

    def forward(self, x: Tensor) -> Tensor:
        """x^n."""
        encoded = self.neuron(x)
        out = encoded
        for _ in range(self.exponent - 1):
            out = out * encoded
        return out
