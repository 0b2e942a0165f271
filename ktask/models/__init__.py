"""Models of scaling: what a machine with more threads would do, and what others have published.

`scaling` fits laws to measured curves and predicts more threads, `simulation` runs the engine's policies on
machines that are described and not here. `published.load` returns every published figure as one table, and
`figures` draws the tables of all three.
"""
