"""MBEConfig: one frozen value, checked when it is made, the same after JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import tokens, transformer

from mbe_plugin import MBEConfig, convert, report

patterns = st.text(st.characters(codec="utf-8"), max_size=12)
overrides = st.fixed_dictionaries(
    {},
    optional={
        "time_steps": st.integers(1, 20),
        "bases": st.integers(1, 64),
        "identity_bases": st.sampled_from([2, 4, 8, 64]),
        "scale": st.sampled_from(["auto", "element", "token", "channel", "tensor"]),
        "code": st.sampled_from(["binary", "first_spike"]),
        "dead_zone": st.floats(0, 99),
    },
)
configs = st.builds(
    MBEConfig,
    time_steps=st.integers(1, 20),
    bases=st.integers(1, 64),
    identity_bases=st.sampled_from([2, 4, 8, 64]),
    scale=st.sampled_from(["auto", "element", "token", "channel", "tensor"]),
    linear_inputs=st.sampled_from(["spiking", "analogue"]),
    merge=st.booleans(),
    simulate=st.sampled_from(["closed", "steps", "events"]),
    gradient=st.sampled_from(["surrogate", "slope"]),
    strict=st.booleans(),
    margin=st.floats(0, 99),
    dead_zone=st.floats(0, 99),
    include=st.tuples(patterns),
    exclude=st.lists(patterns, max_size=3).map(tuple),
    sites=st.lists(st.tuples(patterns, overrides), max_size=3).map(tuple),
)


@given(configs)
def test_json_round_trip(config: MBEConfig) -> None:
    text = config.to_json()
    again = MBEConfig.from_json(text)
    assert again == config
    assert again.to_json() == text
    assert json.loads(text)["version"] == 1


def test_json_may_leave_out_what_is_default() -> None:
    assert MBEConfig.from_json('{"version": 1}') == MBEConfig()
    assert MBEConfig.from_json('{"version": 1, "time_steps": 8}') == MBEConfig(time_steps=8)


@pytest.mark.parametrize("version", ["", '"version": 2', '"version": null', '"version": "1"'])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="this MBEConfig has version .*; this package reads 1"):
        MBEConfig.from_json("{" + version + "}")


def test_unknown_fields_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"unknown MBEConfig fields \['colour', 'steps'\]"):
        MBEConfig.from_json('{"version": 1, "steps": 8, "colour": 1}')


@pytest.mark.parametrize("text", ["[1, 2]", "7", "null", '"text"', "{"])
def test_text_that_is_no_config(text: str) -> None:
    with pytest.raises(ValueError, match="MBEConfig|Expecting"):
        MBEConfig.from_json(text)


def test_validation_applies_to_json_too() -> None:
    with pytest.raises(ValueError, match="got 99"):
        MBEConfig.from_json('{"version": 1, "time_steps": 99}')
    with pytest.raises(ValueError, match="colour"):
        MBEConfig.from_json('{"version": 1, "sites": [["*", {"colour": 1}]]}')


def test_it_is_frozen() -> None:
    config = MBEConfig()
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))


@given(configs)
def test_equal_configs_have_equal_hashes(config: MBEConfig) -> None:
    for again in (
        MBEConfig.from_json(config.to_json()),
        pickle.loads(pickle.dumps(config)),
        copy.deepcopy(config),
    ):
        assert again == config
        assert hash(again) == hash(config)
        assert again.to_json() == config.to_json()


def test_the_settings_of_sites_are_frozen_but_read_as_a_dict() -> None:
    config = MBEConfig(sites=(("*", {"time_steps": 4, "bases": 2}),))
    settings: Any = config.sites[0][1]
    changes = [
        lambda: settings.__setitem__("bases", 3),
        lambda: settings.__delitem__("bases"),
        lambda: settings.update(bases=3),
        lambda: settings.__ior__({"bases": 3}),
        lambda: settings.setdefault("scale", "row"),
        lambda: settings.pop("bases"),
        lambda: settings.popitem(),
        lambda: settings.clear(),
    ]
    for change in changes:
        with pytest.raises(TypeError, match=r"MBEConfig\.sites is frozen; .*dataclasses\.replace"):
            change()
    assert config.sites == (("*", {"bases": 2, "time_steps": 4}),)
    other = MBEConfig(sites=(("*", {"bases": 2, "time_steps": 4}),))
    assert len({config, other, MBEConfig()}) == 2
    assert dataclasses.replace(config, bases=3).sites == config.sites


def test_it_keeps_no_hold_on_what_it_was_made_from() -> None:
    settings, include = {"time_steps": 4}, ["*a*"]
    config = MBEConfig(sites=(("*", settings),), include=include)  # type: ignore[arg-type]
    settings["time_steps"] = 99
    include.append("*b*")
    assert config.setting("x", "time_steps") == 4
    assert config.include == ("*a*",)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"time_steps": 0}, "time_steps must be from 1 to 20, got 0"),
        ({"time_steps": 21}, "time_steps must be from 1 to 20, got 21"),
        ({"time_steps": 8.0}, r"time_steps must be a whole number, got 8\.0"),
        ({"time_steps": True}, "time_steps must be a whole number, got True"),
        ({"bases": 0}, "bases must be a whole number of at least 1, got 0"),
        ({"bases": 2.5}, r"bases .* got 2\.5"),
        ({"identity_bases": 1}, "identity_bases must be a power of two, at least 2, got 1"),
        ({"identity_bases": 6}, "identity_bases must be a power of two, at least 2, got 6"),
        ({"identity_bases": -4}, "got -4"),
        ({"family": "spiking"}, r"family must be one of \('routed', 'published'\), got 'spiking'"),
        ({"scale": "row"}, "scale must be one of .*, got 'row'"),
        ({"code": "rate"}, r"code must be one of \('binary', 'first_spike'\), got 'rate'"),
        ({"code": "first_spike", "scale": "token"}, "sends no exponent, its scale must be .*, got 'token'"),
        ({"code": "first_spike", "family": "published"}, "code 'first_spike' needs family 'routed'"),
        (
            {"family": "published", "sites": (("*", {"code": "first_spike"}),)},
            "code 'first_spike' needs family 'routed'",
        ),
        ({"dead_zone": -0.1}, r"dead_zone must be a share of the root mean square, 0 or more, got -0\.1"),
        ({"dead_zone": float("nan")}, "dead_zone .* got nan"),
        ({"dead_zone": True}, "dead_zone .* got True"),
        ({"dead_zone": 0.1, "family": "published"}, "dead_zone needs family 'routed'"),
        ({"sites": (("a*", {"dead_zone": "0.1"}),)}, "dead_zone .* got '0.1'"),
        ({"sites": (("a*", {"code": "rate"}),)}, r"sites\['a\*'\]\.code must be one of .*, got 'rate'"),
        ({"linear_inputs": False}, "linear_inputs must be one of .*, got False"),
        ({"simulate": "fast"}, "simulate must be one of .*, got 'fast'"),
        ({"gradient": "ste"}, "gradient must be one of .*'surrogate', 'slope'.*, got 'ste'"),
        ({"gradient": "slope", "family": "published"}, "gradient 'slope' needs family 'routed'"),
        ({"margin": -0.1}, r"margin must be a share of the range, 0 or more, got -0\.1"),
        ({"margin": float("nan")}, "margin .* got nan"),
        ({"include": "*gelu*"}, r"include must be a tuple of patterns, got the string '\*gelu\*'"),
        ({"exclude": "*"}, "exclude must be a tuple of patterns"),
        ({"sites": (("*", {"margin": 1}),)}, r"sites\['\*'\] sets \['margin'\]; only .*time_steps"),
        ({"sites": (("*", {"time_steps": 0}),)}, "time_steps .* got 0"),
        ({"sites": (("*", {"bases": 0}),)}, "bases .* got 0"),
        ({"sites": (("*", {"identity_bases": 3}),)}, "identity_bases .* got 3"),
        ({"sites": (("a*", {"scale": "row"}),)}, r"sites\['a\*'\]\.scale must be one of .*, got 'row'"),
        ({"sites": {"*": {"time_steps": 4}}}, r"sites must be \(\(pattern, \{name: value\}\), \.\.\.\), got"),
        ({"sites": (("*",),)}, r"sites must be \(\(pattern, \{name: value\}\), \.\.\.\), got"),
    ],
)
def test_what_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MBEConfig(**wrong)


def test_the_last_matching_override_wins() -> None:
    config = MBEConfig(
        time_steps=16,
        sites=(
            ("*", {"time_steps": 8}),
            ("layers.0*", {"bases": 4, "time_steps": 6}),
            ("*:gelu", {"bases": 2}),
        ),
    )
    assert config.setting("layers.0:gelu", "time_steps") == 6
    assert config.setting("layers.0:gelu", "bases") == 2
    assert config.setting("layers.0:linear", "bases") == 4
    assert config.setting("layers.1:linear", "time_steps") == 8
    assert config.setting("layers.1:linear", "bases") == MBEConfig().bases
    assert config.setting("Layers.0:linear", "bases") == MBEConfig().bases, "patterns mind the case"


def test_include_and_exclude() -> None:
    config = MBEConfig(include=("layers.*",), exclude=("*:gelu",))
    assert not config.keeps_exact("layers.0:linear")
    assert config.keeps_exact("layers.0:gelu")
    assert config.keeps_exact("head:linear")


def test_a_pattern_may_name_a_role_of_a_site() -> None:
    config = MBEConfig(sites=(("*:layer_norm|deviation", {"identity_bases": 32}), ("b*", {"time_steps": 4})))
    assert config.setting("a:layer_norm", "identity_bases", "deviation") == 32
    assert config.setting("a:layer_norm", "identity_bases", "rsqrt") == MBEConfig().identity_bases
    assert config.setting("a:layer_norm", "identity_bases") == MBEConfig().identity_bases
    assert config.setting("b:layer_norm", "time_steps", "deviation") == 4


def test_auto_is_the_scale_that_a_code_can_have() -> None:
    config = MBEConfig(
        sites=(("a", {"code": "first_spike"}), ("c", {"code": "first_spike", "scale": "element"}))
    )
    assert config.encoding("a") == ("first_spike", "tensor")
    assert config.encoding("b") == ("binary", "element")
    with pytest.raises(
        ValueError, match="c: code 'first_spike' sends no exponent, its scale must be .*'element'"
    ):
        config.encoding("c")


def test_overrides_reach_the_neurons() -> None:
    config = MBEConfig(
        time_steps=8,
        bases=16,
        sites=(
            ("layers.0:gelu", {"time_steps": 3, "bases": 4}),
            ("*:softmax", {"bases": 2}),
            ("head:linear", {"identity_bases": 2, "time_steps": 5}),
            ("layers.1.attention.v:linear", {"scale": "token"}),
        ),
        merge=False,
    )
    neurons = {s.site: s.neurons for s in report(convert(transformer(), [tokens()], config)).sites}
    gelu, other = neurons["layers.0:gelu"][0], neurons["layers.1:gelu"][0]
    assert (gelu.time_steps, gelu.bases) == (3, 4)
    assert (other.time_steps, other.bases) == (8, 16)
    assert {n.bases for n in neurons["layers.1.attention:softmax"]} == {2}
    assert (neurons["head:linear"][0].time_steps, neurons["head:linear"][0].bases) == (5, 2)
    assert neurons["layers.1.attention.v:linear"][0].scale == "token"
    assert neurons["layers.1.attention.q:linear"][0].scale == "element"


@pytest.mark.parametrize("scale", ["element", "token", "channel", "tensor"])
def test_every_scale_converts(scale: str) -> None:
    model = transformer()
    config = MBEConfig(scale=scale, identity_bases=32)  # type: ignore[arg-type]
    snn = convert(model, [tokens()], config)
    found = report(snn)
    expected = {scale, "token"} if scale == "channel" else {scale}
    scales = {n.scale for s in found.sites for n in s.neurons if n.function == "identity"}
    assert scales <= expected
    assert scale in scales
    want = model(tokens())
    assert (snn(tokens()) - want).abs().max() < 1e-2
    sent = sum(n.exponents for s in found.sites for n in s.neurons if n.scale in ("channel", "tensor"))
    assert sent == 0, "a calibrated scale need not be sent"
    assert all(n.exponents > 0 for s in found.sites for n in s.neurons if n.scale == "token")


def test_analogue_linear_inputs_are_reported() -> None:
    snn = convert(transformer(), [tokens()], MBEConfig(linear_inputs="analogue"))
    found = report(snn)
    assert found.kept_exact["embed:linear"] == "linear with analogue input, by configuration"
    assert set(found.kept_exact.values()) == {"linear with analogue input, by configuration"}
    assert not any(s.site.endswith(":linear") for s in found.sites)
    assert "linear with analogue input" in found.summary()
    x = tokens()
    assert torch.equal(snn.embed(x), transformer().embed(x))
