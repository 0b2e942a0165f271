"""What stands in for locks where the kernel does not say who waits for which: time off the CPU.

It names no lock. Time asleep is wall time minus CPU time minus waiting for a CPU; where threads slept comes
from their wait channels, if they could be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ktask.host import perf
from ktask.host.kernel_counters import SLEEPS
from ktask.host.wait_channels import NAME
from ktask.lab.evidence.locks import Wait

UNNAMED = "not named"
ASLEEP, IN_THE_QUEUE = "asleep", "ready to run, without a CPU"
BY_CHANNEL = "proxy: wall time minus CPU time, by wait channels"
BY_CLOCK = "proxy: wall time minus CPU time; voluntary switches"
BY_SCHEDULER = "proxy: run-queue delay of schedstat; involuntary switches"


def proxies(
    asleep_s: float,
    queue_s: float,
    counters: Mapping[str, float],
    repetitions: Sequence[Sequence[perf.Event]],
) -> list[Wait]:
    """Return how long threads slept, by where they did, and waited for a CPU; the longest first.

    Parameters
    ----------
    asleep_s, queue_s
        Thread time in which threads slept, and waited for a CPU, in one repetition.
    counters
        Of one repetition: how often threads went to sleep or lost their CPU.
    repetitions
        The events of each; the wait channels of threads that also ran are used.
    """
    seen, n = _channels(repetitions), len(repetitions)
    share_s = asleep_s / max(sum(seen.values()), 1)
    found = [Wait(UNNAMED, ASLEEP, site, share_s * k, 0, BY_CHANNEL) for site, k in seen.items()] or [
        Wait(UNNAMED, ASLEEP, "?", asleep_s, round(counters.get(SLEEPS, 0.0) * n), BY_CLOCK)
    ]
    lost = round(counters.get("switches_involuntary", 0.0) * n)
    found.append(Wait(UNNAMED, IN_THE_QUEUE, "?", queue_s, lost, BY_SCHEDULER))
    return sorted((one for one in found if one.wait_s > 0), key=lambda wait: -wait.wait_s)


def _channels(repetitions: Iterable[Sequence[perf.Event]]) -> Counter[str]:
    """Return how often a thread that had work was seen asleep in which function."""
    found: Counter[str] = Counter()
    for events in repetitions:
        ran = {event.tid for event in events if event.name == perf.CLOCK}
        found.update(event.detail for event in events if event.name == NAME and event.tid in ran)
    return found
