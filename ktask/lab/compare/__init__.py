"""Runs compared: what got better, what got worse, what is the same, and what is not known.

`compare` judges two runs, `compare_kernels` several by kernel; `judgement` has the statistics, `differences`
what differs beside the times. `to_json`, `to_table` and their counterparts for kernels give the results away.
"""

from ktask.lab.compare.differences import Difference
from ktask.lab.compare.kernels import Kernels, Step, compare_kernels
from ktask.lab.compare.output import kernels_to_json, kernels_to_table, to_json, to_table
from ktask.lab.compare.rows import THRESHOLD, Comparison, Row, compare, passes, variant_name

__all__ = [
    "THRESHOLD",
    "Comparison",
    "Difference",
    "Kernels",
    "Row",
    "Step",
    "compare",
    "compare_kernels",
    "kernels_to_json",
    "kernels_to_table",
    "passes",
    "to_json",
    "to_table",
    "variant_name",
]
