"""`ktask profile`: which case it takes, what it writes, and what it says where there is nothing."""

import json
from pathlib import Path

import pytest
from seen_evidence import KEY, SEEN, kept
from typer.testing import CliRunner

from ktask.cli import app as cli
from ktask.lab.evidence import Evidence, store

NAME = "protect-mprotect-4KiB-1TiB-layout=sparse"


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "data/runs/night"
    path.mkdir(parents=True)
    for name in ("grid.yaml", "machine.json"):
        (path / name).write_text("{}")
    return path


def profile(run, *words):
    return CliRunner().invoke(cli.app, ["profile", "night", *words, "--dir", str(run.parents[2])])


@pytest.mark.parametrize("cell", [NAME, "protect", "protect:mprotect:4KiB", NAME.replace("-", ":")])
def test_files_are_written_beside_the_reports(run, cell):
    kept(run)
    result = profile(run, cell, "--json")
    found = json.loads(result.stdout)
    assert (found["cell"], found["ways"]) == (NAME, ["serial", "threads", "alone"])
    assert {Path(file).parent for file in found["files"]} == {run.parents[2] / "reports/night.profile"}
    assert all(Path(file).stat().st_size for file in found["files"])
    assert profile(run, cell).stdout.split() == found["files"]


def test_the_folder_may_be_named(run, tmp_path):
    kept(run)
    assert profile(run, "protect", "--out", str(tmp_path / "mine")).exit_code == 0
    assert (
        (tmp_path / f"mine/{NAME}.threads.folded").read_text().startswith("do_mprotect_pkey;clear_page_erms ")
    )


def test_what_was_not_seen_has_its_reason(run, capsys):
    kept(run, Evidence(skipped="perf is not installed"))
    result = profile(run, "protect")
    assert result.exit_code == 1
    assert f"nothing was seen of {NAME}: perf is not installed" in result.output


@pytest.mark.parametrize(("cell", "words"), [("free", "is unknown"), ("p", "is not unique")])
def test_a_name_that_is_none_or_several_gets_the_list(run, cell, words):
    kept(run)
    labels = {"run_id": "r", "host_id": "h", "cell_id": "another"}
    store.save(run / "evidence", KEY._replace(workload="pin"), SEEN, labels)
    error = profile(run, cell).exception
    assert isinstance(error, ValueError)
    assert f"cell '{cell}' {words}; use one of pin-mprotect-4KiB-1TiB-layout=sparse, {NAME}" in str(error)


def test_a_run_without_evidence_says_where_it_comes_from(run):
    assert "has no evidence; `ktask sweep`" in str(profile(run, "protect").exception)
