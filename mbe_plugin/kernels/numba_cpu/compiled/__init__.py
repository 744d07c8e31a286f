"""What Numba compiles: ``kernels`` and ``rows`` are made of the stages beside them."""
