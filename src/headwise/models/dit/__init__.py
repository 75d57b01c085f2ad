"""DiT (Peebles and Xie 2023): diffusion transformers, which draw pictures of a class out of noise."""

from headwise.models.dit.config import DiTConfig
from headwise.models.dit.model import DiTTransformer2DModel

__all__ = ["DiTConfig", "DiTTransformer2DModel"]
