"""A figure of the report: a drawing with its caption, its words for screen readers, and its numbers."""

import base64
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
from markupsafe import Markup

from ktask.common.figures import Drawing, to_svg
from ktask.report import markup


@dataclass(frozen=True)
class Figure:
    """A drawing with all that belongs to it."""

    key: str  # unique in a report; also the anchor on the page
    drawing: Drawing
    data: pd.DataFrame  # the numbers drawn
    caption: Markup  # the finding, the kind of interval and n
    alt: str  # what the drawing shows, for screen readers
    number: str = ""  # in the report
    drawn: str = ""  # the SVG, if it is made already

    def of(self, run: str) -> "Figure":
        """Return the figure with the name of its run before caption and alternative text."""
        return replace(self, alt=f"{run}: {self.alt}", caption=Markup("{}: {}").format(run, self.caption))

    @cached_property
    def svg(self) -> Markup:
        """The drawing as an SVG element; its identifiers differ from those of other figures."""
        return Markup(self.drawn or to_svg(self.drawing, self.key, self.alt))  # noqa: S704 - made by us

    def rendered(self) -> "Figure":
        """Return the figure as an SVG, without the drawing, which is slow to send to another process."""
        return replace(self, drawn=str(self.svg), drawing=Drawing())

    @property
    def link(self) -> Markup:
        """A reference to the figure, for use in a sentence."""
        return Markup('<a href="#{}">Figure {}</a>').format(self.key, self.number)

    @property
    def csv_uri(self) -> str:
        """The data as a CSV file in a data: address."""
        text = self.data.to_csv(index=False, float_format="%.9g", lineterminator="\n")
        return "data:text/csv;base64," + base64.b64encode(text.encode()).decode()

    def _repr_html_(self) -> str:
        return markup.render("figure.html.j2", figure=self)
