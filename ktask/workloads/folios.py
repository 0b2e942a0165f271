"""Folios between 4 KiB and 2 MiB (mTHP): what a case asks for, what the administrator allows, what came.

The kernel takes the largest size that is enabled and fits. So the size asked for has to be enabled, and every
larger one has to be off. Nothing is enabled from here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ktask.common.units import KIB, parse_size
from ktask.host import available_memory, kernel_files
from ktask.workloads.base import Case, Option, expect

SIZES = ("16KiB", "32KiB", "64KiB", "128KiB", "256KiB", "512KiB", "1MiB")
_LARGEST = "2MiB"
_FOLDER = "sys/kernel/mm/transparent_hugepage"


def _path(size: str, file: str) -> str:
    return f"{_FOLDER}/hugepages-{parse_size(size) // KIB}kB/{file}"


def _is_enabled(size: str) -> bool | None:
    """Return whether madvise gets folios of a size, None if the kernel has none."""
    mode = kernel_files.bracketed(kernel_files.ROOT / _path(size, "enabled"))
    if mode == "inherit":
        return available_memory.thp_mode() not in (None, "never")
    return mode in ("always", "madvise") if mode else None


def _why_not(size: str) -> str | None:
    """Return why memory cannot be had in folios of a size here, with the command that allows it, or None."""
    is_enabled = _is_enabled(size)
    if is_enabled is None:
        return f"this kernel has no folios of {size} (CONFIG_TRANSPARENT_HUGEPAGE, Linux 6.8)"
    if not is_enabled:
        return f"folios of {size} are off; `echo madvise > /{_path(size, 'enabled')}` as root allows them"
    larger = (*SIZES[SIZES.index(size) + 1 :], _LARGEST)
    if first := next((one for one in larger if _is_enabled(one)), None):
        command = f"echo never > /{_path(first, 'enabled')}"
        return (
            f"folios of {first} are enabled and would be taken instead of {size}; `{command}` turns them off"
        )
    return None


FOLIO = Option(
    "folio",
    "the size of the folios that 4 KiB pages come in, where the administrator has enabled it",
    "any",
    ("any", *SIZES),
    why_not=lambda size: None if size == "any" else _why_not(size),
)


def folio_of(case: Case) -> str | None:
    """Return the size of folios that a case asks for, or None."""
    size = dict(case.options).get("folio", "any")
    return None if size == "any" else size


def allocated(case: Case) -> int:
    """Return how many folios of the size that a case asks for were ever faulted in, 0 if it asks for none."""
    size = folio_of(case)
    path = kernel_files.ROOT / _path(size, "stats/anon_fault_alloc") if size else None
    return (kernel_files.read_int(path) or 0) if path else 0


def expect_allocated(case: Case, before: int) -> None:
    """Raise CheckError unless the whole range has come in folios since there were `before`."""
    if size := folio_of(case):
        found, wanted = allocated(case) - before, case.size_bytes // parse_size(size)
        expect(found >= wanted, f"only {found} of {wanted} folios of {size} were had; memory is fragmented")


@contextlib.contextmanager
def expected(case: Case) -> Iterator[None]:
    """Raise CheckError unless the range is faulted in, inside the block, in the folios that it asks for."""
    before = allocated(case)
    yield
    expect_allocated(case, before)
