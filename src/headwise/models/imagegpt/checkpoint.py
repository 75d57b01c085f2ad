"""ImageGPTForCausalImageModeling's published names: GPT-2's."""

from headwise.models.checkpoint.format import Format
from headwise.models.gpt2.checkpoint import KEYS
from headwise.models.imagegpt.config import ImageGPTConfig
from headwise.models.imagegpt.model import ImageGPTForCausalImageModeling

FORMAT = Format("imagegpt", ImageGPTConfig, {"ImageGPTForCausalImageModeling": ImageGPTForCausalImageModeling}, KEYS)
