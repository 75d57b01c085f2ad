"""T5 (Raffel et al. 2020)."""

from headwise.models.t5.config import T5Config
from headwise.models.t5.model import T5ForConditionalGeneration

__all__ = ["T5Config", "T5ForConditionalGeneration"]
