"""What SpeechT5's stacks read: positions, and what was said last."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.positions import sinusoids
from headwise.models.interface import described
from headwise.models.speecht5.config import SpeechT5Config

Hidden = Float[Tensor, "batch length embed_dim"]
Drop = Callable[[Tensor], Tensor]


class ScaledPositions(nn.Module):
    """dropout(x + alpha sinusoid(position)), alpha learned (Li et al. 2019, section 3.2); the first position is ``offset``."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.alpha, self.dropout = nn.Parameter(torch.ones(())), nn.Dropout(dropout)

    def forward(self, x: Hidden, offset: int = 0) -> Hidden:
        positions = offset + torch.arange(x.shape[1], device=x.device)
        return self.dropout(x + self.alpha * sinusoids(positions, x.shape[-1], torch.float64).to(x.dtype))


class Prenet(nn.Module):
    """Frames as the decoder reads them: x <- dropout(relu(W x + b)) for every layer, y = W x + b + alpha sinusoid(position);
    with a voice v relu(W [y; v / |v|] + b)."""

    def __init__(self, config: SpeechT5Config) -> None:
        super().__init__()
        units, embed_dim = config.speech_decoder_prenet_units, config.hidden_size
        widths = [config.num_mel_bins, *[units] * (config.speech_decoder_prenet_layers - 1)]
        self.config, self.layers = config, nn.ModuleList(nn.Linear(width, units) for width in widths)
        self.dropout = nn.Dropout(config.speech_decoder_prenet_dropout)
        self.contract, self.positions = nn.Linear(units, embed_dim), ScaledPositions(config.positional_dropout)
        self.voice = nn.Linear(config.speaker_embedding_dim + embed_dim, embed_dim)

    def forward(
        self,
        x: Float[Tensor, "batch length mel_bins"],
        voice: Float[Tensor, "voices speaker_embedding_dim"] | None = None,
        offset: int = 0,
        drop: Drop | None = None,
    ) -> Hidden:
        """x: frames, the first at position ``offset``. voice: one for every row, or one for all. drop: in place of its own
        dropout, which acts in training alone. Raises ValueError for what is neither, or more steps than there are positions."""
        self._check(x, voice, offset + x.shape[1])
        x = x.to(self.contract.weight.dtype)
        for layer in self.layers:
            x = (drop or self.dropout)(layer(x).relu())
        y = self.positions(self.contract(x), offset)
        if voice is None:
            return y
        heard = functional.normalize(voice.to(y.dtype))[:, None].expand(*y.shape[:2], -1)
        return self.voice(torch.cat([y, heard], dim=-1)).relu()

    def _check(self, x: Tensor, voice: Tensor | None, steps: int) -> None:
        config = self.config
        if x.dim() != 3 or not x.is_floating_point() or x.shape[-1] != config.num_mel_bins:
            wanted = f"floats (batch, steps, {config.num_mel_bins})"
            raise ValueError(f"decoder_input_values: expected {wanted}; got {described(x)}")
        if voice is not None and (voice.shape[1:] != (config.speaker_embedding_dim,) or voice.shape[0] not in (1, x.shape[0])):
            wanted = f"({x.shape[0]} or 1, {config.speaker_embedding_dim})"
            raise ValueError(f"speaker_embeddings: expected {wanted}, a voice for every row or all; got {tuple(voice.shape)}")
        if steps > config.max_speech_positions:
            raise ValueError(f"{steps} steps of speech are more than this model's {config.max_speech_positions} positions")


def dropout_alike(rate: float, seed: int | None, device: torch.device) -> Drop:
    """Dropout with one mask for all rows: what is said of a row does not depend on the others."""
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)

    def drop(x: Tensor) -> Tensor:
        kept = torch.rand(x.shape[1:], generator=generator, device=device) >= rate
        return x * kept / (1 - rate)

    return drop
