"""The report: tables, figures and the page they become.

`tables` makes tidy tables of a run, `study` keeps those of one machine, `sentences` and `sections` put them
into words and tables of the page, `figures` and its neighbours draw, `contents.Report` has a method per
section for the notebook, and `page.write_report` makes the HTML file. `knobs` are figures with sliders.
"""

from ktask.report.contents import Report
from ktask.report.page import write_report

__all__ = ["Report", "write_report"]
