"""The backend of a whole network: chosen after conversion, asked for in a configuration, wished for in a file."""

from __future__ import annotations

import logging
from dataclasses import replace

from torch import nn

from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion.batches import device_of
from mbe_plugin.conversion.progress import Progress
from mbe_plugin.errors import BackendError
from mbe_plugin.kernels import backends, numba_cpu
from mbe_plugin.node import MBENode


def set_backend(net: nn.Module, backend: str) -> None:
    """Let every MBE neuron of a network run on a backend, one of kernels.backends.BACKENDS; the spikes are the same.

    net: a converted network, or any module that holds an MBENode. Raises BackendError for a name that nobody knows and for
    a backend that cannot run here (``python -m mbe_plugin.env`` lists them), ValueError for a module without MBE neurons;
    nothing is changed then.
    """
    neurons = [module for module in net.modules() if isinstance(module, MBENode)]
    if not neurons:
        raise ValueError(
            f"{type(net).__name__} holds no MBE neuron whose backend could be set to {backend!r}"
        )
    for neuron in neurons:
        backends.require(backend, neuron.supported_backends, neuron.step_mode, type(neuron).__name__)
    for neuron in neurons:
        neuron.backend = backend
    for module in net.modules():
        conversion = module.__dict__.get("mbe_conversion")
        if conversion is not None:
            conversion.config = replace(conversion.config, backend=backend)


def check_backend(backend: str) -> None:
    """Raise BackendError unless a network that was just converted, and is in step_mode 's', can run on the backend."""
    backends.require(backend, backends.SUPPORTED["s"], "s", "a converted network")


def runnable(config: MBEConfig) -> MBEConfig:
    """The configuration, with backend 'auto' where the one that it wishes for cannot run here; the log says why."""
    try:
        check_backend(config.backend)
    except BackendError as why:
        logging.getLogger("mbe_plugin").warning("the saved network is loaded with backend='auto': %s", why)
        return replace(config, backend="auto")
    return config


def load_kernels(net: nn.Module, backend: str, tell: Progress) -> None:
    """Load what a network that was just converted runs on, so that compiling it, once on a machine, has a name."""
    runs_on_numba = backend in ("auto", "numba") and device_of(net).type == "cpu" and not numba_cpu.missing()
    if runs_on_numba and not numba_cpu.loaded():
        stage = "loading kernels (compiled the first time)"
        tell(stage, 0, 1)
        numba_cpu.load()
        tell(stage, 1, 1)
