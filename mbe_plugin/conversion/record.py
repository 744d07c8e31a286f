"""Recording: one forward per calibration batch, watched; the result is plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

from mbe_plugin.conversion.batches import as_call, device_of
from mbe_plugin.conversion.following.comparison import (
    is_same_network,
    outputs_of,
    relative_difference,
    seeded,
)
from mbe_plugin.conversion.following.frames import ModuleSites, inside_operator, watched_by
from mbe_plugin.conversion.following.origins import Origins, perturbed_run
from mbe_plugin.conversion.following.routed import unrouted
from mbe_plugin.conversion.progress import Progress
from mbe_plugin.conversion.recorder import Recorder, Scout
from mbe_plugin.conversion.sites import Calibration
from mbe_plugin.conversion.vocabulary.probe import find_units
from mbe_plugin.conversion.vocabulary.units import UnitSpec
from mbe_plugin.errors import CalibrationError, ConversionError, MBEError
from mbe_plugin.operators.observer import spread

OUTPUTS_COMPARED = 1 << 20
STAGE = "calibrating, batches"


def record(
    model: nn.Module,
    modules: dict[str, ModuleSites],
    batches: Iterable[Any],
    tell: Progress,
    centers: bool = True,
) -> Calibration:
    """Run ``batches`` through ``model`` (routed, in eval mode) and return what its sites saw.

    centers: whether each channel's distribution is kept, 256 rows of every layer's input, which centers are made of.
    Raises CalibrationError for no batches, a batch that the model refuses, and values that are not finite.
    """
    _check_batches(batches)
    recorder = Recorder(Origins(), centers)
    first: tuple[tuple, dict] | None = None
    count = 0
    total = len(batches) if isinstance(batches, Sized) else None
    tell(STAGE, 0, total)
    for batch in batches:
        args, kwargs = as_call(batch, model)
        if first is None:
            first = (args, kwargs)
            recorder = _first_batch(model, modules, args, kwargs, centers)
        else:
            _run(recorder, model, count, args, kwargs)
        count += 1
        tell(STAGE, count, total)
    if first is None:
        raise CalibrationError("no calibration data: the iterable gave no batch; pass at least one")
    return recorder.finish(count, first, model)


def _first_batch(
    model: nn.Module, modules: dict[str, ModuleSites], args: tuple, kwargs: dict, centers: bool
) -> Recorder:
    """The recorder that has seen the first batch, which also tells units, origins, and whether routing changes it."""
    wanted = _find_units(model, modules, args, kwargs)
    recorder = Recorder(Origins(), centers)
    out = _run(recorder, model, 0, args, kwargs)
    _check_routing(model, _part_of(out), wanted, args, kwargs)
    del out
    origins = recorder.origins
    if origins.seen:
        # boldly on the CPU alone: a GPU dies of a wrong index
        for bold in (False, True) if device_of(model).type == "cpu" else (False,):
            perturbed_run(lambda a, k: _run(Scout(origins), model, 0, a, k), args, kwargs, bold)
    if any(origins.begun.values()):
        origins.met.clear()  # what lies behind them is no question any more
        recorder = Recorder(origins, centers)
        _run(recorder, model, 0, args, kwargs)
    return recorder


def _run(mode: Scout, model: nn.Module, index: int, args: tuple, kwargs: dict) -> Any:
    """One forward under ``mode``, with the random numbers of calibration batch ``index``."""
    if isinstance(mode, Recorder):
        mode.start()
    with seeded(device_of(model), index), watched_by(mode):
        return _forward(model, index, args, kwargs)


def _check_batches(batches: Any) -> None:
    """One batch in place of several would be read row by row, or key by key."""
    iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    if not iterable or isinstance(batches, (Tensor, Mapping, str)):
        raise CalibrationError(
            "calibration must be an iterable of batches, such as [batch] or a DataLoader, or calibrate()'s result; "
            f"got {type(batches).__name__}"
        )


def _as_it_was(model: nn.Module, args: tuple, kwargs: dict) -> list[Tensor]:
    """The outputs of the first batch without any routing."""
    # any mode keeps torch's fused fast paths away, which skip submodules
    with unrouted(model), BaseTorchFunctionMode(), seeded(device_of(model)):
        return _part_of(_forward(model, 0, args, kwargs))


def _part_of(out: Any) -> list[Tensor]:
    """Of every output at most a million values, so that large ones need not be held while recording goes on."""
    return [spread(tensor, None, OUTPUTS_COMPARED).clone() for tensor in outputs_of(out)]


def _find_units(model: nn.Module, modules: dict[str, ModuleSites], args: tuple, kwargs: dict) -> list[Tensor]:
    """Tell the modules that are one operator; returns the outputs of the forward that this took."""
    outputs: list[Tensor] = []
    found: dict[str, UnitSpec] = inside_operator(
        lambda: find_units(model, lambda: outputs.extend(_as_it_was(model, args, kwargs)))
    )
    for path, spec in found.items():
        modules[path].unit = spec
    return outputs


def _check_routing(
    model: nn.Module, routed: list[Tensor], wanted: list[Tensor], args: tuple, kwargs: dict
) -> None:
    """ConversionError if the routed network, with every operator exact, is not the one that was passed.

    A module's code that looks at its own class or children could take another way once it is routed.
    """
    if is_same_network(routed, wanted):
        return
    if not is_same_network(_as_it_was(model, args, kwargs), wanted):
        return  # a model with a memory, or a batch that it writes into: nothing can be said
    raise ConversionError(
        f"{type(model).__name__} computes something else once its modules are routed: with every operator exact its "
        f"output differs by {relative_difference(routed, wanted):.1e} on calibration batch 0; does its "
        "code compare types with `is`, or count its modules? Please report the model"
    )


def _forward(model: nn.Module, index: int, args: tuple, kwargs: dict) -> Any:
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except MBEError:
        raise
    except Exception as refused:
        as_keywords = isinstance(refused, TypeError) and not args
        hint = (
            " (a mapping is passed as keyword arguments; for a model that takes the mapping itself give "
            "((mapping,), {}) as a batch)"
        )
        raise CalibrationError(
            f"the model refused calibration batch {index}: {type(refused).__name__}: {refused}{hint if as_keywords else ''}"
        ) from refused
