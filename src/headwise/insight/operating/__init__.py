"""Silencing, replacing, weighing and removing heads."""
