"""Sweeps: every cell of a grid, one at a time, each in a fresh process by papermill.

`grid` reads a grid (`load_grid`), `sweep` measures or resumes it (`sweep`), `cells` runs one cell
(`run_cell`), `notebooks` any notebook (`execute`). `kernels` forks their processes from `warm_process`.
`cluster` and `remote` do the same on the hosts of a Dask cluster; `estimate` says beforehand what it takes.
"""
