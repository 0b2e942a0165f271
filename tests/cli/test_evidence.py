"""How `ktask run` tells what was seen, and what could not be."""

import pytest

from ktask.cli.run import _evidence
from ktask.cli.tables import as_text

SEEN = {
    "functions": [{"function": "change_pte_range", "share_serial": 0.9, "share_threads": 0.5}],
    "locks": [],
    "sees_locks": True,
    "stack": {"ideal": 0.6, "spinning": 0.4, "steal": 0.0},
    "counters": {},
    "skipped": None,
}
WAIT = {
    "lock": "mmap_lock",
    "kind": "semaphore, to write",
    "site": "do_mprotect_pkey",
    "wait_s": 0.002,
    "count": 7,
}


@pytest.mark.parametrize(
    ("changes", "said", "not_said"),
    [
        ({}, "No thread waited for a lock.", "could not be seen"),
        ({"sees_locks": False}, "Locks could not be seen", "No thread waited"),
        ({"locks": [WAIT]}, "mmap_lock", "No thread waited"),
        ({"skipped": "perf is not installed"}, "perf is not installed", "spinning"),
    ],
)
def test_what_could_not_be_seen_is_not_said_to_be_absent(changes, said, not_said):
    text = as_text(_evidence(SEEN | changes, 2))
    assert said in text
    assert not_said not in text
    assert "steal" not in text  # a part of 0 % is left out
