"""Generation, token by token: greedy, beam and sampling, over any model that decodes.

hw.generate(model, **tokenizer(prompts, side="left"))                              the most probable token at every step
hw.generate(model, ids, keep, search=hw.generation.Beam(width=4))
hw.generate(model, ids, keep, search=hw.generation.Sample(temperature=0.8, top_p=0.95, seed=0))
hw.generate(model, ids, keep, cache=lambda: hw.cache.Fixed(1024))                  memory of a fixed size
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.cache import Fixed, Growing
from headwise.models.causal import CausalLM
from headwise.models.interface import check_length
from headwise.models.seq2seq import EncoderDecoder

Integers = Sequence[int]


@runtime_checkable
class Steps(Protocol):
    """A model in the middle of generating, one row per hypothesis."""

    def advance(self, tokens: Tensor) -> Tensor:
        """Reads the newest token of every row, (rows, 1), and scores the next, (rows, vocab_size)."""
        ...

    def reorder(self, index: Tensor) -> None:
        """Row r becomes what row index[r] was."""
        ...


@dataclass
class Hypothesis:
    """Generated tokens, without prompt, start and end tokens, and their log-probability (a beam's is divided by its length
    penalty). ended: an end token came; False where the limit cut it off."""

    tokens: list[int]
    score: float
    ended: bool


class Search(ABC):
    """How the next token is chosen. ``rows``: hypotheses that are followed at a time for every input."""

    rows: int = 1

    @abstractmethod
    def run(self, steps: Steps, start: Tensor, ends: Integers, limits: Integers, never: Integers = ()) -> list[Hypothesis]:
        """One hypothesis per input, from tokens ``start`` (inputs,) to one of ``ends`` or its limit; ``never``: left out."""


class _OneByOne(Search):
    """A search that follows one hypothesis per input."""

    @abstractmethod
    def chooser(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The function from log-probabilities (rows, vocab_size) to tokens (rows,)."""

    @torch.no_grad()
    def run(self, steps: Steps, start: Tensor, ends: Integers, limits: Integers, never: Integers = ()) -> list[Hypothesis]:
        limit, end = (torch.tensor(list(numbers), device=start.device) for numbers in (limits, ends))
        tokens, choose = start[:, None], self.chooser(start.device)
        total, (done, ended) = torch.zeros_like(start, dtype=torch.float32), torch.zeros_like(start.expand(2, -1)).bool()
        while not done.all():
            log_p = _log_p(steps.advance(tokens[:, -1:]), never)
            token = choose(log_p)
            total += log_p.gather(1, token[:, None])[:, 0].masked_fill(done, 0.0)
            tokens = torch.cat([tokens, torch.where(done, tokens[:, -1], token)[:, None]], dim=1)
            ended |= ~done & torch.isin(token, end)
            done |= ended | (tokens.shape[1] > limit)
        rows = zip(tokens[:, 1:].tolist(), total.tolist(), ended.tolist(), limits, strict=True)
        return [Hypothesis(_until(row[:most], ends), score, stopped) for row, score, stopped, most in rows]


