"""The figures of the lecture, each drawn from what was computed."""
