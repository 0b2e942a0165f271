"""Grids: what a YAML file means, and what is said when it means nothing."""

import re
import time
from pathlib import Path

import pytest
import yaml

from ktask.host import available_memory
from ktask.lab.measure.measurement import Protocol
from ktask.lab.measure.threads import default_threads
from ktask.lab.sweep.grid import Grid, cell_id, load_grid, parse_grid, read_grid, shipped, sizes_of
from ktask.memory import region as memory
from ktask.workloads import Case, Method, Option, Workload
from ktask.workloads import base as workloads

WORK = {"workload": "zeroing", "method": "populate", "page_kind": "THP", "size": "2MiB"}


def grid_of(data, name="g"):
    return parse_grid(yaml.safe_dump(data, sort_keys=False), name)


def grid_with(**changes):
    return grid_of({"work": [WORK]} | changes)


def work_with(**changes):
    return grid_of({"work": [WORK | changes]})


def shipped_grid(name, nodes=2):
    """A shipped grid as it is on a machine with two memory nodes."""
    return parse_grid(*read_grid(name), nodes=nodes)


@pytest.mark.parametrize("name", shipped())
def test_shipped_grids_are_understood(name):
    grid = shipped_grid(name)
    assert grid.name == name
    assert grid.about
    assert grid.cases
    assert all(case.page_kind in memory.PAGE_KINDS for case in grid.cases)


def test_the_shipped_grids_are_the_promised_ones():
    studies = {"zeroing", "page_walk", "free", "neighbours", "policies", "coverage", "numa", "questions"}
    assert set(shipped()) >= {"quick", "full", "tiny"} | studies


@pytest.mark.parametrize(
    ("value", "memory_gib", "sizes_gib"),
    [
        ("1GiB..25%", 24, [1, 4]),
        ("1GiB..25%", 2048, [1, 4, 16, 64, 256, 512]),
        ("25%", 24, [4]),
        ("4GiB..1%", 24, [4]),  # beyond the share: measured where it fits
        ("512MiB", 24, ["512MiB"]),
    ],
)
def test_sizes_follow_the_machine(value, memory_gib, sizes_gib):
    found = sizes_of(value, memory_gib << 30)
    assert [size >> 30 if isinstance(size, int) else size for size in found] == sizes_gib


def test_a_grid_asks_a_large_machine_for_large_sizes(monkeypatch):
    monkeypatch.setattr(available_memory, "memory_total_bytes", lambda: 2 << 40)
    assert max(case.size_bytes for case in load_grid("large").cases) == 512 << 30
    with pytest.raises(ValueError, match=r"size '1GiB..60%' is not allowed; use a share of the memory from"):
        work_with(size="1GiB..60%")
    with pytest.raises(ValueError, match="size 'x' is not understood"):
        work_with(size="x..25%")


def test_the_full_grid_leaves_out_no_method_and_no_page_kind():
    measured = {(case.workload, case.method, case.page_kind) for case in load_grid("full").cases}
    offered = {
        (w.name, m.name, kind)
        for w in workloads.registry().values()
        for m in w.methods
        for kind in m.page_kinds
    }
    assert offered - measured == set()


def test_the_readme_and_the_grid_say_how_many_cells_there_are():
    full, quick = (len(shipped_grid(name, nodes=1).cases) for name in ("full", "quick"))
    root = Path(__file__).parents[2]
    assert f"measures {full} cells instead of {quick}" in " ".join((root / "README.md").read_text().split())
    assert f"{full} cells" in (root / "ktask/lab/sweep/grids/full.yaml").read_text().splitlines()[0]


@pytest.mark.parametrize("name", ["quick", "full"])
def test_near_and_far_memory_is_measured_where_there_are_two_nodes(name):
    def places(nodes):
        return {dict(case.options).get("node") for case in shipped_grid(name, nodes).cases} - {None}

    assert places(1) == set()  # nor is it skipped: the cells are not there
    assert places(2) >= {"local", "remote", "spread"}
    assert places(8) == places(2)
    placements = {dict(case.options).get("placement") for case in shipped_grid(name).cases}
    assert placements == {None, "spread"}
    kept = [case for case in shipped_grid(name).cases if "node" not in dict(case.options)]
    assert kept == list(shipped_grid(name, 1).cases)


def test_a_grid_for_several_nodes_is_refused_on_one():
    with pytest.raises(
        ValueError, match="grid needs memory on 2 nodes, this process may use 1; use another grid"
    ):
        shipped_grid("numa", nodes=1)
    assert len(shipped_grid("numa").cases) > 40


@pytest.mark.parametrize("name", shipped())
def test_cell_ids_of_a_shipped_grid_are_unique_file_names(name):
    ids = [cell_id(case) for case in shipped_grid(name).cases]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_.=-]+", one) for one in ids)


def test_cell_ids_tell_all_cases_apart():
    sizes = [2**30, 2**30 + 4096, 2**30 + 8192, 2**30 + 1, 3 * 2**29, 10**9, 1]
    cases = [Case("zeroing", "populate", "4KiB", size) for size in sizes]
    cases += [Case("zeroing", "populate", "4KiB", 2**30, size) for size in sizes]
    cases += [Case("zeroing", "populate", "4KiB", 2**30, policy=name) for name in ("ktask-v1", "padata-6.8")]
    assert len({cell_id(case) for case in cases}) == len(cases)


