"""The report: tables, figures and the page they become."""

from ktask.report.contents import Report
from ktask.report.page import write_report

__all__ = ["Report", "write_report"]
