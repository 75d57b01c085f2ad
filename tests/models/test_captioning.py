"""Captions with Oscar: the mask, what is read and masked, and writing: as whole passes, and the second implementation, do."""

from dataclasses import replace

import pytest
import tiny
import torch
from test_oscar import EXACT, build, inputs, kept, reference_of, table
from torch.nn import functional

import headwise as hw
from headwise.attention.tiles import Tile
from headwise.models.oscar import BertForImageCaptioning, CaptionLayout, OscarConfig, caption, caption_mask
from headwise.models.search import Beam, Greedy


def test_the_caption_mask_is_the_originals_table():
    whole = slice(None)
    tile = Tile(15, 15, whole, whole, torch.device("cpu"), 1)
    allowed = caption_mask(kept(), 6).allows(tile)[:, 0]
    real = kept()
    assert torch.equal(allowed[real], table().bool()[real])
    batch, asked = inputs(BertForImageCaptioning, OscarConfig())
    model = build(BertForImageCaptioning)
    rule = model(**batch | {"attention_mask": caption_mask(kept(), 6)}, **asked)
    torch.testing.assert_close(rule.logits[asked["masked_ids"] != 0], model(**batch).logits[asked["masked_pos"] == 1], **EXACT)
    torch.testing.assert_close(rule.loss, model(**batch, **asked).loss, **EXACT)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(94))]


