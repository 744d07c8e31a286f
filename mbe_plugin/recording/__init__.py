"""Events: what the neurons of a converted network send while it runs, and who sends it."""

from mbe_plugin.recording.deliveries import Deliveries, Ledger, open_ledgers
from mbe_plugin.recording.events import NeuronEvents, Recording
from mbe_plugin.recording.record import count_spikes, record
from mbe_plugin.recording.sent import Sent, sent_by
from mbe_plugin.recording.trains import Train

SpikeCounts = Recording

__all__ = [
    "Deliveries",
    "Ledger",
    "NeuronEvents",
    "Recording",
    "Sent",
    "SpikeCounts",
    "Train",
    "count_spikes",
    "open_ledgers",
    "record",
    "sent_by",
]
