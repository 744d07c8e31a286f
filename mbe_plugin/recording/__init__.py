"""Events: what the neurons of a converted network send while it runs, and who sends it."""

from mbe_plugin.recording.amplitudes import Amplitudes
from mbe_plugin.recording.deliveries import Deliveries, Delivery, Ledger, SiteCall, open_ledgers, told
from mbe_plugin.recording.event_lists import EventList, sum_of
from mbe_plugin.recording.events import NeuronEvents, Recording
from mbe_plugin.recording.latency import Latency, NeuronCall, latency_of
from mbe_plugin.recording.listing import events_of, exponents_of
from mbe_plugin.recording.looking import looking, refuse_compiled
from mbe_plugin.recording.record import count_spikes, record
from mbe_plugin.recording.samples import Samples, sampled_trains
from mbe_plugin.recording.sent import Sent, joined, sent_by
from mbe_plugin.recording.trains import Train

SpikeCounts = Recording

__all__ = [
    "Amplitudes",
    "Deliveries",
    "Delivery",
    "EventList",
    "Latency",
    "Ledger",
    "NeuronCall",
    "NeuronEvents",
    "Recording",
    "Samples",
    "Sent",
    "SiteCall",
    "SpikeCounts",
    "Train",
    "count_spikes",
    "events_of",
    "exponents_of",
    "joined",
    "latency_of",
    "looking",
    "open_ledgers",
    "record",
    "refuse_compiled",
    "sampled_trains",
    "sent_by",
    "sum_of",
    "told",
]
