"""TimeSformer (Bertasius et al. 2021)."""

from headwise.models.timesformer.config import TimesformerConfig
from headwise.models.timesformer.model import TimesformerForVideoClassification

__all__ = ["TimesformerConfig", "TimesformerForVideoClassification"]
