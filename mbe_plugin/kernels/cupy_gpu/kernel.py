"""CUDA kernels around neuron.cuh: a subclass of the host's CKernel2D, or of our own where the host has none."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.kernels.cupy_gpu import base
from mbe_plugin.neuron.tables import TABLE_FIELDS

# instead of the host's -use_fast_math: every operation is rounded once and to nearest, subnormal numbers are kept
OPTIONS = ("--fmad=false", "--ftz=false", "--prec-sqrt=true", "--prec-div=true")
THREADS = 256
MOST_BLOCKS = 2**31 - 1  # each goes on with further elements where there are more
COUNTING_BLOCKS = 1 << 10  # few, since each adds all its counts to those of all
SLOTS_OF_A_BLOCK = 12 * 1024  # of 4 bytes in the shared memory that every device has

SOURCE = Path(__file__).with_name("neuron.cuh")
NUMBERS = {torch.float32: "float", torch.float16: "Half", torch.bfloat16: "Brain"}
CTYPES = NUMBERS | {torch.int64: "unsigned long long", torch.bool: "bool"}
# in the order of struct Neuron
SCALARS = "time_steps bases banks per_bank kind power mirrored octaves one_sided halving".split()

# what a kernel writes for the element at ``index`` of ``dt``
CORES = {
    "decoded": "store(y, index, decoded(s, neuron));",
    "sequence": "write_sequence(s, neuron, y, index, dt);",
    "trains": "write_trains(s, neuron, y, index, dt);",
    "counts": """if (where == 0 || where[index]) {
            if (tallied) add_counts(s, neuron, tally);
            else add_counts(s, neuron, y);
        }""",
}
# a block counts in its shared memory where the slots have room there
BEFORE_COUNTING = """extern __shared__ unsigned tally[];
    for (int i = threadIdx.x; i < tallied; i += blockDim.x) tally[i] = 0;
    __syncthreads();"""
AFTER_COUNTING = """__syncthreads();
    for (int i = threadIdx.x; i < tallied; i += blockDim.x)
        if (tally[i]) atomicAdd(&y[i], (unsigned long long)tally[i]);"""

_Base: Any = base.host_kernel_class() or base.CKernel2D


class MultiStepKernel(_Base):
    """The kernel that writes y, the ``output`` of x [N] of a dtype: one thread per element, its T steps in registers.

    output: 'decoded' values [N], the weighted spikes' 'sequence' [T, N], binary 'trains' [T, bases, N], or 'counts' of the
    elements in ``where`` [T * bases + 1]. Parameters are tensors, whole numbers, and 0 for a tensor that is not there; all
    are passed by value, so no launch waits for the device, and indices have 64 bits. Raises TypeError for a tensor of
    another dtype and ValueError for one on another device.
    """

    def __init__(self, output: str, dtype: torch.dtype) -> None:
        number = NUMBERS[dtype]
        super().__init__(kernel_name=f"mbe_{output}_{number.lower()}")
        self.functions: dict[int, Any] = {}
        self.counting = output == "counts"
        self.cparams = {"N": "const long long"}
        self.add_param(f"const {number} *", "x")
        self.add_param("unsigned long long *" if self.counting else f"{number} *", "y")
        for name in TABLE_FIELDS:
            self.add_param("const float *", name)
        for name in SCALARS:
            self.add_param("const long long", name)
        self.core = CORES[output]
        if self.counting:
            self.add_param("const bool *", "where")
            self.add_param("const long long", "tallied")
            self.pre_core, self.post_core = BEFORE_COUNTING, AFTER_COUNTING

    @property
    def declaration(self) -> str:
        """neuron.cuh and the kernel's signature."""
        self.cparams = dict(sorted(self.cparams.items()))
        signature = ", ".join(f"{ctype} {name}" for name, ctype in self.cparams.items())
        return f'{SOURCE.read_text()}\nextern "C" __global__ void {self.kernel_name}({signature})\n'

    @property
    def head(self) -> str:
        """The neuron, pre_core, and the loop over this thread's elements."""
        tables = "threshold, reset, intensity, weight, offset, gain, bias, breakpoints"
        return f"""{{
    const Neuron neuron = {{{tables},
        {", ".join(f"({'int' if at < 6 else 'bool'}){name}" for at, name in enumerate(SCALARS))}}};
    const whole dt = N, stride = (whole)gridDim.x * blockDim.x;
    {self.pre_core}
    for (whole index = (whole)blockIdx.x * blockDim.x + threadIdx.x; index < dt; index += stride) {{
        const Start s = begin(load(x, index), neuron);
        """

    @property
    def tail(self) -> str:
        """post_core, and what closes head."""
        return f"\n    }}\n    {self.post_core}\n}}\n"

    def compiled(self, device: int) -> Any:
        """The compiled kernel on a device, one for all calls."""
        if device not in self.functions:
            import cupy

            # no RawKernel: behind any options CuPy puts its own -ftz=true, which takes subnormal numbers for 0
            code, _ = cupy.cuda.compiler.compile_using_nvrtc(self.full_codes, OPTIONS, cache_in_memory=True)
            module = cupy.cuda.function.Module()
            module.load(code)
            self.functions[device] = module.get_function(self.kernel_name)
        return self.functions[device]

    def check_device(self, device: torch.device, py_dict: dict) -> None:
        """Raise ValueError for a tensor that is not on the device."""
        for name, value in py_dict.items():
            if isinstance(value, Tensor) and value.device != device:
                raise ValueError(
                    f"the input is on {device}, {name} on {value.device}; move it with .to(device)"
                )

    def check_ctypes(self, py_dict: dict) -> None:
        """Raise TypeError for a tensor of another dtype than the parameter's."""
        for name, value in py_dict.items():
            takes = self.cparams[name].removeprefix("const ").removesuffix(" *")
            if isinstance(value, Tensor) and CTYPES.get(value.dtype) != takes:
                raise TypeError(f"{name} of the kernel {self.kernel_name} is {takes}, got {value.dtype}")

    def get_ptrs(self, py_dict: dict) -> tuple[int, ...]:
        """Addresses and numbers, as CuPy takes them."""
        return tuple(
            value.data_ptr() if isinstance(value, Tensor) else int(value) for value in py_dict.values()
        )

    def __call__(self, grid: tuple, block: tuple, py_dict: dict, *args: Any, **kwargs: Any) -> None:
        """Launch on CuPy's current stream and device, which is x's; args and kwargs are those of CuPy's function."""
        self.check_keys(py_dict)
        self.check_device(py_dict["x"].device, py_dict)
        self.check_ctypes(py_dict)
        launch = self.compiled(py_dict["x"].device.index or 0)
        launch(grid, block, self.get_ptrs(dict(sorted(py_dict.items()))), *args, **kwargs)

    def simple_call(self, **py_dict: Any) -> None:
        """Launch on the device of x and torch's current stream there; N is the number of its elements, 0 does nothing."""
        x = py_dict["x"]
        elements = py_dict["N"] = x.numel()
        if not elements:
            return
        blocks = min(-(-elements // THREADS), COUNTING_BLOCKS if self.counting else MOST_BLOCKS)
        slots = py_dict["y"].numel() if self.counting else 0
        if self.counting:
            slots = py_dict["tallied"] = slots if slots <= SLOTS_OF_A_BLOCK else 0
        with torch.cuda.device(x.device), _current_stream(x.device):
            self((blocks,), (THREADS,), py_dict, shared_mem=4 * slots)


@cache
def kernel_of(output: str, dtype: torch.dtype) -> MultiStepKernel:
    """The one kernel of this kind."""
    return MultiStepKernel(output, dtype)


class _TorchStream:
    """torch's current stream by the CUDA stream protocol."""

    def __init__(self, device: torch.device) -> None:
        self.address = torch.cuda.current_stream(device).cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


def _current_stream(device: torch.device) -> Any:
    """torch's current stream as CuPy's: a context."""
    from cupy import cuda

    stream = _TorchStream(device)
    if hasattr(cuda.Stream, "from_external"):  # CuPy 14, which warns of the other
        return cuda.Stream.from_external(stream)
    return cuda.ExternalStream(stream.address)
