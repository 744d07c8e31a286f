"""Calibration batches, in the forms that SpikingJelly's recipes take."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.errors import CalibrationError


def as_call(batch: Any, model: nn.Module) -> tuple[tuple, dict[str, Any]]:
    """(args, kwargs) of a batch, on the model's device.

    A mapping gives keyword arguments; a tensor is the only argument; ((args...), {kwargs}) is taken apart;
    any other tuple or list is (inputs, label), of which the inputs are used.
    """
    device = device_of(model)
    if isinstance(batch, Mapping):
        return (), {k: _moved(v, device) for k, v in batch.items()}
    if isinstance(batch, Tensor):
        return (_moved(batch, device),), {}
    if isinstance(batch, (tuple, list)) and batch:
        if len(batch) == 2 and isinstance(batch[0], (tuple, list)) and isinstance(batch[1], Mapping):
            args, kwargs = batch
            return tuple(_moved(a, device) for a in args), {k: _moved(v, device) for k, v in kwargs.items()}
        return as_call(batch[0], model)
    raise CalibrationError(
        f"a calibration batch must be a dict, a tensor, (inputs, label) or ((args...), {{kwargs}}); got "
        f"{type(batch).__name__}"
    )


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter or buffer; the CPU for a model without any."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(v, device) for v in value)
    if isinstance(value, Mapping):
        return {k: _moved(v, device) for k, v in value.items()}
    return value
