"""The page of a report: ``report(snn).save_html(path)``."""

from mbe_plugin.analysis.page.write import save_page

__all__ = ["save_page"]
