"""The Transformer's own folder: names as they are in the model."""

from headwise.models.checkpoint.format import Format
from headwise.models.transformer.config import TransformerConfig
from headwise.models.transformer.model import Transformer

FORMAT = Format("transformer", TransformerConfig, {"Transformer": Transformer})
