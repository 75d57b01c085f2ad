"""Attention of other libraries, and their weights."""
