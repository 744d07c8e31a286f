"""What cannot be converted or run is refused, and the message names the place or the value."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, Inside, Transformer, tokens, transformer
from torch import Tensor, nn

from mbe_plugin import (
    CalibrationError,
    ConversionError,
    MBEConfig,
    MBENode,
    RangeWarning,
    UnseenSiteError,
    UnsupportedOperatorError,
    calibrate,
    convert,
    fit,
    report,
)

PATH = "body.inner"


def nothing() -> Iterator[Tensor]:
    yield from ()


def spoilt(value: float) -> Tensor:
    x = tokens()
    x[2, 3, 4] = value
    return x


# --- calibration


def exhausted() -> Iterator[Tensor]:
    batches = iter([tokens()])
    next(batches)
    return batches


@pytest.mark.parametrize(
    "batches", [[], (), exhausted(), nothing()], ids=["list", "tuple", "exhausted", "generator"]
)
@pytest.mark.parametrize("verb", [convert, calibrate])
def test_no_calibration_data(verb: Callable, batches: Any) -> None:
    with pytest.raises(CalibrationError, match="no calibration data"):
        verb(transformer(), batches)


def test_the_batch_that_the_model_refuses_is_named_with_the_reason() -> None:
    with pytest.raises(
        CalibrationError, match=r"refused calibration batch 1: RuntimeError: .*shapes"
    ) as caught:
        convert(transformer(), [tokens(), torch.randn(4, 6, WIDTH + 1)])
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_unknown_keyword_in_a_batch() -> None:
    with pytest.raises(CalibrationError, match=r"batch 0: TypeError: .*unexpected keyword argument 'colour'"):
        convert(transformer(), [{"x": tokens(), "colour": tokens()}])


@pytest.mark.parametrize("batch", ["text", 3, None, (), []], ids=repr)
def test_a_batch_of_no_known_form(batch: Any) -> None:
    with pytest.raises(
        CalibrationError, match=f"a calibration batch must be a dict, .* got {type(batch).__name__}"
    ):
        convert(transformer(), [batch])


@pytest.mark.parametrize(
    ("calibration", "kind"),
    [(tokens(), "Tensor"), ({"x": tokens()}, "dict"), (None, "NoneType"), (7, "int")],
    ids=["tensor", "dict", "None", "int"],
)
def test_one_batch_in_place_of_an_iterable_of_batches(calibration: Any, kind: str) -> None:
    """A tensor would be read row by row, a dict key by key."""
    with pytest.raises(CalibrationError, match=f"calibration must be an iterable of batches, .* got {kind}"):
        convert(transformer(), calibration)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_input_that_is_not_finite_is_named_with_the_site_that_met_it(value: float) -> None:
    with pytest.raises(CalibrationError, match=re.escape(f"met {value} at embed:linear")):
        convert(transformer(), [spoilt(value)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("function", "site"),
    [
        (lambda m, x: torch.exp(x), "exp"),
        (lambda m, x: torch.softmax(x, -1), "softmax"),
        (lambda m, x: F.gelu(x), "gelu"),
        (lambda m, x: F.layer_norm(x, (WIDTH,)), "layer_norm"),
        (lambda m, x: F.scaled_dot_product_attention(x, x, x), "scaled_dot_product_attention"),
        (lambda m, x: x.rsqrt(), "rsqrt"),
        (lambda m, x: 1 / x, r"div\(w,a\)"),
        (lambda m, x: x.square(), "square"),
        (lambda m, x: x.relu(), "relu"),
    ],
)
def test_every_operator_sees_what_is_not_finite_in_calibration(
    function: Callable, site: str, value: float
) -> None:
    """The operator stands alone, so that no later site can notice in its place."""
    x = spoilt(value).abs() + 0.1
    with pytest.raises(CalibrationError, match=rf"calibration met -?(nan|inf) at {re.escape(PATH)}:{site} "):
        convert(Inside(function), [x])


def test_a_value_that_is_not_finite_only_inside_the_network() -> None:
    def overflowing(m: Calling, x: Tensor) -> Tensor:
        return m.fc(torch.exp(x * 1000))

    with pytest.raises(CalibrationError, match=rf"calibration met inf at {PATH}:exp|inf at {PATH}.fc:linear"):
        convert(Inside(overflowing), [tokens()])


def test_masks_of_minus_infinity_are_no_fault() -> None:
    mask = torch.zeros(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    snn = convert(transformer(), [{"x": tokens(), "mask": mask}])
    assert snn(tokens(), mask).isfinite().all()


def test_calibration_of_another_model() -> None:
    with pytest.raises(
        ConversionError, match=r"this calibration is of a Transformer.*not of this Sequential"
    ):
        convert(nn.Sequential(nn.Linear(WIDTH, WIDTH)), calibrate(transformer(), [tokens()]))


@pytest.mark.parametrize(
    ("taken", "given"),
    [({"depth": 2}, {"depth": 1}), ({"depth": 1}, {"depth": 2}), ({}, {"width": WIDTH + 2})],
    ids=["shorter", "longer", "wider"],
)
def test_calibration_of_a_sister_model(taken: dict, given: dict) -> None:
    calibration = calibrate(transformer(**taken), [tokens()])
    with pytest.raises(ConversionError, match=r"this calibration is of a Transformer.*calibrate this model"):
        convert(transformer(**given), calibration)


# --- models


@pytest.mark.parametrize("model", [nn.Identity(), nn.Sequential(nn.Flatten(), nn.Dropout()), nn.MaxPool1d(2)])
def test_a_model_with_nothing_to_convert(model: nn.Module) -> None:
    with pytest.raises(ConversionError, match=f"nothing to convert: .* in {type(model).__name__}"):
        convert(model, [tokens()])


def test_nothing_left_to_convert_by_configuration() -> None:
    with pytest.raises(ConversionError, match=r"nothing to convert: .*Transformer.* include, exclude"):
        convert(transformer(), [tokens()], MBEConfig(include=("no_such_module*",)))


@pytest.mark.parametrize(
    "model", [3, "bert", None, torch.tanh, Transformer], ids=["int", "str", "None", "function", "class"]
)
def test_no_module_at_all(model: Any) -> None:
    with pytest.raises(ConversionError, match=f"takes a torch.nn.Module, got {type(model).__name__}"):
        convert(model, [tokens()])


@pytest.mark.parametrize("verb", [convert, calibrate])
def test_converting_twice(verb: Callable) -> None:
    snn = convert(transformer(), [tokens()])
    with pytest.raises(ConversionError, match="converted already"):
        verb(snn, [tokens()])


def test_a_model_whose_attribute_is_called_as_the_container() -> None:
    model = transformer()
    model.mbe = nn.Linear(1, 1)
    with pytest.raises(ConversionError, match="'mbe' already"):
        convert(model, [tokens()])


def _scripted() -> nn.Module:
    return torch.jit.script(nn.Linear(WIDTH, WIDTH))


def _traced() -> nn.Module:
    return torch.jit.trace(nn.Linear(WIDTH, WIDTH), tokens())


def _compiled() -> nn.Module:
    return torch.compile(nn.Linear(WIDTH, WIDTH))


# torch announces the end of TorchScript; users have such modules all the same
@pytest.mark.filterwarnings("ignore:`torch.jit.(script|trace|trace_method)` is deprecated")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_scripted, "scripted or traced"),
        (_traced, "scripted or traced"),
        (_compiled, r"compiled; convert model\._orig_mod"),
    ],
)
def test_scripted_traced_and_compiled_modules(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(ConversionError, match=f"the model is .*{reason}"):
        convert(make(), [tokens()])
    with pytest.raises(ConversionError, match=f"1.0 is .*{reason}"):
        convert(nn.Sequential(nn.ReLU(), nn.Sequential(make())), [tokens()])


def test_parallel_wrappers() -> None:
    with pytest.raises(ConversionError, match="DataParallel; convert its .module"):
        convert(nn.DataParallel(transformer()), [tokens()])


def test_a_forward_on_the_instance() -> None:
    """Called directly, such a module would run its exact functions without a word."""
    model = transformer()
    original = model.layers[1].forward
    model.layers[1].forward = lambda *args: original(*args)
    with pytest.raises(ConversionError, match=r"layers\.1 has a forward of its own"):
        convert(model, [tokens()])


# --- operators


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda m, x: torch.cumprod(m.fc(x), -1), "cumprod"),
        (lambda m, x: m.fc(x).prod(-1), "prod"),
        (lambda m, x: torch.atan2(m.fc(x), x), "atan2"),
        (lambda m, x: torch.remainder(m.fc(x), 1.0), "remainder"),
        (lambda m, x: torch.div(m.fc(x), x, rounding_mode="floor"), "div"),
        (lambda m, x: torch.linalg.inv(m.fc(x) @ m.fc(x).mT), "linalg_inv_ex"),
        (lambda m, x: torch.cdist(m.fc(x), x, p=3.0), "cdist with p=3.0"),
        (lambda m, x: torch.special.bessel_j0(m.fc(x)), "special_bessel_j0"),
        (lambda m, x: torch.pow(m.fc(x).abs(), x), "pow"),
        (lambda m, x: torch.pow(m.fc(x).abs(), torch.arange(8.0)), "pow"),
        (lambda m, x: torch.pow(torch.arange(1.0, 9.0), m.fc(x)), "pow"),
        (lambda m, x: F.normalize(m.fc(x), p=3.0), "normalize with p=3.0"),
        (lambda m, x: torch.linalg.vector_norm(m.fc(x), 3.0), "norm of order 3.0"),
    ],
)
def test_an_operator_without_a_spiking_form_is_named_with_its_module(
    function: Callable, operator: str
) -> None:
    with pytest.raises(UnsupportedOperatorError, match=rf"({operator}) in {re.escape(PATH)} "):
        convert(Inside(function), [tokens()])
    snn = convert(Inside(function), [tokens()], MBEConfig(strict=False))
    found = report(snn).unsupported
    assert any(re.match(rf"({operator}) in {re.escape(PATH)}", name) for name in found), found
    assert f"{PATH}.fc:linear" in [site.site for site in report(snn).sites]


@pytest.mark.parametrize(
    ("function", "site"),
    [
        (lambda x, out: torch.exp(x, out=out), "exp"),
        (lambda x, out: torch.div(x, x.abs() + 1, out=out), r"div\(a,a\)"),
        (lambda x, out: torch.mul(x, x, out=out), r"mul\(a,a\)"),
        (lambda x, out: torch.pow(x, 3, out=out), r"pow\(3\)"),
        (lambda x, out: torch.softmax(x, -1, out=out), "softmax"),
        (lambda x, out: torch.lerp(x, 2 * x, 0.5, out=out), "lerp"),
        (lambda x, out: torch.float_power(x, 2, out=out.double()), "float_power"),
        (lambda x, out: torch.matmul(x, x.mT, out=out), r"matmul\(a,a\)"),
    ],
)
def test_results_written_into_out(function: Callable, site: str) -> None:
    """Refused rather than left unwritten."""

    def writing(m: Calling, x: Tensor) -> Tensor:
        size = (*x.shape[:-1], x.shape[-2]) if "matmul" in site else x.shape
        out = torch.empty(size)
        function(m.fc(x), out)
        return out

    with pytest.raises(UnsupportedOperatorError, match=rf"{re.escape(PATH)}:{site} writes into out="):
        convert(Inside(writing), [tokens()])


# --- settings


@pytest.mark.parametrize("steps", [0, -1, 21])
def test_time_steps(steps: int) -> None:
    with pytest.raises(ValueError, match=f"time_steps must be from 1 to 20, got {steps}"):
        MBEConfig(time_steps=steps)
    with pytest.raises(ValueError, match=f"got {steps}"):
        fit("gelu", time_steps=steps)


@pytest.mark.parametrize("bases", [0, -3])
def test_bases(bases: int) -> None:
    with pytest.raises(ValueError, match=f"bases must be .* got {bases}"):
        MBEConfig(bases=bases)
    with pytest.raises(ValueError, match=f"got {bases}"):
        fit("gelu", bases=bases)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integer_input_to_a_node(dtype: torch.dtype) -> None:
    node: MBENode = fit("gelu", bases=4).node()
    for call in (node, node.spikes, node.weighted_spikes, node.spike_counts):
        with pytest.raises(TypeError, match=f"floating tensor, got {dtype}"):
            call(torch.ones(16, dtype=dtype))


def test_integer_input_to_an_operator() -> None:
    snn = convert(nn.Sequential(nn.GELU()), [tokens()])
    with pytest.raises(TypeError, match=r"torch\.int64"):
        snn.mbe["0:gelu"](torch.ones(3, dtype=torch.int64))


# --- run time


def test_values_outside_the_calibrated_range_are_counted_and_said_once() -> None:
    x = tokens().clamp(-2, 2)
    snn = convert(nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU()), [x])
    snn(x)
    assert all(n.outside == 0 for s in report(snn).sites for n in s.neurons)
    assert next(n.seen for s in report(snn).sites for n in s.neurons) == x.numel()
    far = x.clone()
    far[0, 0, :3] = 50.0
    with pytest.warns(
        RangeWarning, match=r"0:gelu \(neuron\) met 50, outside its calibrated range \[-\d.* \d"
    ) as caught:
        snn(far)
        snn(far)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn(far)
    neuron = report(snn).sites[0].neurons[0]
    assert neuron.seen == 4 * x.numel()
    assert neuron.outside == pytest.approx(9 / (4 * x.numel()))
    outside = sum(n.outside * n.seen for s in report(snn).sites for n in s.neurons)
    assert f"{outside:.0f} of" in str(report(snn))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", [nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.Softmax(-1), nn.LayerNorm(WIDTH)])
def test_what_is_not_finite_at_run_time_is_counted_and_stays_visible(layer: nn.Module, value: float) -> None:
    snn = convert(nn.Sequential(layer), [tokens()])
    with pytest.warns(RangeWarning, match=r"0:\w+ \(.*\) met -?(nan|inf)"):
        out = snn(spoilt(value))
    assert not out[2, 3].isfinite().all()
    assert out[0].isfinite().all()
    assert sum(n.outside for s in report(snn).sites for n in s.neurons) > 0


def test_a_branch_that_calibration_never_took() -> None:
    def branching(m: Calling, x: Tensor, new: bool = False) -> Tensor:
        return torch.sigmoid(m.fc(x)) if new else m.fc(x)

    snn = convert(Inside(branching), [tokens()])
    with pytest.raises(UnseenSiteError, match=rf"{re.escape(PATH)}:sigmoid was never reached in calibration"):
        snn(tokens(), new=True)
    snn(tokens())


def test_a_module_that_calibration_never_called() -> None:
    model = nn.ModuleDict(
        {"used": nn.Linear(WIDTH, WIDTH), "idle": nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())}
    )

    def choosing(m: Calling, x: Tensor, name: str = "used") -> Tensor:
        return m.choice[name](x)

    owner = Calling(choosing)
    owner.choice = model
    snn = convert(owner, [tokens()])
    with pytest.raises(UnseenSiteError, match=r"choice\.idle\.0:linear was never reached"):
        snn(tokens(), "idle")


def test_a_loop_that_runs_longer_than_in_calibration() -> None:
    def looping(m: Calling, x: Tensor, times: int = 2) -> Tensor:
        for _ in range(times):
            x = torch.tanh(x)
        return x

    snn = convert(Inside(looping), [tokens()])
    snn(tokens(), times=1)
    with pytest.raises(UnseenSiteError, match=rf"{re.escape(PATH)}:tanh#2"):
        snn(tokens(), times=3)


@pytest.mark.parametrize(
    ("function", "first", "later"),
    [
        (lambda m, x, s=3: m.fc(x) ** s, 3, 4),
        (lambda m, x, s=2.0: s ** m.fc(x), 2.0, 3.0),
        (lambda m, x, s=0.1: F.leaky_relu(m.fc(x), s), 0.1, 0.2),
        (lambda m, x, s="none": F.gelu(m.fc(x), approximate=s), "none", "tanh"),
    ],
    ids=["pow", "rpow", "leaky_relu", "gelu"],
)
def test_a_function_whose_parameter_differs_from_calibration(
    function: Callable, first: Any, later: Any
) -> None:
    """The neuron was made for one function; it must not answer for another."""
    snn = convert(Inside(function), [tokens()])
    snn(tokens(), s=first)
    with pytest.raises(UnseenSiteError, match=rf"{re.escape(PATH)}:.*{later}"):
        snn(tokens(), s=later)


def test_parameters_that_vary_within_calibration() -> None:
    """Both are sites of their own, so both are right."""

    def function(m: Calling, x: Tensor, s: int = 2) -> Tensor:
        return m.fc(x) ** s

    model = Inside(function)
    snn = convert(model, [((tokens(),), {"s": 2}), ((tokens(),), {"s": 3})])
    for s in (2, 3):
        want = model(tokens(), s=s)
        assert (snn(tokens(), s=s) - want).abs().max() < 1e-3 * want.abs().max()


def test_off_the_cpu_the_warning_comes_after_the_forward() -> None:
    """There no neuron looks at its own counts, which would wait for the device; they are looked at all together."""
    snn = convert(nn.Sequential(nn.Linear(3, 3), nn.GELU()), [torch.randn(50, 3)])
    notice = snn._mbe_sites.notice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notice.check()  # nothing has been counted
    gelu = next(node for node in notice.nodes if node.function == "gelu")
    gelu.outside += 2
    with pytest.warns(RangeWarning, match=r"1:gelu \(neuron\) met values, outside its calibrated range \["):
        notice.check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notice.check()  # said once


def test_a_model_that_cannot_be_copied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(
        ConversionError, match=r"Sequential cannot be copied \(TypeError: .*lock.*beside its parameters and"
    ):
        convert(model, [torch.randn(8, 4)])


def test_a_model_without_values() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    with pytest.raises(ConversionError, match=r"0\.weight is on the meta device.*load the weights first"):
        convert(model, [torch.randn(8, 4)])


def test_conversion_inside_inference_mode_serves_outside_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    with torch.inference_mode():
        x = torch.randn(8, 4)
        inside = convert(model, [x], MBEConfig(time_steps=8))
        seen_inside = inside(x)
    outside = convert(model, [x.clone()], MBEConfig(time_steps=8))
    assert torch.equal(outside(x), seen_inside)
    assert torch.equal(inside(x.clone()), seen_inside)
