"""Shared leaves: units as text, files that appear whole or not at all, progress bars.

Nothing here imports another folder of ktask.
"""
