"""What is installed here, what it offers and what does not load, as the table that goes into a bug report."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mbe_plugin

# library -> how to get it
LIBRARIES = {
    "numpy": "pip install numpy",
    "spikingjelly": "pip install spikingjelly",
    "snntorch": "pip install snntorch",
    "transformers": "pip install transformers",
    "timm": "pip install timm",
    "torchaudio": "pip install torchaudio, though nothing here needs it",
    "numba": "pip install 'mbe_plugin[fast]'",
    "triton": "pip install triton",
    "cupy": "pip install cupy-cuda12x, or the one of your CUDA",
}


NAMED = ("torch", "numba", "triton", "cupy")  # backends that can be asked for


def environment() -> dict[str, str]:
    """One line for each thing, by its name; what is absent or does not load says so in its line, and nothing is raised."""
    distributions = importlib.metadata.packages_distributions()
    looks: dict[str, Callable[[], str]] = {
        "mbe_plugin": lambda: f"{mbe_plugin.__version__}, in {Path(mbe_plugin.__file__).parent}",
        "Python": lambda: f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform,
        "torch": _torch,
        "GPU": _gpus,
        "backend auto": _automatic,
        "backend auto, step_mode 'm'": _automatic_on_gpu,
        **{f"backend {name}": partial(_backend, name) for name in NAMED},
        **{name: partial(_library, name, distributions.get(name, [])) for name in LIBRARIES},
        "spikingjelly has": partial(_features, there=True),
        "spikingjelly lacks": partial(_features, there=False),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library complains of while it is imported is not asked here
        return {name: _line(look) for name, look in looks.items()}


def table() -> str:
    """environment() as a Markdown table."""
    rows = environment()
    wide = max(map(len, rows))
    head = [f"| {'what':{wide}} | found |", f"| {'-' * wide} | ----- |"]
    return "\n".join([*head, *(f"| {name:{wide}} | {found} |" for name, found in rows.items())])


def _line(look: Callable[[], str]) -> str:
    try:
        found = look()
    except Exception as error:  # whatever is wrong with a library, and of whatever type, the table must come
        found = f"does not load: {type(error).__name__}: {error}"
    return " ".join(found.replace("|", "/").split())


def _library(name: str, distributions: list[str]) -> str:
    if not distributions and importlib.util.find_spec(name) is None:
        return f"not installed ({LIBRARIES[name]})"
    version = importlib.metadata.version(distributions[0]) if distributions else "of no version"
    fault = _line(partial(_load, name))
    return f"{version}, {fault}" if fault else version


def _load(name: str) -> str:
    importlib.import_module(name)
    return ""


def _torch() -> str:
    import torch

    return (
        f"{torch.__version__}, built {f'for CUDA {cuda}' if (cuda := torch.version.cuda) else 'without CUDA'}"
    )


def _gpus() -> str:
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    listed = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices)
    return listed or "none (torch.cuda.device_count() is 0)"


def _backend(name: str) -> str:
    from mbe_plugin.kernels import backends

    reasons = backends.missing(name)
    return f"not available: {', '.join(reasons)}" if reasons else "available"


def _automatic() -> str:
    from mbe_plugin.kernels import backends

    return backends.automatic()


def _automatic_on_gpu() -> str:
    from mbe_plugin.kernels import backends

    return backends.automatic_on_gpu()


def _features(*, there: bool) -> str:
    from mbe_plugin.hosts.features import FEATURES

    return (
        ", ".join(name for name, has in FEATURES.items() if has() is there) or "nothing of what is looked for"
    )
