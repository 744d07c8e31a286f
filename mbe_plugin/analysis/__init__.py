"""Looking at a converted network: report, spikes."""

from mbe_plugin.analysis.report import Report, report

__all__ = ["Report", "report"]
