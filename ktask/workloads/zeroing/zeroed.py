"""A region that is zeroed: what is left in it before, where it lies, and how to tell that it is zero."""

from __future__ import annotations

import numpy as np

from ktask.memory import region as memory
from ktask.workloads import Case, expect, folios
from ktask.workloads.populated import Mapped


class Zeroed(Mapped):
    """A region, and a word per page that tells whether it was cleared."""

    def __init__(self, case: Case, unit_bytes: int, *, shared: bool = False):
        kind, in_folios = case.page_kind, folios.folio_of(case) is not None
        region = memory.Region(case.size_bytes, kind, shared=shared, in_folios=in_folios)
        super().__init__(case, region, unit_bytes)
        self._random = np.random.default_rng(1)

    def _dirty(self) -> None:
        """Leave a nonzero word somewhere in every 4 KiB, at an offset that no caller can foresee."""
        offset = int(self._random.integers(memory.BASE_PAGE // 8)) * 8
        self.region.one_word_per_page(offset)[:] = 0xDEADBEEF
        self._offset = offset

    def _expect_zero(self) -> None:
        left = np.count_nonzero(self.region.one_word_per_page(self._offset))
        expect(left == 0, f"{left} of {self.region.size_bytes // 4096} pages still hold data after zeroing")
