"""Results of other suites as runs of this one.

`readers` knows their files, each a function from text to measurements; `import_results` makes a run of them.
Their files come from any hand: they are small, regular, and hold numbers that a machine could have, or are
refused by name and line.
"""

from ktask.lab.imports.readers import KINDS
from ktask.lab.imports.run import import_results

__all__ = ["KINDS", "import_results"]
