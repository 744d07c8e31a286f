"""Building small models with random weights: by transformers' model type, or timm's file name."""

from __future__ import annotations

import importlib
import inspect
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.small.configs import Shrink, small
from benchmarks.small.inputs import BATCH, Batch, batches, with_image_tokens

PARAMETERS = 80_000_000
MOST_CLASSES = 3  # of a file, tried in its order
WHOLE_SUFFIXES = ("", "Model", "Encoder", "Decoder", "Transformer", "Resampler")  # of a part's class
PATIENCE = 40.0  # seconds after which nothing more is tried
CALIBRATION_SEEDS, TEST_SEED = (1, 2), 3


class NotBuiltError(Exception):
    """The architecture could not be built small, or refuses our inputs; the message says why."""


class NoHopeError(NotBuiltError):
    """No size of it can be built here."""


def entries() -> list[tuple[str, str]]:
    """(library, name) of the whole denominator."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return [("transformers", n) for n in CONFIG_MAPPING_NAMES] + [("timm", n) for n in _first_of_files()]


def build(library: str, name: str) -> tuple[nn.Module, str, list[Batch]]:
    """(model in eval mode with random weights, what it is given, batches for calibration and the test)."""
    return _build_timm(_first_of_files()[name]) if library == "timm" else _build_transformers(name)


def randomise(model: nn.Module) -> None:
    """Weights of a size at which every branch counts, whatever the library's initialisation.

    Matrices are rescaled to a standard deviation of 1 / sqrt(fan-in) where theirs is smaller (0.02 is usual),
    constant ones are drawn; vectors (biases, gains, layer scales) get noise of 0.05.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point() or parameter.numel() == 0:
                continue
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if parameter.dim() < 2:
                parameter.add_(0.05 * noise)
                continue
            wanted = parameter[0].numel() ** -0.5
            spread = parameter.std().item()
            if not spread > 1e-6:
                parameter.add_(noise * wanted)
            elif spread < wanted:
                parameter.mul_(wanted / spread)


def call(model: nn.Module, batch: Batch | Tensor) -> Any:
    """The model's output; models that draw random numbers draw the same ones."""
    torch.manual_seed(0)
    with torch.no_grad():
        return model(batch) if isinstance(batch, Tensor) else model(**batch)


def _build_transformers(name: str) -> tuple[nn.Module, str, list[Batch]]:
    """The smallest that works; the reason given is that of the smallest."""
    first: NotBuiltError | None = None
    start = time.monotonic()
    for shrink in Shrink:
        if time.monotonic() - start > PATIENCE:
            break
        try:
            return _build_shrunk(name, shrink)
        except NoHopeError:
            raise
        except NotBuiltError as error:
            first = first or error
    assert first is not None
    raise first


@contextmanager
def _not_built() -> Iterator[None]:
    """Whatever a library raises as the reason why a model is not built; what is not installed ends the trying."""
    try:
        yield
    except NotBuiltError:
        raise
    except ImportError as error:
        raise NoHopeError(_said(error)) from error
    except Exception as error:
        raise NotBuiltError(_said(error)) from error


def _build_shrunk(name: str, shrink: Shrink) -> tuple[nn.Module, str, list[Batch]]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with _not_built():
        config = small(CONFIG_MAPPING[name](), shrink)
        makers = list(_makers(config))
    if not makers:
        raise NoHopeError(f"no model class takes a {type(config).__name__} alone")
    first: NotBuiltError | None = None
    for make in makers:
        try:
            return _made(make, config)
        except NotBuiltError as error:
            first = first or error
    assert first is not None
    raise first


def _made(make: Callable[[], nn.Module], config: Any) -> tuple[nn.Module, str, list[Batch]]:
    with _not_built():
        _refuse_large(make)
        torch.manual_seed(0)
        model = make().eval().float()
    randomise(model)
    return _called(model, _ways(model, config))


