"""Seeing and operating on single heads: observe, statistics, gates."""
