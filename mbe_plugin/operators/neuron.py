"""The neurons inside operators: calibrated MBE neurons, where observers (observer.py) have stood."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from mbe_plugin.fitting.functions import Scalar
from mbe_plugin.kernels import backends, operator
from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.gradients import Detour
from mbe_plugin.neuron.scaling import compute_dtype
from mbe_plugin.neuron.tables import Tables
from mbe_plugin.node import MBENode
from mbe_plugin.operators.calls import CALLS
from mbe_plugin.operators.ranges import RangeNotice, ends_of, hold, outside

COUNTERS = ("seen", "outside", "beyond")


class NeuronFactory(Protocol):
    """Makes the module that stands for one neuron of an operator.

    role: where it stands in the operator, as named_modules says it. function: what it computes; a
    name of fitting.FUNCTIONS, or any other name together with ``scalar``.
    """

    def __call__(self, role: str, function: str, scalar: Scalar | None = None) -> nn.Module:
        """The module that stands for the neuron."""
        ...


def within(make: NeuronFactory, part: str) -> NeuronFactory:
    """The factory for a part of an operator: roles get the part's name in front."""

    def make_within(role: str, function: str, scalar: Scalar | None = None) -> nn.Module:
        return make(f"{part}.{role}", function, scalar)

    return make_within


# what a kernel counted in passing: spikes [T, N], exponents [], and elements [], unless the inputs tell; None: nothing
Counted = tuple[Tensor, Tensor, Tensor | None] | None


class SpikeListener(Protocol):
    """Is told of every call: what the tables get, which of it takes part (None: all), and shared exponents (None: none).

    counts_suffice: where the elements have been counted, it does not look at the inputs, and gets others.
    """

    @property
    def counts_suffice(self) -> bool:
        """See the class."""
        ...

    def __call__(self, x: Tensor, where: Tensor | None, shared: Tensor | None, counted: Counted) -> None:
        """A call."""
        ...


