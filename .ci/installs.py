"""Installs ktask as others do, outside of the checkout: the wheel, the engine alone, the oldest dependencies.

Called by `.ci/run` in the environment of `make setup`; arguments choose some of `CHECKS`.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from build_environment import uv_settings  # noqa: E402

UV = str(Path(sys.executable).with_name("uv"))
OLDEST = ("tests/common", "tests/host", "tests/engine/test_policy.py", "tests/engine/test_run.py")
ENGINE = """
import ktask, numpy as np

@ktask.thread_func
def zero(start, end, buf):
    buf[start:end] = 0
    return 0

buf = np.ones(1 << 24, np.uint8)
ctl = ktask.Ctl(zero, args=(buf,), min_chunk_size=1 << 20)
assert ktask.plan([ktask.Node(0, buf.size)], ctl).threads >= 1
assert ktask.run(0, buf.size, ctl).error == 0 and not buf.any()
"""


def wheel(folder: Path) -> None:
    """Measure and report with the wheel, in a folder with nothing in it."""
    ktask = str(installed(folder, f"{built(folder)}[lab]", "-c", str(plain_lock(folder))).with_name("ktask"))
    run(ktask, "doctor", cwd=folder)
    run(ktask, "run", "zeroing", "--size", "16MiB", "--repetitions", "3", cwd=folder)
    run(ktask, "reproducer", "zeroing", "--size", "16MiB", cwd=folder)
    run(ktask, "sweep", "tiny", "--run", "first", cwd=folder)
    run(ktask, "report", "first", cwd=folder)
    assert (folder / "data/runs/first/machine.json").is_file()
    assert (folder / "reports/first.html").stat().st_size > 100_000


def engine(folder: Path) -> None:
    """Run a task where there is nothing but numba and numpy; the command says what it lacks."""
    python = installed(folder, str(built(folder)))
    run(str(python), "-c", ENGINE, cwd=folder)
    done = subprocess.run([python.with_name("ktask")], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done
    assert "ktask[lab]" in done.stderr, done


def oldest(folder: Path) -> None:
    """Test on the oldest dependencies that pyproject.toml allows; their own warnings are not ours to mend."""
    pins = folder / "oldest.txt"
    uv(
        "pip",
        "compile",
        "-q",
        "--resolution",
        "lowest-direct",
        "--extra",
        "dev",
        "pyproject.toml",
        "-o",
        str(pins),
    )
    python = installed(folder, "-r", str(pins))
    uv("pip", "install", "-q", "-p", str(python), "--no-deps", "--no-build-isolation", "-e", ".")
    cache = {"NUMBA_CACHE_DIR": str(folder / "numba")}
    tests = ["-q", "-n0", "-p", "no:cacheprovider", "-o", "filterwarnings=default", *OLDEST]
    run(str(python), "-m", "pytest", *tests, cwd=ROOT, **cache)
    for arguments in (["sweep", "tiny", "--run", "old"], ["report", "old"]):
        run(str(python), "-m", "ktask", *arguments, cwd=folder, **cache)


CHECKS = {"wheel": wheel, "engine": engine, "oldest": oldest}


def built(folder: Path) -> Path:
    """Build the wheel and return it."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist"), cwd=ROOT)
    return next((folder / "dist").glob("*.whl"))


def plain_lock(folder: Path) -> Path:
    """Return the versions of the lock without their hashes, which a wheel built here cannot have."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.removesuffix("\\").rstrip() for line in lines if line[:1].isalnum()]
    (folder / "versions.txt").write_text("\n".join(pins), encoding="utf-8")
    return folder / "versions.txt"


def installed(folder: Path, *what: str) -> Path:
    """Install into a new environment and return its Python."""
    uv("venv", "-q", "-p", sys.executable, str(folder / "venv"))
    python = folder / "venv/bin/python"
    uv("pip", "install", "-q", "-p", str(python), *what)
    return python


def uv(*arguments: str) -> None:
    """Call uv with the settings of pip."""
    run(UV, *arguments, cwd=ROOT, **uv_settings(sys.executable))


def run(*command: str, cwd: Path, **settings: str) -> None:
    """Run a command; one that fails ends the checks."""
    subprocess.run(command, cwd=cwd, env=os.environ | settings, check=True)  # noqa: S603


def main() -> None:
    """Do the checks that are named, or all of them."""
    for name in sys.argv[1:] or CHECKS:
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        with tempfile.TemporaryDirectory() as folder:
            CHECKS[name](Path(folder))


if __name__ == "__main__":
    main()
