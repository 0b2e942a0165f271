"""One case measured in one process: rounds, statistics, flags."""
