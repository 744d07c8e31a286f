"""What a network's neurons send while it runs, counted and recorded."""

from mbe_plugin.recording.counts import NeuronSpikes, SpikeCounts, count_spikes

__all__ = ["NeuronSpikes", "SpikeCounts", "count_spikes"]
