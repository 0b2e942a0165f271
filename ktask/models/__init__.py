"""Scaling laws with predictions, the simulator of machines that are not here, and the published figures."""
