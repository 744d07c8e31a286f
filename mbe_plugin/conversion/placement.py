"""Where operators belong when a converted network is spread over devices: beside the weights of their modules."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mbe_plugin.conversion.following.routed import CONTAINER
from mbe_plugin.conversion.network import Conversion
from mbe_plugin.errors import ConversionError

Device = int | str


def with_operators(device_map: Mapping[str, Device], snn: nn.Module) -> dict[str, Device]:
    """A device map of the ANN, in accelerate's form, with an entry for every operator of the converted network.

    device_map: module path -> device, as ``accelerate.infer_auto_device_map(ann)`` makes it; the longest path that a
    module lies under counts. Raises ConversionError for another module and for a site that no entry covers.
    """
    conversion = vars(snn).get("mbe_conversion")
    if not isinstance(conversion, Conversion):
        raise ConversionError(
            f"with_operators takes what mbe_plugin.convert returned, got a {type(snn).__name__}"
        )
    operators = getattr(snn, CONTAINER)
    placed = {site.key: _device(device_map, site.path) for site in conversion.sites if site.key in operators}
    return {**device_map, **{f"{CONTAINER}.{key}": device for key, device in placed.items()}}


def _device(device_map: Mapping[str, Device], path: str) -> Device:
    place = path
    while place and place not in device_map:
        place = place.rpartition(".")[0]
    if place not in device_map and path:
        raise ConversionError(f"the device map has no entry for {path}, nor for a module around it")
    return device_map[place] if place in device_map else next(iter(device_map.values()))
