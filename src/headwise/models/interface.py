"""What goes into every model and comes out of it: masks, lengths, outputs under the field's names, losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from headwise.attention import masks
from headwise.attention.masks import Mask

T = TypeVar("T")


def exported(output: type[T]) -> type[T]:
    """Tells torch.export of a dataclass, so that a model which returns it can be exported."""
    torch.export.register_dataclass(output, serialized_type_name=f"{output.__module__}.{output.__name__}")
    return output


@exported
@dataclass
class CausalLMOutput:
    """logits (batch, length, vocab_size) of each next token; last_hidden_state; loss where labels were given."""

    logits: Tensor
    last_hidden_state: Tensor
    loss: Tensor | None = None


@exported
@dataclass
class Seq2SeqOutput:
    """logits (batch, target_len, vocab_size); the encoder's last hidden state; loss where labels were given."""

    logits: Tensor
    encoder_last_hidden_state: Tensor
    loss: Tensor | None = None


@exported
@dataclass
class ClassifierOutput:
    """logits (batch, labels): scores of every class, or the numbers regressed; loss where labels were given."""

    logits: Tensor
    loss: Tensor | None = None


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, ignored: int = -100) -> Tensor:
    """The mean over the labels that are not ``ignored`` of -log p(label), nats, in at least float32."""
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels: expected {tuple(logits.shape[:-1])}; got {tuple(labels.shape)}")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    flat = wide.reshape(-1, wide.shape[-1])
    return functional.cross_entropy(flat, labels.reshape(-1).long(), ignore_index=ignored, label_smoothing=label_smoothing)


def classified(logits: Tensor, labels: Tensor | None, problem_type: str | None) -> ClassifierOutput:
    """With the loss where labels are given: (batch,) classes, (batch, labels) of 0.0 and 1.0, or the numbers to regress;
    problem_type says which, or, where it is None, their number and kind."""
    if labels is None:
        return ClassifierOutput(logits)
    if not isinstance(labels, Tensor) or labels.shape[:1] != logits.shape[:1]:
        raise ValueError(f"labels: expected a tensor, for each of the {logits.shape[0]} inputs; got {described(labels)}")
    if problem_type == "regression" or (problem_type is None and logits.shape[-1] == 1):
        return ClassifierOutput(logits, functional.mse_loss(logits, labels.view_as(logits).to(logits.dtype)))
    if problem_type == "single_label_classification" or not labels.is_floating_point():
        return ClassifierOutput(logits, cross_entropy(logits, labels))
    return ClassifierOutput(logits, functional.binary_cross_entropy_with_logits(logits, labels))


def padding(attention_mask: Tensor | None, tokens: Tensor | None) -> Mask | None:
    """The field's attention_mask as a rule: (batch, length) as ``tokens`` (None: with a cache, which has keys besides), true or
    1 = a real token, a key that may be attended to."""
    if attention_mask is None:
        return None
    shape = attention_mask.shape
    if len(shape) != 2 or (tokens is not None and shape != tokens.shape[:2]):
        wanted = "(batch, length)" if tokens is None else tuple(tokens.shape[:2])
        raise ValueError(f"attention_mask: expected {wanted}, 1 = a real token; got {tuple(shape)}")
    return masks.padding(attention_mask.bool())


def described(x: Any) -> str:
    """What came, for a message."""
    return f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"


def check_pictures(pixels: Any, channels: int, least: tuple[int, int] = (1, 1), films: bool = False) -> None:
    """Raises ValueError unless they are (batch, channels, height, width) of floats, films with frames before the channels."""
    axes = ["batch", *(["frames"] if films else []), f"{channels} channels", "height", "width"]
    fits = isinstance(pixels, Tensor) and pixels.is_floating_point() and pixels.dim() == len(axes)
    fits = fits and pixels.shape[-3] == channels and 0 not in pixels.shape[1:]
    if not fits or pixels.shape[-2] < least[0] or pixels.shape[-1] < least[1]:
        wanted = f"floats ({', '.join(axes)}), at least {least} pixels"
        raise ValueError(f"pixel_values: expected {wanted}; got {described(pixels)}")


def check_spectra(spectra: Any, mels: int, attention_mask: Any = None, most: int | None = None) -> None:
    """Raises ValueError unless they are (batch, frames, mels) of floats, at most so many frames, with a mask that fits."""
    fits = isinstance(spectra, Tensor) and spectra.is_floating_point() and spectra.dim() == 3
    if not fits or spectra.shape[-1] != mels or spectra.shape[1] == 0 or (most is not None and spectra.shape[1] > most):
        frames = "frames" if most is None else f"at most {most} frames"
        raise ValueError(f"input_features: expected floats (batch, {frames}, {mels} mels); got {described(spectra)}")
    if attention_mask is not None and attention_mask.shape != spectra.shape[:2]:
        wanted, got = tuple(spectra.shape[:2]), tuple(attention_mask.shape)
        raise ValueError(f"attention_mask: expected {wanted}, 1 = a real frame; got {got}")


def check_length(length: int | Tensor, positions: int | None) -> None:
    """Raises ValueError where a sequence is longer than a model's positions (None: no table that could end). A length that is
    a tensor, with a cache of fixed size, is not looked at: that would break a compiled graph."""
    if isinstance(length, int) and positions is not None and length > positions:
        raise ValueError(f"{length} tokens are more than this model's {positions} positions")
