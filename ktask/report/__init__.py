"""The report: tables, figures and the page they become."""

from ktask.report.page import write_report
from ktask.report.story import Report

__all__ = ["Report", "write_report"]
