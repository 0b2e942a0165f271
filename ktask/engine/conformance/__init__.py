"""Policies and engine checked against worked cases (`ktask vectors`)."""
