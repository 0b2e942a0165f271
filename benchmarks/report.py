"""How long `ktask report` takes for the committed sample, in fresh processes.

    python benchmarks/report.py [--processes N] [--json FILE]

The mean over processes with its 95 % interval. The first of them may wait for the disk and does not count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from start_states import over_processes

from ktask.common.files import write_json
from ktask.common.resources import SAMPLE
from ktask.host.facts import machine_facts


def wall_s(out: Path) -> float:
    """Return the seconds of a process that writes the report to `out`."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "ktask", "report", str(SAMPLE), "--out", str(out)]
    subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - this very Python
    return time.perf_counter() - start


def main() -> None:
    """Print the seconds; write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        each = [wall_s(Path(folder) / "sample.html") for _ in range(options.processes + 1)][1:]
    mean = over_processes(each)
    sys.stdout.write(f"report of the sample  {mean['ratio']:.3g} s [{mean['low']:.3g}, {mean['high']:.3g}]\n")
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "wall_s": mean, "each_s": each})


if __name__ == "__main__":
    main()
