"""Ways to run the same dynamics fast; every one gives the reference's spikes, bit for bit.

``closed`` turns the halving code into integer arithmetic, ``first_spike`` reads the first-spike code off the bits of a
float, ``steps`` runs the time loop, ``gradients`` has their derivatives. ``numba_cpu`` is a backend that does all of a
neuron in one compiled pass, ``operator`` makes it one of torch's operators, ``cupy_gpu`` is a backend that writes the
spikes of all steps by one CUDA kernel, ``backends`` says which can be chosen.
"""

from mbe_plugin.kernels import backends, closed, first_spike, gradients, operator, steps
from mbe_plugin.kernels.prepared import Prepared, prepare

__all__ = ["Prepared", "backends", "closed", "first_spike", "gradients", "operator", "prepare", "steps"]
