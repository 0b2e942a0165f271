"""The laboratory: measuring cases, keeping them as runs, comparing runs, and studies of single questions.

`measure/` measures one case in this process (`ktask.measure`), `sweep/` a grid of cases in fresh processes,
`studies/` one question of a notebook each. `records` holds the schema of a run and reads it (`load_run`),
`traces` the chunks of one repetition per cell, `compare/` judges runs, `figures` draws for the notebooks.
"""
