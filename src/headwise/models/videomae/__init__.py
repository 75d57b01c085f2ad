"""VideoMAE (Tong et al. 2022)."""

from headwise.models.videomae.config import VideoMAEConfig
from headwise.models.videomae.model import VideoMAEForVideoClassification

__all__ = ["VideoMAEConfig", "VideoMAEForVideoClassification"]