def test_cell_id_is_plain():
    case = Case("zeroing", "populate", "THP", 3 << 29, 64 << 10, "padata-6.8")
    assert cell_id(case) == "zeroing-populate-THP-1536MiB-padata-6_8-min64KiB"


def test_cells_of_a_small_grid():
    grid = grid_of(
        {
            "about": "small",
            "seed": 5,
            "threads": [2, 4],
            "min_chunk": "64KiB",
            "protocol": {"least": 3, "most": 5, "budget_s": 0.5},
            "work": [
                {
                    "workload": "zeroing",
                    "method": "populate",
                    "page_kind": ["4KiB", "THP"],
                    "size": [4096, "2MiB"],
                },
                {"workload": "page_walk", "size": "1GiB", "min_chunk": "8MiB", "policy": "ktask-v1"},
            ],
        },
        name="small",
    )
    kib64 = 64 << 10
    assert grid == Grid(
        name="small",
        about="small",
        seed=5,
        threads=(1, 2, 4),
        protocol=Protocol(least=3, most=5, budget_s=0.5, seed=5),
        cases=(
            Case("zeroing", "populate", "4KiB", 4096, kib64),
            Case("zeroing", "populate", "4KiB", 2 << 20, kib64),
            Case("zeroing", "populate", "THP", 4096, kib64),
            Case("zeroing", "populate", "THP", 2 << 20, kib64),
            *(
                Case("page_walk", method.name, "4KiB", 1 << 30, 8 << 20, "ktask-v1")
                for method in workloads.get("page_walk").methods
            ),
        ),
    )


BUDDY = Method(
    "buddy",
    "",
    "model",
    ("4KiB",),
    options=(Option("lock", "", "zone", ("zone", "order")), Option("batch", "", "63")),
)


@pytest.fixture
def with_options(monkeypatch):
    """A workload `toy` whose one method has a choice and a number."""
    toy = Workload("toy", "", "page", (BUDDY,), setup=None)
    monkeypatch.setattr(workloads, "registry", lambda: {"toy": toy})


def test_options_are_combined_and_their_defaults_need_no_name(with_options):
    entry = {"workload": "toy", "size": "1MiB", "options": {"lock": ["zone", "order"], "batch": [63, 1]}}
    cases = grid_of({"work": [entry]}).cases
    assert [case.options_text for case in cases] == ["", "batch=1", "lock=order", "batch=1,lock=order"]
    assert [cell_id(case) for case in cases[::3]] == [
        "toy-buddy-4KiB-1MiB",
        "toy-buddy-4KiB-1MiB-batch=1-lock=order",
    ]
    assert (cases[2].option("lock"), cases[2].option("batch")) == ("order", "63")
    with pytest.raises(ValueError, match="no option 'zones'"):
        cases[0].option("zones")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zones": 2}, "no option 'zones'; use lock, batch"),
        ({"lock": "none"}, "lock='none' is not allowed; use one of zone, order"),
        ({"batch": -1}, "batch='-1' is not allowed; use a whole number of at least 0"),
        ({"batch": "1" * 41}, "up to 40 letters"),
        ({"batch": []}, "one value or a list"),
        (["lock"], "use a mapping"),
    ],
)
def test_options_that_are_not_there_are_refused(with_options, options, message):
    with pytest.raises(ValueError, match=message):
        grid_of({"work": [{"workload": "toy", "size": "1MiB", "options": options}]})


def test_what_is_left_out_has_defaults():
    grid = grid_with()
    assert (grid.seed, grid.about, grid.protocol) == (1, "", Protocol())
    assert grid.threads == tuple(default_threads())
    assert grid.cases == (Case("zeroing", "populate", "THP", 2 << 20),)


def test_a_cell_given_twice_is_measured_once():
    assert len(grid_of({"work": [WORK, WORK]}).cases) == 1


def test_a_grid_is_kept_with_everything_spelled_out():
    kept = yaml.safe_load(yaml.safe_dump(load_grid("tiny").as_dict()))
    assert kept["cells"][0]["cell_id"] == "zeroing-populate-4KiB-4MiB-min64KiB"
    assert kept["cells"][0]["size_bytes"] == 4 << 20
    assert kept["protocol"]["least"] == 3


