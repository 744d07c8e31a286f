"""The neurons inside operators: calibrated MBE neurons, where observers (observer.py) have stood."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules

from mbe_plugin.fitting.functions import Scalar
from mbe_plugin.kernels import backends, numba_cpu, operator
from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.gradients import Detour
from mbe_plugin.neuron.scaling import compute_dtype
from mbe_plugin.neuron.tables import TABLE_FIELDS, Tables
from mbe_plugin.node import BUFFER_OF, MBENode
from mbe_plugin.operators.calls import CALLS
from mbe_plugin.operators.ranges import RangeNotice, ends_of, hold, outside

COUNTERS = ("seen", "outside", "beyond")
_PLACES = (*(BUFFER_OF.get(name, name) for name in TABLE_FIELDS), "calibrated", *COUNTERS)
Words = array  # a neuron as numba_cpu.calls has it
Powers = Callable[[Tensor], tuple[Tensor, Tensor]]
# torch's dicts of what register_module_forward_hook and its like were given; torch 2.6 has no function that asks them
GLOBAL_HOOKS = tuple(
    getattr(of_all_modules, f"_global_{way}_hooks")
    for way in ("forward_pre", "forward", "backward_pre", "backward")
)


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

    def room(self) -> tuple[Tensor, Tensor] | None:
        """A CPU kernel may add to these counts and tally (see NeuronEvents) in place of telling it; None: it may not."""
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
        self._told: tuple[tuple, Words | None] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """forward() with the module's hooks, unless somebody stands in for the thread's neurons."""
        if CALLS.taken_by is not None:
            return CALLS.taken_by(self, *args, **kwargs)
        return super().__call__(*args, **kwargs)

    def forward(self, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        """Decoded value of x; ``where`` marks the elements that take part (others are not counted)."""
        backend = self._kernel_for(x)
        if backend is not None:
            return self._in_one_pass(backend, x, where)
        self.count_range(x, where)
        x = self.without_dead_zone(x)
        if self.spike_listener is not None:
            self.spike_listener(x, where, None, None)
        return self.single_step_forward(x)

    def _kernel_for(self, x: Tensor) -> str | None:
        """The backend whose kernel finds value, range and counts together, if there is one."""
        if not isinstance(x, Tensor) or (x.requires_grad and torch.is_grad_enabled()):
            return None
        backend = self._runs_on(x)
        return backend if backend in backends.ONE_PASS else None

    def _in_one_pass(self, backend: str, x: Tensor, where: Tensor | None) -> Tensor:
        """forward(x, where=where) by the kernel of _kernel_for(x)."""
        words = self.words(x, x.dtype) if backend == "numba" and operator.unwatched(x) else None
        if words is not None:
            return self._on_cpu(words, x, where)
        sent = self.without_dead_zone(x)
        ranged = self._ranged(x) if sent is x else {}
        y, ends, counts = self._by_kernel(sent, where, counted=self.spike_listener is not None, **ranged)
        if ranged:
            counts = self._without_range(counts, ranged)
        else:
            self.count_range(x, where, ends if sent is x else None)
        if self.spike_listener is not None:
            self.spike_listener(sent, where, None, (*self._counts_of(counts), None))
        return y

    def _on_cpu(self, words: Words, x: Tensor, where: Tensor | None) -> Tensor:
        """_in_one_pass(x, where) by a kernel that adds to the counters and to a recording, too."""
        y, lost = self._counted(words, x, where)
        if lost:
            self.say_lost(x, where)
        return y

    def _counted(
        self, words: Words, x: Tensor, where: Tensor | None, scores: bool = False
    ) -> tuple[Tensor, bool]:
        """numba_cpu.calls.counted."""
        # a converted network's forward runs under a function mode, which every small call here would enter
        with torch._C.DisableTorchFunction():
            return numba_cpu.for_neurons().counted(words, x, where, scores)

    def words(self, x: Tensor, dtype: torch.dtype) -> Words | None:
        """What Numba's kernels are told of this neuron, to whose counters they add what it gets, like x, of a dtype.

        Only to be read; None where they cannot know all of it. Kept until a table has another place: its numbers are read
        in every call.
        """
        if self.dead_zone:
            return None
        places = [self._buffers[name].data_ptr() for name in _PLACES]
        told = dtype, self._simulate, self.halving, self.first_spike, self._kept_bits, places
        kept = self._told
        if kept is None or kept[0] != told:
            self._told = kept = told, self._made_words(x, dtype)
        if self.spike_listener is None or kept[1] is None:
            return kept[1]
        room = self.spike_listener.room()
        if room is None or room[0].shape != self.th.shape:
            return None
        return numba_cpu.for_neurons().recorded(kept[1], *room)

    def _made_words(self, x: Tensor, dtype: torch.dtype) -> Words | None:
        self._check_device(x)
        buffers = [self._buffers[name] for name in _PLACES]
        if not all(buffer is not None and buffer.is_cpu and buffer.is_contiguous() for buffer in buffers):
            return None
        asked = self._asked(calibrated=self.calibrated, accurate=self._accurate_numbers(dtype))
        return numba_cpu.for_neurons().words_of(asked, [self._buffers[name] for name in COUNTERS])

    def _ranged(self, x: Tensor, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """What makes a kernel count what of x, or of a dtype, leaves the range, off the CPU: nobody waits for its ends.

        It adds to this neuron's counters, unless torch's dispatcher stands between.
        """
        if x.device.type == "cpu":
            return {}
        own = [self._buffers[name] for name in COUNTERS] if operator.unwatched(x) else None
        return {
            "calibrated": self.calibrated,
            "accurate": self._accurate_numbers(dtype or x.dtype),
            "counters": own,
        }

    def _accurate_numbers(self, dtype: torch.dtype) -> tuple[float, float] | None:
        """accurate_range() for a kernel."""
        return self.accurate_range(dtype)

    def _without_range(self, counts: Tensor, ranged: dict[str, Any]) -> Tensor:
        """Counts of a kernel that was _ranged() less those of the range, which are added to this neuron's."""
        if ranged["counters"] is not None:  # by the kernel
            return counts
        for name, number in zip(COUNTERS, counts[-3:].unbind(), strict=True):
            getattr(self, name).add_(number)
        return counts[:-3]

    def numerators(self, scores: Tensor, powers: Powers) -> Tensor | None:
        """Where nobody looks at the inputs: 2^x of a softmax's scores over the last dimension, as Softmax has it, counted.

        powers: what the neuron gets for scores [...], and which of it is sent. None where it goes the long way.
        """
        listener = self.spike_listener
        heard = listener is not None and not listener.counts_suffice
        if heard or not self._is_alone() or torch.compiler.is_compiling():
            return None
        backend = self._kernel_for(scores)
        if backend is None:
            return None
        words = (
            self.words(scores, scores.dtype) if backend == "numba" and operator.unwatched(scores) else None
        )
        if words is None:
            return self._watched_numerators(scores, powers)
        y, lost = self._counted(words, scores, None, scores=True)
        if lost and not self.notice.given:
            self.say_lost(*powers(scores))
        return y

    def _watched_numerators(self, scores: Tensor, powers: Powers) -> Tensor:
        """numerators() by a kernel that keeps what it counts to itself."""
        listener, ranged = self.spike_listener, self._ranged(scores)
        y, ends, counts = self._by_kernel(scores, counted=listener is not None, scores=True, **ranged)
        if ranged:
            counts = self._without_range(counts, ranged)
        elif hold(self.calibrated, ends_of(scores, ends)):
            self.seen.add_(counts[-1])
        else:
            self.count_range(*powers(scores))
        if listener is not None:
            listener(scores, None, None, (*self._counts_of(counts), counts[-1]))
        return y

    def _is_alone(self) -> bool:
        """Whether nobody stands in for this neuron or looks at its calls, but for a listener."""
        # accelerate's hooks, which bring the tables of an offloaded neuron, stand in the place of its forward
        hooked = (
            self._forward_hooks or self._forward_pre_hooks or any(GLOBAL_HOOKS) or "forward" in self.__dict__
        )
        return CALLS.taken_by is None and not self.dead_zone and not hooked

    def fuses(self, backend: str, x: Tensor) -> bool:
        """Whether an operator may compute this neuron inside a kernel of its own on this backend, for an input as x."""
        return (
            type(self) is CalibratedNode
            and (self.spike_listener is None or (backend == "numba" and self.spike_listener.counts_suffice))
            and self._is_alone()
            and self._kernel_for(x) == backend
            and operator.unwatched(x)
        )

    def asked_inside(self, x: Tensor) -> Asked:
        """What such a kernel is told of it, which gives it float32 on the device of x and counts what leaves its range."""
        self._check_device(x)
        return self._asked(**self._ranged(x, torch.float32))

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
        if ends is not None and bool(lost.any()):
            self.say_lost(value, where)

    def say_lost(self, value: Tensor, where: Tensor | None = None) -> None:
        """Warn of a value that lies beyond the range of accuracy, unless it was done before."""
        if self.notice.given:
            return
        lost = value[outside(value, self._limits(value.dtype)[1], where)]
        low, high = self.calibrated.tolist()
        self.notice.give(self.site, self.role, low, high, lost[0].item())

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
        return {**self.__dict__, "spike_listener": None, "_told": None}


def fusing(backend: str, x: Tensor, *neurons: nn.Module) -> list[CalibratedNode] | None:
    """The neurons, if an operator may compute all of them inside a kernel of its own on this backend."""
    for neuron in neurons:
        if not (isinstance(neuron, CalibratedNode) and neuron.fuses(backend, x)):
            return None
    return list(neurons)  # type: ignore[arg-type]  # as was just asked


def words_inside(x: Tensor, *neurons: nn.Module) -> list[Words] | None:
    """What an operator tells a Numba kernel of the neurons that it computes in float32 made of x; None if it may not."""
    fused = fusing("numba", x, *neurons) if x.is_contiguous() else None
    if fused is None:
        return None
    found = [neuron.words(x, torch.float32) for neuron in fused]
    return None if None in found else found  # type: ignore[return-value]


def _straight_through(x: Tensor, gradient: Tensor) -> Tensor:
    return gradient
