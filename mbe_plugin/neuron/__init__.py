"""What an MBE neuron is: its tables, its reference dynamics, its range reduction."""

from mbe_plugin.neuron.first_spike import first_spike_tables
from mbe_plugin.neuron.scaling import Reduction
from mbe_plugin.neuron.tables import (
    Tables,
    exponential_table,
    halving_table,
    published_tables,
    segment_tables,
)

__all__ = [
    "Reduction",
    "Tables",
    "exponential_table",
    "first_spike_tables",
    "halving_table",
    "published_tables",
    "segment_tables",
]
