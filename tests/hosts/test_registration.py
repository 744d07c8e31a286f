"""register(): names of ours in SpikingJelly's modules, taken away again without a trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from spikingjelly.activation_based import ann2snn, functional, neuron
from torch import nn

import mbe_plugin
from mbe_plugin.fitting.segments import identity_tables
from mbe_plugin.hosts.features import has_recipes

CONVERTER = "MBERecipe" if has_recipes() else "MBEConverter"
PLACES = [(neuron, "MBENode"), (ann2snn, CONVERTER)]


def contents() -> list[dict[str, object]]:
    return [dict(vars(module)) for module in (neuron, ann2snn)]


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Every test leaves the host as it found it, ``__all__`` included."""
    before, listed = contents(), list(getattr(ann2snn, "__all__", []))
    yield
    mbe_plugin.unregister()
    assert contents() == before
    assert list(getattr(ann2snn, "__all__", [])) == listed


def registered() -> list[bool]:
    return [getattr(module, name, None) is getattr(mbe_plugin, name) for module, name in PLACES]


def test_the_names_are_there_and_gone_again() -> None:
    assert registered() == [False, False]
    mbe_plugin.register()
    assert registered() == [True, True]
    assert "MBENode" not in getattr(neuron, "__all__", [])
    assert CONVERTER not in getattr(ann2snn, "__all__", [])
    mbe_plugin.unregister()
    assert registered() == [False, False]


def test_they_work_where_a_user_of_the_host_looks() -> None:
    with mbe_plugin.register():
        net = nn.Sequential(neuron.LIFNode(), neuron.MBENode(identity_tables(4, 8), "identity"))
        functional.set_step_mode(net, "m")
        assert net(torch.ones(4, 3)).shape == (4, 3)
        calibration = [torch.randn(8, 3)]
        if has_recipes():
            snn = ann2snn.ModuleConverter(ann2snn.MBERecipe(calibration)).convert(nn.Linear(3, 2))
        else:
            snn = ann2snn.MBEConverter(calibration)(nn.Linear(3, 2))
    assert mbe_plugin.report(snn).sites


def test_once_is_enough() -> None:
    mbe_plugin.register()
    mbe_plugin.register()
    assert registered() == [True, True]
    mbe_plugin.unregister()
    assert registered() == [False, False]
    mbe_plugin.unregister()


def test_a_context_takes_away_what_it_added() -> None:
    with mbe_plugin.register():
        with mbe_plugin.register():
            assert registered() == [True, True]
        assert registered() == [True, True]
    assert registered() == [False, False]


def test_and_nothing_else() -> None:
    mbe_plugin.register()
    with mbe_plugin.register():
        pass
    assert registered() == [True, True]


def test_also_when_an_error_ends_it() -> None:
    with pytest.raises(KeyError), mbe_plugin.register():
        raise KeyError
    assert registered() == [False, False]


def test_unregistering_inside_a_context() -> None:
    with mbe_plugin.register():
        mbe_plugin.unregister()
        assert registered() == [False, False]


@pytest.mark.parametrize("holds", ["somebody else's", None])
@pytest.mark.parametrize(("module", "name"), PLACES, ids=lambda value: getattr(value, "__name__", value))
def test_another_thing_of_that_name_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, holds: str | None
) -> None:
    monkeypatch.setattr(module, name, holds, raising=False)
    before = contents()
    with pytest.raises(mbe_plugin.RegistrationError) as told:
        mbe_plugin.register()
    place = f"{module.__name__}.{name}"
    assert str(told.value) == (
        f"{place} is there already and not ours ({holds!r}), so nothing was registered; delete it, or use "
        f"mbe_plugin.{name} as it is"
    )
    assert contents() == before
    mbe_plugin.unregister()
    assert contents() == before
    monkeypatch.undo()


def test_half_registered_is_completed_and_undone() -> None:
    mbe_plugin.register()
    del neuron.MBENode
    with mbe_plugin.register():
        assert registered() == [True, True]
    assert registered() == [False, True]


def test_importing_registers_nothing() -> None:
    code = (
        "from spikingjelly.activation_based import ann2snn, neuron\n"
        "import mbe_plugin\n"
        f"mbe_plugin.MBENode, mbe_plugin.{CONVERTER}\n"
        f"print(hasattr(neuron, 'MBENode'), hasattr(ann2snn, '{CONVERTER}'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["False", "False"]
