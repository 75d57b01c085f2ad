"""Connectionist temporal classification (Graves et al. 2006): labels out of frames that nobody aligned with them.

    hypotheses = hw.ctc.decode(model, **feature_extractor(sounds))                the best path
    hypotheses = hw.ctc.decode(model, width=16, **feature_extractor(sounds))      prefix beam search
    hw.ctc.loss(logits, labels, lengths, blank=0)                                 what such models are trained with

A path says one label, or the blank, at every frame; repeats without a blank between them are one label. P(labels) is the sum
over the paths that say them, P(path) the product over the frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headwise.models.interface import described, exported
from headwise.models.search import Hypothesis

__all__ = ["CTCModel", "CTCOutput", "decode", "loss"]


@exported
@dataclass
class CTCOutput:
    """logits (batch, frames, vocab_size) of the labels and the blank at every frame; loss where labels were given."""

    logits: Tensor
    loss: Tensor | None = None


class CTCModel(nn.Module, ABC):
    """sound -> frames -> logits of every label, and of the blank, at each of them. The blank is config.pad_token_id."""

    config: Any

    @abstractmethod
    def frame_lengths(self, attention_mask: Tensor) -> Int[Tensor, " batch"]:
        """How many frames of the logits are real, where ``attention_mask`` is that of the sound, padded on the right."""

    def answer(self, logits: Tensor, attention_mask: Tensor | None, labels: Tensor | None) -> CTCOutput:
        """With the loss where labels are given, as the checkpoint's config wants it."""
        if labels is None:
            return CTCOutput(logits)
        lengths = None if attention_mask is None else self.frame_lengths(attention_mask)
        blank, how, zero = self.config.pad_token_id, self.config.ctc_loss_reduction, self.config.ctc_zero_infinity
        return CTCOutput(logits, loss(logits, labels, lengths, blank=blank, reduction=how, zero_infinity=zero))


def loss(
    logits: Float[Tensor, "batch frames vocab_size"],
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    blank: int = 0,
    reduction: Literal["mean", "sum"] = "mean",
    zero_infinity: bool = False,
) -> Float[Tensor, ""]:
    """-log P(labels), nats, in float32: summed over the batch, or, "mean", each divided by its number of labels and averaged.

    labels: (batch, most), -100 (or the blank) where there is none. lengths (batch,): the frames that are real; None = all.
    It is infinite where labels, and the blanks between equal ones, are more than frames; with zero_infinity such inputs count
    as zero and teach nothing. Raises ValueError for labels that are none.
    """
    _check_labels(labels, logits)
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction: expected "mean" or "sum"; got {reduction!r}')
    said = (labels != -100) & (labels != blank)
    counts = said.sum(-1)
    front = said.int().argsort(dim=1, descending=True, stable=True)  # what is said before what is not, in its order
    labels = labels.long().gather(1, front).clamp(min=0)
    if lengths is None:
        lengths = torch.full_like(counts, logits.shape[1])
    log_p = logits.float().log_softmax(dim=-1).transpose(0, 1)
    losses, _ = _losses(log_p, labels, lengths.long(), counts, blank, zero_infinity)
    return losses.sum() if reduction == "sum" else (losses / counts.clamp(min=1)).mean()


SCHEMA = "(Tensor log_p, Tensor labels, Tensor lengths, Tensor counts, int blank, bool zero_infinity) -> (Tensor, Tensor)"


@torch.library.custom_op("headwise::ctc", mutates_args=(), schema=SCHEMA)
def _losses(
    log_p: Tensor, labels: Tensor, lengths: Tensor, counts: Tensor, blank: int, zero_infinity: bool
) -> tuple[Tensor, Tensor]:
    """-log P(labels) of every input, and its gradient in log_p (frames, batch, vocab_size).

    Both at once, as one step of a graph: of torch's own loss no graph can be made, since what it keeps for its gradient has a
    size that depends on the labels.
    """
    given = log_p, labels, lengths, counts
    losses, kept = torch.ops.aten._ctc_loss.Tensor(*given, blank, zero_infinity)
    ones = torch.ones_like(losses)
    gradient = torch.ops.aten._ctc_loss_backward.Tensor(ones, *given, losses, kept, blank, zero_infinity)
    return (losses.masked_fill(losses.isinf(), 0.0) if zero_infinity else losses), gradient


@_losses.register_fake
def _shapes(
    log_p: Tensor, labels: Tensor, lengths: Tensor, counts: Tensor, blank: int, zero_infinity: bool
) -> tuple[Tensor, Tensor]:
    return log_p.new_empty(log_p.shape[1]), torch.empty_like(log_p)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


