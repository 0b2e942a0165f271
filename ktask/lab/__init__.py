"""Measuring: `measure/` one case, `sweep/` grids of cells, `studies/`, records, traces and comparison."""