def _ways(model: nn.Module, config: Any) -> Iterator[tuple[str, list[Batch]]]:
    """Inputs to try; at last those with the image tokens that the model has missed in one of the former."""
    missed: list[tuple[str, list[Batch]]] = []
    for given, made in batches(model, config, (*CALIBRATION_SEEDS, TEST_SEED)):
        yield given, made
        count = _missed_tokens(model, made[0]) if not missed and len(given.split(", ")) > 1 else 0
        if count:
            missed.append((given, [with_image_tokens(b, config, count // BATCH) for b in made]))
    yield from missed


def _missed_tokens(model: nn.Module, batch: Batch) -> int:
    try:
        call(model, batch)
    except Exception as error:
        found = re.search(r"tokens: 0, features: (\d+)", str(error))
        return int(found[1]) if found else 0
    return 0


def _makers(config: Any) -> Iterator[Callable[[], nn.Module]]:
    """AutoModel, or the classes of the architecture's own file that take this configuration."""
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if type(config) in MODEL_MAPPING:
        mapped = MODEL_MAPPING[type(config)]
        yield (
            partial(mapped[0], config) if isinstance(mapped, tuple) else lambda: AutoModel.from_config(config)
        )
    try:
        modeling = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    except ModuleNotFoundError:
        return
    classes = [
        c
        for c in vars(modeling).values()
        if inspect.isclass(c)
        and issubclass(c, nn.Module)
        and c.__module__.startswith(modeling.__package__ or "")
        and "forward" in vars(c)
    ]
    whole = [c for c in classes if getattr(c, "config_class", None) is type(config)]
    if type(config) in MODEL_MAPPING:
        whole, classes = [c for c in whole if c.__name__.endswith("ForConditionalGeneration")], []
    stem = type(config).__name__.removesuffix("Config")
    parts = [
        c for c in classes if _takes(c, type(config)) and c.__name__.removeprefix(stem) in WHOLE_SUFFIXES
    ]
    for cls in (whole or parts)[:MOST_CLASSES]:
        yield partial(cls, config)


def _takes(cls: type, config_class: type) -> bool:
    """Whether the constructor wants this configuration, by its annotation, and nothing else."""
    parameters = list(inspect.signature(cls).parameters.values())
    if not parameters or any(p.default is p.empty for p in parameters[1:] if p.kind != p.VAR_KEYWORD):
        return False
    wanted = parameters[0].annotation
    return wanted is config_class or wanted == config_class.__name__


def _refuse_large(make: Callable[[], nn.Module]) -> None:
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in make().parameters())
    except Exception:  # not every constructor runs on the meta device; the memory limit guards those
        return
    if size > PARAMETERS:
        raise NotBuiltError(f"still {size / 1e6:.0f} million parameters after shrinking")


def _called(model: nn.Module, ways: Iterator[tuple[str, list[Batch]]]) -> tuple[nn.Module, str, list[Batch]]:
    first: Exception | None = None
    start = time.monotonic()
    for given, made in ways:
        if time.monotonic() - start > PATIENCE / 2:
            break
        try:
            for batch in made:
                call(model, batch)
            return model, given, made
        except Exception as error:
            first = first or error
    why = _said(first) if first else f"no inputs known for forward{inspect.signature(model.forward)}"
    raise NotBuiltError(f"its forward refuses our inputs: {why}")


TIMM_SIZES: list[dict[str, Any]] = [
    {"img_size": 64, "depth": 2},
    {"img_size": 64, "depths": (1, 1, 1, 1)},
    {"img_size": 64, "depths": (1, 1, 1)},
    {"img_size": 64, "layers": (1, 1, 1, 1)},
    {"img_size": 64},
    {"depths": (1, 1, 1, 1)},
    {"depths": (1, 1, 1)},
    {"layers": (1, 1, 1, 1)},
    {"depth": 2},
    {},
]


def _first_of_files() -> dict[str, str]:
    from timm.models._registry import _model_entrypoints, _model_to_module

    found: dict[str, str] = {}
    for model in _model_entrypoints:
        found.setdefault(_model_to_module[model], model)
    return found


def _build_timm(name: str) -> tuple[nn.Module, str, list[Batch]]:
    import timm

    first: Exception | None = None
    for kwargs in TIMM_SIZES:
        try:
            torch.manual_seed(0)
            model = timm.create_model(name, pretrained=False, num_classes=10, **kwargs).eval()
        except Exception as error:
            first = first or error
            continue
        size = sum(p.numel() for p in model.parameters())
        if size > 2 * PARAMETERS:
            raise NotBuiltError(f"{name}: still {size / 1e6:.0f} million parameters after shrinking")
        randomise(model)
        try:
            return _called(model, _images(kwargs.get("img_size")))
        except NotBuiltError as error:
            first = error
    raise NotBuiltError(f"{name}: {_said(first)}")


def _images(size: int | None) -> Iterator[tuple[str, list[Any]]]:
    for side in (size,) if size else (64, 128, 224, 256):
        yield (
            f"{side} x {side} pixels",
            [
                torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(s))
                for s in (*CALIBRATION_SEEDS, TEST_SEED)
            ],
        )


def _said(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