BAD_GRIDS = {
    "sise": ({"sise": 1, "work": [WORK]}, "'sise'", "seed, threads"),
    "no work": ({}, "key work of the grid is missing", "give a list of mappings with the keys workload"),
    "empty work": ({"work": []}, "work=[]", "list of entries"),
    "work is a mapping": ({"work": {"workload": "zeroing"}}, "line 2: work=", "list of mappings"),
    "entry is text": (
        {"work": ["zeroing"]},
        "line 2: an entry of work is zeroing",
        "mapping with the keys workload",
    ),
    "entry without size": (
        {"work": [{"workload": "free"}]},
        "line 2: key size",
        "a size such as 512MiB",
    ),
    "not a mapping": ([1, 2], "line 1: the grid is a list", "mapping with the keys work"),
    "empty": (None, "the grid is null", "mapping with the keys work"),
    "seed": ({"seed": -1, "work": [WORK]}, "seed=-1", "at least 0"),
    "seed text": ({"seed": "x", "work": [WORK]}, "seed=x", "whole number"),
    "protocol": ({"protocol": 3, "work": [WORK]}, "protocol is 3", "least, most"),
    "too many": ({"work": [WORK | {"size": list(range(1, 10_002))}]}, "10001 cells", "at most 10000"),
}


@pytest.mark.parametrize(("data", "value", "allowed"), BAD_GRIDS.values(), ids=BAD_GRIDS)
def test_a_bad_grid_is_refused(data, value, allowed):
    with pytest.raises(ValueError) as caught:
        grid_of(data)
    assert value in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("workload", "zeroingg", "zeroing, page_walk, free"),
        ("workload", 3, "zeroing, page_walk, free"),
        ("method", "magic", "use one of populate, "),
        ("page_kind", "8KiB", "4KiB, THP, 2MiB, 1GiB"),
        ("policy", "ktask-v9", "ktask-v4"),
        ("size", "3parsecs", "such as 512MiB"),
        ("size", -1, "positive"),
        ("size", 0, "positive"),
        ("size", True, "positive"),
        ("size", [], "one value or a list"),
        ("method", [], "one value or a list"),
        ("page_kind", [], "one value or a list"),
        ("min_chunk", "0", "positive"),
        ("pages", "4KiB", "page_kind"),
    ],
)
def test_a_bad_entry_is_refused(key, value, allowed):
    with pytest.raises(ValueError) as caught:
        work_with(**{key: value})
    assert str(value if key != "pages" else key) in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize("threads", [0, [], "two", True, [1, 2.5], [1, -2], [None]])
def test_bad_threads_are_refused(threads):
    bad = threads if threads == [] or not isinstance(threads, list) else threads[-1]
    with pytest.raises(ValueError, match="threads=" + re.escape(repr(bad))) as caught:
        grid_with(threads=threads)
    assert re.search(r"use (auto or a list|a whole number of at least 1)", str(caught.value))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("least", 0, "positive"),
        ("least", 2.5, "whole number"),
        ("most", True, "positive"),
        ("budget_s", "long", "positive"),
        ("budget_s", -1, "positive"),
        ("budget_s", float("nan"), "positive"),
        ("budget_s", float("inf"), "positive"),
        ("rounds", 3, "least, most, budget_s"),
        ("seed", 3, "least, most, budget_s"),
    ],
)
def test_a_bad_protocol_is_refused(key, value, allowed):
    with pytest.raises(ValueError, match=key) as caught:
        grid_with(protocol={key: value})
    assert allowed in str(caught.value)


def test_a_protocol_of_more_least_than_most_rounds_is_refused():
    with pytest.raises(ValueError, match="most=2 is below least=3"):
        grid_with(protocol={"least": 3, "most": 2})


BAD_FILES = {
    "syntax": b"work: [1,",
    "tabs": b"work:\n\t- x",
    "a list": b"- 1\n- 2\n",
    "binary": bytes(range(128, 256)),
    "a null byte": b"work: \0",
    "python object": b"!!python/object/apply:os.system ['touch hacked']",
    "nested deeply": b"[" * 20_000,
    "an alias of itself": b"work: &a [*a]",
    "a key that is a list": b"? [a]\n: b",
    "aliases of aliases": b"work: [[&a [x, x, x, x, x, x, x, x], "
    + b", ".join(b"&%c [%s]" % (c, b", ".join([b"*%c" % (c - 1)] * 8)) for c in b"bcdefg")
    + b"]]",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_in_one_short_line(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_grid(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_grid_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"'nosuch' is neither a file nor one of .*full, .*quick, tiny"):
        load_grid("nosuch")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        load_grid(str(tmp_path))


def test_a_file_is_read_by_its_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"work": [WORK]}))
    assert load_grid(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "work: [{workload: zeroing, method: memset, page_kind: 4KiB, "
            f"size: {[f'{n}MiB' for n in range(1, 3001)]}, "
            f"min_chunk: {[f'{n}KiB' for n in range(1, 3001)]}}}]",
            "line 1: 9000000 cells up to here are too many; use at most 10000",
        ),
        (
            "passes: 1000000000000\nwork: [{workload: zeroing, size: 4MiB}]",
            "line 1: passes=1000000000000 is not",
        ),
        (
            f"passes: 1000\nthreads: {list(range(1, 1001))}\nwork: [{{workload: zeroing, size: 4MiB}}]",
            "thread counts in 1000 passes are too many; use at most 1000000 together",
        ),
    ],
)
def test_a_grid_that_would_never_end_is_refused_before_it_is_made(text, message):
    began = time.monotonic()
    with pytest.raises(ValueError) as caught:
        parse_grid(text, "mine")
    assert message in str(caught.value)
    assert time.monotonic() - began < 10
