"""MBENode: the MBE neuron as a SpikingJelly module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from spikingjelly.activation_based import base, surrogate
from torch import Tensor, nn

from mbe_plugin.errors import BackendError
from mbe_plugin.kernels import Prepared, backends, closed, first_spike, gradients, operator, prepare, steps
from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.backends import Backend
from mbe_plugin.kernels.cupy_gpu.calls import multi_step
from mbe_plugin.neuron.dynamics import reference_spikes
from mbe_plugin.neuron.first_spike import is_first_spike
from mbe_plugin.neuron.scaling import REDUCTIONS, Reduction, compute_dtype
from mbe_plugin.neuron.tables import TABLE_FIELDS, Tables

Simulation = Literal["closed", "steps"]
Gradient = Literal["surrogate", "slope"]
SIMULATIONS: tuple[Simulation, ...] = get_args(Simulation)
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)

FLOAT32_MANTISSA_BITS = 23

NO_SLOPE = (
    "gradient='slope' needs halving tables or the first-spike code, whose staircase follows a line; take "
    "gradient='surrogate' for others"
)

# the method's symbols (eq. 4-8) name the buffers
BUFFER_OF = {"threshold": "th", "reset": "r", "intensity": "d", "weight": "w"}


class MBENode(base.MemoryModule):
    r"""A multi-basis exponential-decay spiking neuron (arXiv:2508.07710, eq. 4-8).

    The input is the membrane's initial value; T steps later the neuron is silent and has decoded
    f(x) ~ sum_n w_n sum_t s_n[t] d_n[t] + bias. There is no state between calls.

    step_mode 's': x [...] -> decoded value [...]. step_mode 'm': x_seq [T, ...], whose sum over time
    is the membrane -> weighted spikes [T, ...], the read-out's constant at step 0 and the scale inside
    the values, so ``m(x_seq).sum(0) == s(x_seq.sum(0))`` up to summation order (the contract of
    SpikingJelly's FewSpikeNode). float16 and bfloat16 inputs are simulated in float32, float64 in float64;
    the output has the input's dtype. The tables stay float32 whatever ``.half()`` or ``.to(dtype)`` say.

    tables: the neuron's numbers (buffers ``th``, ``r``, ``d`` [T, N]; ``w``, ``offset``, ``gain`` [N];
    ``bias`` [B]; ``breakpoints``).
    reduction: name of the range reduction around the tables: 'none', 'clip' (to (-1, 1): the first-spike code),
    'identity', 'reciprocal', 'sqrt', 'rsqrt', 'sqrt_octave', 'rsqrt_octave' (mantissa by spikes, exponent sent beside) or
    'exp2' (fraction by spikes). Around tables that are not mirrored, those with a mantissa serve x >= 0; negative inputs
    read NaN.
    simulate: 'closed' (integer arithmetic, for halving tables and the first-spike code behind 'clip'; others always take
    the loop) or 'steps'.
    gradient: 'surrogate', the step loop's with the derivative of this instance's own surrogate function (default
    Sigmoid) in place of the comparison's; or 'slope' (straight through; where the closed form is), that of the line which
    the decoded staircase follows: 1 for an identity, 0 where the neuron saturates. Neither changes the output, and with
    simulate 'closed' neither runs the loop's graph.

    backend: whose kernels compute decoded values, count events and spell trains out; the spikes are the same. 'auto' takes,
    for float32, bfloat16 and float16, 'numba' on the CPU and 'triton' on CUDA for decoded values and counts, 'cupy' on CUDA
    for trains (``spikes``, ``weighted_spikes``, step_mode 'm'), each where it is installed, else 'torch'. One asked for by
    name runs or raises. Numba and Triton spell nothing out: torch does it then, and decodes what autograd must follow. The
    gradient of CuPy's weighted spikes is that of torch's loop, which the backward pass runs.
    ``supported_backends`` lists those of the step mode, on every host; not every one can run everywhere.

    Raises TypeError for an input that is not a floating tensor and for tables of another type, ValueError for a wrong
    leading dimension in mode 'm', for an unknown reduction, simulation or gradient, and for 'slope' with tables that
    have none, BackendError for a backend that cannot be chosen, or has no kernel for an input.
    """

    _backend = "auto"

    th: Tensor
    r: Tensor
    d: Tensor
    w: Tensor
    bias: Tensor
    offset: Tensor
    gain: Tensor
    breakpoints: Tensor

    def __init__(
        self,
        tables: Tables,
        reduction: str = "none",
        surrogate_function: Callable[[Tensor], Tensor] | None = None,
        step_mode: str = "s",
        simulate: Simulation = "closed",
        gradient: Gradient = "surrogate",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if not isinstance(tables, Tables):
            raise TypeError(
                f"an MBE neuron is made of mbe_plugin.Tables, got {type(tables).__name__}; "
                "the neuron of a Fit is fit.node()"
            )
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {sorted(REDUCTIONS)}, got {reduction!r}")
        for name, value in tables.as_dict().items():
            self.register_buffer(BUFFER_OF.get(name, name), value.clone())
        self.mirrored, self.octaves = tables.mirrored, tables.octaves
        self.distinct_outputs = tables.distinct_outputs
        self.reduction: Reduction = REDUCTIONS[reduction]
        self._choose_fast_paths(tables)
        self.surrogate_function = surrogate_function or surrogate.Sigmoid()
        self.step_mode = step_mode
        self.simulate = simulate
        self.gradient = gradient
        self.backend = backend

    def _choose_fast_paths(self, tables: Tables) -> None:
        self.halving = tables.halving
        self.first_spike = self.reduction.kind == "clip" and is_first_spike(tables)
        self._kept_bits = _identity_bits(tables) if self.reduction.name == "identity" else None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # other numbers may have come in, for which a fast path that held no longer does
        super()._load_from_state_dict(*args, **kwargs)
        if not self.th.is_meta:
            self._choose_fast_paths(self.tables())

    @property
    def simulate(self) -> Simulation:
        """How the dynamics are run: 'closed' or 'steps'; both give the same spikes."""
        return self._simulate

    @simulate.setter
    def simulate(self, value: Simulation) -> None:
        if value not in SIMULATIONS:
            raise ValueError(f"simulate must be one of {SIMULATIONS}, got {value!r}")
        self._simulate = value

    @property
    def gradient(self) -> Gradient:
        """What the backward pass takes for the derivative: 'surrogate' or 'slope'."""
        return self._gradient

    @gradient.setter
    def gradient(self, value: Gradient) -> None:
        if value not in GRADIENTS:
            raise ValueError(f"gradient must be one of {GRADIENTS}, got {value!r}")
        if value == "slope" and not self._has_closed_form:
            raise ValueError(NO_SLOPE)
        self._gradient = value

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """The backends of the current step mode; not every one can run everywhere."""
        return backends.SUPPORTED[self.step_mode]

    @property
    def backend(self) -> str:
        """Whose kernels run the dynamics."""
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        backends.require(value, self.supported_backends, self.step_mode, type(self).__name__)
        self._backend = value

    @property
    def time_steps(self) -> int:
        """T."""
        return self.th.shape[0]

    @property
    def bases(self) -> int:
        """N, over all signs and segments."""
        return self.th.shape[1]

    @property
    def bases_per_element(self) -> int:
        """How many of the N bases can fire for one element."""
        return self.bases // self.bias.shape[0]

    @property
    def code(self) -> str:
        """What a train spells: 'binary' digits, the time of a 'first_spike', or 'free' for other tables."""
        return "first_spike" if self.first_spike else "binary" if self.halving else "free"

    def tables(self) -> Tables:
        """A copy of the neuron's tables on the CPU."""
        return Tables(**self._buffers_by_field(), mirrored=self.mirrored, octaves=self.octaves)

    def single_step_forward(self, x: Tensor) -> Tensor:
        """Decoded value of x [...], same shape and dtype (all T steps in one call)."""
        _check_floating(x)
        if not _differentiable(x) and self._runs_on(x) != "torch":
            return self._value(x)
        work = x.to(compute_dtype(x))
        return self._decode(work).to(x.dtype)

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """Weighted spike sequence [T, ...] for the membrane x_seq.sum(0)."""
        _check_floating(x_seq)
        if x_seq.dim() < 1 or x_seq.shape[0] != self.time_steps:
            raise ValueError(
                f"step_mode 'm' takes [T, ...] with T = {self.time_steps}, got {list(x_seq.shape)}"
            )
        if self.backend in backends.ONE_PASS:
            raise BackendError(
                f"{type(self).__name__} has the backend {self.backend!r} in step_mode 's' only and is in 'm'; "
                "take backend='auto'"
            )
        return self.weighted_spikes(x_seq.sum(0))

    def functional_forward(
        self, inputs: tuple[Tensor, ...], states: tuple[object, ...], **kwargs: object
    ) -> tuple[tuple[Tensor, ...], tuple[object, ...]]:
        """The host's transition (inputs, states) -> (outputs, states), in either mode; an MBE neuron has no states."""
        return (self.forward(*inputs, **kwargs),), states

    def weighted_spikes(self, x: Tensor) -> Tensor:
        """Weighted spikes [T, ...] that x [...] causes; their sum over time is the decoded value."""
        _check_floating(x)
        if self._spells_by_cupy(x):
            run = partial(self._by_cupy, output="sequence")
            return gradients.Detour.apply(x, run, self._pull_cupy) if _differentiable(x) else run(x)
        work = x.to(compute_dtype(x))
        if _differentiable(work) and self.gradient == "slope":
            sequence = gradients.Detour.apply(work, self._sequence, self._pull_sequence)
        else:
            sequence = self._sequence(work)
        return sequence.to(x.dtype)

    def _sequence(self, work: Tensor) -> Tensor:
        reduced, exponent, active = self._split(work)
        fire = self.surrogate_function if _differentiable(work) else steps.heaviside
        sequence = steps.weighted_sequence(reduced, self._prepared(work), fire)
        first = self._restore(sequence[0], exponent, active, work)
        if exponent is None:
            return torch.cat([first[None], sequence[1:]])
        rest = [_silence(self.reduction.scale(step, exponent), active) for step in sequence[1:]]
        return torch.stack([first, *rest])

    def spikes(self, x: Tensor) -> Tensor:
        """Binary spike train [T, N, ...] of x [...], as 0 and 1 in x's dtype; rows of idle banks are 0."""
        _check_floating(x)
        if backends.spells_out(self.backend, x) == "cupy":
            return self._by_cupy(x.detach(), "trains")
        work = x.to(compute_dtype(x))
        reduced, _, active = self._split(work)
        trains = reference_spikes(reduced, self.tables())
        return (trains if active is None else trains * active).to(x.dtype)

    def spike_counts(self, x: Tensor, where: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spikes summed over the elements of x (in ``where``), int64 [T, N], and how many exponents were sent, int64 [].

        Both on x's device, which nothing here waits for.
        """
        _check_floating(x)
        runs_on = self._runs_on(x)
        if runs_on == "cupy":
            return self._counts_of(self._by_cupy(x.detach(), "counts", where))
        if runs_on in backends.ONE_PASS:
            return self._counts_of(self._by_kernel(x.detach(), where, counted=True)[2])
        work = x.to(compute_dtype(x))
        if self._takes_closed_form() and self._kept_bits is not None:
            codes, normal = closed.identity_codes(work, self._kept_bits)
            spoke = normal if where is None else normal & where
            counts = closed.identity_spike_counts(codes, spoke, self.time_steps, self.bases)
            return counts, torch.count_nonzero(spoke)
        reduced, exponent, active = self._split(work)
        sent = active if where is None else where if active is None else active & where
        kernel = self._closed_form if self._takes_closed_form() else steps
        counts = kernel.spike_counts(reduced, self._prepared(work), sent)
        if exponent is None or sent is None:
            return counts, counts.new_full((), 0 if exponent is None else x.numel())
        return counts, torch.count_nonzero(sent)

    def events(self, x: Tensor, where: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What each element of x (in ``where``) sends: its spikes and its side events, whole numbers, float32 [...] each.

        A side event is the exponent with sign and segment, or where no exponent is sent the constant of a bank that is
        not zero: 0 or 1 per element.
        """
        _check_floating(x)
        work = x.to(compute_dtype(x))
        if self._takes_closed_form() and self._kept_bits is not None:
            codes, sent = closed.identity_codes(work, self._kept_bits)
            spikes, side = closed.ones_in(codes, self.time_steps), sent
        else:
            reduced, exponent, active = self._split(work)
            prepared = self._prepared(work)
            kernel = self._closed_form if self._takes_closed_form() else steps
            spikes = kernel.spikes_per_element(reduced, prepared)
            sent = torch.ones_like(work, dtype=torch.bool) if active is None else active
            side = sent
            if exponent is None:
                bank = prepared.bank(reduced)
                side = (prepared.bias != 0)[0 if bank is None else bank].expand(x.shape)
        if where is not None:
            sent = sent & where
        return torch.where(sent, spikes, 0.0), (side & sent).to(torch.float32)

    def event_slots(self, x: Tensor) -> tuple[list[tuple[int, Tensor, Tensor]], Tensor]:
        """Every event of x [...], by the step loop: slots in the order of time, and what is read without any event.

        A slot is (step, which elements send, what that adds to their decoded value), [...] each: first the side event, then
        the spikes of each step, of every basis that an element drives. What elements read that send nothing is 0, but for
        infinities and NaN.
        """
        _check_floating(x)
        work = x.detach().to(compute_dtype(x))
        reduced, exponent, active = self._split(work)
        p = self._prepared(work)
        bank = p.bank(reduced)
        constant = (p.bias[0] if bank is None else p.bias[bank]).expand(work.shape)
        sends = torch.ones_like(work, dtype=torch.bool) if active is None else active
        found = [(0, sends if exponent is not None else constant != 0, constant)]
        for place, spikes in steps.trains(reduced, p):
            row = p.rows(bank, place)
            for t, spike in enumerate(spikes):
                adds = steps.weigh(torch.ones_like(work), t, row, p)
                found.append((t, (spike > 0) & sends, adds))
        if exponent is not None:
            found = [(t, fired, self.reduction.scale(adds, exponent)) for t, fired, adds in found]
        rest = self._restore(torch.zeros_like(work), exponent, active, work)
        return sorted(found, key=lambda slot: slot[0]), rest

    def _decode(self, work: Tensor) -> Tensor:
        if not _differentiable(work):
            return self._value(work)
        if self.gradient == "surrogate" and not self._sweeps():
            fire = self.surrogate_function
            return self._by_steps(work, _traceable(fire) if torch.compiler.is_compiling() else fire)
        return gradients.Detour.apply(work, self._value, self._pull)

    def _runs_on(self, x: Tensor) -> str:
        """Which backend computes the decoded value of x."""
        return backends.runs_on(self.backend, x)

    def _spells_by_cupy(self, x: Tensor) -> bool:
        """Whether CuPy makes the weighted spikes of x. Raises BackendError where it is asked for and cannot follow."""
        if backends.spells_out(self.backend, x) != "cupy":
            return False
        learns = any(table.requires_grad for table in self._buffers_by_field().values())
        follows = self.gradient == "slope" or not _differentiable(x) or self._fires_plainly()
        if follows and not (learns and torch.is_grad_enabled()):
            return True
        if self.backend == "auto":
            return False
        what = "tables that learn" if follows else "a surrogate function that learns or sends no spikes"
        raise BackendError(f"backend 'cupy' has no kernel for {what}; take backend='auto' or 'torch'")

    def _by_cupy(self, x: Tensor, output: str, where: Tensor | None = None) -> Tensor:
        """An output of cupy_gpu's kernels."""
        self._check_device(x)
        halving = self.simulate == "closed" and self.halving
        tables = list(self._buffers_by_field().values())
        return multi_step(x, tables, output, self.reduction.name, self.mirrored, self.octaves, halving, where)

    def _by_kernel(
        self, x: Tensor, where: Tensor | None = None, counted: bool = False, **more: Any
    ) -> operator.Found:
        """What kernels.operator finds of x [...]: decoded values, ends, counts. more: of Asked."""
        self._check_device(x)
        return operator.neuron(x, self._asked(where, counted, **more))

    def _asked(self, where: Tensor | None = None, counted: bool = False, **more: Any) -> Asked:
        """What a kernel is told of this neuron."""
        kept_bits, form = self._kept_bits or 0, "closed" if self._takes_closed_form() else "steps"
        if form == "closed" and self._kept_bits is not None:
            form = "identity"
        elif form == "closed" and self.first_spike:
            form, kept_bits = "first_spike", (self.bases // 2).bit_length() - 1
        tables = list(self._buffers_by_field().values())
        kind = form, self.reduction.name, self.mirrored, self.octaves, kept_bits
        return Asked(tables, *kind, where, counted, **more)

    def _counts_of(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes [T, N] and exponents [] of the counts that a kernel gives."""
        return counts[:-1].view(self.time_steps, self.bases), counts[-1]

    def _value(self, work: Tensor) -> Tensor:
        """The decoded value, without a graph."""
        runs_on = self._runs_on(work)
        if runs_on != "torch":
            return self._by_cupy(work, "decoded") if runs_on == "cupy" else self._by_kernel(work)[0]
        if not self._takes_closed_form():
            return self._by_steps(work, steps.heaviside)
        if self._kept_bits is not None:
            return closed.encode_identity(work, self._kept_bits)
        reduced, exponent, active = self._split(work)
        y = self._closed_form.decode(reduced, self._prepared(work))
        return self._restore(y, exponent, active, work)

    def _by_steps(self, work: Tensor, fire: steps.Fire) -> Tensor:
        reduced, exponent, active = self._split(work)
        return self._restore(steps.decode(reduced, self._prepared(work), fire), exponent, active, work)

    def _sweeps(self) -> bool:
        """Whether the surrogate is needed for its derivative alone: it sends spikes and learns nothing itself."""
        if torch.compiler.is_compiling():  # which does not follow a derivative taken inside a backward
            return False
        return self.simulate == "closed" and self._fires_plainly()

    def _fires_plainly(self) -> bool:
        """Whether the surrogate function sends spikes and learns nothing."""
        fire = self.surrogate_function
        learns = isinstance(fire, nn.Module) and any(p.requires_grad for p in fire.parameters())
        return getattr(fire, "spiking", True) and not learns

    def _pull(self, work: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the input, from that of the decoded value."""
        if self.gradient == "surrogate" and torch.is_grad_enabled():  # it will be differentiated itself
            decoded = self._by_steps(work, self.surrogate_function)
            return torch.autograd.grad(decoded, work, gradient, create_graph=True)[0]
        if self.gradient == "slope" and self._kept_bits is not None:
            return gradient
        if self.gradient == "slope" and self.first_spike:
            return torch.where(work.abs() < 1, gradient, 0.0)
        with torch.no_grad():
            reduced, exponent, active = self._split(work)
            slope = self._slope(reduced)
        out = self.reduction.pull_back(gradient, slope, exponent, active, work)
        if self.gradient == "slope" and self.reduction.name == "identity":
            assert active is not None
            return torch.where(active, out, gradient)  # zero is a value like others
        return out

    def _slope(self, reduced: Tensor) -> Tensor:
        tables = self._prepared(reduced)
        if self.gradient == "surrogate":
            return gradients.surrogate_slope(reduced, tables, self.surrogate_function)
        if not self.halving:  # other tables may have been loaded since
            raise ValueError(NO_SLOPE)
        return gradients.staircase_slope(reduced, tables)

    def _pull_sequence(self, work: Tensor, gradient: Tensor) -> Tensor:
        """The same from the gradients [T, ...] of the weighted spikes, each with its intensity's share of the slope."""
        intensity = 2.0 ** -torch.arange(1.0, self.time_steps + 1).to(gradient)
        return self._pull(work, torch.tensordot(intensity / intensity.sum(), gradient, dims=1))

    def _pull_cupy(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The same of what CuPy made of x in any dtype; of surrogates by torch's loop, which begins and ends here."""
        work, gradient = x.to(compute_dtype(x)), gradient.to(compute_dtype(x))
        if self.gradient == "slope":
            return self._pull_sequence(work, gradient).to(x.dtype)
        again = torch.is_grad_enabled()  # it will be differentiated itself
        with torch.enable_grad():
            work = work if again else work.detach().requires_grad_()
            pulled = torch.autograd.grad(self._sequence(work), work, gradient, create_graph=again)[0]
        return pulled.to(x.dtype)

    def _split(self, work: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        reduced, exponent, active = self.reduction.split(work)
        if self._one_sided and active is not None:
            active = active & (work > 0)
        return reduced, exponent, active

    def _restore(self, y: Tensor, exponent: Tensor | None, active: Tensor | None, work: Tensor) -> Tensor:
        out = self.reduction.restore(y, exponent, active, work)
        return torch.where(work < 0, torch.nan, out) if self._one_sided else out

    @property
    def _one_sided(self) -> bool:
        # tables of one sign around a mantissa have nothing to say of the other
        return self.reduction.one_sided(self.mirrored)

    @property
    def _has_closed_form(self) -> bool:
        return self.halving or self.first_spike

    @property
    def _closed_form(self) -> ModuleType:
        return first_spike if self.first_spike else closed

    def _takes_closed_form(self) -> bool:
        return self.simulate == "closed" and self._has_closed_form

    def _check_device(self, x: Tensor) -> None:
        if self.th.device != x.device:
            raise ValueError(
                f"the neuron's tables are on {self.th.device}, its input on {x.device}; "
                "move the network with .to(device)"
            )

    def _prepared(self, like: Tensor) -> Prepared:
        self._check_device(like)
        return prepare(
            self._buffers_by_field(),
            like,
            mirrored=self.mirrored,
            halving=self.halving,
            octaves=self.octaves,
        )

    def _buffers_by_field(self) -> dict[str, Tensor]:
        buffers: Any = self._buffers  # several times as fast as attributes
        return {name: buffers[BUFFER_OF.get(name, name)] for name in TABLE_FIELDS}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MBENode:
        # dtype conversions must not round the tables: follow the device, keep the float32 numbers
        kept = dict(self._buffers)
        super()._apply(fn)
        for name, before in kept.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(device=after.device)
        return self

    def __deepcopy__(self, memo: dict) -> MBENode:
        # the host's MemoryModule holds no state of ours; a plain copy of the module's dictionary is enough
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        state: Any = self.__getstate__()
        copied.__dict__.update(copy.deepcopy(state, memo))
        return copied

    def extra_repr(self) -> str:
        """T, N, reduction: what print(module) shows."""
        return (
            f"T={self.time_steps}, N={self.bases}, per_element={self.bases_per_element}, "
            f"reduction={self.reduction.name}, simulate={self.simulate}, step_mode={self.step_mode}, "
            f"backend={self.backend}"
        )


def _differentiable(work: Tensor) -> bool:
    return torch.is_grad_enabled() and work.requires_grad


def _traceable(fire: steps.Fire) -> steps.Fire:
    """The same spikes and gradient without an autograd.Function, which dynamo cannot trace with a symbolic slope."""
    parameters = getattr(fire, "_sg_params", None)
    if parameters is None and isinstance(fire, surrogate.Sigmoid | surrogate.ATan):
        parameters = {
            "alpha": fire.alpha
        }  # SpikingJelly 0.0.0.0.14 keeps no dictionary, and not every primitive is finite
    if parameters is None or not getattr(fire, "spiking", False):
        return fire

    def smooth(v: Tensor) -> Tensor:
        primitive = type(fire).primitive_function(v, **parameters)  # type: ignore[attr-defined]  # the host's
        return steps.heaviside(v) + (primitive - primitive.detach())

    return smooth


def _silence(y: Tensor, active: Tensor | None) -> Tensor:
    return y if active is None else torch.where(active, y, torch.zeros_like(y))


def _identity_bits(tables: Tables) -> int | None:
    """Mantissa bits that an identity of 2^s equal segments of [0.5, 1) keeps, None for other tables.

    None too where float32 has no room for the half step behind those bits: the tables lack it then.
    """
    if not (tables.halving and tables.mirrored and tables.bases_per_bank == 1):
        return None
    segments = tables.banks // 2
    kept_bits = tables.time_steps + segments.bit_length() - 1
    if segments & (segments - 1) or kept_bits >= FLOAT32_MANTISSA_BITS:
        return None
    width = torch.full((segments,), 0.5 / segments)
    left = 0.5 + width * torch.arange(segments)
    half_step = width * 2.0 ** -(tables.time_steps + 1)
    want = {"offset": left, "gain": 1 / width, "weight": width, "bias": left + half_step}
    same = all(torch.equal(getattr(tables, name), torch.cat([v, -v])) for name, v in want.items())
    return kept_bits if same and torch.equal(tables.breakpoints, left[1:]) else None


def _check_floating(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"an MBE neuron takes a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"an MBE neuron takes a floating tensor, got {x.dtype}; convert it with .float() first"
        )


__all__ = ["GRADIENTS", "SIMULATIONS", "Backend", "Gradient", "MBENode", "Simulation"]
