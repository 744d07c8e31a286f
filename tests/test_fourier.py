"""Fourier transforms are layers with constant weights: their inputs are encoded, complex ones part by part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.zoo import scaled, token_ids
from networks import Calling, Inside, tokens
from torch import Tensor

from mbe_plugin import MBEConfig, UnseenSiteError, UnsupportedOperatorError, convert, locate_error, report
from mbe_plugin.conversion.vocabulary.catalogue import FOURIER_NAMES

PATH = "body.inner"
FORWARD = [name for name in FOURIER_NAMES if name.startswith(("fft", "rfft", "ihfft"))]
BACK = [name for name in FOURIER_NAMES if name not in FORWARD]


def close(found: Tensor, wanted: Tensor, bound: float = 1e-4) -> bool:
    return found.dtype == wanted.dtype and bool((found - wanted).abs().max() < bound * wanted.abs().max())


def sites_of(snn: Any) -> dict[str, int]:
    return {s.site.removeprefix(f"{PATH}:"): len(s.neurons) for s in report(snn).sites}


@pytest.mark.parametrize("name", FORWARD)
def test_of_real_numbers(name: str) -> None:
    model = Inside(lambda m, x: getattr(torch.fft, name)(x))
    snn = convert(model, [tokens()])
    assert sites_of(snn) == {name: 1}
    assert close(snn(tokens()), model(tokens()))
    assert not torch.equal(snn(tokens()), model(tokens())), "nothing was encoded"
    assert 0 < report(snn).sites[0].error < 1e-4


@pytest.mark.parametrize("name", BACK)
def test_of_complex_numbers(name: str) -> None:
    """Each part has spikes of its own: twice as many elements as numbers."""
    transform = getattr(torch.fft, name)
    model = Inside(lambda m, x: transform(x)).eval()
    z = torch.complex(tokens(), tokens(seed=2))
    snn = convert(model, [z])
    assert sites_of(snn) == {name: 1}
    assert close(snn(z), model(z))
    assert close(snn(z.conj()), model(z.conj()))
    assert report(snn).sites[0].neurons[0].seen == 4 * z.numel()
    assert 0 < locate_error(snn, model, z)[0].output < 1e-4


@pytest.mark.parametrize(
    ("function", "sites"),
    [
        (lambda m, x: torch.fft.fft(x, axis=1).real, {"fft": 1}),
        (lambda m, x: torch.fft.fft(torch.fft.fft(x, dim=-1), None, 1).real, {"fft": 1, "fft#1": 1}),
        (lambda m, x: torch.fft.rfft(x, 10, 1, norm="ortho").real.sum(1), {"rfft": 1}),
        (lambda m, x: torch.fft.irfft(torch.fft.rfft(x) * m.fc.weight[0, :5]), {"rfft": 1, "irfft": 1}),
        (lambda m, x: torch.fft.fftshift(torch.fft.fft2(x)).imag, {"fft2": 1}),
        (
            lambda m, x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(m.fc(x)).conj()),
            {"rfft": 1, ".fc:linear": 1, "rfft#1": 1, "mul(a,a)": 2, "irfft": 0},
        ),
        (lambda m, x: torch.stft(x[0], 4, window=torch.ones(4), return_complex=True), {"stft(a)": 1}),
        (
            lambda m, x: torch.istft(
                torch.stft(x[0], 4, window=torch.ones(4), return_complex=True), 4, window=torch.ones(4)
            ),
            {"stft(a)": 1, "istft(a)": 1},
        ),
    ],
)
def test_in_a_network(function: Callable, sites: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = Inside(function)
    snn = convert(model, [tokens()])
    found = {s.site.removeprefix(PATH).removeprefix(":"): len(s.neurons) for s in report(snn).sites}
    assert found == sites
    assert close(snn(tokens()), model(tokens()))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda z: z.abs(), "abs"),
        (torch.exp, "exp"),
        (lambda z: 1 / z, r"div\(w,a\)"),
        (lambda z: z**2, r"pow\(2\)"),
        (lambda z: torch.linalg.vector_norm(z, dim=-1), "linalg_vector_norm"),
    ],
)
def test_a_nonlinear_function_of_complex_numbers_is_refused_by_name(function: Callable, name: str) -> None:
    model = Inside(lambda m, x: function(torch.fft.fft(m.fc(x)) + 20).real)
    with pytest.raises(UnsupportedOperatorError, match=rf"{name} of complex numbers in {PATH} \(1x\)"):
        convert(model, [tokens()])


@pytest.mark.parametrize("function", [torch.ops.aten.sgn.default, torch.ops.aten.abs.default])
def test_the_audit_knows_what_is_nonlinear_in_complex_numbers_only(function: Callable) -> None:
    model = Inside(lambda m, x: function(torch.fft.fft(m.fc(x))))
    with pytest.raises(UnsupportedOperatorError, match=f"(sgn|abs) in {PATH}"):
        convert(model, [tokens()])


def test_a_hidden_transform_is_not_left_unencoded() -> None:
    model = Inside(lambda m, x: torch.ops.aten.fft_rfft.default(m.fc(x)).real)
    with pytest.raises(
        UnsupportedOperatorError, match=rf"_fft_r2c on an input that no neuron encodes in {PATH}"
    ):
        convert(model, [tokens()])


@pytest.mark.parametrize("scale", ["element", "token", "channel", "tensor"])
def test_every_scale_and_another_length(scale: str) -> None:
    """There are no weights that a channel's scale could fold into, nor a fixed number of channels."""
    model = Inside(lambda m, x: torch.fft.ifft(torch.fft.fft(x, dim=1), dim=1).real)
    snn = convert(model, [tokens(2, 9)], MBEConfig(scale=scale, identity_bases=64))  # type: ignore[arg-type]
    x = tokens(2, 5)
    assert close(snn(x), model(x), 1e-3)


def test_what_is_left_analogue_is_reported() -> None:
    snn = convert(
        Inside(lambda m, x: torch.tanh(torch.fft.fft(x).real)),
        [tokens()],
        MBEConfig(linear_inputs="analogue"),
    )
    assert report(snn).kept_exact == {f"{PATH}:fft": "linear with analogue input, by configuration"}


def test_a_transform_that_calibration_never_reached() -> None:
    def function(m: Calling, x: Tensor, back: bool = False) -> Tensor:
        return torch.fft.ifft(m.fc(x)).real if back else m.fc(x)

    snn = convert(Inside(function), [tokens()])
    with pytest.raises(UnseenSiteError, match=f"{PATH}:ifft was never reached"):
        snn(tokens(), back=True)


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")
def test_fnet() -> None:
    """The Fourier transform over tokens and features mixes where other models attend."""
    import transformers as tf

    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 99}
    ann = scaled(lambda: tf.FNetModel(tf.FNetConfig(**settings, max_position_embeddings=32)))
    snn = convert(ann, [{"input_ids": token_ids(seed)} for seed in (0, 1)])
    found = [s.site for s in report(snn).sites if s.site.endswith("fourier.self:fftn")]
    assert len(found) == 2
    with torch.no_grad():
        wanted, got = (m(token_ids(2)).last_hidden_state for m in (ann, snn))
    assert (got - wanted).abs().max() <= 0.02 * wanted.std()
