"""Entering a forward: the outermost frame begins, marks its inputs, runs under a mode, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from mbe_plugin.conversion.following.by_events import ByEvents, NotCompiled
from mbe_plugin.conversion.following.events import Following, counts_now
from mbe_plugin.conversion.following.frames import SLOT, Frame, ModuleSites
from mbe_plugin.conversion.following.sequences import steps_over
from mbe_plugin.conversion.following.stepping import run_in_steps
from mbe_plugin.conversion.following.walk import Router, WatchedForward
from mbe_plugin.conversion.marks import (
    ACTIVATION,
    enter_as,
    entered,
    holds_numbers,
    tensors_of,
)
from mbe_plugin.errors import ConversionError
from mbe_plugin.operators import Memo
from mbe_plugin.recording import open_ledgers


class Invocation(NamedTuple):
    """A call of a module's routed method: what a frame runs. names: the method's parameters."""

    module: nn.Module
    method: str
    names: tuple[str, ...]
    call: Callable
    args: tuple
    kwargs: dict

    @property
    def sites(self) -> ModuleSites:
        """Of the module."""
        return self.module._mbe_sites  # type: ignore[return-value]  # set by routed.py


def run_frame(
    module: nn.Module, method: str, names: tuple[str, ...], call: Callable, args: tuple, kwargs: dict
) -> Any:
    """Run call(module, *args, **kwargs) as a frame, under a new Router when it is the outermost one."""
    if SLOT.inside_operator:
        return call(module, *args, **kwargs)
    mode = SLOT.mode
    if mode is not None:
        return _framed(mode, module, method, names, call, args, kwargs)
    invocation = Invocation(module, method, names, call, args, kwargs)
    sites = invocation.sites
    if torch.compiler.is_compiling() and not hasattr(torch._dynamo, "error_on_graph_break"):
        torch.compiler.disable(_refuse_compiling)(sites)  # when it runs: an error in a trace is a graph break
    if SLOT.next_mode is not None:  # an instrument, which watches one plain forward
        return _enter(SLOT.next_mode, invocation)
    if sites.time_steps is not None and module.step_mode == "m" and steps_over(method, args, kwargs):
        return _in_steps(sites.time_steps, invocation)
    return _enter(_router(sites), invocation)


def _router(sites: ModuleSites) -> Router:
    """A router; where somebody counts, one that follows events, and where they are run, one that runs them."""
    if torch.compiler.is_compiling():
        return NotCompiled() if sites.by_events else Router()
    if not open_ledgers() and not sites.by_events:
        return Router()
    if not counts_now():
        return Router()
    return ByEvents() if sites.by_events else Following()


def _in_steps(time_steps: int, invocation: Invocation) -> Any:
    """Run the outermost frame in step mode 'm', which a compiler leaves as it is: a break of its graph."""

    def run(args: tuple, kwargs: dict) -> Any:
        return _enter(_router(invocation.sites), invocation._replace(args=args, kwargs=kwargs))

    in_steps = torch.compiler.disable(run_in_steps) if torch.compiler.is_compiling() else run_in_steps
    module, _, names, _, args, kwargs = invocation
    return in_steps(module, run, names, args, kwargs, time_steps)


def _enter(mode: WatchedForward, invocation: Invocation) -> Any:
    """Run the outermost frame under ``mode``: mark its inputs, switch everything off again afterwards."""
    sites, method = invocation.sites, invocation.method
    if not torch.compiler.is_compiling():
        _refuse_vmap(sites)
    known = [
        (tensor, sites.inputs.get(f"{method}({slot})", ACTIVATION))
        for slot, tensor in slots(invocation.names, invocation.args, invocation.kwargs)
    ]
    SLOT.mode = mode
    try:
        with mode, _entering(known):
            out = _framed(mode, *invocation)
    finally:
        SLOT.mode = None
        mode.memo = Memo()
    mode.leave(out)
    if sites.notice is not None and not torch.compiler.is_compiling():
        sites.notice.check_device()
    return out


def _framed(
    mode: WatchedForward,
    module: nn.Module,
    method: str,
    names: tuple[str, ...],
    call: Callable,
    args: tuple,
    kwargs: dict,
) -> Any:
    sites: ModuleSites = module._mbe_sites  # type: ignore[assignment]  # set by routed.py
    frame = Frame(sites, module, method)
    mode.at_entry(frame, names, args, kwargs)
    mode.frames.append(frame)
    try:
        alone = sites.unit is not None and method == "forward" and len(args) == 1 and not kwargs
        if alone and mode.reaches_unit(frame, args[0]):
            return mode.at_unit(frame, args[0], lambda: call(module, *args))
        return call(module, *args, **kwargs)
    finally:
        mode.frames.pop()


def _entering(known: list[tuple[Tensor, int]]) -> AbstractContextManager[None]:
    """Mark a forward's inputs: in a table of its own or, where a compiler looks on, on the trace's own tensors.

    A graph break inside is an error there: the compiled pieces would run under the walk, which would route them again.
    """
    if not torch.compiler.is_compiling():
        return entered(known)
    for tensor, to in known:
        enter_as(tensor, to)
    return torch._dynamo.error_on_graph_break(True)


def _refuse_compiling(sites: ModuleSites) -> NoReturn:
    """ConversionError where torch cannot be told that a graph break inside is an error: pieces would be routed twice."""
    raise ConversionError(
        f"torch {torch.__version__} cannot compile or export {sites.path or 'the model'}, a converted network: it lacks "
        "torch._dynamo.error_on_graph_break; update torch (2.14 is tested), or call the network as it is"
    )


def _refuse_vmap(sites: ModuleSites) -> None:
    """ConversionError under torch.vmap: neurons look at values, to count those out of range and to choose segments."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    if any(level.key() == torch._C._functorch.TransformType.Vmap for level in levels):
        raise ConversionError(
            f"{sites.path or 'the model'} is called under torch.vmap, where no neuron can look at its values; call it "
            "with the whole batch instead, or in a loop"
        )


def slots(names: tuple[str, ...], args: tuple, kwargs: dict) -> list[tuple[str, Tensor]]:
    """The floating and complex tensors among a call's arguments, by parameter name."""
    found: list[tuple[str, Tensor]] = []
    for index, value in enumerate(args):
        name = names[index] if index < len(names) else str(index)
        found.extend(tensors_of(value, name))
    for name, value in kwargs.items():
        found.extend(tensors_of(value, name))
    return [(slot, tensor) for slot, tensor in found if holds_numbers(tensor)]
