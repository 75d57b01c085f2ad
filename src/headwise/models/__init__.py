"""The systems built on the one attention, a folder each."""
