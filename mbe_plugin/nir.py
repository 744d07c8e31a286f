"""Converted networks in the Neuromorphic Intermediate Representation: ``from mbe_plugin.nir import to_nir, from_nir``."""

from mbe_plugin.hosts.nir import MBE, from_nir, read, to_nir

__all__ = ["MBE", "from_nir", "read", "to_nir"]
