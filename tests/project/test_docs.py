"""The documentation builds without a warning, and every example in it runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def build(builder: str, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", "-b", builder]
    command += ["-d", str(out / "doctrees"), ".", str(out / builder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    built = build("html", out)
    assert built.returncode == 0, built.stderr
    return out


def test_the_site_needs_no_network(site):
    pages = [page.read_text() for page in (site / "html").rglob("*.html")]
    assert len(pages) > 10
    loaded = re.compile(r"""<(?:script|img|link rel="stylesheet")[^>]* (?:src|href)="(?:https?:)?//""")
    assert not [text for text in pages if loaded.search(text)]


def test_every_public_name_has_an_entry(site):
    import ktask

    text, names = (site / "html/docs/api.html").read_text(), set(ktask.__all__) - {"__version__"}
    assert [name for name in names if f'id="ktask.{name}"' not in text] == []


def test_examples_of_pages_and_docstrings_run(site):
    built = build("doctest", site)
    assert built.returncode == 0, built.stderr
    tests = int(re.search(r"(\d+) tests\n", (site / "doctest/output.txt").read_text())[1])
    assert tests > 15


def test_the_example_of_the_readme_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(block.replace("1 << 30", "8 << 20"), names)  # a smaller buffer
    assert names["result"].error == 0 and not np.any(names["buf"])


def test_the_workload_of_the_docs_works():
    from ktask import run, workloads

    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/workloads.md").read_text(), re.DOTALL)
    names = {"__name__": "example"}
    exec(block, names)
    state = names["WORKLOAD"].setup(workloads.Case("protect", "mprotect", "4KiB", 4 << 20))
    try:
        with pytest.raises(workloads.CheckError):  # nothing was done yet
            state.before()
            state.check()
        assert run(0, state.size, state.ctl).error == 0
        state.check()
    finally:
        state.close()


def test_the_readme_opens_with_the_answer_of_the_committed_report():
    page = (ROOT / "reports/sample.html").read_text(encoding="utf-8")
    answer = re.search('<p class="answer">(.*?)</p>', page)[1].replace("\u00a0", " ")
    opening = (ROOT / "README.md").read_text(encoding="utf-8").partition("```")[0]
    assert f"> {answer}" in opening
    assert "docs/first-screen.svg" in opening
