"""Captions with Oscar: where captions, tags and regions stand, who sees whom, what is masked in training, and writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional

from headwise.attention import masks
from headwise.attention.cache import Growing
from headwise.attention.masks import Mask
from headwise.models.inputs.regions import padded
from headwise.models.inputs.text import TextTokenizer
from headwise.models.interface import check_length
from headwise.models.oscar.model import BertForImageCaptioning
from headwise.models.search import Beam, Hypothesis, Search

WORDS, TAGS = 0, 1  # token types


def caption_mask(keep: Bool[Tensor, "batch rows"], caption_slots: int) -> Mask:
    """Who sees whom where the first ``caption_slots`` rows are a caption and the others tags and regions: a word sees those
    before it, itself, and all tags and regions; tags and regions see each other and no word. keep: which rows are real."""
    rows = torch.arange(keep.shape[1], device=keep.device)
    of_context = ~masks.prefix(rows.new_tensor(caption_slots))
    same_side = masks.documents((rows >= caption_slots).long())
    return masks.padding(keep) & (of_context | (masks.causal() & same_side))


@dataclass(frozen=True)
class CaptionLayout:
    """What a captioner reads: [CLS] words [SEP] in the first max_seq_a_length places, tags [SEP] up to max_seq_length, then
    max_img_seq_length regions; what has no room is cut off, as in the original. tokenizer: of the model's folder."""

    tokenizer: TextTokenizer
    max_seq_a_length: int = 40
    max_seq_length: int = 70
    max_img_seq_length: int = 50

    def __call__(self, captions: Sequence[str], tags: Sequence[str], regions: Sequence[Tensor]) -> dict[str, Any]:
        """A batch: captions; tags, the names of what is seen, joined by spaces ("" = none); regions, (number, feature_dim)
        each. input_ids, token_type_ids, img_feats, and attention_mask, a rule; all where the regions are."""
        if not len(captions) == len(tags) == len(regions):
            raise ValueError(f"{len(captions)} captions, {len(tags)} tags and {len(regions)} regions: expected one of each")
        first, second = self.max_seq_a_length, self.max_seq_length - self.max_seq_a_length
        cls, sep = self.token("[CLS]"), self.token("[SEP]")
        words = self._filled([[cls, *self._pieces(text)[: first - 2], sep] for text in captions], first)
        names = self._filled([self._tags(text, second) for text in tags], second)
        img_feats, real = padded(regions, self.max_img_seq_length)
        ids = torch.cat([words, names], dim=1).to(real.device)
        keep = torch.cat([ids != self.tokenizer.pad_token_id, real], dim=1)
        types = (torch.arange(ids.shape[1], device=ids.device) >= first) & keep[:, : ids.shape[1]]
        return {
            "input_ids": ids,
            "token_type_ids": types.long() * TAGS,
            "attention_mask": caption_mask(keep, first),
            "img_feats": img_feats,
        }

    def masked(
        self, batch: dict[str, Any], generator: torch.Generator | None = None, share: float = 0.15, most: int = 3
    ) -> dict[str, Any]:
        """The batch as it is trained on: ``share`` of each caption's tokens, [SEP] among them, at least one and at most
        ``most``, are to be found again; 80 % of those read [MASK], 10 % any token, 10 % themselves. With masked_pos and
        masked_ids. generator: of the random numbers, on the CPU."""
        ids, slots = batch["input_ids"], self.max_seq_a_length
        length = (ids[:, :slots] != self.tokenizer.pad_token_id).sum(dim=1)
        count = (length.double() * share).round().clamp(1, most).long()[:, None]
        drawn, kind = (torch.rand(len(ids), n, generator=generator).to(ids.device) for n in (slots, ids.shape[1]))
        anything = torch.randint(self.tokenizer.vocab_size, ids.shape, generator=generator).to(ids.device)
        place = torch.arange(slots, device=ids.device)
        never = (place == 0) | (place >= length[:, None])  # [CLS] and padding
        rank = drawn.masked_fill(never, 2.0).argsort(dim=1).argsort(dim=1)
        chosen = functional.pad(rank < count, (0, ids.shape[1] - slots))
        where = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        true = ids.gather(1, where).masked_fill(torch.arange(most, device=ids.device) >= count, 0)
        read = torch.where(kind < 0.8, self.token("[MASK]"), torch.where(kind < 0.9, anything, ids))
        return batch | {"input_ids": torch.where(chosen, read, ids), "masked_pos": chosen.long(), "masked_ids": true}

    def context(
        self, tags: Sequence[str], regions: Sequence[Tensor], max_gen_length: int
    ) -> tuple[Tensor, Tensor, Bool[Tensor, "batch rows"]]:
        """What a caption is written from: ids of the tags, features of the regions, and which of these rows are real. As in
        the original, tags have the room that a caption of max_gen_length leaves."""
        names = [self._tags(text, self.max_seq_length - max_gen_length) for text in tags]
        img_feats, real = padded(regions, self.max_img_seq_length)
        ids = self._filled(names, max(map(len, names))).to(real.device)
        return ids, img_feats, torch.cat([ids != self.tokenizer.pad_token_id, real], dim=1)

    def token(self, name: str) -> int:
        return self.tokenizer.vocabulary[name]

    def _pieces(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)[1:-1]  # without [CLS] and [SEP]

    def _tags(self, text: str, room: int) -> list[int]:
        return [*self._pieces(text)[: room - 1], self.token("[SEP]")] if text else []

    def _filled(self, rows: list[list[int]], length: int) -> Tensor:
        filled = [row + [self.tokenizer.pad_token_id] * (length - len(row)) for row in rows]
        return torch.tensor(filled, dtype=torch.long).view(len(rows), length)


