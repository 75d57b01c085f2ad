"""The numbers that make a DETR, and those of the convolutions below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from headwise.models.checkpoint.config import Config
from headwise.models.detection import DetectionConfig

# By the names timm has for them: the kind of block, and how many of them each stage has.
TIMM: dict[str, tuple[Literal["basic", "bottleneck"], list[int]]] = {
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
    "resnet152": ("bottleneck", [3, 8, 36, 3]),
}


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(Config):
    """A ResNet's entries, as the reference writes them under backbone_config; defaults are ResNet-50's.

    layer_type: "basic", two convolutions of 3 x 3 a block, or "bottleneck", 1 x 1, 3 x 3, 1 x 1, a quarter as wide inside.
    downsample_in_first_stage: the first stage halves the picture too. downsample_in_bottleneck: the first convolution of a
    block does it, not the second.
    """

    supported: ClassVar = {"quantization_config": None}

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 512, 1024, 2048])
    depths: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        depths, widths = self.depths, self.hidden_sizes
        if not depths or len(depths) != len(widths) or sum(depths) > 1000:
            raise ValueError(f"depths and hidden_sizes: expected one per stage, at most 1000 blocks; got {depths}, {widths}")
        if self.layer_type == "bottleneck" and min(widths) < 4:
            raise ValueError(f"hidden_sizes: expected at least 4 each, four times a bottleneck's width; got {widths}")

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return sum(self.depths)


@dataclass(frozen=True, kw_only=True)
class DetrConfig(DetectionConfig):
    """config.json of a DetrForObjectDetection; defaults are the class's, with ResNet-50.

    The ResNet is the reference's own (backbone_config of model_type "resnet") or timm's, which is named: by use_timm_backbone
    and backbone in files of transformers 4, by a backbone_config of model_type "timm_backbone" since. The two name tensors
    differently. dilation: the last stage of timm's keeps the resolution (DC5). position_embedding_type: "sine", or
    "learned", one vector for each of 50 rows and 50 columns. auxiliary_loss: every layer of the decoder is asked for the
    objects. LayerDrop (0 in all published models) is read and written, not applied.
    """

    supported: ClassVar = {"per_layer_config": None, "quantization_config": None}
    aliases: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    backbone_config: Mapping[str, Any] | None = None
    use_timm_backbone: bool = True
    backbone: str | None = None
    backbone_kwargs: Mapping[str, Any] | None = None
    dilation: bool = False
    num_channels: int = 3
    num_queries: int = 100
    d_model: int = 256
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int = 2048
    activation_function: str = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    position_embedding_type: Literal["sine", "learned"] = "sine"
    auxiliary_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        multiple = 4 if self.position_embedding_type == "sine" else 2  # rows and columns, and of each sines and cosines
        if self.d_model % multiple:
            raise ValueError(f"d_model: expected a multiple of {multiple} for positions in two directions; got {self.d_model}")
        _ = self.resnet  # whatever is wrong with it

    def to_entries(self) -> dict[str, Any]:
        # The reference of transformers 4 refuses both at once.
        return super().to_entries() | {"use_timm_backbone": self.use_timm_backbone and self.backbone_config is None}

    @property
    def depth(self) -> int:
        return super().depth + self.resnet.depth

    @property
    def timm(self) -> bool:
        """Whether the ResNet is timm's."""
        if self.backbone_config is None:
            return self.use_timm_backbone
        return self.backbone_config.get("model_type") == "timm_backbone"

    @property
    def dilated(self) -> bool:
        """Whether the last stage keeps the resolution."""
        entries = self.backbone_config
        return self.dilation if entries is None else entries.get("output_stride") == 16

    @property
    def resnet(self) -> ResNetConfig:
        """The configuration of the convolutions; ValueError where it is not that of a ResNet whose last stage is read."""
        given = dict(self.backbone_config or {})
        kind = given.pop("model_type", None)
        if self.timm:
            return self._of_timm(given)
        if self.dilation or self.backbone is not None or kind not in (None, "resnet"):
            raise ValueError(
                "expected a backbone_config of model_type 'resnet' or 'timm_backbone', dilation with the latter alone; "
                f"got {kind!r}, backbone {self.backbone!r}, dilation {self.dilation}"
            )
        config = ResNetConfig.from_entries(given)
        _reads_last(given, "out_features", f"stage{len(config.depths)}")
        _reads_last(given, "out_indices", len(config.depths))
        return config

    def _of_timm(self, given: Mapping[str, Any]) -> ResNetConfig:
        named = given.get("backbone", self.backbone) or "resnet50"
        name = str(named).split(".")[0]  # what follows names the training
        if name not in TIMM:
            raise ValueError(f"backbone: expected one of {', '.join(TIMM)}; got {named!r}")
        said = {**given, **(self.backbone_kwargs or {})}
        channels = said.get("in_chans", said.get("num_channels", self.num_channels))
        if said.get("output_stride") not in (None, 16 if self.dilated else 32):
            raise ValueError(f"output_stride: expected 32, or 16 with dilation; got {said['output_stride']!r}")
        _reads_last(said, "out_features", "layer4")
        _reads_last(said, "out_indices", 4)
        block, depths = TIMM[name]
        widths = [64, 128, 256, 512] if block == "basic" else [256, 512, 1024, 2048]
        return ResNetConfig(num_channels=channels, hidden_sizes=widths, depths=list(depths), layer_type=block)


def _reads_last(entries: Mapping[str, Any], name: str, last: str | int) -> None:
    """The feature maps that are asked for end with the last stage's, the one that counts; if none are named, that is meant."""
    named = entries.get(name)
    if named is not None and (not isinstance(named, list | tuple) or not named or named[-1] not in (last, -1)):
        raise ValueError(f"{name}: expected the last to be {last!r}; got {named!r}")
