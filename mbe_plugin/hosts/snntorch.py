"""snnTorch's neuron: one table row per call, ``(spk, mem)`` back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.errors import MBEError
from mbe_plugin.fitting import Fit
from mbe_plugin.kernels import steps
from mbe_plugin.neuron import Tables
from mbe_plugin.node import MBENode
from mbe_plugin.operators import SharedScaleNode
from mbe_plugin.stepped import Start, SteppedNode, device_only

try:
    from snntorch import SpikingNeuron, utils
except ModuleNotFoundError as missing:
    if missing.name != "snntorch":
        raise
    raise ImportError(
        "mbe_plugin.snntorch needs snnTorch; install it with: pip install 'mbe_plugin[snntorch]'"
    ) from missing

# arguments of snnTorch's own neurons, and why an MBE neuron has none
_WITHOUT_MEANING = {
    "beta": "its membrane does not leak; the decay is in its tables",
    "learn_beta": "its membrane does not leak; learn_threshold, learn_reset and learn_intensity learn the decays",
    "threshold": "its thresholds are a table [T, N]; pass other tables",
    "reset_mechanism": "it resets by subtraction of its own table [T, N]; pass other tables",
    "reset_delay": "a spike and its reset belong to the same step",
    "inhibition": "every element has bases of its own, which do not compete",
    "graded_spikes_factor": "its spikes are weighted by intensity and weight already",
    "learn_graded_spikes_factor": "its spikes are weighted already; take learn_weight or learn_intensity",
    "state_quant": "a rounded membrane would be another neuron; pass other tables",
}


class MBE(SpikingNeuron):
    r"""An MBE neuron as a ``snntorch.SpikingNeuron``: T calls are one input's T steps (arXiv:2508.07710, eq. 5-8).

    ``spk, mem = mbe(x, mem)``. The first call after a reset takes the value x [...]; the T calls' spk [...] are the rows of
    ``MBENode``'s mode 'm' for it, bit for bit: weighted spikes whose sum is the decoded value, with the read-out's constant
    and what needs no spike in the first. With ``binary`` spk is the 0/1 train [..., N]. mem is what the spikes left of
    the membranes, in the dtype of the simulation: [...], or [..., K] where an element drives K > 1 bases. It can be handed
    back, detached for instance, or left out, but a neuron steps one input at a time: bank and exponent stay inside.

    Later calls take None or zeros. A current is added to the membranes where the tables have one bank and no range
    reduction (the published neuron); elsewhere the first step needs the whole value, and another is refused.

    tables: Tables, a Fit or an MBENode, whose numbers are copied. reduction: of Tables only; see MBENode.
    spike_grad: of snntorch.surrogate, default atan(). Only its derivative counts: a neuron fires at u >= threshold, at
    equality too, where snnTorch's own functions give no spike. surrogate_disable: no gradient through spikes.
    init_hidden, output: as in snn.Leaky; mem stays inside, and spk alone is returned unless ``output``.
    static_input: the same input comes with every call (a layer before it has a bias, say); the first counts, and one that
    differs is refused. restart: the call after the T-th is a first one, for loops that cannot reset.
    learn_threshold, learn_reset, learn_intensity, learn_weight, learn_bias: these tables become parameters
    (``node.th``, ``r``, ``d``, ``w``, ``bias``). Tables stay float32 whatever ``.half()`` says.

    Raises TypeError for arguments of other snnTorch neurons, an input that is not floating, and tables of a scale that
    elements share; ValueError for a later input or mem that cannot be right; MBEError for more than T calls.
    """

    mem: Tensor

    def __init__(
        self,
        tables: Tables | Fit | MBENode,
        reduction: str | None = None,
        *,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        output: bool = False,
        binary: bool = False,
        static_input: bool = False,
        restart: bool = False,
        learn_threshold: bool = False,
        learn_reset: bool = False,
        learn_intensity: bool = False,
        learn_weight: bool = False,
        learn_bias: bool = False,
        **others: Any,
    ) -> None:
        for name in others:
            why = _WITHOUT_MEANING.get(name, "snntorch.Leaky has no such argument either")
            raise TypeError(f"MBE takes no {name}: {why}")
        super().__init__(
            spike_grad=spike_grad,
            surrogate_disable=surrogate_disable,
            init_hidden=init_hidden,
            output=output,
        )
        SpikingNeuron.instances.remove(
            self
        )  # the list would hold every neuron for good, and nothing of it reaches ours
        learned = {
            "threshold": learn_threshold,
            "reset": learn_reset,
            "intensity": learn_intensity,
            "weight": learn_weight,
            "bias": learn_bias,
        }
        self.node = SteppedNode(
            *_numbers(tables, reduction), learn=[name for name, yes in learned.items() if yes]
        )
        self.binary, self.static_input, self.restart = binary, static_input, restart
        self.register_buffer("mem", torch.zeros(0), persistent=False)
        self.reset_mem()

    def _snn_register_buffer(self, **_: Any) -> None:
        """Nothing of the host's: threshold and reset are tables, spikes are weighted by them."""

    @property
    def threshold(self) -> Tensor:
        """The table [T, N]."""
        return self.node.th

    @property
    def reset_mechanism(self) -> str:
        """'subtract'; it cannot be changed."""
        return "subtract"

    @property
    def time_steps(self) -> int:
        """T, the calls that one input takes."""
        return self.node.time_steps

    def reset_mem(self) -> Tensor:
        """Forget the input; the next call is a first one. Returns the empty membrane."""
        self.mem = torch.zeros(0, device=self.node.th.device)
        self._start: Start | None = None
        self._calls = 0
        return self.mem

    def forward(self, input_: Tensor | None = None, mem: Tensor | None = None) -> Any:
        """One step: (spk, mem), or spk with ``init_hidden`` unless ``output``."""
        if self.init_hidden and mem is not None:
            raise TypeError("`mem` should not be passed as an argument while `init_hidden=True`")
        if self._calls == self.time_steps and self.restart:
            self.reset_mem()
            mem = None
        start, membranes = self._begin(input_, mem) if self._start is None else self._go_on(input_, mem)
        spikes, weighted, left = self.node.step(self._calls, start, membranes, self._fire)
        self._start, self._calls = start, self._calls + 1
        self.mem = left[0] if len(left) == 1 else torch.stack(left, dim=-1)
        spk = (self.node.binary(spikes, start) if self.binary else weighted).to(start.dtype)
        return spk if self.init_hidden and not self.output else (spk, self.mem)

    def _fire(self, distance: Tensor) -> Tensor:
        """1 where u - threshold is >= 0, else 0, with spike_grad's derivative."""
        spikes = steps.heaviside(distance)
        if not (torch.is_grad_enabled() and distance.requires_grad):
            return spikes
        smooth = self.spike_grad(distance)
        return spikes + (smooth - smooth.detach())

    def _begin(self, x: Tensor | None, mem: Tensor | None) -> tuple[Start, list[Tensor]]:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"the first call after a reset takes the value as a floating tensor, got {got}")
        if mem is not None and bool(mem.any()):
            raise ValueError(
                "the first call after a reset takes no membrane of an earlier input; pass what reset_mem() returned"
            )
        return self.node.start(x)

    def _go_on(self, x: Tensor | None, mem: Tensor | None) -> tuple[Start, list[Tensor]]:
        assert self._start is not None
        if self._calls == self.time_steps:
            raise MBEError(
                f"this neuron has T = {self.time_steps} steps and was called once more; reset it before the next input: "
                "mbe_plugin.snntorch.reset(net), since snntorch.utils.reset passes it by, or its reset_mem()"
            )
        if mem is not None and mem.shape != self.mem.shape:
            raise ValueError(
                f"mem must be what the last call returned, {list(self.mem.shape)}, got {list(mem.shape)}"
            )
        left = (self.mem if mem is None else mem).to(self._start.work.dtype)
        membranes = [left] if self.node.bases_per_element == 1 else list(left.unbind(-1))
        if x is not None and self._brings_current(x, self._start.work):
            added = self.node.current(x.to(left.dtype))
            membranes = [m + a for m, a in zip(membranes, added, strict=True)]
        return self._start, membranes

    def _brings_current(self, x: Tensor, first: Tensor) -> bool:
        """Whether a later input is to be added; ValueError if it can be neither added nor passed over."""
        call = self._calls + 1
        if x.shape != first.shape:
            raise ValueError(
                f"the input was {list(first.shape)} at the first call and is {list(x.shape)} at call {call}; reset the "
                "neuron before another one"
            )
        if self.static_input:
            if bool(((x == first) | (x.isnan() & first.isnan())).all()):
                return False
            raise ValueError(
                f"with static_input=True every call brings the same input, but call {call} brings another; reset the "
                "neuron before another one"
            )
        if not self.node.takes_current and bool(x.any()):
            raise ValueError(
                f"call {call} brings input, but with banks or a range reduction the first call needs the whole value; pass "
                "it there and None afterwards, or set static_input=True if it is the same at every call"
            )
        return self.node.takes_current

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MBE:
        super()._apply(device_only(fn), recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy begins anew: what hangs on a graph cannot be copied."""
        fresh = {**self._buffers, "mem": torch.zeros(0, device=self.node.th.device)}
        return {**self.__dict__, "_buffers": fresh, "_start": None, "_calls": 0}

    def extra_repr(self) -> str:
        """What print(net) shows."""
        return f"init_hidden={self.init_hidden}, binary={self.binary}"


def reset(net: nn.Module) -> None:
    """Reset every MBE neuron in net and all that ``snntorch.utils.reset(net)`` resets, nested snnTorch neurons too.

    The host's own function passes over classes that it does not know, and looks at a network's direct children only.
    """
    utils.reset(net)
    for module in net.modules():
        if isinstance(module, SpikingNeuron) and hasattr(module, "reset_mem"):
            module.reset_mem()


def _numbers(tables: Tables | Fit | MBENode, reduction: str | None) -> tuple[Tables, str]:
    """Tables and the name of the reduction around them."""
    if isinstance(tables, Tables):
        return tables, reduction or "none"
    if isinstance(tables, SharedScaleNode):
        raise TypeError(
            "the tables of a SharedScaleNode hold values in units of a scale that other elements share; take a neuron "
            "that was converted with scale='element'"
        )
    if not isinstance(tables, Fit | MBENode):
        raise TypeError(f"MBE takes Tables, a Fit or an MBENode, got {type(tables).__name__}")
    if reduction is not None:
        raise TypeError(f"a {type(tables).__name__} has its own reduction; leave out reduction={reduction!r}")
    node = tables.node() if isinstance(tables, Fit) else tables
    return node.tables(), node.reduction.name
