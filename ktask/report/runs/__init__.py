"""Several runs: machines beside each other, kernels as a series."""
