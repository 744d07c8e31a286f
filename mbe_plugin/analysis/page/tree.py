"""The network as a tree of its modules, with every site as a leaf."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from mbe_plugin.analysis.page.neurons import keys_at
from mbe_plugin.analysis.page.seen import Seen
from mbe_plugin.analysis.report import conversion_of


@dataclass
class Leaf:
    """A site. error: of the operator alone; None where it stays exact, for the reason ``exact``. neurons: their names."""

    site: str
    label: str
    operator: str
    error: float | None
    exact: str
    neurons: list[str]


@dataclass
class Branch:
    """A module that holds sites, with its class."""

    name: str
    kind: str
    leaves: list[Leaf] = field(default_factory=list)
    branches: dict[str, Branch] = field(default_factory=dict)

    @property
    def sites(self) -> int:
        """How many are in it and below."""
        return len(self.leaves) + sum(branch.sites for branch in self.branches.values())


def tree(found: Seen) -> Branch:
    """The root; every site of the network is a leaf of the module that calls it."""
    root = Branch("(root)", type(found.snn).__name__)
    errors = {site.site: site.error for site in found.report.sites}
    for site in conversion_of(found.snn).sites:
        leaf = Leaf(
            site.name,
            site.label,
            site.op,
            errors.get(site.name),
            found.report.kept_exact.get(site.name, ""),
            keys_at(found.snn, site.name),
        )
        _branch(root, found.snn, site.path).leaves.append(leaf)
    return root


def _branch(root: Branch, snn: nn.Module, path: str) -> Branch:
    branch, module = root, snn
    for name in path.split(".") if path else ():
        module = getattr(module, name)
        branch = branch.branches.setdefault(name, Branch(name, type(module).__name__))
    return branch
