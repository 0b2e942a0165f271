"""Notebooks: each one runs as it is kept, and running one is a safe thing to do."""

import ast
import json
import os
import time

import nbformat
import psutil
import pytest
from conftest import part_of_sample, printed, written

from ktask.common.resources import NOTEBOOKS
from ktask.lab.records import read_records
from ktask.lab.studies import fault_mutexes
from ktask.lab.sweep import notebooks
from ktask.lab.sweep.kernels import Kernels

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb") if path.stem != "report")
TINY = {
    "size": "2MiB",
    "min_chunk": "64KiB",
    "threads": [1, 2],
    "protocol": {"least": 2, "most": 2, "budget_s": 0.1, "warmup_s": 0.1},
    "tables": ["ktask_clear_gigantic_page"],
    "learned_from": ["ktask_clear_gigantic_page"],
    "task_size": "8GiB",
    "passes": 1,
    "probing_s": 0.1,
}


# How many figures a notebook shows. A widget is one: it degrades to a picture. Zeroing has one more where
# there are hugetlb pages.
FIGURES = {
    "cell": 0,
    "free": 5,
    "index": 1,
    "page_walk": 3,
    "prediction": 2,
    "questions": 1,
    "reproduction": 2,
    "simulation": 5,
    "workload": 3,
    "your_task": 2,
    "zeroing": 4,
}
OF_A_WHOLE_RUN = ("questions",)
BEGINS_WITH_A_TABLE = ("cell", "simulation")  # of the case, and of the machine that is simulated
MOST_LINES = 8  # of a cell, blank ones not counted


def cells_tagged_parameters(name):
    cells = nbformat.read(notebooks.find(name), as_version=4).cells
    return [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]


def parameters_of(name):
    """Return the names that the parameters cell of a notebook sets."""
    (cell,) = cells_tagged_parameters(name)
    return [target.id for node in ast.parse(cell.source).body for target in node.targets]


def tiny(name, **more):
    return {key: value for key, value in (TINY | more).items() if key in parameters_of(name)}


