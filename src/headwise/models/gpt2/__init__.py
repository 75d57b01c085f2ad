"""GPT-2 (Radford et al. 2019)."""

from headwise.models.gpt2.config import GPT2Config
from headwise.models.gpt2.model import GPT2LMHeadModel

__all__ = ["GPT2Config", "GPT2LMHeadModel"]
