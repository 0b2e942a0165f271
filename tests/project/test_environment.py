"""The environment and the shape of the project: files that must say the same, and imports that point down."""

import ast
import importlib.metadata
import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from check_notebooks import has_outputs
from conftest import run_python
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ktask"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONDA_NAMES = {"matplotlib-base": "matplotlib"}  # conda's matplotlib brings a Qt along
PARTS_OF = {
    "IPython": "ipykernel",
    "jupyter_client": "nbclient",
    "jupyter_core": "nbclient",
    "llvmlite": "numba",
    "markupsafe": "jinja2",
    "zmq": "ipykernel",
}

# --- dependencies -----------------------------------------------------------------------------------------


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed():
    """Return what pyproject.toml asks for, with all its extras, as {name: bounds}."""
    lines = [*project()["dependencies"], *itertools.chain(*project()["optional-dependencies"].values())]
    found = {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}
    return {name: bounds for name, bounds in found.items() if name != "ktask"}


def locked():
    """Return requirements.lock as {name: [(version, number of hashes)]}."""
    found = defaultdict(list)
    for block in re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements.lock").read_text()):
        if match := re.match(r"([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", block):
            found[canonicalize_name(match[1])].append((match[2], block.count("--hash=sha256:")))
    return found


def test_conda_is_asked_for_the_same_as_pip():
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    asked = {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}
    asked = {CONDA_NAMES.get(name, name): bounds for name, bounds in asked.items()}
    assert str(asked.pop("python")) == project()["requires-python"]
    assert asked == needed()


def test_every_dependency_has_a_lower_bound():
    assert [name for name, bounds in needed().items() if not any(b.operator == ">=" for b in bounds)] == []


@pytest.mark.parametrize("name", needed())
def test_every_dependency_is_locked_within_its_bounds(name):
    assert locked()[name]
    assert all(version in needed()[name] for version, _ in locked()[name])


def test_every_locked_package_has_hashes():
    assert len(locked()) > len(needed())
    assert [name for name, versions in locked().items() if not all(n for _, n in versions)] == []


def test_what_runs_the_tests_is_what_is_locked():
    for name in needed():
        assert importlib.metadata.version(name) in {version for version, _ in locked()[name]}


def test_everything_imported_is_asked_for():
    """Something that is only there because something else needs it may be gone tomorrow."""
    distributions = importlib.metadata.packages_distributions()
    ours = {"ktask", "__future__", *sys.stdlib_module_names}
    tops = {name.partition(".")[0] for path in PACKAGE.rglob("*.py") for name in imported(path)} - ours
    owners = {top: {PARTS_OF.get(top, canonicalize_name(d)) for d in distributions[top]} for top in tops}
    assert {top for top, names in owners.items() if not names & set(needed())} == set()


# --- imports ----------------------------------------------------------------------------------------------


def imported(path):
    """Return the dotted names that a file imports anywhere, in functions too; not for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(sub) for node in ast.walk(tree) if _for_type_checkers(node) for sub in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full names"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _for_type_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def lint_imports(folder):
    """Check the import contract of pyproject.toml on the `ktask` of a folder."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_an_upward_import_breaks_the_contract(tmp_path):
    """`make lint` checks the tree itself; here it is seen that the contract can be broken."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "ktask", ignore=shutil.ignore_patterns("__pycache__"))
    assert (kept := lint_imports(tmp_path)).returncode == 0, kept.stdout
    with (tmp_path / "ktask/engine/policy.py").open("a") as file:
        file.write("\n\ndef planted():\n    from ktask.lab import records\n")
    broken = lint_imports(tmp_path)
    assert broken.returncode == 1
    assert "ktask.engine.policy -> ktask.lab.records" in broken.stdout


def test_a_part_without_its_layer_breaks_the_contract(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "ktask", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "ktask/misc.py").write_text("")
    assert lint_imports(tmp_path).returncode == 1


def modules_after(code):
    """Return the names of the modules that a fresh Python has after running `code`."""
    code += "\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = run_python(code, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_ktask_takes_no_numba():
    found = modules_after("import ktask")
    assert "ktask.engine.task" in found
    assert not found & {"numba", "llvmlite", "pandas", "scipy", "matplotlib"}


def test_help_takes_no_numba():
    code = "import sys; sys.argv = ['ktask', 'run', '--help']\nfrom ktask.cli import app as cli\n"
    found = modules_after(code + "try: cli.main()\nexcept SystemExit: pass")
    assert "typer" in found
    assert not found & {"numba", "llvmlite", "pandas", "scipy", "matplotlib", "papermill"}


# --- notebooks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    assert not has_outputs(path)


def test_an_output_would_be_found(tmp_path):
    for change in ({"outputs": [{}]}, {"execution_count": 1}):
        (tmp_path / "n.ipynb").write_text(json.dumps({"cells": [{"outputs": []} | change]}))
        assert has_outputs(tmp_path / "n.ipynb")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_call_only_the_upper_layers(path):
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    source = "\n".join("".join(cell["source"]) for cell in cells)
    parts = re.findall(r"^\s*(?:from|import) ktask\.(\w+)", source, re.MULTILINE)
    parts += re.findall(r"^\s*from ktask import (\w+)", source, re.MULTILINE)
    assert parts or re.search(r"^\s*import ktask$", source, re.MULTILINE)
    assert set(parts) <= {"common", "lab", "report", "models", "workloads"}  # the last for its `Case`
