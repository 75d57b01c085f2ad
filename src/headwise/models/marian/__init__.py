"""Marian, as Helsinki"s translation models have it."""

from headwise.models.marian.config import MarianConfig
from headwise.models.marian.model import MarianMTModel

__all__ = ["MarianConfig", "MarianMTModel"]
