"""The figures of the lecture, by number, each drawn from what was computed."""

from collections.abc import Callable

from matplotlib.figure import Figure

from headwise.lecture.figures import measured, structure
from headwise.lecture.material import Material

FIGURES: dict[int, Callable[[Material], Figure]] = {
    number: lambda material, draw=draw: draw(material.run) for number, draw in structure.FIGURES.items()
} | measured.FIGURES

__all__ = ["FIGURES"]
