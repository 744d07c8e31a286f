"""Which neurons a recording listens to."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from mbe_plugin.errors import ConversionError
from mbe_plugin.operators import CalibratedNode, SpikingOperator


def neurons_of(snn: nn.Module) -> list[CalibratedNode]:
    """All neurons of a converted network, each once; ConversionError if there are none."""
    found = [m for m in snn.modules() if isinstance(m, CalibratedNode)]
    if not found:
        raise ConversionError(
            f"this {type(snn).__name__} has no neurons to record; pass what mbe_plugin.convert returned, or a module "
            "that holds it"
        )
    return found


def chosen(snn: nn.Module, sites: str | Iterable[str] | None) -> list[CalibratedNode]:
    """The neurons whose trains the sites read, by name or shell pattern; all of them for None.

    Raises ValueError for a pattern that no site's name matches, and for one that matches only sites without a neuron.
    """
    every = neurons_of(snn)
    if sites is None:
        return every
    by_site: dict[str, list[CalibratedNode]] = {}
    for operator in snn.modules():
        if isinstance(operator, SpikingOperator) and operator.site:
            by_site.setdefault(operator.site, []).extend(node for _, node in operator.neurons())
    wanted: set[CalibratedNode] = set()
    for pattern in [sites] if isinstance(sites, str) else sites:
        wanted.update(_matching(pattern, by_site))
    return [node for node in every if node in wanted]


def _matching(pattern: str, by_site: dict[str, list[CalibratedNode]]) -> list[CalibratedNode]:
    names = [name for name in by_site if name == pattern or fnmatchcase(name, pattern)]
    if not names:
        near = get_close_matches(pattern, by_site, cutoff=0.4) or list(by_site)[:3]
        raise ValueError(
            f"no site of this network matches {pattern!r}; near it: {', '.join(near)}; mbe_plugin.report(snn) lists all"
        )
    nodes = [node for name in names for node in by_site[name]]
    if not nodes:
        raise ValueError(
            f"{names[0]} has no neuron of its own, it reads the trains of others; record the sites that send them"
        )
    return nodes
