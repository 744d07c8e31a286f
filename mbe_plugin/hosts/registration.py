"""MBENode and the converter within SpikingJelly's own modules, for as long as a program wants them there."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import mbe_plugin
from mbe_plugin.errors import RegistrationError
from mbe_plugin.hosts.features import CONVERSION, NEURONS, has_dataloader_converter

_ABSENT = object()
Place = tuple[ModuleType, str, Any]  # host module, name, what stands there


class Registration:
    """What one call of register() added; as a context it takes that away again at its end."""

    def __init__(self, added: list[Place]) -> None:
        self._added = added

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *error: object) -> None:
        _remove(self._added)


def register() -> Registration:
    """Make MBENode available in SpikingJelly's ``neuron``, MBERecipe or MBEConverter in its ``ann2snn``, by attribute.

    Which of the two depends on what the host has. Once is enough, and again does nothing: ``with register():`` within
    another takes nothing away. ``__all__`` stays as it is. Raises RegistrationError if a place holds something else;
    then nothing was changed. Undone by unregister().
    """
    wanted = _places()
    missing = [place for place in wanted if _found(place) is not place[2]]
    for place in missing:
        if _found(place) is not _ABSENT:
            module, name, _ = place
            raise RegistrationError(
                f"{module.__name__}.{name} is there already and not ours ({_found(place)!r}), so nothing was registered; "
                f"delete it, or use mbe_plugin.{name} as it is"
            )
    for module, name, value in missing:
        setattr(module, name, value)
    return Registration(missing)


def unregister() -> None:
    """Take away all that register() added; without a register() it does nothing."""
    _remove(_places())


def _places() -> list[Place]:
    converter = "MBEConverter" if has_dataloader_converter() else "MBERecipe"
    return [
        (importlib.import_module(module), name, getattr(mbe_plugin, name))
        for module, name in ((NEURONS, "MBENode"), (CONVERSION, converter))
    ]


def _found(place: Place) -> Any:
    module, name, _ = place
    return vars(module).get(name, _ABSENT)


def _remove(places: list[Place]) -> None:
    for place in places:
        module, name, value = place
        if _found(place) is value:
            delattr(module, name)
