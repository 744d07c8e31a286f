"""SpikingJelly 2.0's workflow: a recipe for ann2snn.ModuleConverter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spikingjelly.activation_based import ann2snn
from torch import nn

from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion import Calibration, convert

try:
    from spikingjelly.activation_based.ann2snn import ModuleConversionRecipe
except ImportError as missing:  # SpikingJelly 0.0.0.0.14 has no recipes
    raise ImportError(
        "mbe_plugin.MBERecipe needs SpikingJelly 2.0's ann2snn recipes; install it with: pip install "
        "'spikingjelly>=2.0', or call mbe_plugin.convert directly"
    ) from missing


class MBERecipe(ModuleConversionRecipe):
    """convert() as a recipe: ``ann2snn.ModuleConverter(MBERecipe(calibration, config)).convert(model)``.

    calibration and config are convert()'s; the errors too.
    """

    def __init__(self, calibration: Calibration | Iterable[Any], config: MBEConfig | None = None) -> None:
        super().__init__()
        self.calibration, self.config = calibration, config or MBEConfig()

    def convert_module(self, converter: ann2snn.ModuleConverter, ann: nn.Module) -> nn.Module:
        """The spiking network; the host moves it to its device."""
        return convert(ann, self.calibration, self.config)
