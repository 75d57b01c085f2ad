"""The numbers that make a DiT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from headwise.models.checkpoint.config import Config


@dataclass(frozen=True, kw_only=True)
class DiTConfig(Config):
    """config.json of a DiTTransformer2DModel; defaults are those of DiT-XL/2 for 32 x 32 latents, but for out_channels.

    out_channels: 2 in_channels where the variance is learned too; in_channels if not given. sample_size: height and width of
    a picture in pixels (or in cells of a latent), a multiple of patch_size. num_embeds_ada_norm: the number of classes; the
    null class, which stands for none of them, is one more and has that number. norm_eps: of the norm before feed-forward
    alone, and so norm_elementwise_affine; the others are fixed.
    """

    # Where the class is called Transformer2DModel, files say what DiT has not: as the older class does, null or false.
    absent: ClassVar[Mapping[str, Any]] = {
        "attention_type": "default",
        "caption_channels": None,
        "cross_attention_dim": None,
        "double_self_attention": False,
        "interpolation_scale": None,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "use_additional_conditions": None,
        "use_linear_projection": False,
    }
    supported: ClassVar = {**Config.supported, **absent, "norm_type": "ada_norm_zero"}

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = None
    num_layers: int = 28
    dropout: float = 0.0
    attention_bias: bool = True
    sample_size: int = 32
    patch_size: int = 2
    activation_fn: Literal["gelu-approximate", "gelu"] = "gelu-approximate"
    num_embeds_ada_norm: int = 1000
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_size % self.patch_size:
            raise ValueError(f"sample_size: expected a multiple of patch_size = {self.patch_size}; got {self.sample_size}")
        if self.embed_dim % 4:
            heads = f"{self.num_attention_heads} heads of {self.attention_head_dim}"
            raise ValueError(f"expected a width that 4 divides, for sines and cosines of rows and columns; got {heads}")

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> DiTConfig:
        config = super().from_entries(entries)
        return cls(**{**vars(config), "other": {name: x for name, x in config.other.items() if name not in cls.absent}})

    @property
    def embed_dim(self) -> int:
        """The width of the model: all heads side by side."""
        return self.num_attention_heads * self.attention_head_dim
