"""SpikingJelly 0.0.0.0.14's workflow: a converter that is called with a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from spikingjelly.activation_based import ann2snn
from torch import nn

from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion import Calibration, convert
from mbe_plugin.conversion.network import copy_of
from mbe_plugin.hosts.features import has_dataloader_converter

if not has_dataloader_converter():
    raise ImportError(
        "mbe_plugin.MBEConverter needs SpikingJelly 0.0.0.0.14's ann2snn.Converter(dataloader), which the installed "
        "SpikingJelly does not have; use ann2snn.ModuleConverter(mbe_plugin.MBERecipe(dataloader, config)).convert(model) "
        "or mbe_plugin.convert(model, dataloader, config)"
    )

# the host's arguments that mean nothing here: their default, and what to use instead of another value
MEANINGLESS: dict[str, tuple[Any, str]] = {
    "mode": ("Max", "how far beyond the recorded range a neuron reaches is MBEConfig(margin=...)"),
    "momentum": (0.1, "every batch counts alike: choose the batches of the dataloader"),
    "fuse_flag": (True, "nothing is fused here, a batch norm stays the model's own layer: leave it out"),
}


class MBEConverter(ann2snn.Converter):
    """convert() as the host's converter: ``MBEConverter(dataloader)(model)``.

    dataloader: the host's (images, labels), or any calibration batches that convert() takes. device: where to calibrate
    and to convert to, the model's if None. config: MBEConfig(). The host's other arguments have no meaning here and may
    only have their defaults.

    Calling it draws the progress and returns the spiking network, of the model's own class, on the device; the model
    stays as it is. Raises ValueError for another value of mode, momentum or fuse_flag, TypeError for a config that is
    none, and convert()'s errors.
    """

    def __init__(
        self,
        dataloader: Calibration | Iterable[Any],
        device: torch.device | str | None = None,
        config: MBEConfig | None = None,
        *,
        mode: str | float = "Max",
        momentum: float = 0.1,
        fuse_flag: bool = True,
    ) -> None:
        for name, value in (("mode", mode), ("momentum", momentum), ("fuse_flag", fuse_flag)):
            _refuse_other_than_default(name, value)
        if not isinstance(config, MBEConfig | None):
            raise TypeError(
                f"MBEConverter's third argument is an MBEConfig (the host's is its mode), got {config!r}"
            )
        super().__init__(dataloader, device)
        self.config = config or MBEConfig()

    def forward(self, ann: nn.Module) -> nn.Module:
        """The spiking network."""
        if self.device is None:
            return convert(ann, self.dataloader, self.config, progress=True)
        there = copy_of(ann).to(self.device)
        return convert(there, self.dataloader, self.config, copy=False, progress=True)


def _refuse_other_than_default(name: str, value: Any) -> None:
    default, instead = MEANINGLESS[name]
    same = value.lower() == default.lower() if isinstance(value, str) else value == default
    if not same:
        raise ValueError(f"MBEConverter has no use for {name}={value!r} of the host's Converter; {instead}")
