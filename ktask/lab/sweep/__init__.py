"""Grids of cells by papermill, each in a fresh process, on this machine or on a Dask cluster."""
