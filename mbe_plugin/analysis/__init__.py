"""Looking at a converted network: report, location of its error."""

from mbe_plugin.analysis.locate import SiteError, locate_error
from mbe_plugin.analysis.report import Report, report

__all__ = ["Report", "SiteError", "locate_error", "report"]
