"""Evidence made by hand, and a run that has it."""

from ktask.lab.evidence import Evidence
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.locks import Wait
from ktask.lab.evidence.store import CaseKey, file_name, save

KEY = CaseKey("protect", "kernel", "mprotect", "4KiB", 1 << 40, "layout=sparse", 288)
LABELS = {"run_id": "r", "host_id": "h", "cell_id": "protect-mprotect-4KiB-1TiB"}


def a_look(threads=1, **changes):
    stacks = {("clear_page_erms", "do_mprotect_pkey"): 0.1 + 0.2, ("?",): 1e-9, (): 1e-3}
    waits = [
        Wait("mmap_lock", "semaphore, to write", "do_mprotect_pkey", 0.25, 7),
        Wait("x", "", "", 0, 0, "proxy"),
    ]
    given = {"wall_s": 0.5, "idle_s": 0.01, "stacks": stacks, "waits": waits, "sees_locks": True}
    return Look(**{"threads": threads, "counters": {"pgfault": 3.5}, "repetitions": 4} | given | changes)


SEEN = Evidence(a_look(), a_look(288, counters={}), a_look(waits=[], sees_locks=False), took_s=1.5)


def kept(run, evidence=SEEN, number=1):
    (run / "evidence").mkdir(exist_ok=True)
    save(run / "evidence", KEY, evidence, LABELS | {"pass": number})
    return run / f"evidence/{file_name(LABELS['cell_id'], number)}"