class CalibratedNode(MBENode):
    """An MBE neuron of a converted network: always in step_mode 's', counts values that leave its range.

    ``calibrated`` [2] is the range it was fitted for. Counted since the last ``reset_counts``: ``seen``, all elements;
    ``outside``, those beyond the range that it decodes less accurately, NaN and infinities among them; ``beyond``, those
    beyond the range that its range reduction decodes as accurately. ``site`` and ``role`` say where it stands.
    Inputs smaller than ``dead_zone`` count as 0: they send nothing and, in an identity, read 0.
    """

    site = ""
    role = ""
    dead_zone = 0.0

    calibrated: Tensor
    seen: Tensor
    outside: Tensor
    beyond: Tensor

    def __init__(
        self, tables: Tables, reduction: str, low: float, high: float, function: str, fit_error: float
    ) -> None:
        super().__init__(tables, reduction)
        self.register_buffer("calibrated", torch.tensor([low, high], dtype=torch.float32))
        for counter in COUNTERS:
            self.register_buffer(counter, torch.zeros((), dtype=torch.int64), persistent=False)
        self.function = function
        self.fit_error = fit_error
        self.spike_listener: SpikeListener | None = None
        self.notice = RangeNotice()

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """forward() with the module's hooks, unless somebody stands in for the thread's neurons."""
        if CALLS.taken_by is not None:
            return CALLS.taken_by(self, *args, **kwargs)
        return super().__call__(*args, **kwargs)

    def forward(self, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        """Decoded value of x; ``where`` marks the elements that take part (others are not counted)."""
        if self._passes_once(x):
            return self._in_one_pass(x, where)
        self.count_range(x, where)
        x = self.without_dead_zone(x)
        if self.spike_listener is not None:
            self.spike_listener(x, where, None, None)
        return self.single_step_forward(x)

    def _passes_once(self, x: Tensor) -> bool:
        """Whether a kernel finds value, range and counts together."""
        return (
            isinstance(x, Tensor)
            and self._takes_kernel(x)
            and not (torch.is_grad_enabled() and x.requires_grad)
        )

    def _in_one_pass(self, x: Tensor, where: Tensor | None) -> Tensor:
        """forward(x, where=where) where _passes_once(x)."""
        sent = self.without_dead_zone(x)
        ranged = self._ranged(x) if sent is x else {}
        y, ends, counts = self._by_kernel(sent, where, counted=self.spike_listener is not None, **ranged)
        if ranged:
            self.see(x, where)
            counts = self._without_range(counts)
        else:
            self.count_range(x, where, ends if sent is x else None)
        if self.spike_listener is not None:
            self.spike_listener(sent, where, None, (*self._counts_of(counts), None))
        return y

    def _ranged(self, x: Tensor) -> dict[str, Any]:
        """What makes a kernel count what leaves the range, off the CPU, where nobody waits for its ends."""
        if x.device.type == "cpu":
            return {}
        return {"calibrated": self.calibrated, "accurate": self._accurate_numbers(x.dtype)}

    def _accurate_numbers(self, dtype: torch.dtype) -> tuple[float, float] | None:
        """accurate_range() for a kernel."""
        return self.accurate_range(dtype)

    def _without_range(self, counts: Tensor) -> Tensor:
        """Counts of a kernel that was _ranged() less those of the range, which are added to this neuron's."""
        left, lost = counts[-2], counts[-1]
        self.outside.add_(lost)
        self.beyond.add_(left - lost)
        return counts[:-2]

    def numerators(self, scores: Tensor) -> tuple[Tensor, Tensor | None, Tensor] | None:
        """Where nobody looks at the inputs: 2^x of a softmax's scores over the last dimension, as Softmax has it.

        With the ends [2] of the powers (None where their range has been counted) and how many are sent [], which the
        caller counts. None where it goes the long way.
        """
        listener = self.spike_listener
        heard = listener is not None and not listener.counts_suffice
        if heard or not self._is_alone() or torch.compiler.is_compiling() or not self._passes_once(scores):
            return None
        ranged = self._ranged(scores)
        y, ends, counts = self._by_kernel(scores, counted=listener is not None, scores=True, **ranged)
        counts = self._without_range(counts) if ranged else counts
        if listener is not None:
            listener(scores, None, None, (*self._counts_of(counts), counts[-1]))
        return y, None if ranged else ends, counts[-1]

    def _is_alone(self) -> bool:
        """Whether nobody stands in for this neuron or looks at its calls, but for a listener."""
        # accelerate's hooks, which bring the tables of an offloaded neuron, stand in the place of its forward
        hooked = (
            self._forward_hooks
            or self._forward_pre_hooks
            or _has_any_global_hook()
            or "forward" in vars(self)
        )
        return CALLS.taken_by is None and not self.dead_zone and not hooked

    def fuses(self, x: Tensor) -> bool:
        """Whether an operator may compute this neuron inside a kernel of its own, on a GPU, for an input as x."""
        return (
            type(self) is CalibratedNode
            and self.spike_listener is None
            and self._is_alone()
            and self._passes_once(x)
            and backends.runs_on(self.backend, x) == "triton"
            and operator.unwatched(x)
        )

    def asked_inside(self, device: torch.device) -> Asked:
        """What such a kernel is told of it, which gives it float32 there and counts what leaves its range."""
        x = torch.empty(0, device=device)
        self._check_device(x)
        return self._asked(**self._ranged(x))

    def count_inside(self, seen: int | Tensor, counts: Tensor) -> None:
        """Add what such a kernel has counted: elements, and of the range [2]."""
        self.seen.add_(seen)
        self._without_range(counts)

    def decoded(self, x: Tensor, dim: int = -1) -> Tensor:
        """forward(x, dim) without hooks or counters."""
        return self.single_step_forward(self.without_dead_zone(x))

    def sequence(self, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        """Weighted spikes [T, ...], whose sum over time is forward(x, dim, where) up to the order of summation."""
        return self.weighted_spikes(self.without_dead_zone(x))

    def without_dead_zone(self, x: Tensor) -> Tensor:
        """x, with 0 for what is smaller than the dead zone; with gradient 'slope' its gradient goes straight through."""
        if not self.dead_zone:
            return x
        if self.gradient == "slope" and x.requires_grad and torch.is_grad_enabled():
            return Detour.apply(x, self._silenced, _straight_through)
        return self._silenced(x)

    def _silenced(self, x: Tensor) -> Tensor:
        small = x.to(compute_dtype(x)).abs() < self.dead_zone  # in 16 bits the limit itself would be rounded
        return torch.where(small, 0.0, x)

    def count_range(self, x: Tensor, where: Tensor | None, found: Tensor | None = None) -> None:
        """Add x to ``seen``, and its values beyond the calibrated range to ``outside`` or ``beyond``.

        found: the ends of x [2], if a kernel has them already.
        """
        value = x.detach()
        if value.numel() == 0:
            return
        self.see(value, where)
        ends = ends_of(value, found)
        if hold(self.calibrated, ends):
            return
        calibrated, accurate = self._limits(value.dtype)
        left = outside(value, calibrated, where)
        if accurate is not calibrated and hold(accurate, ends):
            self.beyond.add_(torch.count_nonzero(left))
            return
        lost = left if accurate is calibrated else outside(value, accurate, where)
        self.outside.add_(torch.count_nonzero(lost))
        self.beyond.add_(torch.count_nonzero(left) - torch.count_nonzero(lost))
        if ends is not None and not self.notice.given and bool(lost.any()):
            low, high = self.calibrated.tolist()
            self.notice.give(self.site, self.role, low, high, value[lost][0].item())

    def see(self, x: Tensor, where: Tensor | None) -> None:
        """Add x to ``seen``."""
        # in place: an attribute that is set makes torch register the buffer anew
        self.seen.add_(x.numel() if where is None else torch.count_nonzero(where))

    def _limits(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The calibrated range [2], and that in which accuracy is kept, which holds it (the same tensor if no wider)."""
        most = torch.finfo(dtype).max  # a range may be wider than the numbers of 16 bits
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        calibrated = self.calibrated.to(wide).clamp(-most, most)
        accurate = self.accurate_range(dtype)
        if accurate is None:
            return calibrated, calibrated
        low, high = calibrated[0].clamp(max=accurate[0]), calibrated[1].clamp(min=accurate[1])
        return calibrated, torch.stack([low, high]).clamp(-most, most)

    def accurate_range(self, dtype: torch.dtype) -> tuple[Any, Any] | None:
        """Between which inputs (numbers or 0-dim tensors) accuracy is kept; None where only the calibrated range is."""
        return self.reduction.accurate_range(dtype, self.mirrored)

    def reset_counts(self) -> None:
        """Forget ``seen``, ``outside`` and ``beyond``."""
        for counter in COUNTERS:
            getattr(self, counter).zero_()

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """See MBENode; what this neuron computes is a decoded value in either step mode."""
        return tuple(dict.fromkeys((*backends.SUPPORTED["s"], *super().supported_backends)))

    @property
    def scale(self) -> str:
        """Where the power-of-two scale comes from."""
        return "element" if self.reduction.kind != "none" else "range"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"  # a line: there are hundreds in a network

    def extra_repr(self) -> str:
        """What it computes, by how much, and where: what print(network) shows."""
        shown = [self.function, f"T={self.time_steps}, N={self.bases}, scale={self.scale}, code={self.code}"]
        if not self.calibrated.is_meta:  # as an offloaded network's are
            low, high = self.calibrated.tolist()
            shown += [f"range=[{low:.4g}, {high:.4g}]"]
        shown += [f"dead_zone={self.dead_zone:.3g}"] if self.dead_zone else []
        shown += [f"simulate={self.simulate}"] if self.simulate != "closed" else []
        shown += [f"backend={self.backend}"] if self.backend != "auto" else []
        return ", ".join(shown)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "spike_listener": None}


def fusing(x: Tensor, *neurons: nn.Module) -> list[CalibratedNode] | None:
    """The neurons, if an operator may compute all of them inside a kernel of its own."""
    found = [neuron for neuron in neurons if isinstance(neuron, CalibratedNode) and neuron.fuses(x)]
    return found if len(found) == len(neurons) else None


def _straight_through(x: Tensor, gradient: Tensor) -> Tensor:
    return gradient
