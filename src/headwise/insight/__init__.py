"""Seeing, measuring, silencing, pruning and converting single heads of any model."""
