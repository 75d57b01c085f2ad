"""The numbers that make a Wav2Vec2Conformer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from headwise.models.checkpoint.config import Config


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2ConformerConfig(Config):
    """config.json of a Wav2Vec2ConformerForCTC; defaults are the class's (the published models: hidden_size 1024, 24 layers, 16
    heads, swish, feat_extract_norm "layer", conv_bias), and 32 letters.

    conv_dim, conv_kernel, conv_stride: of the convolutions that make frames out of samples. feat_extract_norm: "group", each
    channel over time, after the first of them alone; "layer", all channels of a place, after each. position_embeddings_type:
    "relative" (Transformer-XL's), "rotary", or none. pad_token_id: the blank. layerdrop: how probable it is that training
    leaves a layer out. apply_spec_augment, mask_time_*, mask_feature_*: what training hides (``spec_augment.spans``).
    """

    supported: ClassVar = {**Config.supported, "add_adapter": False}

    vocab_size: int = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    final_dropout: float = 0.1
    conformer_conv_dropout: float = 0.1
    layerdrop: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: list[int] = field(default_factory=lambda: [512] * 7)
    conv_stride: list[int] = field(default_factory=lambda: [5, 2, 2, 2, 2, 2, 2])
    conv_kernel: list[int] = field(default_factory=lambda: [10, 3, 3, 3, 3, 2, 2])
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    ctc_loss_reduction: Literal["mean", "sum"] = "sum"
    ctc_zero_infinity: bool = False
    position_embeddings_type: Literal["relative", "rotary"] | None = "relative"
    rotary_embedding_base: int = 10000
    conv_depthwise_kernel_size: int = 31
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.conv_dim or not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise ValueError(
                "conv_dim, conv_kernel and conv_stride: expected one number per convolution; "
                f"got {self.conv_dim}, {self.conv_kernel} and {self.conv_stride}"
            )
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id: expected a token, below {self.vocab_size}, as the blank; got {self.pad_token_id}")

    @property
    def least_samples(self) -> int:
        """What one frame is made of (400 in the published models, 25 ms)."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples
