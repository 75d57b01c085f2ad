"""What a captioner is trained by: its masked tokens, found again."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headwise.attention.tiles import has_values
from headwise.models.oscar.config import OscarConfig


def check_masks(places: Tensor, tokens: Tensor, text: Tensor) -> None:
    """Raises ValueError where they do not belong together. On other devices than the CPU looking at numbers means waiting."""
    if places.dim() != 2 or places.shape[0] != text.shape[0] or not tokens.shape[1] <= places.shape[1] <= text.shape[1]:
        raise ValueError(f"masked_pos: expected {tuple(text.shape[:2])}, 1 = masked; got {tuple(places.shape)}")
    if has_values(places) and places.device.type == "cpu" and not torch.equal(places.bool().sum(1), (tokens != 0).sum(1)):
        raise ValueError("masked_ids: expected one token for every 1 of masked_pos, then zeros")


class CaptionLoss(nn.Module):
    """The mean over the masked tokens of KL(t || p), t = 1 - e at the true token and e / (vocab_size - 1) at every other, with
    label smoothing e; -log p(token) where e is 0. drop_worst_ratio, after drop_worst_after losses: this share of a batch's, the
    largest, is left out, its number rounded up."""

    taken: Tensor

    def __init__(self, config: OscarConfig) -> None:
        super().__init__()
        self.smoothing, self.ratio, self.after = config.label_smoothing, config.drop_worst_ratio, config.drop_worst_after
        # Not on the meta device, where a loaded model begins: it is in no file.
        self.register_buffer("taken", torch.zeros((), dtype=torch.long, device="cpu"), persistent=False)

    def forward(self, logits: Float[Tensor, "batch masks vocab_size"], tokens: Int[Tensor, "batch masks"]) -> Float[Tensor, ""]:
        log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
        true, e = log_p.gather(-1, tokens[..., None].long())[..., 0], self.smoothing
        loss = -(1 - e) * true
        if e > 0:
            each = e / (logits.shape[-1] - 1)
            loss = loss - each * (log_p.sum(dim=-1) - true) + (1 - e) * math.log(1 - e) + e * math.log(each)
        counted = tokens != 0
        count, ordered = counted.sum(), loss.masked_fill(~counted, torch.inf).flatten().sort().values
        if self.ratio > 0:
            self.taken += 1
            kept = (count.double() * (1 - self.ratio)).long()
            count = torch.where(self.taken.to(count.device) > self.after, kept, count)
        first = torch.arange(ordered.shape[0], device=ordered.device) < count
        return ordered.masked_fill(~first, 0.0).sum() / count
