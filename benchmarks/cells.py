"""Where the time of a sweep went: measuring, and the rest of each cell. Give the directory of a finished run.

A cell's measuring lasts from the start of its first repetition to the end of its last. The rest is starting
its process, mapping memory, the notebook and writing.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path

import numpy as np

from ktask.lab.records import read_records


def cell_times(run: Path) -> list[tuple[float, float]]:
    """Return (whole, measuring) in seconds for each measured cell of a run, in the order of measuring."""
    found = []
    for file in (run / "records").glob("*.parquet"):
        book = json.loads((run / "cells" / f"{file.stem}.ipynb").read_text(encoding="utf-8"))
        times = book["metadata"]["papermill"]
        rows = read_records(file)
        last = rows.loc[rows["started_at"].idxmax()]
        measuring = (last["started_at"] - rows["started_at"].min()).total_seconds() + last["wall_s"]
        found.append((datetime.fromisoformat(times["start_time"]), times["duration"], measuring))
    return [(duration, measuring) for _, duration, measuring in sorted(found)]


def main() -> None:
    """Print the overhead per cell and the share of measuring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--total", type=float, help="seconds that the whole command took, report and all")
    options = parser.parse_args()
    whole, measuring = np.array(cell_times(options.run)).T
    rest = whole - measuring
    low, median, high = np.percentile(rest, [5, 50, 95])
    total = options.total or whole.sum()
    sys.stdout.write(
        f"{len(whole)} cells: {median:.2f} s beyond measuring in the median "
        f"(5 to 95 %: {low:.2f} to {high:.2f})\n"
        f"measuring took {measuring.sum():.1f} s of {total:.1f} s: {measuring.sum() / total:.0%}\n"
    )


if __name__ == "__main__":
    main()
