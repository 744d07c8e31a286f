"""to_nir(): the graph of a converted network, drawn while it runs once.

A tensor carries the nodes whose outputs it is the sum of. A neuron's call, a linear layer and what else NIR has a node
for makes a node; any other function of activations is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

import nir
import numpy as np
import torch
from torch import Tensor, nn

from mbe_plugin.conversion import Conversion
from mbe_plugin.conversion.following.comparison import outputs_of
from mbe_plugin.conversion.following.frames import SLOT
from mbe_plugin.conversion.following.onlooker import Onlooker
from mbe_plugin.conversion.marks import tensors_of
from mbe_plugin.errors import ConversionError, UnsupportedOperatorError
from mbe_plugin.hosts.nir.node import MBE
from mbe_plugin.operators import CalibratedNode

_ATTRIBUTE = "_mbe_nir"
INPUT, OUTPUT = "input", "output"
# functions whose result is their operand's, number for number and in the same shape
_PASS_ON = frozenset("alias clone contiguous detach requires_grad_".split())
_PASS_ON_IF_SAME = frozenset(("dropout", "to", "type_as"))
Sources = tuple[str, ...]


def to_nir(snn: nn.Module, example: Tensor) -> nir.NIRGraph:
    """A converted network as a graph of NIR, with an ``MBE`` node for each call of a neuron; ``nir.write`` writes it.

    snn: what mbe_plugin.convert returned, for one input and one output of the same batch. example: an input [batch, ...] on
    the CPU; the graph has its shape, without the batch. Linear layers on vectors, Conv1d and Conv2d with zeros around,
    AvgPool2d, flattening, products with constants, and sums of activations have nodes (several edges into a node add up).
    What else the network does to activations NIR cannot express, and UnsupportedOperatorError names it with the module's
    path: products of two activations, and so LayerNorm, softmax and attention; means; constants that are added.
    ConversionError for a module that is not a converted network, another example, or other outputs.
    """
    if not isinstance(getattr(snn, "mbe_conversion", None), Conversion):
        raise ConversionError(f"to_nir takes what mbe_plugin.convert returned, got a {type(snn).__name__}")
    if not isinstance(example, Tensor) or example.dim() < 2 or example.device.type != "cpu":
        raise ConversionError(
            f"to_nir takes an input [batch, ...] on the CPU as example, got {_kind(example)}"
        )
    drawing = _Drawing(example)
    with torch.no_grad(), drawing:
        out = snn(drawing.example)
    return drawing.graph(out)


class _Drawing(Onlooker):
    """While entered, draws what this thread's forward does to the example."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example.detach().view_as(example)  # a tensor of its own, to hang things on
        self.nodes: dict[str, nir.NIRNode] = {INPUT: nir.Input({"input": np.array(example.shape[1:])})}
        self.edges: list[tuple[str, str]] = []
        self._own = object()  # what another drawing has hung on a tensor counts for nothing
        self._keep(self.example, (INPUT,))

    def __call__(self, node: CalibratedNode, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        """A neuron's call: a node."""
        if where is not None:
            self.refuse("a neuron behind a mask", f"{node.site} {node.role}")
        out = self.passed_on(node, x, dim)
        shared_along = dim if dim < 0 else dim - x.dim()
        made = MBE.of(node, tuple(x.shape[1:]), shared_along)
        self.draw(f"{node.site} {node.role}", made, x, out)
        return out

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run func, and draw what it does to what is drawn already."""
        kwargs = {} if kwargs is None else kwargs
        drawn = [tensor for _, tensor in tensors_of((args, kwargs)) if self.sources(tensor)]
        sources = [self.sources(tensor) for tensor in drawn]  # before func writes into an operand
        out = func(*args, **kwargs)
        if not drawn or not any(t.is_floating_point() for _, t in tensors_of(out)):
            return out  # a shape, a number, a comparison
        name = getattr(func, "__name__", repr(func)).strip("_")
        drawer = _DRAWERS.get(name)
        if name in _PASS_ON or (name in _PASS_ON_IF_SAME and out.data_ptr() == drawn[0].data_ptr()):
            self._keep(out, sources[0])
        elif name in _SUMS and len(drawn) == 2 and drawn[0].shape == drawn[1].shape and not _scaled(kwargs):
            self._keep(out, self._sum(sources[0], sources[1], tuple(out.shape[1:])))
        elif drawer is None or len(drawn) != 1:
            self.refuse(f"{name} of activations")
        else:
            drawer(self, drawn[0], out, args, kwargs)
        return out

    def draw(self, name: str, node: nir.NIRNode, x: Tensor, out: Tensor) -> None:
        """Add a node that makes ``out`` of x."""
        # NIR 1.0.8 would infer wrong shapes for convolutions with groups, and with kernels that are not square
        node.input_type, node.output_type = (
            {name: np.array(t.shape[1:])} for name, t in (("input", x), ("output", out))
        )
        self._keep(out, (self._added(name, node, self.sources(x)),))

    def refuse(self, what: str, place: str = "") -> NoReturn:
        """Raise UnsupportedOperatorError."""
        raise UnsupportedOperatorError(
            f"{place or _running()}: NIR has no node for {what}; export a network, or a part, without it"
        )

    def sources(self, tensor: Any) -> Sources:
        """The nodes whose outputs add up to a tensor; none for a constant."""
        owner, sources = getattr(tensor, _ATTRIBUTE, (None, ()))
        return sources if owner is self._own else ()

    def graph(self, out: Any) -> nir.NIRGraph:
        """The graph of the forward that returned ``out``."""
        found = outputs_of(out)
        if len(found) != 1 or not self.sources(found[0]):
            raise ConversionError(
                f"to_nir takes a network that returns one tensor made of its input, got {len(found)} of which "
                f"{sum(bool(self.sources(t)) for t in found)} are"
            )
        self._added(OUTPUT, nir.Output({"output": np.array(found[0].shape[1:])}), self.sources(found[0]))
        for tensor in (self.example, *found):
            vars(tensor).pop(_ATTRIBUTE, None)
        return nir.NIRGraph(self.nodes, self.edges)

    def _sum(self, left: Sources, right: Sources, shape: tuple[int, ...]) -> Sources:
        """What a reader must add up, from the first on, to get the sum to the bit; (a + b) + (c + d) needs a node."""
        if len(right) > 1:
            left, right = right, left
        if len(right) > 1 or set(left) & set(right):
            ones = np.ones(shape, np.float32)
            right = (self._added(f"{_running()} sum", nir.Scale(ones), right),)
        return (*left, *right)

    def _added(self, name: str, node: nir.NIRNode, sources: Sources) -> str:
        name = name.replace("/", "|")  # which separates groups in a file
        count = sum(1 for known in self.nodes if known == name or known.startswith(f"{name}#"))
        name = f"{name}#{count}" if count else name
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def _keep(self, tensor: Tensor, sources: Sources) -> None:
        setattr(tensor, _ATTRIBUTE, (self._own, sources))


def _running() -> str:
    """The path of the module that runs."""
    frames = SLOT.mode.frames if SLOT.mode is not None else []
    return frames[-1].sites.path or "(root)" if frames else "(outside the model)"


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> nir.NIRNode | str:
    if input.dim() != 2:
        return f"a linear layer on {input.dim() - 1}-dimensional activations (Affine takes vectors)"
    w = _numpy(weight)
    return nir.Linear(w) if bias is None else nir.Affine(w, _numpy(bias))


def _convolution(node: type, dims: int) -> Callable[..., nir.NIRNode | str]:
    def drawn(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> nir.NIRNode | str:
        if input.dim() != dims + 2:
            return "a convolution without a batch"
        size = tuple(input.shape[2:])
        numbers = np.zeros(weight.shape[0], np.float32) if bias is None else _numpy(bias)
        given = [p if isinstance(p, str) else _per_dim(p, dims) for p in (stride, padding, dilation)]
        return node(size if dims > 1 else size[0], _numpy(weight), *given, groups, numbers)

    return drawn


def _avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> nir.NIRNode | str:
    if ceil_mode or divisor_override is not None or not count_include_pad:
        return "an average pool with ceil_mode, divisor_override or without the zeros around"
    sizes = (kernel_size, kernel_size if stride is None or stride == [] else stride, padding)
    return nir.AvgPool2d(*(np.array(_per_dim(size, 2)) for size in sizes))


def _scale(x: Tensor, out: Tensor, args: tuple, kwargs: dict) -> nir.NIRNode | str:
    other = next((a for a in (*args, *kwargs.values()) if a is not x), None)
    factor = other if isinstance(other, Tensor) else torch.tensor(other, dtype=x.dtype)
    if (factor.dim() >= x.dim() and factor.shape[0] != 1) or out.shape != x.shape:
        return "a product with a constant that differs between the items of a batch"
    if factor.dim() == x.dim():
        factor = factor[0]
    return nir.Scale(_numpy(factor.to(x.dtype).expand(x.shape[1:])))


def _flatten(x: Tensor, out: Tensor) -> nir.NIRNode | str:
    """What reshape, view or flatten did, if it put neighbouring dimensions together, but the batch."""
    before, after = tuple(x.shape), tuple(out.shape)
    for start in range(1, x.dim()):
        for end in range(start, x.dim()):
            if (*before[:start], int(np.prod(before[start : end + 1])), *before[end + 1 :]) == after:
                return nir.Flatten({"input": np.array(before[1:])}, start - 1, end - 1)
    return f"a change of shape from {list(before)} to {list(after)}"


def _per_dim(size: Any, dims: int) -> tuple[int, ...]:
    sizes = (size,) * dims if isinstance(size, int) else tuple(size)
    return sizes * dims if len(sizes) == 1 else sizes


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().contiguous().numpy().copy()


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)} on {value.device}"
    return f"a {type(value).__name__}"


def _scaled(kwargs: dict[str, Any]) -> bool:
    return kwargs.get("alpha", 1) != 1


Drawer = Callable[[_Drawing, Tensor, Tensor, tuple, dict], None]


def _by_arguments(name: str, make: Callable[..., nir.NIRNode | str]) -> Drawer:
    """Draws a function of torch by what ``make``, which has its parameters, says of a call: a node, or what has none."""
    signature = inspect.signature(make)

    def drawer(drawing: _Drawing, x: Tensor, out: Tensor, args: tuple, kwargs: dict) -> None:
        bound = signature.bind(*args, **kwargs)
        if bound.arguments.get("input") is not x:
            drawing.refuse(f"{name} with weights that are activations")
        _finished(drawing, name, make(**bound.arguments), x, out)

    return drawer


def _by_result(name: str, make: Callable[[Tensor, Tensor, tuple, dict], nir.NIRNode | str]) -> Drawer:
    def drawer(drawing: _Drawing, x: Tensor, out: Tensor, args: tuple, kwargs: dict) -> None:
        _finished(drawing, name, make(x, out, args, kwargs), x, out)

    return drawer


def _finished(drawing: _Drawing, name: str, made: nir.NIRNode | str, x: Tensor, out: Tensor) -> None:
    if isinstance(made, str):
        drawing.refuse(made)
    else:
        drawing.draw(f"{_running()} {name}", made, x, out)


_SUMS = frozenset("add radd iadd add_".split())
_DRAWERS: dict[str, Drawer] = {
    "linear": _by_arguments("linear", _linear),
    "conv1d": _by_arguments("conv1d", _convolution(nir.Conv1d, 1)),
    "conv2d": _by_arguments("conv2d", _convolution(nir.Conv2d, 2)),
    "avg_pool2d": _by_arguments("avg_pool2d", _avg_pool2d),
    **{n: _by_result("scale", _scale) for n in ("mul", "rmul", "imul", "multiply")},
    **{n: _by_result("flatten", lambda x, out, *_: _flatten(x, out)) for n in ("flatten", "reshape", "view")},
}
