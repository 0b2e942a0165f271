"""The version, in one place: the build reads it here, and so does a checkout that is not installed."""

__version__ = "0.2.0"
