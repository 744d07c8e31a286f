"""The ready-made tables: stored bits are the rebuilt bits, and what does not fit is not served."""

from __future__ import annotations

import json
from importlib import resources

import pytest
import torch

from mbe_plugin.fitting import fit, library
from mbe_plugin.neuron.tables import TABLE_FIELDS


@pytest.mark.parametrize(
    ("name", "steps", "bases", "family"),
    [("reciprocal", 16, 8, "routed"), ("rsqrt_octave", 6, 16, "routed"), ("reciprocal", 8, 4, "curved")],
)
def test_a_stored_entry_has_the_bits_of_a_new_fit(name, steps, bases, family):
    stored = library.find(name, steps, bases, family=family)
    new = fit(name, None, steps, bases, family=family)
    for field in TABLE_FIELDS:
        assert torch.equal(getattr(stored.tables, field), getattr(new.tables, field)), field
    assert (stored.domain, stored.reduction, stored.family) == (new.domain, new.reduction, family)


@pytest.mark.parametrize("name", library.FUNCTION_NAMES)
def test_every_entry_is_what_its_file_says(name):
    file = resources.files("mbe_plugin.fitting").joinpath("data", f"{name}.json")
    content = json.loads(file.read_text())
    assert (content["format"], content["function"]) == (library.FORMAT, name)
    wanted = {
        (family, steps, bases)
        for family, (all_steps, all_bases) in library.CONTENTS.items()
        for steps in all_steps
        for bases in all_bases
    }
    assert {(e["family"], e["time_steps"], e["bases"]) for e in content["entries"]} == wanted
    for entry in content["entries"][::17]:
        found = library.find(
            name, entry["time_steps"], entry["bases"], tuple(entry["domain"]), entry["family"]
        )
        assert found.mean_squared_error == pytest.approx(entry["mean_squared_error"], rel=1e-3)
        assert found.max_error == pytest.approx(entry["max_error"], rel=1e-3)
        assert found.spikes_per_element == pytest.approx(entry["spikes_per_element"], rel=1e-3)


def test_domain_must_be_covered_and_not_much_wider():
    assert library.find("gelu", 8, 8).domain == (-8.0, 8.0)
    assert library.find("gelu", 8, 8, (-7.5, 7.0)).domain == (-8.0, 8.0)
    assert library.find("gelu", 8, 8, (-110.0, 9.0)).domain == (-120.0, 10.0)
    assert library.find("gelu", 8, 8, (-3.0, 3.0)) is None
    assert library.find("gelu", 8, 8, (-7.0, 9.0)) is None


def test_what_is_not_stored_is_none():
    assert library.find("gelu", 8, 7) is None
    assert library.find("gelu", 20, 8) is None
    assert library.find("identity", 8, 8) is None
    assert library.find("no such function", 8, 8) is None
    assert library.find("gelu", 8, 8, family="parallel") is None


def test_another_format_is_refused(monkeypatch):
    monkeypatch.setattr(library, "FORMAT", library.FORMAT + 1)
    library._entries.cache_clear()
    with pytest.raises(ValueError, match="make it again with"):
        library.find("tanh", 8, 8)
    library._entries.cache_clear()
