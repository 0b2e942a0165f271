"""Running a notebook in a fresh process, out of reach of the network."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktask.common.files import atomic_write
from ktask.common.resources import NOTEBOOKS

if TYPE_CHECKING:
    from ktask.lab.sweep.kernels import Kernel, Kernels


class NotebookError(RuntimeError):
    """A notebook did not run to its end; the message is the reason, in one line."""


def find(name: str) -> Path:
    """Return the notebook called `name`, e.g. "zeroing"; ValueError if there is none."""
    path = NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        have = ", ".join(sorted(file.stem for file in NOTEBOOKS.glob("*.ipynb")))
        raise ValueError(f"there is no notebook {name!r}; use one of {have}")
    return path


def execute(
    source: Path,
    out: Path,
    parameters: Mapping[str, Any],
    timeout_s: float | None = None,
    kernels: Kernels | None = None,
) -> dict[str, Any]:
    """Run the notebook `source` with `parameters` in a process of its own; keep the executed copy as `out`.

    The kernel talks over Unix sockets in a private directory and listens on no port. `out` appears whole or
    not at all; after an exception in a cell it holds the notebook with the traceback.

    Parameters
    ----------
    source, out
        Notebook files.
    parameters
        Values for the cell tagged "parameters".
    timeout_s
        Longest time that one cell may take.
    kernels
        Where the process comes from, `kernels.Kernels`; with many notebooks to run, use one for all.

    Returns
    -------
    dict
        The executed notebook.

    Raises
    ------
    NotebookError
        If a cell raised, the kernel did not start or died, or one cell took longer than `timeout_s`.
    """
    from ktask.lab.sweep.kernels import Kernels, own_kernel  # noqa: PLC0415

    with contextlib.nullcontext(kernels) if kernels else Kernels() as source_of_kernels:
        source_of_kernels.begin()  # its imports go on during those of papermill
        with atomic_write(out, ".ipynb") as partial, own_kernel(source_of_kernels) as kernel:
            return _execute(source, partial, out, parameters, timeout_s, kernel)


def _execute(
    source: Path,
    partial: Path,
    out: Path,
    parameters: Mapping[str, Any],
    timeout_s: float | None,
    kernel: Kernel,
) -> dict[str, Any]:
    # jsonschema would read a grammar for some seconds, for a format of addresses that no notebook has.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill  # noqa: PLC0415  (`ktask --help` does not need it)
    from nbclient.exceptions import CellTimeoutError, DeadKernelError  # noqa: PLC0415

    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of papermill's and nbformat's own making
            return papermill.execute_notebook(
                source,
                partial,
                dict(parameters),
                kernel_name="python3",
                progress_bar=False,
                request_save_on_cell_execute=False,
                cwd=source.parent,
                execution_timeout=timeout_s,
                km=kernel,
            )
    except papermill.PapermillExecutionError as error:
        partial.replace(out)
        raise NotebookError(f"{error.ename}: {' '.join(str(error.evalue).split())}") from None
    except DeadKernelError:
        raise NotebookError(_end_of(kernel)) from None
    except CellTimeoutError:
        raise NotebookError(f"the cell took longer than {timeout_s:.0f} s") from None
    except RuntimeError as error:
        raise NotebookError(f"the process of the cell did not start: {error}") from None


def _end_of(kernel: Kernel) -> str:
    """Say how a kernel ended that should not have."""
    code = kernel.exit_code
    if code in (None, -signal.SIGKILL):
        return "the process of the cell died (killed, or out of memory)"
    if code < 0:
        return f"the process of the cell died of {signal.Signals(-code).name}"
    return f"the process of the cell ended itself with exit code {code}"
