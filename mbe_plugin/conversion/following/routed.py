"""Modules that route their sites wherever the caller enters: a subclass of each module's own class.

``isinstance`` and the forward's signature stay as they were; only the methods that the model's authors wrote are
wrapped. Copies, pickles and calls from other threads keep the routing, since it lives in the class and in
the module's own dictionary.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from mbe_plugin.conversion.following.frames import SLOT, ModuleSites, run_frame
from mbe_plugin.errors import ConversionError

CONTAINER = "mbe"
SAVER = "_mbe_save"  # the root's attribute that holds what writes a converted network to a folder

# base classes whose methods are not the network's: saving, loading, text generation around the forward
_FOREIGN = (
    "torch.",
    "transformers.modeling_utils",
    "transformers.generation",
    "transformers.utils",
    "transformers.integrations",
    "huggingface_hub.",
    "spikingjelly.",
    "builtins",
)

_classes: dict[type, type] = {}


def routed_class(original: type[nn.Module]) -> type[nn.Module]:
    """The routed subclass of a module class; made once per class."""
    if original not in _classes:
        members: dict[str, Any] = {
            name: _routed(name, method) for name, method in _own_methods(original).items()
        }
        members["__reduce_ex__"] = _reduce_ex
        members["_mbe_original"] = original
        if hasattr(original, "save_pretrained"):
            members["save_pretrained"] = _save_pretrained
        members["named_children"] = _named_children
        if issubclass(original, (nn.Sequential, nn.ModuleList)):
            members |= {"__iter__": _iterate, "__len__": _length, "__getitem__": _item}
        if issubclass(original, nn.ModuleDict):
            members |= {
                "__iter__": _names,
                "__len__": _length,
                "keys": _keys,
                "values": _values,
                "items": _items,
            }
        members["__module__"], members["__qualname__"] = original.__module__, original.__qualname__
        members["__doc__"] = original.__doc__
        metaclass: Any = type(original)
        _classes[original] = metaclass(original.__name__, (original,), members)
    return _classes[original]


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module had before routing."""
    return getattr(type(module), "_mbe_original", type(module))


def install(model: nn.Module) -> dict[str, ModuleSites]:
    """Give every module of ``model`` its routed class and its (still empty) sites; by path."""
    if CONTAINER in dict(model.named_children()) or hasattr(model, CONTAINER):
        raise ConversionError(
            f"the model has an attribute {CONTAINER!r} already, the place of the operators; is it converted?"
        )
    found: dict[str, ModuleSites] = {}
    for path, module in model.named_modules():
        refuse_foreign_modules(path, module)
        _become(module, routed_class(type(module)))
        found[path] = ModuleSites(path)
        module.__dict__["_mbe_sites"] = found[path]
    return found


@contextmanager
def unrouted(model: nn.Module) -> Iterator[None]:
    """Every module has its own class again, as if it had never been routed, while this lasts."""
    routed = [(module, type(module)) for module in model.modules()]
    for module, _ in routed:
        _become(module, original_class(module))
    try:
        yield
    finally:
        for module, cls in routed:
            _become(module, cls)


def _become(module: nn.Module, cls: type[nn.Module]) -> None:
    """Change the class of a module, and with it the method that it has chosen as its forward, if it has."""
    module.__class__ = cls
    if "forward" in vars(module):
        module.__dict__["forward"] = getattr(module, vars(module)["forward"].__name__)


def _chooses_forward(module: nn.Module) -> bool:
    """Whether the module's own forward is one of its public methods: ``self.forward = self.forward_slicing``."""
    chosen = vars(module)["forward"]
    return (
        isinstance(chosen, MethodType)
        and chosen.__self__ is module
        and chosen.__func__ is _own_methods(type(module)).get(chosen.__name__)
    )


def refuse_foreign_modules(path: str, module: nn.Module) -> None:
    """ConversionError for modules that run code which no Python-level instrument can follow."""
    place, kind = path or "the model", type(module).__name__
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise ConversionError(
            f"{place} is a scripted or traced module; convert the Python model it came from"
        )
    if kind == "OptimizedModule":
        raise ConversionError(f"{place} is compiled; convert model._orig_mod and compile the result")
    if kind in _WRAPPERS:
        raise ConversionError(f"{place} is wrapped in {kind}; convert its .module and wrap the result")
    if type(module).__module__.startswith(_QUANTISED):
        raise ConversionError(
            f"{place} is a {kind} of {type(module).__module__}: quantised weights run kernels of their own; load the "
            "model in float32, float16 or bfloat16"
        )
    attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if attention in _ATTENTION_KERNELS:
        raise ConversionError(
            f"{place} uses {attention}, a kernel of its own; call model.set_attn_implementation('sdpa') first"
        )
    if "forward" in vars(module) and not _chooses_forward(module):
        raise ConversionError(
            f"{place} has a forward of its own beside its class's, which nothing could route when it is called "
            "directly; convert before such a wrapper is put on (accelerate's dispatch, say), or put it into a class"
        )


