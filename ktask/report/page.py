"""From run directories to one self-contained HTML file."""

import base64
import hashlib
import importlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from markupsafe import Markup, escape

from ktask.common.files import write_text
from ktask.common.private_folders import private_directory
from ktask.host.topology import cpu_count
from ktask.lab.sweep import notebooks
from ktask.lab.sweep.kernels import Kernels

REPORT_FOLDER = Path(__file__).resolve().parent
TEMPLATE = REPORT_FOLDER / "template"
# What a browser may do with the page: draw it, run the one script, whose hash follows, and nothing else.
# Figures have their colours in attributes, which no hash can stand for.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "script-src 'sha256-{}'"
)
MANY_FILES = 100  # of records: the tables and figures of fewer are made sooner than a process imports
PRELOADED = ("ktask.report.preloaded",)
HEADING = re.compile(r'<h2 id="([^"]*)">(.*?)</h2>', re.DOTALL)
APPENDIX = re.compile(r'(<h2 id="[^"]*">[A-Z] .*?</h2>)(.*?)(?=<h2|<footer)', re.DOTALL)
TAG = re.compile(r"<[^>]+>")
# A number and its unit stay on one line, and a percentage has a space as all other units have.
NOT_PROSE = re.compile(
    r"(<style.*?</style>|<script.*?</script>|<pre.*?</pre>|<code.*?</code>|<[^>]+>)", re.DOTALL
)
PERCENT = re.compile(r"(?<=\d)%")
UNIT = re.compile(r"(?<=[\d\]]) (?=(?:%|[KMGT]iB|B/s|[mµn]?s|threads?|CPUs?|[kMG]? ?PTE/s)\b|%)")

Progress = Callable[[str], None]


def write_report(runs: Sequence[Path | str], out: Path | str, progress: Progress | None = None) -> Path:
    """Execute the report notebook on one or several runs, write one HTML file and return its path.

    The same runs give the same bytes. The file is written at once and loads nothing.

    Parameters
    ----------
    runs
        Run directories, as `ktask.lab.sweep.sweep.sweep` makes them.
    out
        The HTML file; its directory is made if missing.
    progress
        Called with a line of text as each step begins.

    Raises
    ------
    ValueError
        If no run is given, or a directory is no run; the message says which.
    ktask.lab.sweep.notebooks.NotebookError
        If the notebook fails.
    """
    out = Path(out)
    progress = progress or (lambda _: None)
    paths = [Path(run).resolve() for run in runs]
    if not paths:
        raise ValueError("there is no run to report on; give at least one directory with a machine.json")
    with Kernels(PRELOADED) as kernels:
        progress("running the report notebook")
        with ThreadPoolExecutor(1) as pool:  # 0.7 s to import, on a CPU that is idle while the notebook runs
            pool.submit(importlib.import_module, "nbconvert")
            notebook = _execute(paths, kernels)
    progress("writing the page")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, to_html(notebook, f"ktask report: {', '.join(path.name for path in paths)}"))
    return out


def _execute(paths: Sequence[Path], kernels: Kernels) -> dict:
    with private_directory() as folder:
        parameters = {"runs": [str(path) for path in paths], "processes": _processes(paths)}
        executed = folder / "report.ipynb"
        try:
            # Without a limit: it computes and ends, if after minutes for a large run on a slow machine.
            return notebooks.execute(notebooks.find("report"), executed, parameters, None, kernels)
        except notebooks.NotebookError as error:  # the notebook reads the run and finds what is wrong
            kind, _, reason = str(error).partition(": ")
            raise (ValueError(reason) if kind == "ValueError" else error) from None


def _processes(paths: Sequence[Path]) -> int:
    """Return how many processes draw: a second one must import for 2 s before it can."""
    files = sum(1 for path in paths for _ in path.glob("records/*.parquet"))
    return 2 if files >= MANY_FILES and cpu_count() > 1 else 1


def to_html(notebook: dict, title: str) -> str:
    """Return an executed notebook as a page: outputs and text, no code, nothing from the network."""
    from nbconvert import HTMLExporter, TemplateExporter  # noqa: PLC0415  (1.3 s to import)
    from nbformat import from_dict  # noqa: PLC0415

    exporter = HTMLExporter(
        template_name="template",
        extra_template_basedirs=[str(REPORT_FOLDER)],
        filters={"contents": contents, "folded": folded, "markdown2html": markdown2html},
    )
    style, script = ((TEMPLATE / name).read_text("utf-8") for name in ("style.css", "page.js"))
    resources = {"page_title": title, "style": style, "script": script, "policy": policy(script)}
    # Not the method of HTMLExporter: it parses the page once more (1 s) for attributes that ours has anyway.
    body, _ = TemplateExporter.from_notebook_node(exporter, from_dict(notebook), resources=resources)
    return with_hard_spaces(body)


def policy(script: str) -> str:
    """Return the Content-Security-Policy of a page whose one script this is."""
    return POLICY.format(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())


def with_hard_spaces(page: str) -> str:
    """Return the page with a space that no line breaks at between each number and its unit."""
    pieces = NOT_PROSE.split(page)
    pieces[::2] = [UNIT.sub("\u00a0", PERCENT.sub(" %", text)) for text in pieces[::2]]
    return "".join(pieces)


def markdown2html(text: str) -> str:
    """Return Markdown as HTML, with a plain anchor on every heading."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath  # noqa: PLC0415

    class Renderer(IPythonRenderer):
        def heading(self, text: str, level: int, **_: object) -> str:
            return f'<h{level} id="{anchor(text)}">{text}</h{level}>\n'

    return MarkdownWithMath(renderer=Renderer(escape=False)).render(text)


def anchor(heading: str) -> str:
    """Return the anchor of a heading: "4 Method" gives "method"."""
    words = re.findall(r"[a-z]+", TAG.sub("", heading).lower())
    return "-".join(word for word in words if len(word) > 1) or "section"


def folded(body: str) -> str:
    """Return a page with each part of its appendix folded below its heading, which stays in sight."""
    return APPENDIX.sub(r'<details class="appendix"><summary>\1</summary>\2</details>\n', body)


def contents(body: str) -> Markup:
    """Return the table of contents of a page: a link to each section."""
    links = (
        f'<li><a href="#{escape(key)}">{TAG.sub("", text)}</a></li>' for key, text in HEADING.findall(body)
    )
    return Markup(f"<ol>{''.join(links)}</ol>")  # noqa: S704 - headings of a page that is escaped already
