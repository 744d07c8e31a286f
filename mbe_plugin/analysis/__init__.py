"""Looking at a converted network: report, location of its error."""

from mbe_plugin.analysis.locate import SiteContribution, locate_error
from mbe_plugin.analysis.report import Report, report

__all__ = ["Report", "SiteContribution", "locate_error", "report"]
