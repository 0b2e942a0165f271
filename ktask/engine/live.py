"""A running task seen from outside: units done, rate, time left; and a bar that shows them."""

from __future__ import annotations

import math
import threading
import time
from typing import Any


class Live:
    """Progress of one task, readable from any thread while `ktask.run(..., live=live)` is under way.

    Reading costs the task nothing: the workers keep these counts anyway.
    """

    def __init__(self) -> None:
        self._task: Any = None
        self._started_s = math.nan

    def attach(self, task: Any) -> None:
        """Begin to watch `task` (called by the engine)."""
        self._task, self._started_s = task, time.monotonic()

    @property
    def size(self) -> int:
        """Units of the task, 0 before it starts."""
        return self._task.prepared.units if self._task else 0

    @property
    def done(self) -> int:
        """Units whose chunks have ended."""
        return self._task.units_done() if self._task else 0

    @property
    def rate(self) -> float:
        """Units per second since the start; NaN before."""
        elapsed_s = time.monotonic() - self._started_s
        return self.done / elapsed_s if elapsed_s > 0 else math.nan

    @property
    def eta_s(self) -> float:
        """Seconds left at this rate; NaN while nothing is done."""
        rate = self.rate
        return (self.size - self.done) / rate if rate > 0 else math.nan


class Bar(Live):
    """A progress bar in the terminal or the notebook for one task; a context manager.

    Parameters
    ----------
    what
        The words before the bar.
    unit_scale
        Units of the task are multiplied by this to be shown, e.g. the page size.
    unit
        What is shown.
    delay_s
        A task that ends sooner shows nothing.

    Examples
    --------
    >>> with ktask.Bar("zeroing") as bar:
    ...     result = ktask.run(0, buf.size, ctl, live=bar)
    """

    EVERY_S = 0.1

    def __init__(self, what: str = "", unit: str = "units", unit_scale: float = 1, delay_s: float = 0.5):
        super().__init__()
        self._options = {"desc": what, "unit": unit, "delay": delay_s, "leave": False}
        self._scale = unit_scale
        self._over = threading.Event()

    def __enter__(self) -> Bar:
        """Start to draw."""
        from tqdm.auto import tqdm  # noqa: PLC0415  (not needed without a bar)

        self._bar = tqdm(unit_scale=True, **self._options)
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()
        return self

    def _draw(self) -> None:
        while not self._over.wait(self.EVERY_S):
            self._show()

    def _show(self) -> None:
        self._bar.total = self.size * self._scale or None
        self._bar.n = self.done * self._scale
        self._bar.refresh()

    def __exit__(self, *_: object) -> None:
        """Stop and take the bar away."""
        self._over.set()
        self._thread.join()
        self._show()
        self._bar.close()
