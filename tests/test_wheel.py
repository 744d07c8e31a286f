"""The built wheel holds the package, all of it, and nothing else; and what an index will show of it is well formed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import mbe_plugin

ROOT = Path(__file__).parents[1]


def run(*command: object) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def package_files() -> set[str]:
    found = (p.relative_to(ROOT) for p in (ROOT / "mbe_plugin").rglob("*") if p.is_file())
    return {str(path) for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, of a copy, so that the checkout stays as it is."""
    for needed in ("build", "twine"):
        pytest.importorskip(needed, reason="building needs build and twine: pip install -e '.[test]'")
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("pyproject.toml builds by setuptools 77 or newer: pip install -e '.[test]'")
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("mbe_plugin", "tests", "benchmarks", "examples", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "SECURITY.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy)
    run("-m", "build", "--no-isolation", "--outdir", copy / "dist", copy)
    return copy / "dist"


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    assert wheel.name == f"mbe_plugin-{mbe_plugin.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    about = {name for name in names if name.startswith(f"mbe_plugin-{mbe_plugin.__version__}.dist-info/")}
    assert names - about == package_files()
    assert {Path(name).name for name in about} == {"LICENSE", "METADATA", "WHEEL", "RECORD", "top_level.txt"}
    assert {"mbe_plugin/py.typed", "mbe_plugin/fitting/data/gelu.json"} < names
    assert "mbe_plugin/kernels/cupy_gpu/neuron.cuh" in names


@pytest.mark.slow
def test_the_sdist_builds_the_same(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert package_files() | {"pyproject.toml", "README.md", "LICENSE"} <= names


@pytest.mark.slow
def test_an_index_takes_both(built: Path) -> None:
    assert run("-m", "twine", "check", "--strict", *built.iterdir()).count("PASSED") == 2


def test_one_version_everywhere() -> None:
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert said == cited[1] == mbe_plugin.__version__
