"""Generation, token by token, over any model that decodes.

hw.generate(model, **tokenizer(prompts, side="left"))                              the most probable token at every step
hw.generate(model, ids, keep, search=hw.generation.Beam(width=4))
hw.generate(model, ids, keep, search=hw.generation.Sample(temperature=0.8, top_p=0.95, seed=0))
hw.generate(model, ids, keep, cache=lambda: hw.cache.Fixed(1024))                  memory of a fixed size
hw.generate(model, **feature_extractor(sounds))                                    what was said
hw.generate(model, **feature_extractor(sounds), decoder_input_ids=begun)           begins with a language's token, a task's, ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.cache import Fixed, Growing
from headwise.models.causal import CausalLM
from headwise.models.interface import check_length, described
from headwise.models.search import Beam, Greedy, Hypothesis, Sample, Search
from headwise.models.seq2seq import EncoderDecoder, SpeechToText

__all__ = ["Beam", "Greedy", "Hypothesis", "Sample", "Search", "generate"]


def generate(
    model: nn.Module,
    input_ids: Int[Tensor, "batch length"] | None = None,
    attention_mask: Tensor | None = None,
    *,
    input_features: Float[Tensor, "batch a b"] | None = None,
    decoder_input_ids: Int[Tensor, "rows begun"] | None = None,
    search: Search | None = None,
    max_new_tokens: int | Sequence[int] = 128,
    cache: Callable[[], Growing] = Growing,
) -> list[Hypothesis]:
    """What a model goes on with: one hypothesis per row of input_ids, or of input_features where it listens.

    A decoder alone continues input_ids, prompts padded on the left; an encoder-decoder reads its input (padded on the right)
    and answers. attention_mask: true or 1 = a real token or frame. decoder_input_ids (batch or 1, begun): what every answer
    begins with, its start token first (None: that alone); a hypothesis has what follows. search: ``hw.generation.Greedy()``
    (None), ``Beam`` or ``Sample``. max_new_tokens: the limit, or one per row; a table of positions is another. cache: makes
    each layer's cache.
    Ends at the checkpoint's eos_token_id and never says a token that it forbids (bad_words_ids of one token, suppress_tokens;
    begin_suppress_tokens at first); other wishes of its generation_config.json are not applied. Raises ValueError where a
    prompt is padded on the right or longer than the model's positions, a fixed cache could become too small, a model trains
    or does not generate.
    """
    if not isinstance(model, EncoderDecoder | CausalLM):
        hint = "hw.ctc.decode reads labels at frames, hw.synthesise speaks, oscar.caption writes captions"
        raise ValueError(f"{type(model).__name__} does not generate: it has no decoder of tokens ({hint})")
    source = _source(model, input_ids, input_features)
    if not isinstance(search, Search | None):
        raise ValueError(f"search: expected hw.generation.Greedy(), Beam() or Sample(); got {search!r}")
    search, keep = search or Greedy(), None if attention_mask is None else attention_mask.bool()
    limits = list(max_new_tokens) if isinstance(max_new_tokens, Sequence) else [max_new_tokens] * len(source)
    if any(type(limit) is not int for limit in limits) or len(limits) != len(source) or min(limits, default=0) < 1:
        raise ValueError(f"max_new_tokens: expected at least 1, or that for each of {len(source)} rows; got {limits}")
    if keep is not None and source.dim() == 2 and keep.shape != source.shape:
        raise ValueError(f"attention_mask: expected {tuple(source.shape)}, as input_ids; got {tuple(keep.shape)}")
    if model.training:
        raise ValueError("model: expected in eval mode, model.eval()")
    begun = _begun(model, source, decoder_input_ids)
    check_length(begun.shape[1], model.max_positions)
    before = begun.shape[1] - 1
    if model.max_positions is not None:
        limits = [min(limit, model.max_positions - before) for limit in limits]
    kind: type[_Decoding] = _Answering if isinstance(model, EncoderDecoder) else _Continuing
    steps, most = kind(model, cache, source, keep, begun, search.rows), before + max(limits)
    own = steps.cache[0].own
    if isinstance(own, Fixed) and own.max_len < most:  # said before the first step: on a GPU a step could not say it
        raise ValueError(f"hw.cache.Fixed({own.max_len}): up to {most} tokens will be read; make it longer, or the limit lower")
    return search.run(steps, begun[:, -1], _ends(model), limits)


class _Decoding(ABC):
    """A model with its caches, ``rows`` rows for every input; the first step reads all of ``begun``."""

    def __init__(
        self, model: Any, cache: Callable[[], Growing], source: Tensor, keep: Tensor | None, begun: Tensor, rows: int
    ) -> None:
        self.model, self.cache = model, model.make_cache(cache)
        self.keep = None if keep is None else keep.repeat_interleave(rows, dim=0)
        self.unread = begun[:, :-1].repeat_interleave(rows, dim=0)
        self.never, self.never_first = _forbidden(model)

    @abstractmethod
    def read(self, tokens: Tensor) -> Tensor:
        """The hidden states of the newest tokens."""

    def advance(self, tokens: Tensor) -> Tensor:
        tokens, self.unread = torch.cat([self.unread, tokens], dim=1), tokens[:, :0]
        log_p = self.model.logits(self.read(tokens)[:, -1]).float().log_softmax(dim=-1)
        log_p[:, self.never + self.never_first] = -torch.inf
        self.never_first = []
        return log_p

    def reorder(self, index: Tensor) -> None:
        for layer in self.cache:
            layer.own.reorder(index)  # beams of one input share what they attend to besides


class _Answering(_Decoding):
    """An encoder-decoder: the source is encoded once."""

    @torch.no_grad()
    def __init__(
        self, model: Any, cache: Callable[[], Growing], source: Tensor, keep: Tensor | None, begun: Tensor, rows: int
    ) -> None:
        super().__init__(model, cache, source, model.memory_mask(keep), begun, rows)
        self.memory = model.encode(source, keep).repeat_interleave(rows, dim=0)

    def read(self, tokens: Tensor) -> Tensor:
        return self.model.decode(tokens, self.memory, self.keep, cache=self.cache)


class _Continuing(_Decoding):
    """A decoder alone: it goes on from its prompt."""

    def __init__(
        self, model: Any, cache: Callable[[], Growing], source: Tensor, keep: Tensor | None, begun: Tensor, rows: int
    ) -> None:
        super().__init__(model, cache, source, keep, begun, rows)
        if keep is not None and not keep[:, -1].all():
            raise ValueError("attention_mask: a prompt that is to go on is padded on its left; the last token is always real")

    def read(self, tokens: Tensor) -> Tensor:
        own = self.cache[0].own
        keys = own.max_len if isinstance(own, Fixed) else own.length + tokens.shape[1]
        keep = None if self.keep is None else functional.pad(self.keep, (0, keys - self.keep.shape[1]), value=True)
        return self.model.decode(tokens, keep, self.cache)


def _source(model: nn.Module, input_ids: Tensor | None, input_features: Tensor | None) -> Tensor:
    """The input that this model takes."""
    name, axes, source, other = "input_ids", 2, input_ids, input_features
    if isinstance(model, SpeechToText):
        name, axes, source, other = "input_features", 3, input_features, input_ids
    if other is not None or not isinstance(source, Tensor) or source.dim() != axes or source.numel() == 0:
        wanted = "tokens, (batch, length)" if axes == 2 else "sound, (batch, frames, mels) as its feature extractor gives it"
        got = described(source) if other is None else f"also {'input_features' if axes == 2 else 'input_ids'}"
        raise ValueError(f"{name}: expected {wanted}; got {got}")
    return source


def _begun(model: EncoderDecoder | CausalLM, source: Tensor, given: Tensor | None) -> Int[Tensor, "batch begun"]:
    """What the decoder reads before it says anything."""
    if isinstance(model, CausalLM):
        if given is not None:
            raise ValueError("decoder_input_ids: a decoder alone goes on from input_ids")
        return source
    if given is None:
        return torch.full((len(source), 1), model.start_token_id, device=source.device)
    tokens = isinstance(given, Tensor) and given.dim() == 2 and not given.is_floating_point() and given.numel() > 0
    if not tokens or len(given) not in (1, len(source)):
        raise ValueError(f"decoder_input_ids: expected tokens, ({len(source)} or 1, at least 1); got {described(given)}")
    return given.expand(len(source), -1)


def _ends(model: EncoderDecoder | CausalLM) -> list[int]:
    """The tokens that end a text; none where the checkpoint names none."""
    ends = model.generation_config.get("eos_token_id", model.config.eos_token_id)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _forbidden(model: EncoderDecoder | CausalLM) -> tuple[list[int], list[int]]:
    """The tokens that the checkpoint forbids: ever, and at first."""
    said = {**model.config.other, **model.generation_config}
    words = [ids[0] for ids in said.get("bad_words_ids") or [] if len(ids) == 1]
    return words + (said.get("suppress_tokens") or []), said.get("begin_suppress_tokens") or []
