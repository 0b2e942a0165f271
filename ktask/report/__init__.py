"""The report: tables, figures and the page they become.

`tables` makes tidy tables of a run, `study` keeps those of one machine, `sentences` and `sections` put them
into words and tables of the page, `figures` and its neighbours draw, `contents.Report` has a method per
section for the notebook, and `page.write_report` makes the HTML file. `knobs` are figures with sliders.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ktask.report.contents import Report
    from ktask.report.page import write_report

__all__ = ["Report", "write_report"]

# Whoever writes a page starts the process that draws it, and needs nothing of what draws: 1 s of imports.
_LAZY = {"Report": "ktask.report.contents", "write_report": "ktask.report.page"}


def __getattr__(name: str) -> Any:
    """Import a part when it is first asked for."""
    if name in _LAZY:
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value
    raise AttributeError(f"module 'ktask.report' has no attribute {name!r}")
