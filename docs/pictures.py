"""The pictures of README and docs, drawn from the sample run: the same run gives the same bytes."""

from pathlib import Path

from ktask.common import figures
from ktask.report import Report
from ktask.report.headline import headline_figure
from ktask.report.study import Study

DOCS = Path(__file__).parent
TRACED = "zeroing-populate-THP-512MiB"


def first_screen(study: Study, path: Path) -> None:
    """Draw the figure of the first screen: every kernel path, and what it costs."""
    figures.save(headline_figure(study, "headline").drawing, path)


def timeline(study: Study, path: Path) -> None:
    """Draw the chunks of clearing 512 MiB of huge pages."""
    rows = study.traces[study.traces["cell_id"] == TRACED]
    threads = int(rows["threads"].iloc[0])
    with figures.theme():
        drawing, axis = figures.single(8, 0.6 + 0.4 * threads)
        figures.chunk_lanes(axis, rows, rows["wall_s"].iloc[0], threads)
        axis.set_xlabel("time since the release (ms)")
        axis.set_title(f"512 MiB of huge pages: {len(rows)} chunks on {threads} threads")
    figures.save(drawing, path)


if __name__ == "__main__":
    (sample,) = Report.open([DOCS.parent / "data" / "sample"]).studies
    first_screen(sample, DOCS / "first-screen.svg")
    timeline(sample, DOCS / "trace.svg")
