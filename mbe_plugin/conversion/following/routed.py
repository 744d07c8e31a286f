"""Modules that route their sites wherever the caller enters: a subclass of each module's own class.

``isinstance`` and the forward's signature stay as they were; only the methods that the model's authors wrote are
wrapped. Copies, pickles and calls from other threads keep the routing, since it lives in the class and in
the module's own dictionary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import FunctionType, MethodType
from typing import Any

from spikingjelly.activation_based import base
from torch import nn

from mbe_plugin.conversion.following.entry import run_frame
from mbe_plugin.conversion.following.forwards import (
    FORWARD,
    as_method,
    forward_of,
    name_of,
    refuse_suspended,
    routed_forward,
    suspends,
    unrouted_forward,
)
from mbe_plugin.conversion.following.frames import SLOT, ModuleSites, inside_operator
from mbe_plugin.conversion.following.step_mode import step_members
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

_classes: dict[tuple[type, bool], type] = {}  # by original class, and whether it is a root's


def routed_class(original: type[nn.Module], *, root: bool = False) -> type[nn.Module]:
    """The routed subclass of a module class, made once per class; that of a network's root is a step module too."""
    if (original, root) not in _classes:
        members: dict[str, Any] = {
            name: _routed(name, method) for name, method in _own_methods(original).items()
        }
        forward = forward_of(original)
        if not isinstance(forward, FunctionType):
            members["forward"] = _routed("forward", as_method(original), forward)
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
        members |= step_members(original, root=root)
        bases = (original, base.StepModule) if root else (original,)
        metaclass: Any = type(original)
        made = _classes[original, root] = metaclass(original.__name__, bases, members)
        setattr(made, FORWARD, forward)  # afterwards, so that no __set_name__ is called
    return _classes[original, root]


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module had before routing."""
    return getattr(type(module), "_mbe_original", type(module))


def install(model: nn.Module) -> dict[str, ModuleSites]:
    """Give every module of ``model`` its routed class and its (still empty) sites; by path."""
    if CONTAINER in dict(model.named_children()) or hasattr(model, CONTAINER):
        raise ConversionError(
            f"the model has an attribute {CONTAINER!r} already, the place of the operators; is it converted?"
        )
    modules = dict(model.named_modules())
    _become({module: routed_class(type(module), root=module is model) for module in modules.values()})
    found = {path: ModuleSites(path) for path in modules}
    for path, module in modules.items():
        module.__dict__["_mbe_sites"] = found[path]
    return found


@contextmanager
def unrouted(model: nn.Module) -> Iterator[None]:
    """Every module has its own class again, as if it had never been routed, while this lasts."""
    classes = {module: type(module) for module in model.modules()}
    _become({module: original_class(module) for module in classes})
    try:
        yield
    finally:
        _become(classes)


def _become(classes: Mapping[nn.Module, type[nn.Module]]) -> None:
    """Change the classes of modules, and with them the forwards that some have beside their class's."""
    for module, cls in classes.items():
        module.__class__ = cls
    for module, cls in classes.items():
        if "forward" in vars(module):
            own = _of_its_class(unrouted_forward(vars(module)["forward"]))
            routed = "_mbe_original" in vars(cls) and not _chosen(module, own)
            module.__dict__["forward"] = routed_forward(module, own) if routed else own


def _chosen(module: nn.Module, own: Callable) -> bool:
    """Whether it is a public method of the module itself, which is routed already, under its own name."""
    if not isinstance(own, MethodType) or own.__self__ is not module:
        return False
    return own.__func__ is vars(type(module)).get(name_of(own))


def _of_its_class(own: Callable) -> Callable:
    """A forward of an instance; if it is a public method of a module, that of the class which the module has now."""
    if not isinstance(own, MethodType) or not isinstance(own.__self__, nn.Module):
        return own
    original = original_class(own.__self__)
    routed = (vars(_classes.get((original, root), object)) for root in (False, True))
    is_public = own.__func__ in [methods.get(name_of(own)) for methods in (_own_methods(original), *routed)]
    return getattr(own.__self__, name_of(own)) if is_public else own


def _own_methods(original: type) -> dict[str, FunctionType]:
    """Public methods written by the model's authors, nearest class first, and always a forward that is a function.

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


def _routed(name: str, method: Callable, body: Callable | None = None) -> Callable:
    """The method as a frame; body is the function that runs in it, if that is another."""
    if suspends(body or method):
        return _suspended(name, method)
    names = tuple(inspect.signature(method).parameters)[1:]

    @wraps(method)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return run_frame(self, name, names, method, args, kwargs)

    return wrapper


def _suspended(name: str, method: Callable) -> Callable:
    @wraps(method)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        refuse_suspended(self, name)
        return method(self, *args, **kwargs)

    return wrapper


def _reduce_ex(self: nn.Module, protocol: int) -> tuple:
    """Pickle and copy by the original class, which can be imported; the routed one is made again."""
    original = original_class(self)
    root = type(self) is routed_class(original, root=True)
    return (_blank, (original, root), *original.__reduce_ex__(self, protocol)[2:])


def _save_pretrained(self: nn.Module, save_directory: str, **kwargs: Any) -> Any:
    """Write the original architecture's configuration and untouched weights, and the operators beside them.

    ``mbe_plugin.load(save_directory)`` gives this network back, bit for bit;
    ``AutoModel.from_pretrained(save_directory)`` gives the ANN.
    """
    weights = {k: v for k, v in self.state_dict().items() if not k.startswith(f"{CONTAINER}.")}
    original = original_class(self).save_pretrained  # type: ignore[attr-defined]  # there, see routed_class
    # the model's own methods take part in it, and none of them as a forward
    out = inside_operator(lambda: original(self, save_directory, **{"state_dict": weights, **kwargs}))
    save = vars(self).get(SAVER)
    if save is not None:
        save(self, save_directory)
    return out


def _blank(original: type[nn.Module], root: bool = False) -> nn.Module:
    cls = routed_class(original, root=root)
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