def caption(
    model: BertForImageCaptioning,
    layout: CaptionLayout,
    tags: Sequence[str],
    regions: Sequence[Tensor],
    *,
    search: Search | None = None,
    max_gen_length: int = 20,
) -> list[Hypothesis]:
    """A caption for every picture, from its tags and regions: ``layout.tokenizer.decode(found.tokens)`` is its text.

    After [CLS] and the words so far stands one [MASK]; what it is found to be becomes the next word, until that is [SEP] or
    max_gen_length tokens stand there, [CLS] among them. Tags and regions do not see the words: they are computed once, and a
    step computes the newest word and the [MASK] alone. search: None = the original's, five beams compared by the mean of
    log p. The original goes on until no beam can become better, and writes [SEP] over the last token of a caption that was
    cut off; here that token stays and ``ended`` is False. Raises ValueError where texts and pictures are not of one number,
    the model trains, or its positions do not suffice.
    """
    if len(tags) != len(regions) or not tags:
        raise ValueError(f"expected the tags of every picture and its regions; got {len(tags)} and {len(regions)}")
    if model.training:
        raise ValueError("model: expected in eval mode, model.eval()")
    if not 2 <= max_gen_length < layout.max_seq_length:
        raise ValueError(f"max_gen_length: expected from 2 to {layout.max_seq_length - 1}, tokens; got {max_gen_length}")
    search = search or Beam(width=5, length_penalty=1.0, offset=0.0)
    steps = _Writing(model, layout, tags, regions, search.rows, max_gen_length)
    start = torch.full((len(tags),), layout.token("[CLS]"), device=steps.keep.device)
    return search.run(steps, start, [layout.token("[SEP]")], [max_gen_length - 1] * len(tags))


class _Written(Growing):
    """Keys and values of tags and regions, which come first, and of the words; those of each step's [MASK], its last, go."""

    def hold(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        end = -1 if self.length else None
        super().hold(query, key[..., :end, :], value[..., :end, :])


class _Writing:
    """A captioner in the middle of writing, ``rows`` rows for every picture: tags and regions, then the words."""

    @torch.no_grad()
    def __init__(
        self,
        model: BertForImageCaptioning,
        layout: CaptionLayout,
        tags: Sequence[str],
        regions: Sequence[Tensor],
        rows: int,
        max_gen_length: int,
    ) -> None:
        body, device = model.bert, model.bert.embedding.weight.device
        self.model, self.mask_token_id = model, layout.token("[MASK]")
        ids, img_feats, keep = (x.to(device) for x in layout.context(tags, regions, max_gen_length))
        start = max(layout.max_seq_a_length, max_gen_length)  # where tags stand, however long the caption is
        check_length(start + ids.shape[1], model.config.max_position_embeddings)
        names = body.embed(ids, torch.full_like(ids, TAGS), start + torch.arange(ids.shape[1], device=device))
        self.cache = body.encoder.make_cache(_Written)
        context = torch.cat([names, body.embed_regions(img_feats)], dim=1)
        body.encoder(context, masks.padding(keep), caches=self.cache)
        self.keep = keep.repeat_interleave(rows, dim=0)
        self.reorder(torch.arange(len(keep), device=device).repeat_interleave(rows))

    def advance(self, tokens: Tensor) -> Tensor:
        pair = torch.cat([tokens, torch.full_like(tokens, self.mask_token_id)], dim=1)
        words = self.cache[0].own.length - self.keep.shape[1]
        x = self.model.bert.embed(pair, position_ids=words + torch.arange(2, device=tokens.device))
        keep = functional.pad(self.keep, (0, words + 2), value=True)
        hidden = self.model.bert.encoder(x, masks.causal() & masks.padding(keep), caches=self.cache)
        return self.model.head(hidden[:, -1], self.model.bert.embedding).float().log_softmax(dim=-1)

    def reorder(self, index: Tensor) -> None:
        for layer in self.cache:
            layer.own.reorder(index)
