"""The numbers that make an ImageGPT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwise.models.gpt2.config import GPT2Config


@dataclass(frozen=True, kw_only=True)
class ImageGPTConfig(GPT2Config):
    """config.json of an ImageGPTForCausalImageModeling; defaults are those of the smallest published model.

    vocab_size: the colours, and one token more that starts a picture. n_positions: pixels. The rest as GPT-2's.
    """

    supported: ClassVar = {**GPT2Config.supported, "tie_word_embeddings": False}

    vocab_size: int = 512 + 1
    n_positions: int = 32 * 32
    n_embd: int = 512
    n_layer: int = 24
    n_head: int = 8
    activation_function: str = "quick_gelu"
    tie_word_embeddings: bool = False
    eos_token_id: int | list[int] | None = None

    @property
    def num_outputs(self) -> int:
        return self.vocab_size - 1