def _gradient(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return ctx.saved_tensors[0] * grad[:, None], None, None, None, None, None


_losses.register_autograd(_gradient, setup_context=_keep)


@torch.no_grad()
def decode(model: nn.Module, *, width: int = 1, **inputs: Tensor) -> list[Hypothesis]:
    """What was said: one hypothesis per sound, its tokens without blanks.

    width: 1 = the labels of the most probable path; more = prefix beam search (Hannun et al. 2014), which keeps so many
    beginnings of labellings at every frame and adds up their paths. score: log P, nats, of the paths that were followed.
    inputs: as the model takes them; what attention_mask says to be padding is not listened to. Raises ValueError where a model
    trains or is none of these.
    """
    if not isinstance(model, CTCModel):
        raise ValueError(f"model: expected one that says labels at frames, such as ParakeetForCTC; got {type(model).__name__}")
    if model.training:
        raise ValueError("model: expected in eval mode, model.eval()")
    if type(width) is not int or width < 1:
        raise ValueError(f"width: expected an integer of at least 1; got {width!r}")
    log_p = model(**inputs).logits.double().log_softmax(dim=-1).cpu()
    if log_p.isnan().any():
        raise ValueError("inputs: the model's logits are NaN, not of any label")
    mask, blank = inputs.get("attention_mask"), model.config.pad_token_id
    lengths = [log_p.shape[1]] * len(log_p) if mask is None else model.frame_lengths(mask).tolist()
    frames = [x[:length] for x, length in zip(log_p, lengths, strict=True)]
    return [_best_path(x, blank) if width == 1 else _best_prefix(x, blank, width) for x in frames]


def _best_path(log_p: Float[Tensor, "frames vocab_size"], blank: int) -> Hypothesis:
    best, path = log_p.max(dim=-1)
    labels = path.unique_consecutive()
    return Hypothesis(labels[labels != blank].tolist(), best.sum().item(), True)


def _best_prefix(log_p: Float[Tensor, "frames vocab_size"], blank: int, width: int) -> Hypothesis:
    """Of every beginning: log P of its paths that end with a blank, and of those that end with its last label."""
    beginnings, paused, spoken = [()], log_p.new_zeros(1), log_p.new_full((1,), -torch.inf)
    for frame in log_p:
        rows, last = torch.arange(len(beginnings)), [labels[-1] if labels else blank for labels in beginnings]
        both = torch.logaddexp(paused, spoken)
        longer = both[:, None] + frame
        longer[rows, last] = paused + frame[last]  # the same label once more: only after a blank
        longer[:, blank] = -torch.inf
        paused, spoken = both + frame[blank], spoken + frame[last]
        row = {labels: i for i, labels in enumerate(beginnings)}
        for i, labels in enumerate(beginnings):
            before = row.get(labels[:-1]) if labels else None
            if before is not None:  # two ways to one beginning
                spoken[i] = torch.logaddexp(spoken[i], longer[before, last[i]])
                longer[before, last[i]] = -torch.inf
        paused = torch.cat([paused, torch.full_like(longer, -torch.inf).flatten()])
        spoken = torch.cat([spoken, longer.flatten()])
        best = torch.logaddexp(paused, spoken).topk(min(width, len(paused)))
        kept = best.indices[best.values > -torch.inf]
        paused, spoken, stayed = paused[kept], spoken[kept], len(beginnings)
        beginnings = [
            beginnings[i] if i < stayed else (*beginnings[(i - stayed) // len(frame)], (i - stayed) % len(frame))
            for i in kept.tolist()
        ]
    return Hypothesis(list(beginnings[0]), torch.logaddexp(paused, spoken)[0].item(), True)


def _check_labels(labels: Any, logits: Tensor) -> None:
    batch, _, vocab_size = logits.shape
    whole = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.dtype == torch.bool)
    if not whole or labels.dim() != 2 or len(labels) != batch or labels.shape[1] == 0:
        raise ValueError(f"labels: expected integers ({batch}, at least 1), -100 where there is none; got {described(labels)}")
    # A compiled graph cannot look at values, and takes them as they are.
    if not torch.compiler.is_compiling() and not bool(((labels == -100) | ((labels >= 0) & (labels < vocab_size))).all()):
        raise ValueError(f"labels: expected tokens from 0 to {vocab_size - 1}, or -100; got {labels.tolist()}")
