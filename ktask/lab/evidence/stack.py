"""The speedup stack: where the thread time of N threads goes, beside the work that one thread does, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.functions import function_of, part_of

IDEAL, CHUNKING, IMBALANCE, WAITING, NO_CPU, STEAL, UNEXPLAINED = (
    "ideal",
    "chunking overhead",
    "imbalance",
    "waiting",
    "waiting for a CPU",
    "steal",
    "unexplained",
)
SPINNING, INTERRUPTS_ON = "spinning", "_raw_spin_unlock_irqrestore"
WORTH_A_NAME = 0.03  # of the thread time; a function that grew by less is part of the unexplained


def speedup_stack(serial: Look, many: Look, alone: Look | None = None) -> dict[str, float]:
    """Return shares of the thread time of `many`, which add up to 1.

    Thread time is threads times wall time. `ideal` is what the serial call took, without what others took
    from it; all else is lost.

    Parameters
    ----------
    serial
        The call over the whole range, by one thread.
    many
        The threads.
    alone
        One thread in the chunks of `many`: what that takes more than the serial call is the chunking
        overhead, and threads are blamed only for what they take beyond it.

    Returns
    -------
    dict
        `ideal`, `chunking overhead`, `imbalance` (after a thread's last chunk), `waiting` (asleep),
        `waiting for a CPU` (ready to run, while others ran), `steal`, the growth of CPU time in each part of
        `functions.PARTS`, that of each function no part knows, by its name, and `unexplained`: what is left,
        which is below 0 where parts shrank.
    """
    base, total_s = alone or serial, many.threads * many.wall_s
    parts = {
        IDEAL: serial.undisturbed_s,
        CHUNKING: max(0.0, base.undisturbed_s - serial.undisturbed_s),
        IMBALANCE: many.idle_s,
        WAITING: max(0.0, many.asleep_s - base.asleep_s),
        NO_CPU: many.queue_s,
        STEAL: many.steal_s,
    }
    shares = {name: seconds / total_s for name, seconds in (parts | _growth(base, many)).items()}
    known = {name: share for name, share in shares.items() if name in parts or share >= WORTH_A_NAME}
    return known | {UNEXPLAINED: 1 - sum(known.values())}


def by_part(one: Look) -> Counter[str]:
    """Return CPU seconds by part, or by function where no part knows it."""
    return _added(one, lambda frames: part_of(frames) or function_of(frames))


def by_function(one: Look) -> Counter[str]:
    """Return CPU seconds by function."""
    return _added(one, function_of)


def _added(one: Look, name_of: Callable[[Sequence[str]], str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for frames, seconds in one.stacks.items():
        found.update({name_of(frames): seconds})
    return found


def _growth(base: Look, many: Look) -> dict[str, float]:
    """Return by how many CPU seconds each part grew; those that shrank are left out.

    The clock that takes samples cannot interrupt code that has switched interrupts off. Its time falls to
    where they are switched on again, so waiting for a lock in between looks like letting go of it. The kernel
    itself says how long threads waited for such locks; that much is moved to where it belongs.
    """
    before, after = by_part(base), by_part(many)
    grown: dict[str, float] = {
        name: after[name] - before[name] for name in after if after[name] > before[name]
    }
    waited_s = sum(one.wait_s for one in many.waits if one.spins)
    hidden_s = max(0.0, min(waited_s - grown.get(SPINNING, 0.0), grown.get(INTERRUPTS_ON, 0.0)))
    grown[INTERRUPTS_ON] = grown.get(INTERRUPTS_ON, 0.0) - hidden_s
    grown[SPINNING] = grown.get(SPINNING, 0.0) + hidden_s
    return grown
