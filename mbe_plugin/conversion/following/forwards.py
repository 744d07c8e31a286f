"""The forwards that are no plain function: static, class and partial methods, callable objects, an instance's own.

Python finds a forward on the class or on the instance, and binds it in one of several ways. Here each becomes
a function that takes the module first, so that the routed class can make a frame of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from types import MethodType
from typing import Any

from torch import nn

from mbe_plugin.conversion.following.entry import run_frame
from mbe_plugin.conversion.following.frames import SLOT
from mbe_plugin.errors import ConversionError

# under this name a routed class keeps its parent's forward, so that Python binds it as it always does
FORWARD = "_mbe_forward"


def forward_of(original: type[nn.Module]) -> Any:
    """What the class has as its forward, unbound: a function most often."""
    return next(vars(cls)["forward"] for cls in original.__mro__ if "forward" in vars(cls))


def as_method(original: type[nn.Module]) -> Callable:
    """A function that takes a module of the routed class first, and calls its parent's forward, bound by Python."""

    def forward(self: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, FORWARD)(*args, **kwargs)

    forward.__doc__ = forward_of(original).__doc__
    with suppress(AttributeError, KeyError, TypeError, ValueError):  # a signature that only an instance knows
        shown = inspect.signature(object.__new__(original).forward)
        module = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        parameters = [module, *shown.parameters.values()]
        forward.__signature__ = shown.replace(parameters=parameters)  # type: ignore[attr-defined]  # any function's
    return forward


def routed_forward(module: nn.Module, own: Callable) -> Callable:
    """An instance's own forward as a frame of its module; it can be copied and pickled if ``own`` can."""
    names: tuple[str, ...] = ()
    with suppress(TypeError, ValueError):  # a builtin, say, without a signature
        names = tuple(inspect.signature(own).parameters)
    run = _run_suspended if suspends(own) else _run_own
    return wraps(own, updated=())(partial(run, module, _picklable(own), names))


def _picklable(own: Callable) -> Callable:
    """own; a method that was bound by hand as a partial function, since pickle asks for methods by their name."""
    if isinstance(own, MethodType) and getattr(type(own.__self__), name_of(own), None) is not own.__func__:
        return partial(own.__func__, own.__self__)
    return own


def name_of(function: Callable) -> str:
    """Its name, or nothing for a callable object."""
    return getattr(function, "__name__", "")


def unrouted_forward(forward: Callable) -> Callable:
    """The instance's own forward of which routed_forward made this, if it did."""
    if isinstance(forward, partial) and forward.func in (_run_own, _run_suspended):
        return forward.args[1]
    return forward


def _run_own(module: nn.Module, own: Callable, names: tuple[str, ...], /, *args: Any, **kwargs: Any) -> Any:
    def call(_: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    return run_frame(module, "forward", names, call, args, kwargs)


def _run_suspended(module: nn.Module, own: Callable, _: tuple, /, *args: Any, **kwargs: Any) -> Any:
    refuse_suspended(module, "forward")
    return own(*args, **kwargs)


def suspends(function: Callable) -> bool:
    """Whether it is a generator or coroutine, whose body runs after the call has ended: nothing would be routed."""
    kinds = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    body = getattr(function, "__func__", function)  # of a static method, say
    return any(kind(body) for kind in kinds)


def refuse_suspended(module: nn.Module, name: str) -> None:
    """ConversionError for such a method that is called outside every forward."""
    if SLOT.mode is None:
        path = module._mbe_sites.path or "(root)"  # type: ignore[union-attr]  # set by install
        raise ConversionError(
            f"{path}.{name} is a generator or coroutine, in which nothing is routed; "
            "call it from a method that calibration runs, or call the modules that it uses"
        )
