"""Regions of memory whose page kind is chosen, address spaces of any shape, and what can be seen of them."""
