"""MBE neurons for snnTorch: ``from mbe_plugin.snntorch import MBE, reset``."""

from mbe_plugin.hosts.snntorch import MBE, reset

__all__ = ["MBE", "reset"]
