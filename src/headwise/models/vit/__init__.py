"""ViT (Dosovitskiy et al. 2021)."""

from headwise.models.vit.config import ViTConfig
from headwise.models.vit.model import ViTForImageClassification

__all__ = ["ViTConfig", "ViTForImageClassification"]
