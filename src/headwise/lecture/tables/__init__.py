"""The tables of the lecture, each made of what was computed."""
