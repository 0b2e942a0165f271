"""Scaling laws, predictions with intervals, and the published figures they are held against."""
