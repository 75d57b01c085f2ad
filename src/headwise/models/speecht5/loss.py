"""What SpeechT5 learns by: frames, when to stop, and where to look."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from headwise.attention.cache import Cross
from headwise.attention.functional import attention_weights
from headwise.models.interface import padding
from headwise.models.speecht5.config import SpeechT5Config
from headwise.models.synthesis import masked_mean


class Looks(Cross):
    """Keeps what a layer asked its text, too: with it the weights of some of its heads are formed again, with gradients."""

    query: Tensor | None = None

    def hold(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        super().hold(query, key, value)
        self.query = query


def stop_loss(logits: Tensor, ends: Bool[Tensor, "batch frames"], real: Bool[Tensor, "batch frames"]) -> Float[Tensor, ""]:
    """The mean of -log p over the real frames, p the probability that the voice ends there (goes on, where it does); an end,
    which is rare, counts five times."""
    five = logits.new_full((), 5.0)
    losses = functional.binary_cross_entropy_with_logits(logits, ends.to(logits), pos_weight=five, reduction="none")
    return masked_mean(losses, real)


def guided_attention_loss(
    config: SpeechT5Config,
    looks: Sequence[Looks],
    tokens: Bool[Tensor, "batch length"],
    steps: Bool[Tensor, "batch steps"],
) -> Float[Tensor, ""]:
    """Heads that read the text aloud go along the diagonal (Tachibana et al. 2018): scale times the mean of

        (1 - exp(-(j / J - i / I)^2 / (2 sigma^2))) p_ij

    over the layers that were run, their first heads, the steps i and the tokens j that are real, I and J of them. Of a model
    that was pruned or grouped, the first heads that are left, each with the key that it has.
    """
    token, step = (
        torch.arange(real.shape[1], device=real.device) / real.sum(-1, keepdim=True).clamp(min=1) for real in (tokens, steps)
    )
    far = 1 - torch.exp(-((token[:, None, :] - step[:, :, None]) ** 2) / (2 * config.guided_attention_loss_sigma**2))
    heads, keep = config.guided_attention_loss_num_heads, padding(tokens, None)
    weights = [
        attention_weights(look.query[:, :heads], _of_each(look.query, look.key)[:, :heads], mask=keep)
        for look in looks
        if look.query is not None and look.key is not None
    ]
    if not weights:  # every layer was left out
        return far.new_zeros(())
    pairs = (steps[:, :, None] & tokens[:, None, :])[:, None]
    return config.guided_attention_loss_scale * masked_mean(far[:, None] * torch.cat(weights, dim=1), pairs)


def _of_each(query: Tensor, key: Tensor) -> Tensor:
    """The keys of every query head, which some may share."""
    return key if query.shape[1] == key.shape[1] else key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
