"""The C programs: each compiles, does the same work as the suite, and finds out when it was not done."""

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ktask import workloads
from ktask.engine import run as engine
from ktask.engine.task import Ctl, Node
from ktask.lab.measure.rounds import prepared, repeat
from ktask.lab.reproducer.program import program, reproducer, why_no_program
from ktask.memory import region as memory
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case

SMALL = {"4KiB": 8 * MIB, "THP": 16 * MIB, "2MiB": 16 * MIB, "1GiB": 2048 * MIB}
WITHOUT = {
    "radix",
    "plain_read",
    "buddy",
    "nontemporal",
    "stores",
    "rep_stosb",
    "auto",
    "gpu",
}
# Of programs with more than 80 lines; what an option adds comes on top.
LINES = {
    "fallocate": 90,
    "ftruncate_files": 85,
    "fallocate_files": 90,
    "lazyfree": 85,
    "mlock": 85,
    "collapse": 95,
    "collapse_shared": 95,
    "munmap_at_once": 95,
    "one_process": 95,
    "uffd_wp": 95,
    "mincore": 95,
    "pagemap": 100,
    "exit": 100,
    "pagemap_scan": 110,
    "smaps": 110,
    "smaps_rollup": 110,
    "io_uring": 125,
    "io_uring_unpin": 120,
    "munlock": 85,
    "xdp": 128,
    "fused": 140,
    "stages": 160,
    "pageout": 100,
    "move_pages": 95,
    "mrelease": 120,
    "mixed": 125,
    "many_processes": 120,
}
MORE = {"guided": 14, "THP": 15, "sharing": 1, "pages": 12, "fill": 8, "pin": 0, "mappings": 0, "beside": 0}
OPTIONS = [
    Case("zeroing", "populate", "4KiB", 8 * MIB, 64 * KIB, options=(("sharing", "shared"),)),
    Case("zeroing", "populate", "4KiB", 8 * MIB, 64 * KIB, "guided"),
    Case("free", "munmap_at_once", "4KiB", 8 * MIB, 64 * KIB, "guided", (("fill", "each"),)),
    Case("page_walk", "mincore", "4KiB", 5 * MIB + 4096, 64 * KIB, "guided"),
    Case("truncate", "ftruncate_files", "4KiB", 8 * MIB, 64 * KIB, "guided"),
    Case("zeroing", "populate", "THP", 16 * MIB, options=(("sharing", "shared"),)),
    Case("page_walk", "pagemap", "4KiB", 100 * MIB, 64 * KIB, options=(("pages", "memory"),)),
    Case("page_walk", "pagemap_scan", "4KiB", 100 * MIB, 64 * KIB, options=(("pages", "file"),)),
    Case("page_walk", "mincore", "4KiB", 5 * MIB + 4096, 64 * KIB, options=(("pages", "file"),)),
    Case("start", "stages", "4KiB", 8 * MIB, 64 * KIB, "guided", (("pin", "mlock"),)),
    Case("reap", "mrelease", "4KiB", 8 * MIB, 64 * KIB, options=(("mappings", "4"),)),
    *(
        Case("mixed", method, "4KiB", 8 * MIB, 64 * KIB, options=(("beside", beside),))
        for method, beside in (("populate", "fork"), ("map", "protect"), ("fork", "zap"), ("zap", "populate"))
    ),
    Case("free", "dontneed", "4KiB", 8 * MIB, 64 * KIB, "padata-cur", (("fill", "each"),)),
    Case("free", "munmap", "4KiB", 8 * MIB, 64 * KIB, "dynamic", (("fill", "other"),)),
    Case("free", "exit", "4KiB", 8 * MIB, 64 * KIB, options=(("fill", "each"),)),
    Case("free", "exit", "4KiB", 8 * MIB, 64 * KIB, options=(("fill", "other"),)),
]


def has_openmp(compiler):
    """Return whether a compiler is there, with the header of OpenMP."""
    command = [compiler, "-fopenmp", "-fsyntax-only", "-x", "c", "-include", "omp.h", os.devnull]
    return shutil.which(compiler) and not subprocess.run(command, capture_output=True, check=False).returncode


COMPILERS = [compiler for compiler in ("gcc", "clang") if has_openmp(compiler)]
pytestmark = pytest.mark.skipif(not COMPILERS, reason="there is no C compiler here")


def name_of(case):
    return "-".join((case.workload, case.method, case.page_kind, *(f"{n}={v}" for n, v in case.options)))


