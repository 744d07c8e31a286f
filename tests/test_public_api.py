"""The public surface, pinned; and that importing it is light and quiet."""

from __future__ import annotations

import importlib.util
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import mbe_plugin

ROOT = Path(__file__).parents[1]

PUBLIC = [
    "BackendError",
    "Calibration",
    "CalibrationError",
    "ConversionError",
    "Energy",
    "Fit",
    "MBEConfig",
    "MBEError",
    "MBENode",
    "RangeWarning",
    "Recording",
    "Registration",
    "RegistrationError",
    "Report",
    "SiteContribution",
    "SpikeCounts",
    "StorageError",
    "Tables",
    "UnseenSiteError",
    "UnsupportedOperatorError",
    "as_sequence",
    "calibrate",
    "convert",
    "count_spikes",
    "energy",
    "fit",
    "load",
    "locate_error",
    "record",
    "register",
    "report",
    "reset_counts",
    "save",
    "set_backend",
    "tune",
    "unregister",
]
# each needs what only one generation of SpikingJelly has
OF_ONE_HOST = ["MBEConverter", "MBERecipe"]


def run(code: str, *options: str) -> str:
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def by_kind(name: str) -> tuple[int, str]:
    """Constants, classes, functions, as ruff sorts them."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_the_public_names() -> None:
    assert mbe_plugin.__all__ == PUBLIC


def test_they_are_sorted_and_there() -> None:
    assert sorted(mbe_plugin.__all__) == mbe_plugin.__all__
    for name in mbe_plugin.__all__:
        assert getattr(mbe_plugin, name) is not None


def test_all_of_them_can_be_asked_for_at_once() -> None:
    names: dict[str, object] = {}
    exec("from mbe_plugin import *", names)
    assert set(PUBLIC) <= set(names)
    assert "locate_error" in pydoc.plain(pydoc.render_doc(mbe_plugin))


def test_help_passes_over_a_module_whose_library_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(mbe_plugin), "nir", raising=False)
    assert "nir" in dir(mbe_plugin) or importlib.util.find_spec("nir") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "nir" not in dir(mbe_plugin)


def test_a_name_of_one_host_is_there_or_says_what_is_missing_and_what_to_take() -> None:
    refused = []
    for name in OF_ONE_HOST:
        try:
            assert (getattr(mbe_plugin, name).__doc__ or "").strip(), name
        except ImportError as error:
            refused.append(name)
            [other] = set(OF_ONE_HOST) - {name}
            assert str(error).startswith(f"mbe_plugin.{name} needs SpikingJelly ")
            assert "the installed SpikingJelly does not have; use " in str(error)
            assert f"mbe_plugin.{other}(" in str(error)
    assert len(refused) == 1


def test_every_public_object_is_documented() -> None:
    for name in mbe_plugin.__all__:
        assert (getattr(mbe_plugin, name).__doc__ or "").strip(), name


@pytest.mark.parametrize(
    "package",
    [
        "",
        ".analysis",
        ".conversion",
        ".env",
        ".fitting",
        ".kernels",
        ".neuron",
        ".operators",
        ".recording",
        ".sources",
    ],
)
def test_every_package_lists_its_names_sorted(package: str) -> None:
    module = __import__(f"mbe_plugin{package}", fromlist=["__all__"])
    assert sorted(module.__all__, key=by_kind) == module.__all__
    assert not [name for name in module.__all__ if not hasattr(module, name)]


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'mbe_plugin' has no attribute 'Converter'"):
        mbe_plugin.Converter  # noqa: B018


def test_errors_have_one_base() -> None:
    public = [getattr(mbe_plugin, name) for name in PUBLIC]
    errors = [
        o for o in public if isinstance(o, type) and issubclass(o, Exception) and not issubclass(o, Warning)
    ]
    assert len(errors) >= 6
    assert all(issubclass(error, mbe_plugin.MBEError) for error in errors)
    assert issubclass(mbe_plugin.UnsupportedOperatorError, mbe_plugin.ConversionError)
    assert issubclass(mbe_plugin.CalibrationError, ValueError)
    assert issubclass(mbe_plugin.RangeWarning, UserWarning)


def test_the_import_is_light() -> None:
    heavy = [
        "torch",
        "spikingjelly",
        "transformers",
        "timm",
        "matplotlib",
        "numba",
        "scipy",
        "snntorch",
        "torchvision",
        "sklearn",
        "cupy",
        "bokeh",
        "jinja2",
    ]
    code = f"import sys, mbe_plugin; print([m for m in {heavy} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_the_pictures_are_a_module_of_their_own_and_light_too() -> None:
    names = ["approximation", "energy", "error", "events", "firing_rate", "frontier", "raster"]
    assert mbe_plugin.figures.__all__ == [*names, "rows"]
    assert mbe_plugin.figures.rows.__all__ == names
    for module in (mbe_plugin.figures, mbe_plugin.figures.rows):
        assert all((getattr(module, name).__doc__ or "").strip() for name in names)
    assert "figures" in dir(mbe_plugin)
    code = "import sys, mbe_plugin; mbe_plugin.figures; print('matplotlib' in sys.modules)"
    assert run(code, "-W", "ignore").strip() == "False"  # SpikingJelly 0.0.0.0.14 warns of its own scripting


def test_the_import_is_quiet() -> None:
    assert run("import mbe_plugin", "-W", "error") == ""


def test_the_types_are_announced() -> None:
    assert (ROOT / "mbe_plugin" / "py.typed").exists()
