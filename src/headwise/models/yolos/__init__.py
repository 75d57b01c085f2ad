"""YOLOS (Fang et al. 2021), a detector that is a ViT and nothing else."""

from headwise.models.yolos.config import YolosConfig
from headwise.models.yolos.model import YolosForObjectDetection

__all__ = ["YolosConfig", "YolosForObjectDetection"]
