"""The lecture on multi-head attention, computed: experiments, their results, and what they say about each claim."""
