"""Who may import whom: downwards only, as docs and DESIGN draw it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mbe_plugin"

# each room, and the rooms below that it may import; itself always
MAY_IMPORT = {
    "errors": set(),
    "neuron": set(),
    "kernels": {"neuron", "errors"},
    "node": {"kernels", "neuron", "errors"},
    "stepped": {"node", "kernels", "neuron"},
    "fitting": {"node", "kernels", "neuron"},
    "config": {"neuron"},
    "operators": {"fitting", "node", "kernels", "neuron", "errors"},
    "recording": {"operators", "node", "neuron", "errors"},
    "sources": {"errors"},
    "conversion": {
        "sources",
        "recording",
        "operators",
        "fitting",
        "node",
        "kernels",
        "neuron",
        "config",
        "errors",
    },
    "analysis": {
        "conversion",
        "recording",
        "operators",
        "fitting",
        "node",
        "kernels",
        "neuron",
        "config",
        "errors",
    },
    "tuning": {"analysis", "conversion", "recording", "operators", "neuron", "config", "errors"},
    "hosts": {
        "conversion",
        "recording",
        "operators",
        "fitting",
        "stepped",
        "node",
        "kernels",
        "neuron",
        "config",
        "errors",
    },
    "figures": {"analysis"},  # users' short imports
    "nir": {"hosts"},
    "snntorch": {"hosts"},
    "env": {"hosts", "kernels"},
    "command": {"analysis", "conversion", "sources", "env", "config", "errors"},
    "__main__": {"command"},
}
# the rooms within conversion: what a forward means knows nothing of how it is followed; the stages use both
WITHIN_CONVERSION = {
    "marks": set(),
    "vocabulary": {"marks"},
    "following": {"marks", "vocabulary"},
    "batches": set(),
    "sites": {"vocabulary"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    parts = (name.split(".") for name in imported(path))
    return {names[1] for names in parts if names[0] == "mbe_plugin" and len(names) > 1}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room} is a new room: say here what it may import"
    above = rooms_imported(path) - MAY_IMPORT[room] - {room}
    assert not above, f"{path.name} in {room} imports {sorted(above)}"


def test_the_drawing_has_no_circles() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {room for room, below in MAY_IMPORT.items() if below <= done} - done
        assert ready, f"these import each other: {sorted(set(MAY_IMPORT) - done)}"
        done |= ready


def modules_imported(path: Path, files: dict[str, Path]) -> set[str]:
    """The package's own files that a file imports when it is imported itself."""
    body = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom) and n.module]
    full = {f"{n.module}.{alias.name}" for n in body for alias in n.names} | {str(n.module) for n in body}
    return full & set(files)


def test_no_file_imports_itself_through_others() -> None:
    files = {".".join(("mbe_plugin", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in FILES}
    needed = {name: modules_imported(path, files) for name, path in files.items()}
    done: set[str] = set()
    while len(done) < len(files):
        ready = {name for name, below in needed.items() if below <= done} - done
        assert ready, f"these import each other: {sorted(set(files) - done)}"
        done |= ready


@pytest.mark.parametrize("path", sorted((PACKAGE / "conversion").rglob("*.py")), ids=lambda p: p.stem)
def test_imports_within_conversion_go_downwards(path: Path) -> None:
    room = path.relative_to(PACKAGE / "conversion").parts[0].removesuffix(".py")
    if room in WITHIN_CONVERSION:
        parts = (name.split(".") for name in imported(path))
        used = {n[2] for n in parts if n[:2] == ["mbe_plugin", "conversion"] and len(n) > 2}
        assert used <= WITHIN_CONVERSION[room] | {room}


def test_the_parser_sees_imports_in_functions(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(
        "def f():\n    from mbe_plugin.conversion import convert\n    import mbe_plugin.analysis.report\n"
    )
    assert rooms_imported(file) == {"conversion", "analysis"}


@pytest.mark.parametrize(
    "library", ["transformers", "timm", "matplotlib", "nir", "numba", "snntorch", "cupy", "triton", "tqdm"]
)
def test_optional_libraries_are_imported_where_they_are_used(library: str) -> None:
    """At the top of a file only in the room of its own host, or in the files that are compiled by it."""
    homes = {
        ("hosts", f"{library}.py"),
        ("sources", f"of_{library}.py"),
    }
    compiled = {("kernels", f"{library}_{device}", "compiled") for device in ("cpu", "gpu")}
    rooms = {*compiled, ("hosts", library)}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            tops = {name.split(".")[0] for name in names}
            place = path.relative_to(PACKAGE).parts
            assert library not in tops or place in homes or place[:-1] in rooms, path


def test_only_the_host_modules_import_hosts() -> None:
    """SpikingJelly's base class is the neuron's; its converters belong to the hosts' room alone."""
    for path in FILES:
        converters = [name for name in imported(path) if "ann2snn" in name]
        assert not converters or room_of(path) == "hosts", path
