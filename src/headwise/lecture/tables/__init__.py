"""The tables of the lecture, by number, each made of what was computed."""

from collections.abc import Callable

from headwise.lecture.material import Material
from headwise.lecture.tables import measured, structure
from headwise.lecture.tables.table import Table

TABLES: dict[int, Callable[[Material], Table]] = {
    number: lambda material, make=make: make(material.run) for number, make in structure.TABLES.items()
} | measured.TABLES

__all__ = ["TABLES", "Table"]
