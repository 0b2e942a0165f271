"""Which runs there are, and where: by name, the latest, all."""

from pathlib import Path

from ktask.common.resources import SAMPLE, runs_folder


def list_runs(root: Path | None = None) -> list[Path]:
    """Return the directories of all runs; a start that was killed has left none."""
    return [path.parent for path in (root or runs_folder()).glob("[!.]*/machine.json")]


def latest_run(root: Path | None = None) -> Path:
    """Return the directory of the run that was measured last, or of the sample where there is none."""
    runs = list_runs(root)
    return max(runs, key=lambda path: (path / "records").stat().st_mtime) if runs else SAMPLE


def find_run(name: str, root: Path | None = None) -> Path:
    """Return the directory of a run, given as a directory or by name; ValueError lists what there is.

    The run that comes with the suite is called "sample", where no other is.
    """
    shipped = [SAMPLE] if name == SAMPLE.name else []
    for path in (Path(name), (root or runs_folder()) / name, *shipped):
        if (path / "machine.json").is_file():
            return path
    if (Path(name) / "records").is_dir():
        raise ValueError(f"{name} is a run without its machine.json; take that from a copy")
    known = sorted(run.name for run in list_runs(root))
    have = f"there are {', '.join(known[-5:])}" if known else "there is none yet; `ktask sweep` makes one"
    raise ValueError(f"run {name!r} does not exist; {have}")
