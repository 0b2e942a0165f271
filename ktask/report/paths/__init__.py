"""What each path gains and why not more: curves, speedup stacks, locks and functions, states, advice."""
