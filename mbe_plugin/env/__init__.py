"""What a program's environment has, for a bug report: ``python -m mbe_plugin.env``; and what it may have to repair.

Nothing here runs by itself, and ``import mbe_plugin`` does not import it: a library that changes
other people's modules without being asked is worse than the fault.
"""

from mbe_plugin.env.found import environment, table
from mbe_plugin.env.torchaudio import hide_broken_torchaudio

__all__ = ["environment", "hide_broken_torchaudio", "table"]
