"""The evidence on one case: several ways to run it, looked at, or the reason why that was not possible."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from ktask.host import perf
from ktask.lab.evidence.collect import BUDGET_S, LARGER, Look, Way, look
from ktask.lab.evidence.locks import Wait, spun
from ktask.lab.evidence.stack import by_function, speedup_stack
from ktask.workloads import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

MOST_FUNCTIONS, MOST_LOCKS = 12, 8
# Times as long as timed repetitions, or as short. Sampling and tracing make both ways slower, by up to 1.4:
# what is lost between them stays right as long as both are.
UNTYPICAL, UNTYPICAL_SPEEDUP = 2.0, 1.25
UNLIKE = "what was seen is not what was timed, so it is left out"
ONE_THREAD = "there is one thread, and nothing to explain; ask for more threads"


@dataclass(frozen=True)
class Evidence:
    """What was seen of one case; `skipped` is why nothing was, `took_s` how long it took to look.

    Of several processes it is the mean, and `processes` has what each of them saw.
    """

    serial: Look | None = None
    many: Look | None = None
    alone: Look | None = None  # one thread in chunks, if there are several
    skipped: str | None = None
    took_s: float = field(default=0.0, compare=False)
    processes: tuple[Evidence, ...] = field(default=(), compare=False, repr=False)

    @property
    def is_of_machine(self) -> bool:
        """Whether nothing was seen because this machine cannot look, as far as is known."""
        return self.skipped not in (None, ONE_THREAD) and not str(self.skipped).endswith((LARGER, UNLIKE))

    @property
    def is_unlike(self) -> bool:
        """Whether what was seen is not what was timed: another look may see that."""
        return str(self.skipped).endswith(UNLIKE)

    def beside(self, timed_s: Mapping[int, float]) -> Evidence:
        """Return the evidence, or why it says nothing of repetitions that took `timed_s`, by their threads.

        Memory that the host has taken meanwhile, or another program, makes a look a story of its own; so does
        a look that slows one of both more than the other.
        """
        if not (self.serial and self.many):
            return self
        serial, many = (one.wall_s / timed_s[one.threads] for one in (self.serial, self.many))
        apart = max(serial, 1 / serial), max(many, 1 / many), max(serial / many, many / serial)
        if max(apart[:2]) > UNTYPICAL or apart[2] > UNTYPICAL_SPEEDUP:
            who = f"the serial call took {serial:.1f} and {self.many.threads} threads {many:.1f}"
            reason = f"while looked at, {who} times as long as when timed; {UNLIKE}"
            return Evidence(skipped=reason, took_s=self.took_s)
        return self

    @property
    def stack(self) -> dict[str, float]:
        """Shares of the thread time, as of `speedup_stack`; empty if nothing was seen."""
        return speedup_stack(self.serial, self.many, self.alone) if self.serial and self.many else {}

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The functions with most CPU time with several threads: their shares of it, serial and then."""
        if not (self.serial and self.many):
            return []
        before, after = by_function(self.serial), by_function(self.many)
        return [
            {
                "function": name,
                "share_serial": before[name] / self.serial.cpu_s if self.serial.cpu_s else 0.0,
                "share_threads": seconds / self.many.cpu_s,
                "serial_s": before[name],
                "threads_s": seconds,
            }
            for name, seconds in after.most_common(MOST_FUNCTIONS)
        ]

    @property
    def locks(self) -> list[dict[str, Any]]:
        """The locks that threads waited for, the longest first: seconds of all threads in one repetition."""
        return [asdict(one) for one in sorted(self._waits, key=lambda wait: -wait.wait_s)[:MOST_LOCKS]]

    @property
    def _waits(self) -> list[Wait]:
        return [*self.many.waits, *spun(self.many.stacks)] if self.many else []

    @property
    def lock_shares(self) -> Mapping[str, float]:
        """Shares of the thread time that threads waited for each lock, wherever it is taken; else 0."""
        found: defaultdict[str, float] = defaultdict(float)
        for wait in self._waits:
            found[wait.lock] += wait.wait_s / self.thread_s
        return found

    @property
    def thread_s(self) -> float:
        """Threads times wall time of one repetition with several threads."""
        return self.many.threads * self.many.wall_s if self.many else 0.0

    @property
    def sees_locks(self) -> bool:
        """Whether waiting for locks would have been seen: without, no lock in the list means nothing."""
        return bool(self.many and self.many.sees_locks)

    @property
    def counters(self) -> dict[str, float]:
        """What the kernel counted in one repetition with several threads."""
        return dict(self.many.counters) if self.many else {}

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, ready for JSON."""
        names = ("functions", "locks", "sees_locks", "stack", "counters", "skipped")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        """Return the tables as text."""
        if self.skipped:
            return f"no evidence: {self.skipped}"
        return "\n\n".join(f"{title}\n{table.to_string()}" for title, table in self.tables().items())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if self.skipped:
            return f"<p>{escape(str(self))}</p>"
        return "".join(f"<h4>{title}</h4>{table.to_html()}" for title, table in self.tables().items())

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the stack, the functions and the locks as tables, by title."""
        import pandas as pd  # noqa: PLC0415  (not needed to look)

        stack = pd.DataFrame(self.stack.items(), columns=["part", "share"]).set_index("part")
        found = {f"Where the time of {self.many.threads if self.many else 0} threads goes": stack}
        found["Functions of the kernel"] = pd.DataFrame(self.functions)
        return found | ({"Locks that threads waited for": pd.DataFrame(self.locks)} if self.locks else {})


def gather(
    state: State, threads: int, policy: str, chunk_size: int = 0, *, budget_s: float = BUDGET_S
) -> Evidence:
    """Look at a case that is warmed up: serial, with `threads`, and alone in chunks of `chunk_size` units."""
    if threads < 2:
        return Evidence(skipped=ONE_THREAD)
    ways = [Way(1, policy), Way(threads, policy)]
    ways += [Way(1, "dynamic", chunk_size)] if chunk_size else []
    begun = time.monotonic()
    try:
        looks = look(state, ways, budget_s=budget_s)
    except perf.UnavailableError as error:
        return Evidence(skipped=str(error), took_s=time.monotonic() - begun)
    serial, many, alone = (*looks, None)[:3]
    return Evidence(serial, many, alone, took_s=time.monotonic() - begun)
