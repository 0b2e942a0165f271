"""A discrete-event model of machines that are described and not here.

`machines.load_machine` reads a description, `calibrate.calibrate` makes one from a run; `simulator.simulate`
carries out a task, `what_if` asks the usual questions. `validation.validate` compares with the engine on this
machine, `contention.compare` with published tables. `event_loop` is the compiled half.
"""
