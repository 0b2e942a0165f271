"""Fail if a notebook under version control carries outputs or execution counts."""

import json
import sys
from pathlib import Path

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def has_outputs(path: Path) -> bool:
    """Return whether any cell of the notebook was saved after running."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


if __name__ == "__main__":
    dirty = [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb")) if has_outputs(path)]
    if dirty:
        sys.exit(f"clear the outputs of {', '.join(dirty)}: `jupyter nbconvert --clear-output --inplace`")
