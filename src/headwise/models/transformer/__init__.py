"""The Transformer of "Attention is all you need" (Vaswani et al. 2017)."""

from headwise.models.transformer.config import TransformerConfig
from headwise.models.transformer.model import Transformer

__all__ = ["Transformer", "TransformerConfig"]
