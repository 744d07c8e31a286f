"""Events: what the neurons of a converted network send while it runs, and who sends it."""

from mbe_plugin.recording.events import NeuronEvents, Recording
from mbe_plugin.recording.record import count_spikes, record
from mbe_plugin.recording.trains import Train

SpikeCounts = Recording

__all__ = ["NeuronEvents", "Recording", "SpikeCounts", "Train", "count_spikes", "record"]
