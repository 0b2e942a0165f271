"""What a person meets in a notebook: tables of tasks, knobs, and a session kept as a run."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import part_of_sample, run_python
from test_measure import PLAIN, Bench

import ktask
from ktask.common import progress, views
from ktask.common.figures import Drawing
from ktask.common.units import fmt_number
from ktask.engine.policy import Part, Plan
from ktask.engine.task import Result
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Protocol
from ktask.lab.records import load_run
from ktask.lab.sweep import saved_session as keep
from ktask.lab.traces import read_traces
from ktask.report import Report, knobs, tables
from ktask.workloads import Case

PNG = b"\x89PNG"


def test_a_result_is_a_table_with_units():
    result = Result(0, 2, 4096, 8, "ktask-v4", wall_s=2e-3, cpu_user_s=3e-3, chunks_per_thread=(5, 3))
    text = result._repr_html_()
    for part in (
        "policy ktask-v4",
        "2.00 ms",
        "3.00 ms, 75% of the threads",
        "8 of up to 4096 units",
        "5, 3",
        "not asked for",
    ):
        assert part in text
    assert text.count("<tr>") == text.count("</tr>") == 9


def test_a_failed_result_says_so_and_escapes():
    result = Result(5, 1, 1, 1, "<b>", failed=((0, 1),), undone=((1, "<i>"),))
    text = result._repr_html_()
    assert "error 5, 1 failed extents" in text
    assert "<b>" not in text
    assert "<i>" not in text


def test_a_case_is_a_table_with_units():
    text = Case("free", "exit", "4KiB", 3 << 29, options=(("name", "<b>"),))._repr_html_()
    for part in ("free exit", "4KiB", "1.50 GiB", "2 MiB", "name=&lt;b&gt;"):
        assert part in text


def test_a_plan_shows_its_first_chunks():
    text = Plan("ktask-v4", (Part(0, 1000),), 2, 125, 10, want=2)._repr_html_()
    assert "Plan of a task, policy ktask-v4" in text
    assert "0 to 125, 125 to 250" in text
    assert "and 2 more" in text


def test_none_of_this_is_imported_with_ktask():
    loaded = "import sys, ktask; unwanted = {'ktask.common.views', 'pandas', 'ipywidgets', 'matplotlib'};"
    loaded += "print(unwanted & set(sys.modules))"
    assert run_python(loaded, check=True).stdout.strip() == "set()"


def test_tables_are_shown_with_three_digits_and_sizes():
    table = pd.DataFrame(
        {"wall_ms": [12.34567, np.nan], "n": [7, 7]}, index=pd.Index([4096, 8192], name="chunk_bytes")
    )
    text = views.formatted(table).to_html()
    assert [part in text for part in ("12.3<", "4 KiB", ">7<", "12.34")] == [True, True, True, False]


def test_loops_that_people_wait_for_have_a_bar_that_goes(monkeypatch, capsys):
    assert list(progress.watched([1, 2], "ways")) == [1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "DELAY_S", 0)
    assert list(progress.watched({1: 2}.items(), "ways")) == [(1, 2)]
    shown = capsys.readouterr().err
    assert "ways: 100%" in shown or "ways:   0%" in shown
    assert shown.endswith("\r")


# --- knobs ------------------------------------------------------------------------------------------------


def drawn(height):
    return Drawing(figsize=(1, height))


@pytest.fixture
def shown(monkeypatch):
    """Return what a notebook is given to show; `shown.now` is the picture as it was last."""

    class Shown(list):
        def display(self, one, display_id=False):
            self.append(one)
            self.now = bytes(getattr(one, "data", b""))
            return SimpleNamespace(update=lambda new: setattr(self, "now", bytes(new.data)))

    found = Shown()
    monkeypatch.setattr("IPython.display.display", found.display)
    return found


def test_a_knob_is_a_slider_and_a_picture_that_an_export_keeps(shown):
    knobs.Knob(drawn, {"height": [1, 2]})._ipython_display_()
    box, image = shown
    (slider,) = box.children
    assert type(image).__name__ == "Image"
    first = shown.now
    assert first.startswith(PNG)
    slider.value = 2
    assert shown.now not in (b"", first)


def test_long_values_come_as_a_list(shown):
    knobs.Knob(lambda path: drawn(len(path) / 10), {"path": ["zeroing populate", "zeroing memset"]}).show()
    (chooser,) = shown[0].children
    assert type(chooser).__name__ == "Dropdown"
    first, chooser.value = shown.now, "zeroing memset"
    assert shown.now not in (b"", first)


def test_a_knob_without_widgets_is_a_picture(shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    knobs.Knob(drawn, {"height": [1]}).show()
    assert [type(one).__name__ for one in shown] == ["Image"]


def test_a_knob_offers_what_those_before_it_leave(shown):
    combined = pd.DataFrame({"path": ["a", "a", "b"], "threads": [1, 4, 2]})
    knobs.Knob(lambda path, threads: drawn(threads), combined, 1)._ipython_display_()
    path, threads = shown[0].children
    assert (path.value, threads.value, threads.options) == ("a", 4, (1, 4))
    first, path.value = shown.now, "b"
    assert (threads.options, threads.value) == ((2,), 2)
    assert shown.now == drawn(2)._repr_png_() != first
    path.value = "a"
    assert (threads.options, threads.value) == ((1, 4), 4)


@pytest.fixture(scope="module")
def some_cells(tmp_path_factory):
    names = ("1GiB-*", "4KiB-8MiB*", "4KiB-512MiB.p*", "4KiB-512MiB-*quota=50pct*", "4KiB-512MiB-nice=0*")
    folder = tmp_path_factory.mktemp("runs") / "some"
    return part_of_sample(
        folder, "zeroing-memset-*", "free-munmap-*", *(f"zeroing-populate-{one}" for one in names)
    )


@pytest.fixture(scope="module")
def of_run(some_cells):
    return knobs.of_run(some_cells, "zeroing")


def test_a_run_has_knobs_for_what_it_varied(of_run, shown):
    of_run.show()
    labels = [knob.description for knob in shown[0].children]
    assert labels == ["path", "pages", "load", "size", "policy"]  # threads: two alone, no choice
    path, pages, load, size, policy = shown[0].children
    assert (path.value, load.value, size.value) == ("zeroing populate", "idle machine", "512 MiB")
    before, load.value = shown.now, "quota=50%"
    assert (policy.options, shown.now != before) == (("dynamic",), True)
    pages.value = "1GiB"  # was not measured beside a load
    assert (load.value, size.value, policy.value) == ("idle machine", "2 GiB", "ktask-v4")


def test_turning_a_knob_of_a_run_measures_nothing(of_run, monkeypatch):
    monkeypatch.setattr("ktask.lab.measure.rounds.repeat", None)
    monkeypatch.setattr(knobs, "repeat", None)
    chosen = {"path": "zeroing populate", "pages": "4KiB", "load": "quota=50%", "size": "512 MiB"}
    assert of_run.picture(**chosen, policy="dynamic", threads=2).startswith(PNG)


def test_the_figure_of_a_run_says_the_speedup_that_the_report_says(some_cells):
    run = load_run(some_cells)
    table = tables.scaling_table(replace(run, records=run.records[run.records["method"] == "munmap"]))
    (row,) = tables.parallel(table).to_dict("records")
    chosen = {"load": "idle machine", "size": "512 MiB", "policy": "ktask-v4", "threads": 2}
    title = knobs.beside_others(table, "munmap", **chosen)._suptitle.get_text()
    assert f" 2 threads: {fmt_number(row['speedup'])} [" in title
    assert f"({row['verdict']})" in title


def test_a_run_with_one_thread_only_is_told(tmp_path, cell):
    alone = replace(cell, rows=[row for row in cell.rows if row["threads_requested"] == 1])
    with pytest.raises(ValueError, match="run alone has no case with several threads; give another one"):
        knobs.of_run(keep.save_run([alone], "alone", tmp_path))


def test_chunk_sizes_run_the_case_itself():
    case = Case("free", "dontneed", "4KiB", 1 << 20, 1 << 16)
    knob = knobs.chunk_sizes(case, 2)
    sizes = list(knob._choices["minimum_chunk"])
    assert sizes[0] == "512 KiB"
    assert len(sizes) == len(set(sizes)) > 3
    assert knob.picture(minimum_chunk=sizes[-1]).startswith(PNG)
    assert knobs.traced(case, 2).trace is not None


def test_a_case_that_this_machine_cannot_do_is_told():
    with pytest.raises(RuntimeError, match="works on"):
        knobs.traced(Case("page_walk", "pagemap", "1GiB", 1 << 30))


# --- a session kept as a run --------------------------------------------------------------------------------


@pytest.fixture
def cell(monkeypatch):
    with monkeypatch.context() as patch:
        bench = Bench(patch)
        return measure_case(PLAIN, (1, 2), Protocol(least=7, most=7), clock=lambda: bench.now, trace=True)


def test_a_session_becomes_a_run_that_can_be_reported_on(cell, tmp_path):
    path = keep.save_run([cell], "mine", tmp_path)
    run = load_run(path)
    assert run.grid["name"] == "by-hand"
    assert run.grid["protocol"]["least"] == 7
    assert set(run.records["run_id"]) == {"mine"}
    assert len(run.records) == len(cell.rows)
    assert len(read_traces(path)) > 0
    assert "Toy" in Report.open([path]).all_numbers().body


def test_what_cannot_be_saved_is_told(cell, tmp_path):
    with pytest.raises(ValueError, match="no cell to save"):
        keep.save_run([], "mine", tmp_path)
    with pytest.raises(ValueError, match="is there twice"):
        keep.save_run([cell, cell], "mine", tmp_path)
    keep.save_run([cell], "mine", tmp_path)
    with pytest.raises(ValueError, match="exists"):
        keep.save_run([cell], "mine", tmp_path)


def test_results_of_real_tasks_are_shown():
    array = np.zeros(1000, np.uint8)

    @ktask.thread_func
    def fill(start, end, out):
        out[start:end] = 1
        return 0

    text = ktask.run(0, 1000, ktask.Ctl(fill, args=(array,)), trace=True)._repr_html_()
    assert "done" in text
    assert " chunks</td>" in text


# --- ktask.measure ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    rules = {"least": 6, "most": 6, "seed": 3}
    return ktask.measure("zeroing", "memset", size="4MiB", page_kind="4KiB", threads=[1, 2], protocol=rules)


@pytest.mark.cpus(2)
def test_a_measurement_is_a_table_with_units(found):
    assert list(found.table["threads"][:2]) == [1, 1]
    assert found.table.index[-1] == "2 threads"
    for text in (str(found), found._repr_html_()):
        assert "GiB/s" in text
        assert "serial again (A/A)" in text
    assert str(found).startswith("zeroing memset, 4 MiB of 4KiB pages\n")
    assert found.plot()._repr_png_().startswith(PNG)


@pytest.mark.cpus(2)
def test_its_numbers_are_those_of_ktask_run(found):
    told, row = found.as_dict(2), found.table.loc["2 threads"]
    assert told["wall_s"]["median"] == row["time_s"]
    assert told["rate"]["median"] == row["rate_per_s"]
    assert told["speedup"] == told["speedup"] | {
        "median": row["speedup"],
        "low": row["low"],
        "high": row["high"],
    }
    assert (told["seed"], told["size_bytes"], told["wall_s"]["n"]) == (3, 4 << 20, row["n"])


@pytest.mark.cpus(2)
def test_it_is_saved_as_a_run(found, tmp_path):
    run = load_run(found.save("monday", tmp_path))
    assert len(run.records) == len(found.records)
    assert set(run.records["run_mode"]) == set(found.records["run_mode"]) != {""}
    assert run.grid["seed"] == run.grid["protocol"]["seed"] == 3


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"workload": "zeroingg"}, "workload 'zeroingg' is unknown; use one of zeroing, page_walk"),
        ({"method": "magic"}, "has no method 'magic'; use one of populate"),
        ({"page_kind": "3KiB"}, "page kind '3KiB' is unknown; use one of 4KiB, THP"),
        ({"size": "3parsecs"}, "'3parsecs'"),
        ({"policy": "ktask-v9"}, "ktask-v9"),
        ({"threads": [0]}, "threads=0 is not allowed; use 1 to"),
        ({"options": {"colour": "red"}}, "has no option 'colour'; use"),
        ({"protocol": {"least": 0}}, "least=0 is not allowed; use 1 or more"),
        ({"protocol": {"least": 5, "most": 2}}, "most=2 is below least=5; raise one or lower the other"),
        ({"protocol": {"rounds": 5}}, "'rounds' is unknown; use least, most, budget_s"),
    ],
)
def test_what_cannot_be_measured_is_said_with_what_is_allowed(how, words):
    with pytest.raises(ValueError, match=words):
        ktask.measure(**({"workload": "zeroing", "size": "1MiB", "quiet": True} | how))
