"""What people do today: smaps and smaps_rollup, which `page_walk.py` offers beside the walks by chunks."""

from __future__ import annotations

import os

import numpy as np

from ktask.engine.task import Ctl
from ktask.memory import address_space, walkers
from ktask.memory import inspect as answers
from ktask.memory import region as memory
from ktask.memory.address_space import EVERY_PAGE, Process
from ktask.memory.region import BASE_PAGE, MIB
from ktask.workloads import Case, expect
from ktask.workloads.page_walk.spaces import Space, bounds_of, close, either

TEXTS = ("smaps", "smaps_rollup")
ROLLUP_TOLERANCE_BYTES = 2 * MIB  # what the rest of a process gains and loses meanwhile


class ReadText:
    """What people do today: one thread reads smaps or smaps_rollup, for which the kernel walks everything."""

    def __init__(self, case: Case, process: Process, space: Space | None):
        self.case, self.process, self.space = case, process, space
        try:
            self.fd = os.open(f"/proc/{self.process.pid}/{case.method}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise memory.UnavailableError(f"{case.method} cannot be read: {error.strerror}") from None
        self.mappings = process.maps(*bounds_of(case, space))
        self.size = 1  # there is no way to read a part of the walk
        extents = address_space.find_extents(self.process, self.mappings, EVERY_PAGE)
        self.operations = extents.n_units
        self.size_bytes = self.space.size_bytes if self.space else self.operations * BASE_PAGE
        self.bytes_per_unit = self.size_bytes
        self.text = np.zeros(1 + (len(self.process.maps()) + 100) * 2048 // 8, np.int64)
        self.length = np.zeros(1, np.int64)
        args = (self.fd, self.text.ctypes.data, self.text.nbytes, self.length.ctypes.data)
        self.ctl = Ctl(walkers.read_text, args)

    @property
    def _is_compared(self) -> bool:
        """Whether the text is about a whole process, so that a walk has to tell what is right."""
        return self.space is None or self.case.method == "smaps_rollup"

    def before(self) -> None:
        self.text[:] = 0
        self.length[0] = 0
        self._walked = self._present() if self._is_compared else 0

    def check(self) -> None:
        self.process.require_alive()
        text = self.text.tobytes()[: int(self.length[0])].decode(errors="replace")
        expect(bool(text), f"nothing was read of {self.case.method}")
        if self.space and not self._is_compared:
            found = _resident_bytes(text, self.space)
            low = high = self.space.present * BASE_PAGE
        else:
            found = sum(fields["Rss"] for fields in answers.parse_smaps(text))
            walked = self._walked, self._present()
            low, high = min(walked) - ROLLUP_TOLERANCE_BYTES, max(walked) + ROLLUP_TOLERANCE_BYTES
        right = either(low // BASE_PAGE, high // BASE_PAGE)
        expect(
            low <= found <= high,
            f"{self.case.method} found {found // BASE_PAGE} present pages; {right} are there",
        )

    def _present(self) -> int:
        """Return the bytes of all that is present in the process, zero pages apart, as Rss counts them.

        Where the walk cannot tell those (before Linux 6.7), by smaps.
        """
        table = answers.walk(self.process.pid)
        if table["zero"].isna().all():
            return int(answers.walk(self.process.pid, method="smaps")["present"].sum())
        return int(table["present"].sum() - table["zero"].sum())

    def close(self) -> None:
        os.close(self.fd)
        close(self.process, self.space)


def _resident_bytes(text: str, space: Space) -> int:
    """Return the Rss of the mappings in a space, from the text of smaps."""
    rows = zip(address_space.parse_maps(text), answers.parse_smaps(text), strict=True)
    return sum(fields["Rss"] for mapping, fields in rows if space.address <= mapping.start < space.end)
