"""The multithreading framework itself: a task, its plan, its workers, and what came of it.

`task.Ctl` says what to call, `policy.make_plan` how to chunk it, `run.run`, `run.run_numa` and
`run.plan` carry it out or only plan it; `worker` is the compiled half, `layout` the state that workers
share, `slots` and `placement` keep it within the limits of the machine. `thread_functions.thread_func`
marks what helpers call, `live.Live` and `trace.plot` show it, `conformance` checks it against worked
cases.
"""
