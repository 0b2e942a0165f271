"""The multithreading framework itself: a task, its plan, its workers, and what came of it.

`task.Ctl` says what to call, `policy.make_plan` how to chunk it, `run.run` and `run.run_numa` carry it out,
`worker` is the compiled half, `layout` the state that workers share, `slots` and `placement` keep it within
the limits of the machine.
"""
