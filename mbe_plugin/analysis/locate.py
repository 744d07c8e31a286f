"""locate_error(): which sites the error of a converted network comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.analysis.report import conversion_of
from mbe_plugin.conversion.batches import as_call, device_of
from mbe_plugin.conversion.following.comparison import (
    is_same_network,
    outputs_of,
    relative_difference,
    root_ratio,
    seeded,
    squared_error,
)
from mbe_plugin.conversion.following.frames import watched_by
from mbe_plugin.conversion.following.walk import Router
from mbe_plugin.errors import ConversionError
from mbe_plugin.operators import SpikingOperator


@dataclass(frozen=True)
class SiteContribution:
    """Errors of one site, each a root mean square relative to that of the exact values.

    output: of the network's output when this site alone is spiking and all others compute exactly.
    added: of the site's output against its exact function on the same (the SNN's) operands.
    accumulated: of the site's output in the SNN against the same site in the ANN.
    """

    site: str
    output: float
    added: float
    accumulated: float


class _Exact(Router):
    """Every site computes exactly, but one; outputs are kept per site."""

    def __init__(self, spiking: str | None = None) -> None:
        super().__init__()
        self.spiking = spiking
        self.outputs: dict[str, list[Any]] = defaultdict(list)

    def run(
        self,
        site: str,
        operator: SpikingOperator,
        operands: Mapping[str, Tensor],
        run: Callable[[], Any],
        exact: Callable[[], Any],
    ) -> Any:
        """See Router."""
        if site == self.spiking:
            return super().run(site, operator, operands, run, exact)
        out = super().run(site, operator, operands, exact, exact)
        if self.spiking is None:
            self.outputs[site].append(out.detach().clone() if isinstance(out, Tensor) else None)
        return out


def locate_error(snn: nn.Module, ann: nn.Module, batch: Any) -> list[SiteContribution]:
    """Run both networks side by side on a batch and rank the sites by the error they add to the output.

    batch: in any of the forms that convert() takes. One forward per site, and two more. Largest ``output`` first.
    Raises ConversionError if snn is no converted network, or ann is in training mode or not the one it came from.
    """
    conversion = conversion_of(snn)
    if ann.training:
        raise ConversionError(
            f"the {type(ann).__name__} is in training mode, so its dropout counts as error; call .eval() first"
        )
    args, kwargs = as_call(batch, snn)
    with torch.no_grad():
        with seeded(device_of(snn)):
            wanted = outputs_of(ann(*args, **kwargs))
        reference = _Exact()
        exact_output = outputs_of(_under(reference, snn, args, kwargs))
        if not is_same_network(exact_output, wanted):
            raise ConversionError(
                f"this {type(ann).__name__} is not the network that was converted: with every site exact its "
                f"output differs by {relative_difference(exact_output, wanted):.1e}"
            )
        added, accumulated = _side_by_side(snn, args, kwargs, reference)
        errors = []
        for site in conversion.sites:
            if site.name in added:
                alone = outputs_of(_under(_Exact(site.name), snn, args, kwargs))
                output = relative_difference(alone, wanted)
                errors.append(SiteContribution(site.name, output, added[site.name], accumulated[site.name]))
    return sorted(errors, key=lambda e: e.output, reverse=True)


def _side_by_side(
    snn: nn.Module, args: tuple, kwargs: dict[str, Any], reference: _Exact
) -> tuple[dict[str, float], dict[str, float]]:
    calls: dict[str, int] = defaultdict(int)
    added: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    accumulated: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def watch(site: str, operator: SpikingOperator, out: Any, exact: Callable[[], Any]) -> None:
        index = calls[site]
        calls[site] += 1
        if isinstance(out, Tensor):
            added[site].append(squared_error(out, exact()))
            ann_values = reference.outputs[site]
            if index < len(ann_values) and ann_values[index].shape == out.shape:
                accumulated[site].append(squared_error(out, ann_values[index]))

    _under(Router(watch), snn, args, kwargs)
    return _ratios(added), _ratios(accumulated)


def _under(router: Router, snn: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    with seeded(device_of(snn)), watched_by(router):
        return snn(*args, **kwargs)


def _ratios(pairs: dict[str, list[tuple[Tensor, Tensor]]]) -> dict[str, float]:
    return {site: root_ratio(found) for site, found in pairs.items()}
