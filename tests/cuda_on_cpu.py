"""CUDA sources without a GPU: run on the CPU behind a stand-in for CuPy, or compiled by NVRTC and looked at."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from mbe_plugin.kernels import backends, cupy_gpu
from mbe_plugin.kernels.cupy_gpu import calls, kernel

SHIM = Path(__file__).with_name("cuda_shim.h")
# nothing that the device would not do: every operation rounded once
FLAGS = "-O1 -std=c++17 -shared -fPIC -ffp-contract=off -fno-fast-math -fno-strict-aliasing"
STREAM = 1234  # the address of torch's current stream


def compiler() -> str:
    """The C++ compiler, or a skip."""
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("there is no C++ compiler (g++ or clang++) to run the CUDA source on the CPU")
    return found


@cache
def library(code: str, name: str, arguments: int, folder: Path) -> ctypes.CDLL:
    """The kernel ``name`` of a CUDA source behind ``launch(first block, blocks, threads, numbers)``, built in a folder."""
    given = ", ".join(f"arguments[{i}]" for i in range(arguments))
    waiting = str("__syncthreads" in code).lower()
    launch = f"""
        extern "C" void launch(unsigned first, unsigned blocks, unsigned threads, const Argument *given) {{
            arguments = given;
            body = [] {{ {name}({given}); }};
            run(first, blocks, threads, {waiting});
        }}"""
    text = SHIM.read_text() + code + launch
    path = folder / f"{hashlib.sha256((text + FLAGS).encode()).hexdigest()}.so"
    if not path.exists():
        own = path.with_suffix(f".{os.getpid()}")
        command = [compiler(), *FLAGS.split(), "-x", "c++", "-", "-o", str(own)]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        own.rename(path)
    return ctypes.CDLL(str(path))


class FakeCupy(ModuleType):
    """As much of CuPy as is used. Keeps the kernels made, the launches as (name, stream, device), and what is entered."""

    def __init__(self, folder: Path, modern: bool) -> None:
        super().__init__("cupy")
        self.folder = folder
        self.made: list[Any] = []
        self.launches: list[tuple[str, Any, Any]] = []
        self.stream = self.device = None
        streams = SimpleNamespace(from_external=self._stream_of) if modern else SimpleNamespace()
        fake = self

        class Module:
            def load(self, compiled: tuple[str, tuple[str, ...]]) -> None:
                self.code, self.options = compiled

            def get_function(self, name: str) -> Any:
                self.name = name
                fake.made.append(self)
                return self._launch

            def _launch(self, grid: tuple, block: tuple, args: tuple, shared_mem: int = 0) -> None:
                assert 0 < grid[0] < 2**31 and 0 < block[0] <= 1024 and shared_mem <= 48 * 1024
                assert all(type(number) is int for number in args)
                fake.launches.append((self.name, fake.stream, fake.device))
                fake.run(self.code, self.name, grid[0], block[0], args)

        def compile_using_nvrtc(source: str, options: tuple[str, ...], cache_in_memory: bool) -> Any:
            assert cache_in_memory
            return (source, options), None

        self.cuda = SimpleNamespace(
            Stream=streams,
            ExternalStream=self._entered,
            compiler=SimpleNamespace(compile_using_nvrtc=compile_using_nvrtc),
            function=SimpleNamespace(Module=Module),
        )

    def run(
        self, code: str, name: str, grid: int, block: int, numbers: tuple[int, ...], first: int = 0
    ) -> None:
        """Run a kernel's blocks from ``first`` on; numbers: its arguments, addresses among them."""
        given = array("q", numbers)
        built = library(code, name, len(given), self.folder)
        built.launch(first, grid, block, ctypes.c_void_p(given.buffer_info()[0]))

    def _stream_of(self, stream: Any) -> Any:
        version, address = stream.__cuda_stream__()
        assert version == 0
        return self._entered(address)

    @contextmanager
    def _entered(self, address: int) -> Iterator[None]:
        self.stream = address
        yield
        self.stream = None

    @contextmanager
    def guard(self, device: torch.device) -> Iterator[None]:
        """In the place of torch.cuda.device."""
        self.device = device
        yield
        self.device = None


@contextmanager
def fake_cupy(monkeypatch: pytest.MonkeyPatch, folder: Path, modern: bool = True) -> Iterator[FakeCupy]:
    """The backend 'cupy' with the CPU for its GPU, its kernels built in a folder; modern: with CuPy 14's streams."""
    compiler()
    fake = FakeCupy(folder, modern)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(cupy_gpu, "DEVICE", "cpu")
    monkeypatch.setattr(backends, "without_gpu", list)
    monkeypatch.setattr(torch.cuda, "device", fake.guard)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))
    remembering = (kernel.kernel_of, backends._cupy_is_there)
    with torch.library._scoped_library("mbe_plugin", "FRAGMENT") as registered:
        registered.impl("multi_step", calls.run, "CPU")
        for remembered in remembering:
            remembered.cache_clear()
        yield fake
        for remembered in remembering:
            remembered.cache_clear()


def assembled(code: str, options: tuple[str, ...]) -> str:
    """The PTX of a CUDA source that assembles without a complaint; a skip without NVRTC."""
    reason = "NVRTC's bindings are not installed (pip install cuda-bindings nvidia-cuda-nvrtc)"
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason=reason)
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as absent:
        pytest.skip(f"NVRTC does not load: {absent}")

    def told(call: Any, *args: Any) -> Any:
        failed, *found = call(*args)
        assert not failed, (call.__name__, failed)
        return found[0] if found else None

    def text(size: Any, fill: Any) -> str:
        # written in place, so never one byte: Python has one object for all that are equal
        buffer = bytes(told(size, program) + 1)
        told(fill, program, buffer)
        return buffer.rstrip(b"\0").decode()

    program = told(nvrtc.nvrtcCreateProgram, code.encode(), b"kernel.cu", 0, [], [])
    words = [option.encode() for option in options]
    failed = nvrtc.nvrtcCompileProgram(program, len(words), words)[0]
    log = text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
    assert not failed and not log, log
    assert told(nvrtc.nvrtcGetCUBINSize, program) > 1000
    return text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
