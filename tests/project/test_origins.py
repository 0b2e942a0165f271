"""No sentence about a cause lacks its origin: seen in this run, read in a source, or measured and dated."""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "ktask").rglob("*.py"))
TEXTS = [*SOURCES, *sorted((ROOT / "ktask").rglob("*.j2")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
OLD_FORM = re.compile(
    r"Known of this path|profiling the kernel|Bottlenecks are from|Bottleneck: |\blimits\(\)"
)
CAUSE = re.compile(
    r"mmap_lock|inode lock|lock of the (inode|file)|zone lock|locks? of zone|LRU lock|page-table lock|"
    r"lock of a page table|fault mutex|table of mutexes|TLB shootdown|TLB flush",
    re.IGNORECASE,
)
NAMES_OF_LOCKS = ("lab/evidence/locks.py", "lab/evidence/functions.py")  # tables that name what a run saw
PARTS_OF_THEM = ("TABLE_LOCK", "OF_TABLES")  # of `by_source` and `locks`, in several methods
MEASURED = re.compile(r"\b(Xeon|EPYC|Milan|KVM guest)\b")
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b|\b\d{1,2} \w+ 20\d\d\b|docs/\w+\.md")
MARKED = re.compile(r"by (the kernel's|its) source|evidence", re.IGNORECASE)


def sentences(tree):
    """Yield what a user may read of a module, docstrings and what is marked as the source's apart."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("by_source", "locks"):
            skipped |= {id(one) for one in ast.walk(node.value)}
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))  # a docstring
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in PARTS_OF_THEM:
            skipped |= {id(one) for one in ast.walk(node.value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def without_origin(text):
    """Return the sentences about causes in the source text of a module."""
    return [one for one in sentences(ast.parse(text)) if CAUSE.search(one)]


def test_what_is_said_about_causes_is_marked_as_read_in_the_source():
    found = {
        str(path.relative_to(ROOT / "ktask")): bare
        for path in SOURCES
        if (bare := without_origin(path.read_text(encoding="utf-8")))
    }
    assert {name: bare for name, bare in found.items() if name not in NAMES_OF_LOCKS} == {}


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ('Method("m", "about", limit="mmap_lock is taken for writing, so threads take turns.")', 1),
        ('Method("m", "who maps waits (mmap_lock)")', 1),
        ('Method("m", "about", by_source="mmap_lock is taken for writing.", locks=("mmap_lock",))', 0),
        ('"""A module about the mmap_lock."""', 0),
    ],
)
def test_the_check_knows_both_forms(text, bare):
    assert len(without_origin(text)) == bare


def test_the_old_forms_are_gone():
    assert [path.name for path in TEXTS if OLD_FORM.search(path.read_text(encoding="utf-8"))] == []


def test_notebooks_say_where_a_cause_was_read_or_seen():
    bare = [
        (path.name, paragraph)
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "markdown"
        for paragraph in "".join(cell["source"]).split("\n\n")
        if CAUSE.search(paragraph) and not paragraph.startswith("#") and not MARKED.search(paragraph)
    ]
    assert bare == []


def test_a_figure_of_another_machine_has_a_date():
    """In comments and strings; the names of described machines are no figures."""
    bare = []
    for path in SOURCES:
        tokens = [*tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)]
        comments = " ".join(one.string for one in tokens if one.type == tokenize.COMMENT)
        texts = [*sentences(ast.parse(path.read_text(encoding="utf-8"))), comments]
        bare += [
            (path.name, text)
            for text in texts
            if MEASURED.search(text) and re.search(r"\d", text) and not DATE.search(text)
        ]
    assert bare == []
