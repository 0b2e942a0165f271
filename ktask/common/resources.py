"""The folders that come with the suite, in a checkout or installed, and where runs and reports go."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "resources"  # a wheel carries the folders inside of the package
_SHIPPED = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent

NOTEBOOKS = _SHIPPED / "notebooks"
PUBLISHED = _SHIPPED / "data" / "published"
SAMPLE = _SHIPPED / "data" / "sample"


def runs_folder(base: Path | None = None) -> Path:
    """Return where runs are kept: `data/runs` of `base`, or of the current directory."""
    return _base(base) / "data" / "runs"


def reports_folder(base: Path | None = None) -> Path:
    """Return where reports are written: `reports` of `base`, or of the current directory."""
    return _base(base) / "reports"


def _base(base: Path | None) -> Path:
    here = (base or Path()).absolute()
    return here.parent if here == NOTEBOOKS else here  # a notebook's runs lie beside those of the command
