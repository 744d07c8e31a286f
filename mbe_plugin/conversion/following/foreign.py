"""What no Python-level instrument can follow: modules, wrappers and forwards that are refused, each in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.errors import ConversionError

_WRAPPERS = ("DistributedDataParallel", "DataParallel")
_SHARDED = {"FullyShardedDataParallel": "FullyShardedDataParallel", "FSDPModule": "fully_shard"}
_QUANTISED = ("bitsandbytes.", "torchao.", "torch.ao.nn", "auto_gptq.", "awq.")
_ATTENTION_KERNELS = ("flash_attention_2", "flash_attention_3", "flex_attention")


def refuse_foreign_modules(model: nn.Module) -> None:
    """ConversionError for a module that runs code which nothing can follow, that is wrapped, or converted already."""
    parts = frozenset(id(part) for part in (*model.modules(), *model.parameters()))
    for path, module in model.named_modules():
        place = path or "the model"
        _refuse_converted(path, module)
        _refuse_kernels(place, module)
        _refuse_wrappers(place, module)
        _refuse_forward(place, module, parts)


def _refuse_converted(path: str, module: nn.Module) -> None:
    if not path and "mbe_conversion" in vars(module):
        raise ConversionError("this model is converted already; convert the ANN it came from")
    if "_mbe_sites" in vars(module):
        raise ConversionError(
            f"{path or 'the model'} is {'a part of ' if 'mbe_conversion' not in vars(module) else ''}a converted network "
            "already; put the ANN that it came from in its place, and convert the whole"
        )


def _refuse_kernels(place: str, module: nn.Module) -> None:
    kind = type(module).__name__
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise ConversionError(
            f"{place} is a scripted or traced module; convert the Python model it came from"
        )
    if kind == "OptimizedModule":
        raise ConversionError(f"{place} is compiled; convert model._orig_mod and compile the result")
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


def _refuse_wrappers(place: str, module: nn.Module) -> None:
    kind = type(module).__name__
    if kind in _WRAPPERS:
        raise ConversionError(f"{place} is wrapped in {kind}; convert its .module and wrap the result")
    by = next((_SHARDED[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in _SHARDED), None)
    if by is not None:
        raise ConversionError(
            f"{place} is sharded by {by}; convert the model before it is sharded, and shard the result"
        )
    part = next((n for n, p in module.named_parameters(recurse=False) if _is_distributed(p)), None)
    if part is not None:
        raise ConversionError(
            f"{place} holds {part} as a DTensor, a part of it per process; convert the model before it is "
            "parallelised, and parallelise the result"
        )
    if "_hf_hook" in vars(module):
        raise ConversionError(
            f"{place} carries an accelerate hook ({type(vars(module)['_hf_hook']).__name__}), which moves weights around "
            "its forward; load the model without device_map (or call accelerate.hooks.remove_hook_from_submodules), "
            "convert it, and dispatch the result"
        )


def _is_distributed(parameter: Tensor) -> bool:
    return any(cls.__name__ == "DTensor" for cls in type(parameter).__mro__)


def _refuse_forward(place: str, module: nn.Module, parts: frozenset[int]) -> None:
    """A forward on the instance can be routed in a copy, unless the copy leads back to the model as it was."""
    held = _held(vars(module).get("forward"), parts)
    if held is not None:
        raise ConversionError(
            f"{place} has a forward of its own, a function that holds {held} of the model (in a closure, a default or "
            "under a global name), so that its copy would still run the model as it was; write it as a method, "
            "module.forward = types.MethodType(new_forward, module), or convert before it is put on"
        )


def _held(own: object, parts: frozenset[int]) -> str | None:
    """What of ``parts`` a deep copy of an instance's forward would still refer to, in words.

    A deep copy follows objects, partial functions and bound methods, but keeps a function, and all that it is tied to.
    """
    waiting, seen = [(own, False)], set()
    while waiting:
        value, tied = waiting.pop()
        if (id(value), tied) in seen or isinstance(value, _PLAIN):
            continue
        seen.add((id(value), tied))
        if isinstance(value, nn.Module):
            if tied and any(id(part) in parts for part in value.modules()):
                return f"the {type(value).__name__}"
        elif isinstance(value, Tensor):
            if tied and id(value) in parts:
                return "a parameter or buffer"
        else:
            tied = tied or isinstance(value, FunctionType)
            waiting.extend((inner, tied) for inner in _contents(value))
    return None


_PLAIN = (str, bytes, int, float, complex, type, ModuleType, NoneType)


def _contents(value: Any) -> Iterator[object]:
    """What a callable, a container or an object refers to, one step down."""
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # a cell that was never filled
                yield cell.cell_contents
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        named = (value.__globals__.get(name) for name in _names(value.__code__))
        yield from (found for found in named if isinstance(found, (nn.Module, Tensor, MethodType, partial)))
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif hasattr(value, "__dict__"):
        yield from (*vars(value).values(), vars(type(value)).get("__call__"))


def _names(code: CodeType) -> Iterator[str]:
    """The global names that code, and the functions written in it, may read."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
