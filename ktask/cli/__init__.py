"""The command line `ktask`: a file per verb, each a thin layer over a Python call, with its text output.

`app.main` is the program; `base` has exit codes, `--json` and refusals in one line, `tables` the tables of a
terminal, `workload_names` the names for the help, `precompile` what `make setup` compiles beforehand.
"""