def all_cases():
    """Every case that has a program, small and in many chunks."""
    found = list(OPTIONS)
    for workload in workloads.registry().values():
        for method in workload.methods:
            if method.name not in WITHOUT:
                found += [
                    Case(workload.name, method.name, kind, SMALL[kind], 64 * KIB)
                    for kind in method.page_kinds
                ]
    return [pytest.param(case, id=name_of(case)) for case in found]


def built(text, folder, compiler=None):
    """Compile a program of three rounds; warnings are errors."""
    source, binary = folder / "case.c", folder / "case"
    source.write_text(re.sub(r"#define ROUNDS \d+", "#define ROUNDS 3", text))
    command = [
        compiler or COMPILERS[0],
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O2",
        "-fopenmp",
        source,
        "-o",
        binary,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return binary


def ran(binary, text):
    """Run a program as its head says."""
    (places,) = re.findall(r"OMP_PLACES='(.+)' ./case", text)
    environment = os.environ | {"OMP_PLACES": places}
    return subprocess.run([binary], capture_output=True, text=True, check=False, env=environment, timeout=60)


def number(text, name):
    """Return a constant of a program; 1 if it has none of that name."""
    (value,) = re.findall(rf"^#define {name} (.+)$", text, re.MULTILINE) or ["1"]
    return eval(value.replace("L", ""))


def work_of(text):
    """Return chunk size and number of chunks, in what the program counts, and the bytes of all."""
    chunk, n_chunks = number(text, "CHUNK"), number(text, "CHUNKS")
    if "ends[n + 1]" not in text:
        (total,) = re.findall(r"for \(long at = 0; at < (\w+); at \+= len\)", text)
        n_chunks = -(-number(text, total) // chunk)
    return chunk, n_chunks, number(text, "SIZE")


@pytest.mark.cpus(2)
@pytest.mark.parametrize("case", all_cases())
def test_a_program_does_the_work_of_the_suite(case, tmp_path):
    if reason := workloads.why_not(case):
        pytest.skip(reason)
    text = reproducer(case, 2)
    with prepared(case) as state:
        result, operations, unit = (
            repeat(state, 2, case.policy).result,
            state.operations,
            state.bytes_per_unit,
        )
    chunk, n_chunks, size_bytes = work_of(text)
    assert number(text, "THREADS") == result.threads
    assert n_chunks == result.n_chunks
    least = 64 * KIB // unit if case.policy == "guided" else result.chunk_size
    assert chunk in (max(least, 1), least * unit)
    per_operation = 1 if workloads.get(case.workload).operation == "byte" else memory.BASE_PAGE
    assert size_bytes == operations * per_operation
    done = ran(built(text, tmp_path), text)
    assert (done.returncode, done.stderr) == (0, "")
    serial, threads, speedup = (line.split() for line in done.stdout.splitlines())
    assert serial[:2] == ["1", "thread"] and threads[0] == str(result.threads)
    assert speedup[2] == "verified,"
    serial_ms, threads_ms, rounding = float(serial[2]), float(threads[2]), 0.0005
    low = (serial_ms - rounding) / (threads_ms + rounding)
    high = (serial_ms + rounding) / max(threads_ms - rounding, 1e-9)
    assert low - 0.01 <= float(speedup[1]) <= high + 0.01
    if serial_ms > 0.05:
        scale = 2**30 if serial[-1] == "GiB/s" else 1e6 * memory.BASE_PAGE
        assert float(serial[4]) == pytest.approx(size_bytes / scale / (serial_ms / 1e3), rel=0.02, abs=0.01)


@pytest.mark.cpus(2)
@pytest.mark.parametrize("case", all_cases())
def test_a_chunk_that_threads_leave_out_is_found(case, tmp_path):
    if reason := workloads.why_not(case):
        pytest.skip(reason)
    text = reproducer(case, 2)
    loop = re.search(r"\tfor \(long at = 0; at < (\w+); at \+= len\)\n|\t\tlong at = ends\[i\];\n", text)
    is_last = f"{loop[1]} - at <= len" if loop[1] else "i == n - 1"
    some = f"{loop[0]}\t\tif ((threads > 1 || THREADS == 1) && {is_last}) continue; else\n"
    done = ran(built(text.replace(loop[0], some), tmp_path), text)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"case: .+\n", done.stderr)


@pytest.mark.cpus(2)
@pytest.mark.parametrize("threads", [1, 2])
def test_chunks_that_shrink_are_those_of_the_engine(threads, tmp_path):
    case = Case("truncate", "punch_hole", "4KiB", 8 * MIB + 4096, 64 * KIB, "guided")
    text = reproducer(case, threads)
    loop = "\t\tlong at = ends[i];\n"
    # A line is one write: warnx makes several, and those of two threads may mix.
    line = 'if (threads == THREADS) dprintf(2, "case: %ld %ld\\n", at, ends[i + 1]);'
    shown = text.replace(loop, f"{loop}\n\t\t{line}\n")
    assert shown != text
    done = ran(built(shown, tmp_path), text)
    found = {tuple(map(int, line.split()[1:])) for line in done.stderr.splitlines()}
    plan = engine.plan(Node(0, 2049), Ctl(None, (), 16, threads), "guided")
    assert found == {(start * 4096, end * 4096) for start, end in plan.chunks_of(0)}


@pytest.mark.cpus(2)
@pytest.mark.parametrize("case", all_cases())
def test_a_program_is_short_enough_for_a_mail(case):
    if reason := workloads.why_not(case):
        pytest.skip(reason)
    lines = reproducer(case, 2).expandtabs(8).splitlines()
    more = sum(MORE.get(name, 0) for name in (case.policy, case.page_kind, *dict(case.options)))
    assert len(lines) <= LINES.get(case.method, LINES.get(case.workload, 81)) + more
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("case", [p for p in all_cases() if p.values[0].page_kind == "2MiB"])
def test_programs_for_hugetlb_pages_compile_without_a_pool(case, tmp_path):
    """What a machine without a pool would never see of them; nothing is allocated."""
    case = replace(case, size_bytes=4 << 30)
    state = SimpleNamespace(size=16, bytes_per_unit=256 * MIB)
    built(program(case, state, engine.plan(Node(0, state.size), Ctl(None, max_threads=2))), tmp_path)


@pytest.mark.skipif("clang" not in COMPILERS, reason="there is no clang here")
def test_clang_compiles_them_too(tmp_path):
    built(reproducer(Case.of("zeroing", size="4MiB"), 2), tmp_path, "clang")


# --- the command ------------------------------------------------------------------------------------------


@pytest.mark.cpus(2)
def test_the_command_in_the_head_is_that_of_the_program(typed):
    words = "free --method munmap --size 8MiB --page-size 4KiB --min-chunk 256KiB --policy padata-cur"
    code, text, _ = typed("reproducer", *words.split(), "--threads", 2, "--set", "fill=each")
    assert code == 0
    (lines,) = re.findall(r"^ \*\tktask run ((?:.+\\\n)*.+)$", text, re.MULTILINE)
    command = lines.replace("\\\n *\t", "")
    assert typed("reproducer", *shlex.split(command)) == (0, text, "")
    code, found, _ = typed("run", *shlex.split(command), "--repetitions", 1, "--json")
    assert code == 0
    found = json.loads(found)
    assert (found["chunk_size"], found["n_chunks"], found["size_bytes"]) == work_of(text)


def test_the_head_says_how_to_compile_it(typed):
    code, text, _ = typed("reproducer", "zeroing", "--size", "8MiB", "--page-size", "4KiB", "--threads", 1)
    assert code == 0
    assert "cc -O2 -fopenmp case.c -o case" in text
    assert "zeroing populate, 8 MiB of 4KiB pages" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "free --backend model",
            "free buddy has no C program; .* dontneed, exit, lazyfree, munmap, munmap_at_once",
        ),
        ("page_walk --method radix", "has no C program; .* mincore, pagemap, pagemap_scan"),
        ("page_walk --set layout=sparse", "with layout=sparse; .* follows: pages"),
        ("page_walk --set fill=each", "with fill=each; .* follows: pages"),
        (
            "free --method lazyfree --page-size 2MiB --size 2MiB",
            "free lazyfree works on 4KiB, THP pages, not on 2MiB",
        ),
    ],
)
def test_a_case_without_a_program_is_refused_in_one_line(words, said, typed):
    code, out, err = typed("reproducer", *words.split())
    assert (code, out) == (1, "")
    assert re.fullmatch(f"ktask: no program: .*{said}.*\n", err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("zeroingg", "'zeroingg'"),
        ("zeroing --size -1", "'-1'"),
        ("zeroing --threads 0", "threads=0"),
        ("zeroing --size 64TiB", "use a smaller size"),
        ("free --set fill=two", "'two' is not allowed; use one of one, each, other"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, said, typed):
    code, out, err = typed("reproducer", *words.split())
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1


def test_every_path_of_the_kernel_has_a_program():
    methods = [(w, m) for w in workloads.registry().values() for m in w.methods]
    without = {m.name for w, m in methods if why_no_program(Case.of(w.name, m.name, size=MIB))}
    assert without == WITHOUT
