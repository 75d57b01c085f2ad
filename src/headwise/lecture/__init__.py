"""The lecture on multi-head attention: its figures and tables, and what each is computed from."""
