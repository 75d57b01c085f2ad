"""Llama (Touvron et al. 2023)."""

from headwise.models.llama.config import LlamaConfig
from headwise.models.llama.model import LlamaForCausalLM

__all__ = ["LlamaConfig", "LlamaForCausalLM"]
