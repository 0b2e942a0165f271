"""`make vm`: boots machines that are not here, under emulation, and has the tests run there.

    python tests/vm/lane.py [MACHINE ...] [--list] [--again]

Results are kept by machine in `build/vm` and written to the table of `docs/machines.md`. A machine whose
result is of this very tree is not booted again.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import image
from emulated import EVERYTHING, MACHINES, Machine
from image import CACHE, TREE, say

LIMIT_S = 300  # of one test in an emulated machine
LIMIT_HERE_S = 120
BOOTS = 5
LIMIT_ALL_HERE_S = 1800
PAGE = TREE / "docs/machines.md"
KERNEL = (
    "root=/dev/vda rw init=/lane-init console=ttyS0 quiet panic=-1 hugepagesz=2M hugepages=64 "
    "tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_suppress=1 mitigations=off nokaslr random.trust_cpu=on"
)
# QEMU 7.2 emulates AVX2 so that numpy's sorting by it ends in SIGSEGV.
IN_THE_MACHINE = {"NPY_DISABLE_CPU_FEATURES": "X86_V3"}
PROCESSOR = "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid"  # without what emulation does not have
QEMU = (
    *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR),
    *("-nic", "none", "-display", "none", "-vga", "none", "-monitor", "none", "-no-reboot"),
)


def lane_folder(name: str, machine: Machine | None, tests: tuple[str, ...], limit_s: int) -> Path:
    """Make the folder that a machine shares with this one, with its job."""
    folder = CACHE / "lanes" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    described = machine.described() if machine else None
    job = {"machine": described, "tests": tests, "limit_s": limit_s}
    (folder / "job.json").write_text(json.dumps(job))
    settings = {"TREE": str(TREE), **image.PROCESSOR, **IN_THE_MACHINE}
    (folder / "environment").write_text("".join(f"export {k}='{v}'\n" for k, v in settings.items()))
    return folder


def warm() -> None:
    """Run all tests here once, compiled for the emulated processor: their code is in the image then."""
    folder = lane_folder("here", None, EVERYTHING, LIMIT_HERE_S)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **image.PROCESSOR}
    with (folder / "console.txt").open("w") as console:
        words = image.in_root(sys.executable, "tests/vm/guest.py", lane=folder)
        how = {"cwd": TREE, "env": environment, "stdout": console, "stderr": console}
        subprocess.run(words, check=False, timeout=LIMIT_ALL_HERE_S, **how)
    counts = outcomes(folder)[0]
    if not counts["passed"]:
        sys.exit(f"vm: the tests do not run in the image; their messages are in {folder}/console.txt")
    say(f"compiled for the emulated processor by running the tests here: {told(counts)}")


def boot(machine: Machine) -> dict:
    """Boot a machine, wait for its end, and return what came of it; again if the kernel panics at its start.

    6.12 patches its own code while it boots, and under emulation another CPU may run into that.
    """
    for _ in range(BOOTS):
        result = boot_once(machine)
        if result["counts"]["not run"] != "all":
            break
    return result


def boot_once(machine: Machine) -> dict:
    """Boot a machine and wait for its end."""
    folder = lane_folder(machine.name, machine, machine.tests, LIMIT_S)
    vmlinuz, initrd = image.kernel(machine.kernel)
    command = [
        *QEMU,
        *machine.arguments(),
        *(
            "-kernel",
            vmlinuz,
            "-initrd",
            initrd,
            "-append",
            KERNEL,
            "-serial",
            f"file:{folder / 'serial.txt'}",
        ),
        *disks("root", "tree"),
        *("-virtfs", f"local,path={folder},mount_tag=lane,security_model=none"),
    ]
    say(f"{machine.name}: {machine.about}; at most {machine.limit_min} minutes ...")
    start = time.monotonic()
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL) as qemu:
        try:
            qemu.wait(60 * machine.limit_min)
        except subprocess.TimeoutExpired:
            say(f"{machine.name}: switched off after {machine.limit_min} minutes")
        finally:
            qemu.kill()
    counts, failures = outcomes(folder)
    version = vmlinuz.name.removeprefix("vmlinuz-")
    minutes = round((time.monotonic() - start) / 60)
    return {"kernel": version, "minutes": minutes, "counts": counts, "failures": failures}


def boot_for_failed(machine: Machine, before: dict) -> dict:
    """Boot a machine for the tests that failed, and return what came of all."""
    tests = tuple(row["test"] for row in before["failures"])
    result = boot(replace(machine, tests=tests))
    new, counts = result["counts"], dict(before["counts"])
    if new["not run"] == "all":
        return before
    counts |= {name: counts[name] + new[name] for name in ("passed", "skipped")}
    counts |= {"failed": new["failed"], "not run": counts["not run"] + new["not run"]}
    return result | {"counts": counts, "minutes": before["minutes"] + result["minutes"]}


def disks(*names: str) -> list[str]:
    """Return the arguments for disks that are as before when the machine is off."""
    forms = (f"file={CACHE / name}.img,format=raw,if=virtio,snapshot=on" for name in names)
    return [word for form in forms for word in ("-drive", form)]


def outcomes(folder: Path) -> tuple[dict[str, Any], list[dict]]:
    """Return how many tests passed, failed, were skipped and did not run, and the rows of the failed ones."""
    file = folder / "outcomes.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    tests = {row["test"]: row for row in rows if "test" in row}
    collected = sum(row.get("collected", 0) for row in rows)
    found = Counter(row["outcome"] for row in tests.values())
    counts = {name: found[name] for name in ("passed", "failed", "skipped")}
    counts["not run"] = collected - len(tests) if collected else "all"
    return counts, [row for row in tests.values() if row["outcome"] == "failed"]


def results() -> dict[str, dict]:
    """Return the last result of each machine."""
    files = {machine.name: CACHE / f"result-{machine.name}.json" for machine in MACHINES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def keep(name: str, result: dict) -> None:
    """Keep the result of a machine, whole or not at all."""
    part = CACHE / f"result-{name}.part"
    part.write_text(json.dumps(result, indent=1))
    part.replace(CACHE / f"result-{name}.json")


def table() -> str:
    """Return the results as a table in Markdown."""
    lines = [
        "| machine | kernel | passed | failed | skipped | not run | minutes | version |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for machine in MACHINES:
        if one := results().get(machine.name):
            counts = " | ".join(str(one["counts"][k]) for k in ("passed", "failed", "skipped", "not run"))
            what = f"`{machine.name}`: {machine.about}"
            lines.append(f"| {what} | {one['kernel']} | {counts} | {one['minutes']} | {one['version']} |")
    return "\n".join(lines)


def write_page() -> None:
    """Put the table where the page has the one before."""
    start, end = "<!-- made by make vm -->", "<!-- end -->"
    text = PAGE.read_text()
    new = re.sub(f"{start}.*?{end}", lambda _: f"{start}\n{table()}\n{end}", text, flags=re.DOTALL)
    PAGE.write_text(new)


def version() -> str:
    """Return the commit that was tried, and whether files differed from it."""
    command = ["git", "-C", TREE, "describe", "--always", "--dirty=+", "--exclude=*"]
    return image.run(*command).strip()


def told(counts: dict[str, Any]) -> str:
    """Return counts as text."""
    return ", ".join(f"{n} {what}" for what, n in counts.items())


def tell(name: str, result: dict) -> None:
    """Say what came of a machine, and where more is to be read."""
    log = CACHE / "lanes" / name / "console.txt"
    say(f"{name}, kernel {result['kernel']}: {told(result['counts'])} ({log})")
    for row in result["failures"]:
        last = (row["why"].strip() or "?").splitlines()[-1]
        say(f"  failed: {row['test']}: {last[:200]}")


def main() -> int:
    """Build, boot, and write the table; return 1 if a test failed or did not run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [machine.name for machine in MACHINES]
    parser.add_argument(
        "machines", nargs="*", metavar="MACHINE", help=f"of {', '.join(names)}; all if left out"
    )
    parser.add_argument(
        "--again", action="store_true", help="boot machines that have a result of this tree, too"
    )
    parser.add_argument("--failed", action="store_true", help="only the tests that failed the last time")
    options = parser.parse_args()
    if unknown := set(options.machines) - set(names):
        parser.error(f"{', '.join(sorted(unknown))} is not known; use some of {', '.join(names)}")
    if reason := image.why_not():
        sys.stderr.write(f"make vm {reason}\n")
        return 2
    image.build(warm)
    digest, ok = image.tree_digest(), True
    for machine in MACHINES:
        if options.machines and machine.name not in options.machines:
            continue
        result = results().get(machine.name, {})
        if options.failed and result.get("failures"):
            tried = f"{result['version']}, {version()}"
            result = boot_for_failed(machine, result) | {"version": tried, "tree": digest}
        elif options.again or (result.get("tree") != digest and not options.failed):
            result = boot(machine) | {"version": version(), "tree": digest}
        if not result:
            continue
        keep(machine.name, result)
        write_page()
        tell(machine.name, result)
        ok = ok and result["counts"]["failed"] == result["counts"]["not run"] == 0
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