@pytest.fixture
def layout(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
    return CaptionLayout(hw.tokenizer(tmp_path), max_seq_a_length=11, max_seq_length=17, max_img_seq_length=5)


FEATURES = [torch.randn(n, 13, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (3, 7, 1)]
NAMES = ["w1 w2 w3", "", "w4 w5 w6 w7 w8 w9 w10 w11 w12"]


def test_a_batch_is_laid_out_as_the_original_does(layout):
    batch = layout(["w20 w21", " ".join(f"w{i}" for i in range(20)), "unheard"], NAMES, FEATURES)
    cls, sep, ids = 2, 3, batch["input_ids"]
    assert ids.shape == (3, 17)
    assert ids[0].tolist() == [cls, 25, 26, sep, *[0] * 7, 6, 7, 8, sep, 0, 0]
    assert ids[1].tolist() == [cls, *range(5, 14), sep, *[0] * 6]  # no tags: not even their [SEP]
    assert ids[2].tolist() == [cls, 1, sep, *[0] * 8, 9, 10, 11, 12, 13, sep]
    assert batch["token_type_ids"].tolist() == [[0] * 11 + [1] * 4 + [0] * 2, [0] * 17, [0] * 11 + [1] * 6]
    assert torch.equal(batch["img_feats"][1], FEATURES[1][:5])
    assert not batch["img_feats"][2, 1:].any()
    loss = build(BertForImageCaptioning)(**layout.masked(batch)).loss
    assert loss.isfinite()


def test_tags_have_the_room_that_a_short_caption_leaves(layout):
    ids, img_feats, keep = layout.context(["w1 " * 20, "w2"], FEATURES[:2], max_gen_length=5)
    assert ids.tolist() == [[*[6] * 11, 3], [7, 3, *[0] * 10]]
    assert img_feats.shape == (2, 5, 13)
    assert keep.sum(1).tolist() == [12 + 3, 2 + 5]


def test_tags_stand_behind_a_caption_that_is_longer_than_its_slots(layout):
    model = build(BertForImageCaptioning)
    fewer, as_many, more = (
        caption(model, replace(layout, max_seq_a_length=slots), NAMES, FEATURES, max_gen_length=6) for slots in (3, 6, 11)
    )
    assert fewer == as_many
    assert more != as_many


def test_what_is_masked(layout):
    texts = ["w20 w21", " ".join(f"w{i}" for i in range(20)), "w5"]
    batch = layout(texts * 500, NAMES * 500, FEATURES * 500)
    masked = layout.masked(batch, torch.Generator().manual_seed(0), share=0.25, most=3)
    places, ids = masked["masked_pos"].bool(), batch["input_ids"]
    assert places.sum(1).tolist() == [1, 3, 1] * 500  # 25 % of 4, 11 and 3 tokens
    assert not places[:, 0].any()
    assert not places[:, 11:].any()
    assert torch.equal(ids[places], masked["masked_ids"][masked["masked_ids"] != 0])
    assert torch.equal(masked["input_ids"][~places], ids[~places])
    assert {int(ids[row, place]) == 3 for row, place in places.nonzero()} == {True, False}  # [SEP] too
    read = masked["input_ids"][places]
    assert abs((read == 4).float().mean() - 0.8) < 0.03
    assert abs((read == ids[places]).float().mean() - 0.1) < 0.03


def test_all_is_where_the_regions_are(layout):
    batch = layout.masked(layout(["w20"], NAMES[:1], [FEATURES[0].to("meta")]))
    assert build(BertForImageCaptioning).to("meta")(**batch).loss.is_meta


class FullPasses:
    """Writes by whole passes over the layout's places, a [MASK] at the first free one: no cache, no shift of the tags."""

    def __init__(self, model, layout, rows, picture=slice(None)):
        batch = layout([""] * 3, NAMES, FEATURES)
        keep = torch.cat([batch["input_ids"] != 0, torch.arange(5) < torch.tensor([[3], [5], [1]])], dim=1)
        self.model, self.slots = model, layout.max_seq_a_length
        self.batch = {name: x[picture].repeat_interleave(rows, 0) for name, x in batch.items() if name != "attention_mask"}
        self.keep, self.words = keep[picture].repeat_interleave(rows, 0), torch.zeros(0)

    def advance(self, tokens):
        self.words = tokens if not len(self.words) else torch.cat([self.words, tokens], dim=1)
        n = self.words.shape[1]
        ids, keep = self.batch["input_ids"].clone(), self.keep.clone()
        ids[:, : n + 1] = functional.pad(self.words, (0, 1), value=4)
        keep[:, : self.slots] = torch.arange(self.slots) <= n
        logits = self.model(**self.batch | {"input_ids": ids, "attention_mask": caption_mask(keep, self.slots)}).logits
        return logits[:, n].float().log_softmax(-1)

    def reorder(self, index):
        self.words = self.words[index]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("search", [Greedy(), Beam(3), Beam(5, 1.0, 0.0)], ids=str)
def test_captions_are_those_of_whole_passes(seed, search, layout):
    model = build(BertForImageCaptioning)
    with torch.no_grad():
        tiny.randomise(model, seed)
        model.head.bias[3] += 3.0  # [SEP], now and then
    found = caption(model, layout, NAMES, FEATURES, search=search, max_gen_length=11)
    start = torch.full((3,), 2)
    want = search.run(FullPasses(model, layout, search.rows), start, [3], [10] * 3)
    assert [x.tokens for x in found] == [x.tokens for x in want]
    assert [x.ended for x in found] == [x.ended for x in want]
    torch.testing.assert_close([x.score for x in found], [x.score for x in want], atol=1e-5, rtol=0.0)
    alone = [
        caption(model, layout, NAMES[i : i + 1], FEATURES[i : i + 1], search=search, max_gen_length=11)[0] for i in range(3)
    ]
    assert [x.tokens for x in alone] == [x.tokens for x in found]


def test_a_caption_is_the_most_probable_word_by_word(layout, tmp_path):
    """By the second implementation, on nothing but the words so far, a [MASK], the tags and the regions."""
    model = build(BertForImageCaptioning)
    hw.save(model, tmp_path)
    (found,) = caption(model, layout, NAMES[:1], FEATURES[:1], search=Greedy(), max_gen_length=6)
    reference, words, tags = reference_of(tmp_path), [2], [6, 7, 8, 3]
    while len(words) < 6 and words[-1] != 3:
        n = len(words) + 1
        mask = torch.ones(1, n + 7, n + 7).tril()
        mask[:, :, n:], mask[:, n:, :n] = 1, 0
        hidden = reference.hidden(
            input_ids=torch.tensor([[*words, 4, *tags]]),
            token_type_ids=torch.tensor([[0] * n + [1] * 4]),
            attention_mask=mask,
            img_feats=FEATURES[0][None],
            position_ids=torch.tensor([*range(n), *range(11, 15)]),
        )
        words.append(int(reference.scores(hidden)[0, n - 1].argmax()))
    assert found.tokens == [word for word in words[1:] if word != 3]


@pytest.mark.nohook
def test_wrong_calls(layout):
    model = build(BertForImageCaptioning)
    batch, asked = inputs(BertForImageCaptioning, model.config)
    with pytest.raises(ValueError, match=r"masked_pos: expected \(3, 10\), 1 = masked; got \(2, 10\)"):
        model(**batch, **asked | {"masked_pos": asked["masked_pos"][:2]})
    with pytest.raises(ValueError, match="one token for every 1 of masked_pos"):
        model(**batch, **asked | {"masked_ids": asked["masked_ids"].clamp(min=1)})
    with pytest.raises(ValueError, match="2 captions, 1 tags and 3 regions"):
        layout(["a", "b"], ["c"], FEATURES)
    with pytest.raises(ValueError, match="tags of every picture and its regions; got 2 and 3"):
        caption(model, layout, NAMES[:2], FEATURES)
    with pytest.raises(ValueError, match="max_gen_length: expected from 2 to 16, tokens; got 1"):
        caption(model, layout, NAMES, FEATURES, max_gen_length=1)
    with pytest.raises(ValueError, match="more than this model's 64 positions"):
        caption(model, CaptionLayout(layout.tokenizer), ["w1 " * 30], FEATURES[:1])
    with pytest.raises(ValueError, match="eval mode"):
        caption(model.train(), layout, NAMES, FEATURES)
