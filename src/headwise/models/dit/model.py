"""DiT (Peebles and Xie 2023): an encoder reads a noisy picture as patches and says which noise is in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import sinusoids
from headwise.blocks.feed_forward import FeedForward, activation
from headwise.blocks.layers import normal_
from headwise.models.dit.config import DiTConfig
from headwise.models.interface import exported
from headwise.models.vision import Patches

STEP_FEATURES = 256
LABEL_DROPOUT = 0.1
GELU = {"gelu": "gelu", "gelu-approximate": "gelu_pytorch_tanh"}

Hidden = Float[Tensor, "batch patches embed_dim"]
Vector = Float[Tensor, "batch embed_dim"]


@exported
@dataclass
class NoiseOutput:
    """sample (batch, out_channels, height, width): the noise, and, where there are twice as many channels as the picture has,
    behind it where the variance lies between its bounds (``hw.diffusion``)."""

    sample: Tensor


class Condition(nn.Module):
    """c = W_2 silu(W_1 f(step) + b_1) + b_2 + E[class]: what a block is told besides the picture."""

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(STEP_FEATURES, embed_dim), nn.SiLU(), nn.Linear(embed_dim, embed_dim))
        self.label = nn.Embedding(num_classes + 1, embed_dim)  # the last is the null class

    def forward(self, features: Float[Tensor, "batch features"], labels: Int[Tensor, " batch"]) -> Vector:
        return self.step(features) + self.label(labels)


class Block(nn.Module):
    """Attention and feed-forward, each in a residual whose norm and gate the condition sets (adaLN-Zero, section 3.2):

        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = W silu(c) + b
        x <- x + gate_1 dropout(attention(norm(x) (1 + scale_1) + shift_1))
        x <- x + gate_2 feed_forward(norm(x) (1 + scale_2) + shift_2)

    W and b begin as zero, so that every block begins as the identity.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, head_dim = config.embed_dim, config.attention_head_dim
        self.condition = Condition(width, config.num_embeds_ada_norm)
        self.modulation = nn.Linear(width, 6 * width)
        self.self_attention = MultiHeadAttention(
            width, config.num_attention_heads, head_dim=head_dim, bias=config.attention_bias or "out_proj"
        )
        gelu = activation(GELU[config.activation_fn])
        self.feed_forward = FeedForward(width, 4 * width, gelu, dropout=config.dropout)
        first = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        second = nn.LayerNorm(width, eps=config.norm_eps, elementwise_affine=config.norm_elementwise_affine)
        self.norms, self.dropout = nn.ModuleList([first, second]), nn.Dropout(config.dropout)

    def forward(self, x: Hidden, features: Float[Tensor, "batch features"], labels: Int[Tensor, " batch"]) -> Hidden:
        condition = self.condition(features, labels)
        shift, scale, gate, *feed_forward = self.modulation(functional.silu(condition))[:, None].chunk(6, dim=-1)
        x = x + gate * self.dropout(self.self_attention(self.norms[0](x) * (1 + scale) + shift))
        shift, scale, gate = feed_forward
        return x + gate * self.feed_forward(self.norms[1](x) * (1 + scale) + shift)


