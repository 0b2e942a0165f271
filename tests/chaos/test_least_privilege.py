"""The main way through the suite as a user who owns nothing: where it writes, and who can change that."""

import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import ordinary_user
import pytest

PUBLIC = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run", "/var/lock")  # where anybody may write
SMALL = """
    threads: [1, 2]
    min_chunk: 64KiB
    protocol: {least: 2, most: 2, budget_s: 0.1, warmup_s: 0.2}
    work: [{workload: zeroing, method: populate, page_kind: 4KiB, size: 4MiB}]
"""
WAY = (
    "doctor",
    "run zeroing --size 4MiB --threads 2 --passes 1 --repetitions 2 --trace trace.csv",
    "sweep small.yaml --run mine",
    "report mine",
)


@pytest.fixture(scope="module")
def account():
    """The folder of an account, with what the commands have made there, and what it was before."""
    if reason := ordinary_user.why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="ktask-account-"))  # pytest's own folders are closed to others
    try:
        environment = ordinary_user.make_account(folder)
        (folder / "clone/small.yaml").write_text(SMALL)
        before = set(folder.rglob("*"))
        for line in WAY:
            words = [*ordinary_user.words(), sys.executable, "-m", "ktask", *line.split()]
            how = {"cwd": folder / "clone", "env": environment, "stdin": subprocess.DEVNULL, "umask": 0}
            done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **how)
            assert done.returncode == 0, (line, done.stderr[-1000:])
        yield folder, before
    finally:
        shutil.rmtree(folder)


@pytest.mark.long
def test_an_ordinary_user_gets_a_report_and_writes_nowhere_else(account):
    folder, before = account
    clone, home = folder / "clone", folder / "home"
    assert (clone / "reports/mine.html").stat().st_size > 100_000
    made = [path for path in set(folder.rglob("*")) - before if "__pycache__" not in path.parts]
    slots = folder / f"t/ktask-{ordinary_user.NOBODY}.slots"  # for as long as the temporary directory
    allowed = (clone / "data/runs", clone / "reports", clone / "trace.csv", home, slots)
    assert [path for path in made if not any(path.is_relative_to(root) for root in allowed)] == []
    assert [path.name for path in home.iterdir() if path.name not in (".cache", ".config", ".ipython")] == []
    elsewhere = [path for root in PUBLIC for path in ordinary_user.owned(Path(root))]
    assert [path for path in elsewhere if not path.is_relative_to(folder)] == []


@pytest.mark.long
def test_nobody_else_can_change_a_run_or_a_report_whatever_the_umask(account):
    clone = account[0] / "clone"
    made = [*(clone / "data/runs").rglob("*"), *(clone / "reports").rglob("*"), clone / "trace.csv"]
    assert len(made) > 15
    assert [path for path in made if path.stat().st_mode & stat.S_IWOTH] == []
