"""Inside an emulated machine: runs the tests of its job and writes what came of each, as it comes.

One process runs them all, because importing takes minutes under emulation. So tests that start a Python with
ktask in it are skipped, tests that time are left out, and each has its time limit.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import ktask

LANE = Path("/lane")
EXAMPLES = 5  # of a test that generates its cases
HEAVY = re.compile(r"(import|from) ktask(?!\.(engine\.slots|host\.topology))\b")
MARKS = "not long and not alone and not timing"


class Report:
    """The plugin of pytest that keeps to the limits and writes the outcomes."""

    def __init__(self, limit_s: int):
        self.limit_s, self.end = limit_s, math.inf
        threading.Thread(target=self.watch, daemon=True).start()
        self.out = (LANE / "outcomes.jsonl").open("w")

    def write(self, **row) -> None:
        """Write one line, at once: the machine may be switched off after it."""
        self.out.write(json.dumps(row) + "\n")
        self.out.flush()

    def pytest_configure(self, config) -> None:
        """Know the marker of tests that may take longer."""
        config.addinivalue_line("markers", "limit(seconds): in an emulated machine")

    def pytest_collection_modifyitems(self, items) -> None:
        """Try few examples, without a deadline."""
        from hypothesis import settings  # not before pytest has its hooks in place

        for item in items:
            test = getattr(item.obj, "hypothesis", None) and item.obj
            if test:
                own = test._hypothesis_internal_use_settings
                test._hypothesis_internal_use_settings = settings(own, max_examples=EXAMPLES, deadline=None)

    def pytest_collectreport(self, report) -> None:
        """Count a file that cannot be read as a failed test."""
        if report.failed:
            self.write(test=report.nodeid, outcome="failed", seconds=0, why=str(report.longrepr)[-3000:])

    def pytest_collection_finish(self, session) -> None:
        """Say how many there are."""
        self.write(collected=len(session.items))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        """Interrupt a test that takes too long."""
        own = item.get_closest_marker("limit")
        self.end = time.monotonic() + (own.args[0] if own else self.limit_s)
        try:
            return (yield)
        finally:
            self.end = math.inf

    def watch(self) -> None:
        """Send a signal that no test uses when the time of a test is over."""
        while True:
            time.sleep(5)
            if time.monotonic() > self.end:
                self.end = math.inf
                os.kill(os.getpid(), signal.SIGUSR2)

    def pytest_runtest_logreport(self, report) -> None:
        """Write what came of a test: of its call, or of what kept it from that."""
        if report.when == "call" or report.outcome != "passed":
            why = "" if report.passed else str(report.longrepr)[-3000:]
            self.write(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 1), why=why)


def too_long(*_) -> None:
    """Fail the test that runs."""
    raise TimeoutError("the time limit of a test in an emulated machine")


def without_new_pythons() -> None:
    """Skip whatever starts another Python with ktask in it."""
    start = subprocess.Popen.__init__

    def guarded(self, args, *more, **how):
        words = [args] if isinstance(args, str) else [str(word) for word in args]
        if words[0] == sys.executable and any(map(HEAVY.search, words)):
            pytest.skip("starts a Python with ktask in it, which takes minutes under emulation")
        start(self, args, *more, **how)

    subprocess.Popen.__init__ = guarded


def main() -> int:
    """Run the tests named in the job; return the exit code of pytest."""
    job = json.loads((LANE / "job.json").read_text())
    ktask.thread_func.__kwdefaults__["cache"] = True  # compiling takes half a minute each under emulation
    signal.signal(signal.SIGUSR2, too_long)
    without_new_pythons()
    os.environ["KTASK_EMULATED"] = json.dumps(job["machine"])
    options = [
        "--continue-on-collection-errors",
        "-m",
        MARKS,
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::numba.core.errors.NumbaWarning",
        "-rfE",
    ]
    return pytest.main([*options, *job["tests"]], plugins=[Report(job["limit_s"])])


if __name__ == "__main__":
    code = int(main())
    sys.stdout.flush()
    os._exit(code)  # a failed test may have left a thread that waits
