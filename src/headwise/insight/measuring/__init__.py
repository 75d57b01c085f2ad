"""Exact numbers about what was recorded."""
