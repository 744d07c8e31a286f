"""The Neuromorphic Intermediate Representation: converted networks as graphs (``drawing``), and back (``reading``).

NIR, https://neuroir.org: J. E. Pedersen et al., Nature Communications 15, 8122 (2024).
"""

try:
    import nir
except ModuleNotFoundError as missing:
    if missing.name not in ("nir", "h5py"):
        raise
    raise ImportError("mbe_plugin.nir needs nir; install it with: pip install 'mbe_plugin[nir]'") from missing

from mbe_plugin.hosts.nir.drawing import to_nir
from mbe_plugin.hosts.nir.node import MBE
from mbe_plugin.hosts.nir.reading import from_nir, read

del nir

__all__ = ["MBE", "from_nir", "read", "to_nir"]