def ran(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def images(notebook):
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


# --- the notebooks of the project -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "report"])
def test_one_cell_is_tagged_parameters(name):
    assert len(cells_tagged_parameters(name)) == 1


@pytest.mark.parametrize("name", [*NAMES, "report"])
def test_a_notebook_is_valid_and_clean(name):
    notebook = nbformat.read(notebooks.find(name), as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_with_its_story(name):
    first = nbformat.read(notebooks.find(name), as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cell"])
def test_cells_are_short(name):
    """A notebook shows; what works something out is in the package."""
    cells = nbformat.read(notebooks.find(name), as_version=4).cells
    code = [
        c.source for c in cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])
    ]
    assert [text for text in code if len([*filter(str.strip, text.splitlines())]) > MOST_LINES] == []
    assert not any(word in text for text in code for word in ("\n    for ", "\nwhile ", "\n    while "))


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The sample with a few of its cases: enough for a figure with knobs."""
    return str(part_of_sample(tmp_path_factory.mktemp("runs") / "small", "free-dontneed-*"))


@pytest.fixture(scope="module")
def kernels():
    """One warm process for all; without matplotlib, which asks at its import where figures go."""
    with Kernels(["ktask.lab.sweep.preloaded", "scipy.stats"]) as found:
        yield found


# zeroing takes hugetlb pages where there are some; the long ones take 10 s and more.
MARKS = {"zeroing": pytest.mark.alone} | dict.fromkeys(("prediction", "free", "questions"), pytest.mark.long)


@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS.get(n, ())) for n in NAMES])
def test_by_hand_a_notebook_shows_its_figures(name, tmp_path, kernels, small_run):
    parameters = tiny(name, **{} if name in OF_A_WHOLE_RUN else {"run": small_run})
    done = notebooks.execute(notebooks.find(name), tmp_path / "out.ipynb", parameters, 60, kernels)
    shown = [any("image/png" in o.get("data", {}) for o in c["outputs"]) for c in ran(done) if c["outputs"]]
    assert shown[0] or name in BEGINS_WITH_A_TABLE
    has_more = name == "zeroing" and fault_mutexes.why_not() is None
    assert images(done) == FIGURES[name] + has_more
    assert [p.name for p in tmp_path.iterdir()] == ["out.ipynb"]


@pytest.mark.parametrize("workload", ["zeroing", "page_walk", "free", "protect"])
def test_in_a_sweep_the_notebook_of_a_cell_keeps_records(workload, tmp_path, kernels):
    labels = {"run_id": "r", "host_id": "h", "cell_id": "c"}
    case = {"workload": workload, "method": None, "page_kind": "4KiB"}
    parameters = tiny("cell", save_as=str(tmp_path / "c.parquet"), labels=labels) | case
    done = notebooks.execute(notebooks.find("cell"), tmp_path / "out.ipynb", parameters, 60, kernels)
    assert images(done) == 0
    records = read_records(tmp_path / "c.parquet")
    assert records[list(labels)].drop_duplicates().to_dict("records") == [labels]
    assert set(records["workload"]) == {workload}
    assert records["verified"].all()
    assert set(records.query("not warmup")["threads_requested"]) == {1, 2}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_no_hidden_modes(name):
    """No cell that draws nothing, or something else, when a program runs it."""
    code = "".join(c.source for c in nbformat.read(notebooks.find(name), as_version=4).cells)
    assert "None if" not in code
    assert name == "cell" or "save_as" not in code


def test_a_notebook_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="no notebook 'nosuch'; use one of cell, free, index"):
        notebooks.find("nosuch")


# --- running one ------------------------------------------------------------------------------------------

LISTENING = """
import psutil
import threading
me = psutil.Process()
print(me.pid)
print([c.laddr for c in me.net_connections("inet")])
print(len(me.net_connections("unix")) > 0)
"""


def test_a_kernel_listens_on_no_port(tmp_path, temporary):
    done = notebooks.execute(written(tmp_path, LISTENING), tmp_path / "out.ipynb", {})
    pid, ports, has_unix_sockets = printed(done).splitlines()
    assert int(pid) != os.getpid()
    assert (ports, has_unix_sockets) == ("[]", "True")
    assert not psutil.pid_exists(int(pid))


def test_parameters_arrive_unchanged(tmp_path, temporary):
    value = {"x": [1, None, True, 1.5], "quote": 'it\'s "so"\n\\', "Ω": "\N{SNOWMAN}; import os"}
    done = notebooks.execute(
        written(tmp_path, "import json; print(json.dumps(a))"), tmp_path / "o.ipynb", {"a": value}
    )
    assert json.loads(printed(done)) == value


def test_a_kernel_of_the_users_own_is_not_taken(tmp_path, temporary, monkeypatch):
    spec = tmp_path / "kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "mine", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    notebooks.execute(written(tmp_path, "a"), tmp_path / "out.ipynb", {})


def test_a_long_temporary_directory_does_no_harm(tmp_path, monkeypatch):
    path = tmp_path / ("long" * 25)
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    notebooks.execute(written(tmp_path, "a"), tmp_path / "out.ipynb", {})
    assert list(path.iterdir()) == []


FAILURES = {
    "raises": ("1 / 0", "ZeroDivisionError: division by zero", True),
    "in two lines": ("raise ValueError('one\\n  two')", "ValueError: one two", True),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3", True),
    "dies": ("import os; os.kill(os.getpid(), 9)", "the process of the cell died", False),
    "hangs": ("import time; time.sleep(60)", "the cell took longer than 1 s", False),
}


@pytest.mark.parametrize(("source", "reason", "is_kept"), FAILURES.values(), ids=FAILURES)
def test_a_notebook_that_fails_is_told_in_one_line(source, reason, is_kept, tmp_path, temporary):
    before, began = psutil.Process().children(), time.monotonic()
    with pytest.raises(notebooks.NotebookError) as caught:
        notebooks.execute(written(tmp_path, source, "print('not reached')"), tmp_path / "out.ipynb", {}, 1)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 20
    assert psutil.Process().children() == before
    assert list(temporary.iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} == {"made.ipynb", *(["out.ipynb"] if is_kept else [])}


def test_a_kernel_that_does_not_start_is_told(tmp_path, temporary, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    with pytest.raises(notebooks.NotebookError, match="the process of the cell did not start"):
        notebooks.execute(written(tmp_path, "a"), tmp_path / "out.ipynb", {})
    assert list(temporary.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path, temporary, monkeypatch):
    def interrupted(*_, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("nbclient.NotebookClient.execute_cell", interrupted)
    before = psutil.Process().children()
    with pytest.raises(KeyboardInterrupt):
        notebooks.execute(written(tmp_path, "a"), tmp_path / "out.ipynb", {})
    assert psutil.Process().children() == before
    assert list(temporary.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["made.ipynb"]
