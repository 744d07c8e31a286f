"""What calibration knows of a model: plain data, made once and used for any number of conversions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from mbe_plugin.conversion.vocabulary.units import UnitSpec
from mbe_plugin.operators import Statistics


@dataclass
class Site:
    """One call site: where, which operator, and what its neurons saw.

    ``static`` is what the operator is made with; ``dims`` the contracted dimension per operand; ``coded`` the
    operands that arrived as spike trains at every call; ``shared`` names, for a role, the earlier site and role that
    encodes the very same tensor.
    """

    path: str
    label: str
    op: str
    static: dict[str, Any] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    coded: frozenset[str] = frozenset()
    roles: dict[str, Statistics] = field(default_factory=dict)
    shared: dict[str, tuple[str, str]] = field(default_factory=dict)
    unit: UnitSpec | None = None

    @property
    def name(self) -> str:
        """path:label, as reports and patterns use it."""
        return f"{self.path or '(root)'}:{self.label}"

    @property
    def key(self) -> str:
        """Its operator's name in ``snn.mbe``: no dots, which modules forbid, and no slashes, which file names do.

        Offloading to disk writes one file per entry of the state dict, under its name.
        """
        return self.name.replace(".", "~").replace("/", "~")

    def without_samples(self) -> Site:
        """The same site, of what its neurons saw only the range and the count: the neurons are fitted."""
        return replace(self, roles={r: Statistics(s.low, s.high, s.count) for r, s in self.roles.items()})


@dataclass
class Calibration:
    """The sites of a model, in the order in which they were first reached, and which inputs are activations.

    origins: where activations begin that came in as integers or from outside torch; unchecked: calls with weights whose
    other operand was taken for a constant although it was met only once; unmarked: (module, function) of the nonlinear
    functions that met no activation; centers: whether channels' distributions were kept.
    """

    sites: list[Site]
    inputs: dict[str, dict[str, int]]  # module path -> slot -> mark
    batches: int
    first_batch: tuple[tuple, dict[str, Any]]
    model_class: str
    structure: dict[str, str]
    origins: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    unmarked: list[tuple[str, str]] = field(default_factory=list)
    centers: bool = True


def structure_of(model: nn.Module) -> dict[str, str]:
    """Class by path of every module, and shape by name of every parameter, of a model that is not converted."""
    classes = {path or "(root)": type(module).__name__ for path, module in model.named_modules()}
    return classes | {name: str(list(parameter.shape)) for name, parameter in model.named_parameters()}