@dataclass(frozen=True)
class Greedy(_OneByOne):
    """The most probable token at every step."""

    def chooser(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        return lambda log_p: log_p.argmax(dim=-1)


@dataclass(frozen=True)
class Sample(_OneByOne):
    """A random token at every step, from p^(1 / temperature), normalised, of which the ``top_k`` most probable tokens (and
    what is as probable as the last of them) are kept, and of those as few of the most probable as hold at least ``top_p``
    (Holtzman et al. 2020). seed: of the random numbers; None = torch's own. score is log P under the model itself."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a number above 0 (most probable: Greedy()); got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: expected at least 1; got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1]; got {self.top_p}")

    def chooser(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        generator = None if self.seed is None else torch.Generator(device).manual_seed(self.seed)
        return lambda log_p: torch.multinomial(self.kept(log_p), 1, generator=generator)[:, 0]

    def kept(self, log_p: Float[Tensor, "rows vocab_size"]) -> Float[Tensor, "rows vocab_size"]:
        """The distribution that is drawn from."""
        log_p = log_p / self.temperature
        if self.top_k is not None:
            least = log_p.topk(min(self.top_k, log_p.shape[-1]), dim=-1).values[:, -1:]
            log_p = log_p.masked_fill(log_p < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:  # all: rounding must not cut the tail off
            ordered, order = log_p.log_softmax(dim=-1).exp().sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(dim=-1) - ordered  # the share of the more probable ones
            log_p = log_p.masked_fill((before >= self.top_p).scatter(1, order, before >= self.top_p), -torch.inf)
        return log_p.log_softmax(dim=-1).exp()


@dataclass(frozen=True)
class Beam(Search):
    """The best of ``width`` hypotheses kept at every step, for every input.

    Hypotheses are compared by log P / ((offset + length) / (offset + 1))^length_penalty, the end token counted: offset 5 is
    that of Wu et al. 2016 (Vaswani et al. use width 4 and 0.6), offset 0 that of fairseq and transformers. An input is done
    when ``width`` hypotheses have ended (transformers: early_stopping=True) or at its limit, where the best unfinished one
    counts if none has ended (transformers: the unfinished compete with the ended). No input depends on the others.
    """

    width: int = 4
    length_penalty: float = 0.6
    offset: float = 5.0

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width: expected at least 1; got {self.width}")

    @property
    def rows(self) -> int:  # type: ignore[override]
        return self.width

    @torch.no_grad()
    def run(self, steps: Steps, start: Tensor, ends: Integers, limits: Integers, never: Integers = ()) -> list[Hypothesis]:
        width, inputs, end = self.width, len(start), torch.tensor(list(ends), device=start.device)
        tokens = start.repeat_interleave(width)[:, None]
        alive = torch.full((inputs, width), -torch.inf, device=start.device)
        alive[:, 0] = 0.0  # all beams start alike: only one may branch
        found: list[list[Hypothesis]] = [[] for _ in limits]
        first = torch.arange(inputs, device=start.device)[:, None] * width  # the row of each input's first beam
        for length in range(1, max(limits) + 1):
            penalty = ((self.offset + length) / (self.offset + 1)) ** self.length_penalty
            step = _log_p(steps.advance(tokens[:, -1:]), never)
            vocab_size = step.shape[-1]
            total = (alive[:, :, None] + step.view(inputs, width, vocab_size)).flatten(1)
            most = min((1 + len(ends)) * width, total.shape[1])  # so many that width of them go on
            score, flat = total.topk(most, dim=1)
            row, token = first + flat // vocab_size, flat % vocab_size
            ending = torch.isin(token, end)
            for i, rank in ending[:, :width].nonzero().tolist():
                if len(found[i]) < width and length <= limits[i] and score[i, rank] > -torch.inf:
                    found[i].append(Hypothesis(tokens[row[i, rank], 1:].tolist(), score[i, rank].item() / penalty, True))
            alive, keep = score.masked_fill(ending, -torch.inf).topk(width, dim=1)
            row, token = row.gather(1, keep).flatten(), token.gather(1, keep).flatten()
            tokens = torch.cat([tokens[row], token[:, None]], dim=1)
            for i, limit in enumerate(limits):
                if length == limit and not found[i]:
                    found[i].append(Hypothesis(tokens[i * width, 1:].tolist(), alive[i, 0].item() / penalty, False))
            if all(len(ended) == width or length >= limit for ended, limit in zip(found, limits, strict=True)):
                break
            steps.reorder(row)
        return [max(hypotheses, key=lambda hypothesis: hypothesis.score) for hypotheses in found]


def generate(
    model: nn.Module,
    input_ids: Int[Tensor, "batch length"],
    attention_mask: Tensor | None = None,
    *,
    search: Search | None = None,
    max_new_tokens: int | Sequence[int] = 128,
    cache: Callable[[], Growing] = Growing,
) -> list[Hypothesis]:
    """What a model goes on with: one hypothesis per row of input_ids.

    A decoder alone continues input_ids, prompts padded on the left; an encoder-decoder reads them (padded on the right) and
    answers. attention_mask: true or 1 = a real token. search: ``hw.generation.Greedy()`` (None), ``Beam`` or ``Sample``.
    max_new_tokens: the limit, or one per row; a table of positions is another. cache: makes each layer's cache.
    Ends at the checkpoint's eos_token_id and never says a token that it forbids (bad_words_ids of one token,
    suppress_tokens); other wishes of its generation_config.json are not applied. Raises ValueError where a prompt is padded on
    the right or longer than the model's positions, a fixed cache could become too small, a model trains or does not generate.
    """
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(f"input_ids: expected tokens, (batch, length); got {getattr(input_ids, 'shape', input_ids)}")
    if not isinstance(search, Search | None):
        raise ValueError(f"search: expected hw.generation.Greedy(), Beam() or Sample(); got {search!r}")
    search, keep = search or Greedy(), None if attention_mask is None else attention_mask.bool()
    limits = [max_new_tokens] * len(input_ids) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(limits) != len(input_ids) or min(limits, default=0) < 1:
        raise ValueError(f"max_new_tokens: expected at least 1, or that for each of {len(input_ids)} rows; got {limits}")
    if keep is not None and keep.shape != input_ids.shape:
        raise ValueError(f"attention_mask: expected {tuple(input_ids.shape)}, as input_ids; got {tuple(keep.shape)}")
    if model.training:
        raise ValueError("model: expected in eval mode, model.eval()")
    if isinstance(model, EncoderDecoder):
        steps: _Decoding = _Answering(model, cache, input_ids, keep, search.rows)
        start, before = torch.full_like(input_ids[:, 0], model.start_token_id), 0
    elif isinstance(model, CausalLM):
        steps = _Continuing(model, cache, input_ids, keep, search.rows)
        start, before = input_ids[:, -1], input_ids.shape[1] - 1
    else:
        raise ValueError(f"{type(model).__name__} does not generate: it has no decoder")
    check_length(input_ids.shape[1], model.max_positions)
    if model.max_positions is not None:
        limits = [min(limit, model.max_positions - before) for limit in limits]
    own, most = steps.cache[0].own, before + max(limits)
    if isinstance(own, Fixed) and own.max_len < most:  # said before the first step: on a GPU a step could not say it
        raise ValueError(f"hw.cache.Fixed({own.max_len}): up to {most} tokens will be read; make it longer, or the limit lower")
    return search.run(steps, start, _ends(model), limits, _never(model))


class _Decoding(ABC):
    """A model with its caches, ``rows`` rows for every input."""

    def __init__(self, model: Any, cache: Callable[[], Growing], keep: Tensor | None, rows: int) -> None:
        self.model, self.cache = model, model.make_cache(cache)
        self.keep = None if keep is None else keep.repeat_interleave(rows, dim=0)

    @abstractmethod
    def read(self, tokens: Tensor) -> Tensor:
        """The hidden states of the newest tokens."""

    def advance(self, tokens: Tensor) -> Tensor:
        return self.model.logits(self.read(tokens)[:, -1])

    def reorder(self, index: Tensor) -> None:
        for layer in self.cache:
            layer.own.reorder(index)  # beams of one input share what they attend to besides


class _Answering(_Decoding):
    """An encoder-decoder: the source is encoded once."""

    @torch.no_grad()
    def __init__(
        self, model: EncoderDecoder, cache: Callable[[], Growing], source: Tensor, keep: Tensor | None, rows: int
    ) -> None:
        super().__init__(model, cache, keep, rows)
        self.memory = model.encode(source, keep).repeat_interleave(rows, dim=0)

    def read(self, tokens: Tensor) -> Tensor:
        return self.model.decode(tokens, self.memory, self.keep, cache=self.cache)


class _Continuing(_Decoding):
    """A decoder alone: the first step reads the whole prompt."""

    def __init__(self, model: CausalLM, cache: Callable[[], Growing], prompt: Tensor, keep: Tensor | None, rows: int) -> None:
        super().__init__(model, cache, keep, rows)
        if keep is not None and not keep[:, -1].all():
            raise ValueError("attention_mask: a prompt that is to go on is padded on its left; the last token is always real")
        self.unread = prompt[:, :-1].repeat_interleave(rows, dim=0)

    def read(self, tokens: Tensor) -> Tensor:
        tokens, self.unread = torch.cat([self.unread, tokens], dim=1), tokens[:, :0]
        own = self.cache[0].own
        keys = own.max_len if isinstance(own, Fixed) else own.length + tokens.shape[1]
        keep = None if self.keep is None else functional.pad(self.keep, (0, keys - self.keep.shape[1]), value=True)
        return self.model.decode(tokens, keep, self.cache)


def _ends(model: EncoderDecoder | CausalLM) -> list[int]:
    """The tokens that end a text; none where the checkpoint names none."""
    ends = model.generation_config.get("eos_token_id", model.config.eos_token_id)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _never(model: EncoderDecoder | CausalLM) -> list[int]:
    """The tokens that the checkpoint forbids."""
    said = {**model.config.other, **model.generation_config}
    return [ids[0] for ids in said.get("bad_words_ids") or [] if len(ids) == 1] + (said.get("suppress_tokens") or [])


def _log_p(scores: Tensor, never: Integers) -> Tensor:
    """Log-probabilities under the model itself: tokens that are not to be said leave the choice, and keep their share."""
    log_p = scores.float().log_softmax(dim=-1)
    log_p[:, list(never)] = -torch.inf
    return log_p


def _until(tokens: list[int], ends: Integers) -> list[int]:
    return next((tokens[:i] for i, token in enumerate(tokens) if token in ends), tokens)