_WRAPPERS = ("FullyShardedDataParallel", "DistributedDataParallel", "DataParallel")
_QUANTISED = ("bitsandbytes.", "torchao.", "torch.ao.nn", "auto_gptq.", "awq.")
_ATTENTION_KERNELS = ("flash_attention_2", "flash_attention_3", "flex_attention")


def _own_methods(original: type) -> dict[str, FunctionType]:
    """Public methods written by the model's authors, nearest class first, and always forward.

    Text generation is a loop around the forward: its sampling softmax is no part of the network.
    """
    found: dict[str, FunctionType] = {}
    for cls in original.__mro__:
        foreign = (cls.__module__ + ".").startswith(_FOREIGN) or "Generation" in cls.__name__[-16:]
        for name, member in vars(cls).items():
            wanted = name == "forward" or not (foreign or name.startswith(("_", "generate")))
            if wanted and name not in found and isinstance(member, FunctionType):
                found[name] = member
    return found


def _routed(name: str, method: Callable) -> Callable:
    names = tuple(inspect.signature(method).parameters)[1:]
    if (
        inspect.isgeneratorfunction(method)
        or inspect.iscoroutinefunction(method)
        or inspect.isasyncgenfunction(method)
    ):
        return _suspended(name, method)

    @functools.wraps(method)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return run_frame(self, name, names, method, args, kwargs)

    return wrapper


def _suspended(name: str, method: Callable) -> Callable:
    """A generator or coroutine: its body runs after the call has ended, where nothing would be routed."""

    @functools.wraps(method)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if SLOT.mode is None:
            path = self._mbe_sites.path or "(root)"  # type: ignore[union-attr]  # set by install
            raise ConversionError(
                f"{path}.{name} is a generator or coroutine, in which nothing is routed; "
                "call it from a method that calibration runs, or call the modules that it uses"
            )
        return method(self, *args, **kwargs)

    return wrapper


def _reduce_ex(self: nn.Module, protocol: int) -> tuple:
    """Pickle and copy by the original class, which can be imported; the routed one is made again."""
    rest = super(type(self), self).__reduce_ex__(protocol)[2:]
    return (_blank, (original_class(self),), *rest)


def _save_pretrained(self: nn.Module, save_directory: str, **kwargs: Any) -> Any:
    """Write the original architecture's configuration and untouched weights, and the operators beside them.

    ``mbe_plugin.load(save_directory)`` gives this network back, bit for bit;
    ``AutoModel.from_pretrained(save_directory)`` gives the ANN.
    """
    weights = {k: v for k, v in self.state_dict().items() if not k.startswith(f"{CONTAINER}.")}
    original = original_class(self).save_pretrained  # type: ignore[attr-defined]  # there, see routed_class
    out = original(self, save_directory, **{"state_dict": weights, **kwargs})
    save = vars(self).get(SAVER)
    if save is not None:
        save(self, save_directory)
    return out


def _blank(original: type[nn.Module]) -> nn.Module:
    cls = routed_class(original)
    return cls.__new__(cls)


def _named_children(self: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All children; to the model's own code, while its forward runs, only its own."""
    own = SLOT.mode is not None
    children = original_class(self).named_children(self)
    return ((name, child) for name, child in children if not (own and name == CONTAINER))


def _own(self: nn.Module) -> dict[str, nn.Module | None]:
    return {name: m for name, m in self._modules.items() if name != CONTAINER}


def _visible(self: nn.Module) -> list[nn.Module | None]:
    return list(_own(self).values())


def _iterate(self: nn.Module) -> Iterator[nn.Module | None]:
    return iter(_visible(self))


def _names(self: nn.Module) -> Iterator[str]:
    return iter(_own(self))


def _keys(self: nn.Module) -> Any:
    return _own(self).keys()


def _values(self: nn.Module) -> Any:
    return _own(self).values()


def _items(self: nn.Module) -> Any:
    return _own(self).items()


def _length(self: nn.Module) -> int:
    return len(_visible(self))


def _item(self: nn.Module, index: int | slice) -> Any:
    chosen: Any = _visible(self)[index]
    if not isinstance(chosen, list):
        return chosen
    original = original_class(self)
    return original(*chosen) if issubclass(original, nn.Sequential) else original(chosen)
