"""SpikingJelly 2.0's workflow: a recipe for ann2snn.ModuleConverter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spikingjelly.activation_based import ann2snn
from torch import nn

from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion import Calibration, convert
from mbe_plugin.hosts.features import has_recipes

if not has_recipes():
    raise ImportError(
        "mbe_plugin.MBERecipe needs SpikingJelly 2.0's ann2snn.ModuleConversionRecipe, which the installed SpikingJelly "
        "does not have; use mbe_plugin.MBEConverter(dataloader, config=config)(model) or mbe_plugin.convert(model, "
        "dataloader, config), or install the other with: pip install 'spikingjelly>=2.0'"
    )


class MBERecipe(ann2snn.ModuleConversionRecipe):
    """convert() as a recipe: ``ann2snn.ModuleConverter(MBERecipe(calibration, config)).convert(model)``.

    calibration and config are convert()'s; the errors too.
    """

    def __init__(self, calibration: Calibration | Iterable[Any], config: MBEConfig | None = None) -> None:
        super().__init__()
        self.calibration, self.config = calibration, config or MBEConfig()

    def convert_module(self, converter: ann2snn.ModuleConverter, ann: nn.Module) -> nn.Module:
        """The spiking network; the host moves it to its device."""
        return convert(ann, self.calibration, self.config)
