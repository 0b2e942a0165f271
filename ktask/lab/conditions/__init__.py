"""Conditions carried out: load beside a case, a CPU quota on it, and the nice level of its helpers.

`under` sets up what a case asks for (`ktask.workloads.conditions` has the words); the measuring core enters
it around each repetition and keeps what the load and the quota did meanwhile. `load` starts and reads
generators, `generators` is what they do, `quota` is the control group.
"""

from ktask.lab.conditions.conditions import NONE, Conditions, Meanwhile, under

__all__ = ["NONE", "Conditions", "Meanwhile", "under"]
