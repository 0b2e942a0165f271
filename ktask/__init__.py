"""Parallelise kernel memory paths, measure them and report what pays."""

__version__ = "0.1.0"
