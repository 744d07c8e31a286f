"""Ways to run the same dynamics fast; every one gives the reference's spikes, bit for bit.

``closed`` turns the halving code into integer arithmetic, ``first_spike`` reads the first-spike code off the bits of a
float, ``steps`` runs the time loop, ``gradients`` has their derivatives. ``backends`` says whose kernels can be chosen.
"""

from mbe_plugin.kernels import backends, closed, first_spike, gradients, steps
from mbe_plugin.kernels.prepared import Prepared, prepare

__all__ = ["Prepared", "backends", "closed", "first_spike", "gradients", "prepare", "steps"]
