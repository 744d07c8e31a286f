"""What the host's ``functional.set_step_mode`` finds in a converted network: a root with a step mode, and nothing else.

Inside, every module runs as it did in calibration. A module of the ANN that is a step module of the host itself keeps
its mode, whatever is set.
"""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based import base
from torch import nn

from mbe_plugin.conversion.following.frames import SLOT

_MODE = "_mbe_step_mode"


def step_members(original: type[nn.Module], *, root: bool) -> dict[str, Any]:
    """The members of a routed class that have to do with step modes."""
    if root:
        modes = base.StepModule.supported_step_mode
        return {"step_mode": _of_root(original), "supported_step_mode": modes}
    return {"step_mode": _kept(original)} if issubclass(original, base.StepModule) else {}


def _of_root(original: type[nn.Module]) -> property:
    """'s' or 'm', how the network is called; to a step module's own code, while it runs, the mode it was converted in."""
    own = _own(original)

    def mode(self: nn.Module) -> str:
        running = SLOT.mode is not None or SLOT.inside_operator
        return own(self) if running else vars(self).get(_MODE, "s")

    def set_mode(self: nn.Module, value: str) -> None:
        modes = base.StepModule.supported_step_mode(self)
        if value not in modes:
            raise ValueError(f"step_mode can only be {modes}, but got {value!r}!")
        self.__dict__[_MODE] = value

    return property(mode, set_mode, doc="How the network is called: one step 's', or sequences [T, ...] 'm'.")


def _kept(original: type[nn.Module]) -> property:
    def stay(self: nn.Module, value: str) -> None:
        """Nothing: a part of a converted network runs as it was converted."""

    return property(_own(original), stay, doc="The mode in which the module was converted.")


def _own(original: type[nn.Module]) -> Any:
    """What reads the step mode of a module of the host; a module of any other kind has one mode."""
    found = getattr(original, "step_mode", None)
    return found.fget if isinstance(found, property) else lambda self: "s"
