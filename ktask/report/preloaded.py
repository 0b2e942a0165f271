"""What the process of the report notebook needs before it can draw; importing this module makes it ready.

A page is made of thousands of small tables, for which strings of Python are faster than those of Arrow, and
of figures whose every part refers to others: the collector would look at them all again and again, and find
nothing that the end of the process does not give back.
"""

import gc

import pandas as pd
import scipy.stats  # noqa: F401

from ktask.report import contents  # noqa: F401

gc.disable()
pd.set_option("mode.string_storage", "python")
