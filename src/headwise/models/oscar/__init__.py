"""Oscar (Li et al. 2020), VinVL: BERT over a text, the names of what is seen, and the regions where it is seen."""

from headwise.models.oscar.captioning import CaptionLayout, caption, caption_mask
from headwise.models.oscar.config import OscarConfig
from headwise.models.oscar.model import BertForImageCaptioning, BertImgForPreTraining, ImageBertForSequenceClassification

__all__ = [
    "BertForImageCaptioning",
    "BertImgForPreTraining",
    "CaptionLayout",
    "ImageBertForSequenceClassification",
    "OscarConfig",
    "caption",
    "caption_mask",
]
