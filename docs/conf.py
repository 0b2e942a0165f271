"""The documentation site: the Markdown pages of the repository as they are, and the docstrings.

The source folder is the repository itself, so links work on the site as they do in a checkout, and the
README is the first page.
"""

from docutils import nodes

import ktask

project = "ktask"
author = "The ktask authors"
project_copyright = author
release = ktask.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md"]
exclude_patterns = [
    ".*",
    "build",
    "data",
    "node_modules",
    "reports",
    "tests",
    "notebooks",
    "ktask",
    "benchmarks",
]
html_theme = "furo"
html_title = f"ktask {release}"

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what a parameter is; the signature has the types
napoleon_google_docstring = False
napoleon_use_ivar = True  # an attribute is described once, in the docstring of its class
doctest_global_setup = "import numpy as np\nimport ktask"

CONTENTS = """
```{toctree}
:hidden:
:caption: Using it
docs/measuring
docs/report
docs/placement
docs/conditions
docs/kernels
docs/workloads
docs/evidence
docs/costs
docs/reproducer
docs/models
docs/simulator
docs/cluster
docs/machines
docs/reliability
docs/glossary
```
```{toctree}
:hidden:
:caption: Programming
docs/engine
docs/api
```
```{toctree}
:hidden:
:glob:
:caption: The project
*
```
"""


def _add_contents(app, docname: str, source: list[str]) -> None:
    """Give the README the table of contents that only the site needs."""
    if docname == app.config.root_doc:
        source[0] += CONTENTS


def _mark_examples(_app, doctree: nodes.document) -> None:
    """Have the doctest builder run each `pycon` block of a page, which GitHub colours as well."""
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") == "pycon":
            block["testnodetype"], block["groups"] = "doctest", ["default"]


def setup(app) -> None:
    """Register both hooks."""
    app.connect("source-read", _add_contents)
    app.connect("doctree-read", _mark_examples)
