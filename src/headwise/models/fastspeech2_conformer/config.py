"""The numbers that make a FastSpeech 2 with Conformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from headwise.models.checkpoint.config import Config

# What the published files say of each side once more, under encoder_config and decoder_config.
OF_A_SIDE = (
    "num_attention_heads",
    "layers",
    "kernel_size",
    "attention_dropout_rate",
    "dropout_rate",
    "positional_dropout_rate",
    "linear_units",
    "normalize_before",
)


@dataclass(frozen=True, kw_only=True)
class FastSpeech2ConformerConfig(Config):
    """config.json of a FastSpeech2ConformerModel; defaults are the published model's, which has one voice and one language.

    *_kernel_size: of convolutions over time, odd. encoder_linear_units: the inner width of its feed-forwards.
    use_macaron_style_in_conformer: a half of a feed-forward before attention too. speaking_speed: durations are multiplied by
    it, so that 2 speaks half as fast. use_masking: losses are means over all that is real; use_weighted_masking: means over
    the texts of means over what is real in each; neither: padding counts too. num_speakers, num_languages: None or 1 = no
    embedding of them. stop_gradient_*: what that predictor learns changes nothing below it.
    """

    supported: ClassVar = {
        **Config.supported,
        "reduction_factor": 1,
        "use_cnn_in_conformer": True,
        "encoder_concat_after": False,
        "decoder_concat_after": False,
    }
    aliases: ClassVar = {"num_hidden_layers": "encoder_layers", "num_attention_heads": "encoder_num_attention_heads"}

    hidden_size: int = 384
    vocab_size: int = 78
    num_mel_bins: int = 80
    encoder_num_attention_heads: int = 2
    encoder_layers: int = 4
    encoder_linear_units: int = 1536
    encoder_kernel_size: int = 7
    encoder_normalize_before: bool = False
    encoder_dropout_rate: float = 0.2
    encoder_positional_dropout_rate: float = 0.2
    encoder_attention_dropout_rate: float = 0.2
    decoder_num_attention_heads: int = 2
    decoder_layers: int = 4
    decoder_linear_units: int = 1536
    decoder_kernel_size: int = 31
    decoder_normalize_before: bool = False
    decoder_dropout_rate: float = 0.2
    decoder_positional_dropout_rate: float = 0.2
    decoder_attention_dropout_rate: float = 0.2
    positionwise_conv_kernel_size: int = 3
    use_macaron_style_in_conformer: bool = True
    convolution_bias: bool = True
    duration_predictor_layers: int = 2
    duration_predictor_channels: int = 256
    duration_predictor_kernel_size: int = 3
    duration_predictor_dropout_rate: float = 0.2
    pitch_predictor_layers: int = 5
    pitch_predictor_channels: int = 256
    pitch_predictor_kernel_size: int = 5
    pitch_predictor_dropout: float = 0.5
    pitch_embed_kernel_size: int = 1
    pitch_embed_dropout: float = 0.0
    stop_gradient_from_pitch_predictor: bool = True
    energy_predictor_layers: int = 2
    energy_predictor_channels: int = 256
    energy_predictor_kernel_size: int = 3
    energy_predictor_dropout: float = 0.5
    energy_embed_kernel_size: int = 1
    energy_embed_dropout: float = 0.0
    stop_gradient_from_energy_predictor: bool = False
    speech_decoder_postnet_layers: int = 5
    speech_decoder_postnet_units: int = 256
    speech_decoder_postnet_kernel: int = 5
    speech_decoder_postnet_dropout: float = 0.5
    speaking_speed: float = 1.0
    use_masking: bool = True
    use_weighted_masking: bool = False
    num_speakers: int | None = None
    num_languages: int | None = None
    speaker_embed_dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if even := [f"{name} = {size}" for name, size in vars(self).items() if "kernel" in name and size % 2 == 0]:
            raise ValueError(f"kernels: expected odd sizes, so that the middle is a place; got {', '.join(even)}")
        if self.use_masking and self.use_weighted_masking:
            raise ValueError("use_masking, use_weighted_masking: expected at most one of them; got both")
        if self.speaking_speed <= 0:
            raise ValueError(f"speaking_speed: expected more than 0; got {self.speaking_speed}")

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> FastSpeech2ConformerConfig:
        entries = dict(entries)
        for side in ("encoder", "decoder"):
            for name, value in (entries.pop(f"{side}_config", None) or {}).items():
                if entries.setdefault(f"{side}_{name}", value) != value:
                    raise ValueError(
                        f"{side}_{name} is {entries[f'{side}_{name}']!r}, and in {side}_config, which says the same, {value!r}"
                    )
        return super().from_entries(entries)

    def to_entries(self) -> dict[str, Any]:
        entries = super().to_entries()
        for side in ("encoder", "decoder"):
            own = {name: entries[f"{side}_{name}"] for name in OF_A_SIDE}
            entries[f"{side}_config"] = own | {"concat_after": False}
        return entries
