"""The command `ktask`: a thin layer over the Python calls."""
