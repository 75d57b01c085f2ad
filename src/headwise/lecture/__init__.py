"""The lecture on multi-head attention: its figures and tables, and the experiments and results they are computed from."""
