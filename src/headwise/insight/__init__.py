"""Seeing and operating on single heads: observe, statistics, similarity, rollout, gates."""