class DiTTransformer2DModel(nn.Module):
    """picture, step and class -> patches -> blocks -> the noise in the picture.

    x = W patch + b + P[column, row], half of P for each, sines before cosines; blocks, told the step and the class;
    output = W_o (norm(x) (1 + scale) + shift) + b_o with (shift, scale) = W_m silu(c) + b_m, back into pixels.

    label_dropout: in training, how often a class is replaced by the null class, so that one model serves both sides of
    classifier-free guidance (Ho and Salimans 2022). An attribute and no setting: files do not hold it.

    What others do differently. The paper's own program has one condition for all blocks, and drops a class for all of them at
    once; here, as in diffusers, every block has its own, and drops on its own. Training that wants the null class as the paper
    means it sets ``label_dropout = 0`` and leaves it to ``hw.diffusion.loss``.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config, self.label_dropout = config, LABEL_DROPOUT
        width, patch = config.embed_dim, config.patch_size
        self.out_channels = config.in_channels if config.out_channels is None else config.out_channels
        self.patches = Patches(config.in_channels, width, (patch, patch))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, patch * patch * self.out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As the paper's program: projections and the patches' (as a matrix) uniform after Glorot and Bengio 2010, biases zero,
        conditions N(0, 0.02^2), and zero what modulates and the last projection: the model begins by saying 0."""
        zero = [self.modulation, self.proj_out]
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Condition):
                normal_(module, 0.02)
            elif isinstance(module, Block):
                zero.append(module.modulation)
        for projection in zero:
            nn.init.zeros_(projection.weight)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch channels height width"],
        timestep: Tensor,
        class_labels: Int[Tensor, " batch"],
    ) -> NoiseOutput:
        """The noise in noisy pictures, or in latents of them.

        hidden_states: square pictures of the config's sample_size, or of another that patches fill: their positions are then
        those of the config's grid stretched over theirs. timestep: (batch,), how noisy they are, 0 = least. class_labels:
        (batch,), from 0 to num_embeds_ada_norm, which is the null class. Raises ValueError for other shapes.
        """
        self._check(hidden_states, timestep, class_labels)
        class_labels = class_labels.long()
        x, cells = self.patches(hidden_states), hidden_states.shape[-1] // self.config.patch_size
        x = (x + self._positions(cells, x.device)).to(x.dtype)
        features = _features(timestep).to(x.dtype)
        for block in self.blocks:
            x = block(x, features, self._kept(class_labels))
        # The condition of block 0 once more: in training its class is dropped anew, as in the reference.
        condition: Tensor = self.blocks[0].condition(features, self._kept(class_labels))  # type: ignore[operator]
        shift, scale = self.modulation(functional.silu(condition))[:, None].chunk(2, dim=-1)
        pixels = self.proj_out(self.norm(x) * (1 + scale) + shift)  # (batch, patches, pixels of a patch)
        pixels = pixels.unflatten(2, (self.config.patch_size, self.config.patch_size, -1)).unflatten(1, (cells, cells))
        return NoiseOutput(pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3))

    def _check(self, pictures: Tensor, timestep: Tensor, labels: Tensor) -> None:
        channels, patch = self.config.in_channels, self.config.patch_size
        fits = pictures.is_floating_point() and pictures.dim() == 4 and pictures.shape[1] == channels
        # Elsewhere, what is not square comes out in pieces.
        if not fits or not 0 < pictures.shape[2] == pictures.shape[3] or pictures.shape[2] % patch:
            raise ValueError(
                f"hidden_states: expected floats (batch, {channels} channels, height, width), square, a multiple of {patch}; "
                f"got {pictures.dtype} {tuple(pictures.shape)}"
            )
        for name, x in (("timestep", timestep), ("class_labels", labels)):
            if x.shape != pictures.shape[:1]:
                raise ValueError(f"{name}: expected ({len(pictures)},), one for each picture; got {tuple(x.shape)}")
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(f"class_labels: expected integers; got {labels.dtype}")

    def _positions(self, cells: int, device: torch.device) -> Float[Tensor, "patches embed_dim"]:
        """As published: places in float32, their sines and cosines computed wide and rounded."""
        config = self.config
        places = torch.arange(cells, device=device, dtype=torch.float32) / (cells / (config.sample_size // config.patch_size))
        table = sinusoids(places.double(), config.embed_dim // 2, torch.float64)
        table = torch.cat([table[:, 0::2], table[:, 1::2]], dim=-1)
        return torch.cat([table.repeat(cells, 1), table.repeat_interleave(cells, dim=0)], dim=-1).float()

    def _kept(self, labels: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        if not self.training or self.label_dropout == 0:
            return labels
        dropped = torch.rand(labels.shape[0], device=labels.device) < self.label_dropout
        return labels.masked_fill(dropped, self.config.num_embeds_ada_norm)


def _features(timestep: Float[Tensor, " batch"] | Int[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
    """cos(t w_m) for m = 0 ... 127, then the sines, w_m = 10,000^(-m / 127): float32, in the order of the reference, since at
    t = 999 the rounding of an angle is seen in the fifth digit."""
    half = STEP_FEATURES // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / (half - 1)
    angle = timestep[:, None].float() * exponent.exp()
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
