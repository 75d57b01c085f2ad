"""DETR (Carion et al. 2020), a detector: convolutions, an encoder, and queries that look for objects."""

from headwise.models.detr.config import DetrConfig, ResNetConfig
from headwise.models.detr.model import DetrForObjectDetection

__all__ = ["DetrConfig", "DetrForObjectDetection", "ResNetConfig"]
