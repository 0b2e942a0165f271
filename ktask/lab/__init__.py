"""Measuring: cases, statistics, records, sweeps and the state of the machine."""
