"""Compute of a run: the paper's axis, the exact count, and model FLOPs utilisation."""
