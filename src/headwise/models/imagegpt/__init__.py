"""ImageGPT (Chen et al. 2020)."""

from headwise.models.imagegpt.config import ImageGPTConfig
from headwise.models.imagegpt.model import ImageGPTForCausalImageModeling

__all__ = ["ImageGPTConfig", "ImageGPTForCausalImageModeling"]
