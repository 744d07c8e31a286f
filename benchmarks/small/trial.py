"""One architecture: build it small, convert it, compare."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import mbe_plugin
from benchmarks.small.models import NotBuiltError, build, call
from mbe_plugin.errors import ConversionError

CLOSE = 0.02  # largest error of the outputs, as a share of their standard deviation
TIME_STEPS = 16
CONVERTED, REFUSED, FAILED, NOT_BUILT = "converted", "refused", "failed", "not built"
ATTENTION = ("softmax", "scaled_dot_product_attention", "multi_head_attention_forward")


@dataclass
class Result:
    """A row of the matrix.

    error: largest error / standard deviation. chaos: the same for the ANN with weights off by 1e-6.
    """

    library: str
    name: str
    model: str = ""
    outcome: str = NOT_BUILT
    attention: bool = False
    error: float | None = None
    chaos: float | None = None
    given: str = ""
    why: str = ""
    seconds: float = 0.0


def run(library: str, name: str, progress: Callable[[str], None] = lambda _: None) -> Result:
    """Try one architecture, whatever it raises; progress is told each stage."""
    result, start = Result(library, name), time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _run(result, progress)
    except NotBuiltError as error:
        result.why = str(error)
    except Exception as error:  # whatever a model's own code raises is a row of the matrix
        result.outcome = REFUSED if isinstance(error, ConversionError) else FAILED
        result.why = f"{type(error).__name__}: {error}{_where(error)}".replace("\n", " ")[:600]
    result.seconds = time.perf_counter() - start
    return result


def _run(result: Result, progress: Callable[[str], None]) -> None:
    model, result.given, made = build(result.library, result.name)
    result.model = type(model).__name__
    *calibration, test = made
    wanted, result.attention = _watch(model, test)
    if not any(bool(torch.isfinite(t).all()) for t in _outputs(wanted)):
        raise NotBuiltError("the outputs of the ANN are not finite")
    result.outcome = FAILED
    progress("calibrating")
    config = mbe_plugin.MBEConfig(time_steps=TIME_STEPS)
    snn = mbe_plugin.convert(model, calibration, config, progress=lambda stage, *_: progress(stage))
    progress("running")
    result.error = difference(call(snn, test), wanted)
    if result.error <= CLOSE:
        result.outcome = CONVERTED
        return
    result.chaos = difference(call(_perturbed(model), test), wanted)
    result.why = "not close: " + _worst_sites(snn)


def difference(got: Any, wanted: Any) -> float:
    """Largest |got - wanted| over the standard deviation of wanted, the worst over the output tensors."""
    worst = 0.0
    pairs = list(zip(_outputs(got), _outputs(wanted), strict=True))
    for a, b in pairs:
        finite = torch.isfinite(b)
        if not torch.equal(finite, torch.isfinite(a)):
            return float("inf")
        a, b = a[finite].double(), b[finite].double()
        if b.numel() < 2:
            continue
        spread = b.std().item()
        if spread < 1e-6 * b.abs().max().item():  # a constant
            spread = b.abs().max().item()
        worst = max(worst, ((a - b).abs().max() / max(spread, 1e-12)).item())
    return worst


def _outputs(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _outputs(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _outputs(item)


class _Seen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def _watch(model: nn.Module, batch: Any) -> tuple[Any, bool]:
    """The ANN's output, and whether it contains attention."""
    named = any(
        "attention" in type(m).__name__.lower() or "attn" in type(m).__name__.lower() for m in model.modules()
    )
    with _Seen() as seen:
        out = call(model, batch)
    return out, named or any(n in seen.names for n in ATTENTION)


def _perturbed(model: nn.Module) -> nn.Module:
    """The same ANN with every weight off by 1e-6 of itself."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.is_floating_point():
                parameter.mul_(1 + 1e-6 * torch.randn(parameter.shape, generator=generator))
    return other


def _worst_sites(snn: nn.Module) -> str:
    errors = sorted(snn.mbe_conversion.local_errors.items(), key=lambda item: -item[1])[:3]  # type: ignore[union-attr]
    return "largest local errors " + ", ".join(f"{site} {error:.1e}" for site, error in errors)


def _where(error: Exception) -> str:
    """The last line of our own code, for errors that are not ours."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/mbe_plugin/" in file or "/benchmarks/" not in file:
            place = f" [{'/'.join(file.split('/')[-2:])}:{trace.tb_lineno}]"
        trace = trace.tb_next
    return "" if isinstance(error, ConversionError) else place
