"""hw.generate for every decoder, from published files: against the reference library's own generation, against full passes
without a cache, at its limits and in what it leaves behind."""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Batch, keep, randomise, reference
from torch import Tensor, nn

import headwise as hw
from headwise.attention.cache import Growing
from headwise.models.generation import Beam, Greedy, Hypothesis, Sample, Search

DECODERS = ("MarianMTModel", "T5ForConditionalGeneration", "GPT2LMHeadModel", "LlamaForCausalLM")
ALONE = DECODERS[2:]  # without an encoder
EVERY = pytest.mark.parametrize("name", DECODERS)

LENGTHS = (7, 5, 3, 2, 1)  # of what is read
LIMIT = 13
PAD = 0

SEARCHES = {"greedy": Greedy(), "beam": Beam(3, 2.0), "sample": Sample(0.9, top_k=20, top_p=0.9, seed=3)}
EVERY_SEARCH = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())


@torch.no_grad()
def make_lively(model: nn.Module, seed: int) -> None:
    """Weights with which greedy text changes from token to token, as it does not where everything is drawn alike: what a layer
    adds is small beside the tokens, and the last norm's signs are random, or every token would be followed by itself."""
    randomise(model, seed)
    factors: dict[int, tuple[Tensor, float]] = {}
    for module in model.modules():
        kind = type(module).__name__
        factor = 2.0 if isinstance(module, nn.Embedding) else 1.0 if "Norm" in kind else 0.4
        if "Sinusoid" not in kind:
            factors |= {id(parameter): (parameter, factor) for parameter in module.parameters(recurse=False)}
    for parameter, factor in factors.values():
        parameter *= factor
    *_, last = (module for module in model.modules() if "Norm" in type(module).__name__)
    width = 1.0 if type(model).__name__.startswith("T5") else len(last.weight) ** 0.5  # T5 scales before its logits
    scale = 2.5 / (width * model.get_output_embeddings().weight.std())  # the logits' deviation
    last.weight.copy_(scale * torch.randn(len(last.weight), generator=torch.Generator().manual_seed(seed)))
    for bias in set(dict(last.named_parameters())) - {"weight"}:
        getattr(last, bias).mul_(scale / 2)


def lively(name: str, seed: int = 0, **changes: Any) -> Any:
    model = reference(name, **changes)
    make_lively(model, seed)
    return model


def read_back(model: Any, folder: Path, **says: Any) -> Any:
    """Our model from the reference's files. Both generate as ``says``, and as nothing else."""
    from transformers import GenerationConfig

    start = getattr(model.config, "decoder_start_token_id", None)
    says = {"pad_token_id": PAD, "decoder_start_token_id": start, "eos_token_id": None} | says
    model.generation_config = GenerationConfig(**says)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(says))
    return hw.load(folder)


def batch(name: str, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    """Prompts padded on the left, sources on the right."""
    real = keep(lengths)
    real = real.flip(1) if name in ALONE else real
    ids = torch.randint(3, 98, real.shape, generator=torch.Generator().manual_seed(5))
    return {"input_ids": ids.where(real, PAD), "attention_mask": real.long()}


def rows_of(inputs: Batch) -> list[Tensor]:
    """Every text of a batch alone, without its padding."""
    return [ids[None, real.bool()] for ids, real in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


def theirs(model: Any, inputs: Batch, limit: int = LIMIT, **how: Any) -> Any:
    """The reference's own generation; ``sequences`` without what was read."""
    how = {"do_sample": False, "max_new_tokens": limit} | how
    found = model.generate(**inputs, **how, return_dict_in_generate=True, output_scores=True)
    found.sequences = found.sequences[:, 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1] :]
    return found


def cut(row: list[int], ends: set[int]) -> tuple[list[int], bool]:
    """What stands before the first end token, and whether there is one."""
    places = [i for i, token in enumerate(row) if token in ends]
    return (row[: places[0]], True) if places else (row, False)


def said(found: list[Hypothesis]) -> list[tuple[list[int], bool]]:
    return [(hypothesis.tokens, hypothesis.ended) for hypothesis in found]


def assert_same(found: list[Hypothesis], wanted: list[Hypothesis]) -> None:
    assert said(found) == said(wanted)
    assert [one.score for one in found] == pytest.approx([one.score for one in wanted], abs=2e-4)


def said_by_half(rows: list[list[int]]) -> int | None:
    """A token that some rows say, about half of them, and others do not: as an end token it ends only those. Among such the
    one that comes latest; None where there is none."""
    count = Counter(token for row in rows for token in set(row))
    return max(
        (token for token in count if count[token] < len(rows)),
        key=lambda token: (-abs(count[token] - len(rows) / 2), min(row.index(token) for row in rows if token in row), token),
        default=None,
    )


@dataclass(frozen=True)
class Pair:
    """A reference, our model from its files, what they read, and the tokens that end what they say."""

    reference: Any
    ours: Any
    inputs: Batch
    ends: set[int]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A pair whose end token ends some of the greedy texts."""

    @cache
    def make(name: str, seed: int = 0) -> Pair:
        inputs, folder, eos = batch(name), tmp_path_factory.mktemp("model"), None
        while eos is None:  # until some texts end, others do not, and they do not only repeat themselves
            model = lively(name, seed)
            read_back(model, folder)
            texts, seed = theirs(model, inputs).sequences.tolist(), seed + 10
            eos = said_by_half(texts)
            if max(len(set(cut(row, {eos})[0])) for row in texts) < 4:
                eos = None
        return Pair(model, read_back(model, folder, eos_token_id=eos), inputs, {eos})

    return make


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A pair without an end token: everything goes to the limit."""

    @cache
    def make(name: str, seed: int = 0) -> Pair:
        model = lively(name, seed)
        return Pair(model, read_back(model, tmp_path_factory.mktemp("model")), batch(name), set())

    return make


# As the reference library


@EVERY
@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_the_references(pair, name, seed):
    it = pair(name, seed)
    want = theirs(it.reference, it.inputs)
    found = hw.generate(it.ours, **it.inputs, max_new_tokens=LIMIT)
    assert said(found) == [cut(row, it.ends) for row in want.sequences.tolist()]
    assert 0 < sum(hypothesis.ended for hypothesis in found) < len(found)
    assert max(len(set(hypothesis.tokens)) for hypothesis in found) > 3
    log_p = torch.stack(want.scores, dim=1).log_softmax(-1)
    for row, hypothesis in enumerate(found):
        tokens = torch.tensor([*hypothesis.tokens, *it.ends][:LIMIT])
        assert hypothesis.score == pytest.approx(log_p[row, range(len(tokens)), tokens].sum().item(), abs=2e-4)


def beams_of_theirs(it: Pair, search: Beam) -> list[list[Hypothesis]]:
    """All hypotheses of every input, the best first."""
    how = {"num_beams": search.width, "length_penalty": search.length_penalty, "early_stopping": True}
    want = theirs(it.reference, it.inputs, num_return_sequences=search.width, **how)
    texts = [cut(row, it.ends) for row in want.sequences.tolist()]
    flat = [Hypothesis(text, score, ended) for (text, ended), score in zip(texts, want.sequences_scores.tolist(), strict=True)]
    return [flat[i : i + search.width] for i in range(0, len(flat), search.width)]


def compare_beams(it: Pair, search: Beam) -> tuple[Counter[str], list[Any]]:
    """Our beams are the reference's, tokens and scores. Returns how they ended, and what they say.

    At the limit the two differ by design: here an unfinished hypothesis counts only where none has ended; there it competes
    with them, and may win, or push them off the list, though only with better scores.
    """
    kinds, found = Counter[str](), hw.generate(it.ours, **it.inputs, search=search, max_new_tokens=LIMIT)
    for one, want in zip(found, beams_of_theirs(it, search), strict=True):
        best = max((other for other in want if other.ended), key=lambda other: other.score, default=want[0])
        if one.ended and not best.ended:
            assert one.score < min(other.score for other in want)
            kinds["off their list"] += 1
        else:
            assert_same([one], [best])
            kinds["ended" if one.ended else "cut off"] += 1
    return kinds, said(found)


POWERS = (0.0, 0.6, 1.0, 2.0)


@EVERY
def test_beams_and_their_scores_are_the_references(pair, name):
    kinds = Counter[str]()
    for width, power in product((2, 3, 4), POWERS):
        kinds += compare_beams(pair(name, width % 2), Beam(width, power, offset=0.0))[0]
    assert min(kinds["ended"], kinds["cut off"]) >= 11, kinds


SAMPLED = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.8},
    "all": {"temperature": 1.3, "top_k": 11, "top_p": 0.7},
}


def samples_of_theirs(it: Pair, limit: int, how: dict[str, Any]) -> list[tuple[list[int], bool]]:
    torch.manual_seed(5)
    want = theirs(it.reference, it.inputs, limit, do_sample=True, **{"top_k": 0, "top_p": 1.0} | how)
    return [cut(row, it.ends) for row in want.sequences.tolist()]


@EVERY
@pytest.mark.parametrize("how", SAMPLED.values(), ids=SAMPLED.keys())
def test_samples_are_the_references(endless, name, how):
    it, limit = endless(name), 29
    found = hw.generate(it.ours, **it.inputs, search=Sample(**how, seed=5), max_new_tokens=limit)
    assert said(found) == samples_of_theirs(it, limit, how)


@EVERY
def test_whose_random_numbers_a_sample_takes(pair, name):
    """With a seed its own; without one torch's, as many as the reference takes, also for texts that have ended."""
    it, how, before = pair(name), SAMPLED["all"], torch.get_rng_state()
    found = hw.generate(it.ours, **it.inputs, search=Sample(**how, seed=5), max_new_tokens=LIMIT)
    assert torch.equal(torch.get_rng_state(), before)
    want = samples_of_theirs(it, LIMIT, how)
    state = torch.get_rng_state()
    assert said(found) == want
    torch.manual_seed(5)
    assert_same(hw.generate(it.ours, **it.inputs, search=Sample(**how), max_new_tokens=LIMIT), found)
    assert torch.equal(torch.get_rng_state(), state)
    again, other = (hw.generate(it.ours, **it.inputs, search=Sample(**how, seed=n), max_new_tokens=LIMIT) for n in (5, 7))
    assert again == found
    assert said(other) != want


@EVERY
def test_several_end_tokens(name, tmp_path):
    """Half of the vocabulary: hypotheses of many lengths compete, and often more end than go on."""
    model, inputs = lively(name, 2), batch(name)
    read_back(model, tmp_path)
    rows = theirs(model, inputs).sequences.tolist()
    ends = set(range(1, 99, 2))
    it = Pair(model, read_back(model, tmp_path, eos_token_id=list(ends)), inputs, ends)
    found = hw.generate(it.ours, **inputs, max_new_tokens=LIMIT)
    assert said(found) == [cut(row, it.ends) for row in rows]
    assert len({row[len(one.tokens)] for one, row in zip(found, rows, strict=True) if one.ended}) > 1
    beams = {power: [compare_beams(it, Beam(width, power, offset=0.0)) for width in (2, 3, 4)] for power in (0.0, 2.0)}
    assert sum(kinds["ended"] for compared in beams.values() for kinds, _ in compared) > 20  # of 30
    assert beams[0.0] != beams[2.0]  # the penalty matters


@EVERY
def test_forbidden_tokens_are_never_said(name, tmp_path):
    """Neither by us nor by the reference, whose scores keep the forbidden tokens' share of the probability."""
    model, inputs = lively(name), batch(name)
    read_back(model, tmp_path)
    free = theirs(model, inputs).sequences.tolist()
    often = [token for token, _ in Counter(token for row in free for token in row).most_common(4)]
    says = {"bad_words_ids": [[often[0]], [often[1]]], "suppress_tokens": often[2:]}
    ours = read_back(model, tmp_path, **says)
    hows: list[tuple[Search, dict[str, Any]]] = [
        (Greedy(), {}),
        (Beam(3, 1.0, offset=0.0), {"num_beams": 3, "early_stopping": True}),
        (Sample(seed=5), {"do_sample": True, "top_k": 0}),
    ]
    for search, how in hows:
        torch.manual_seed(5)
        want = theirs(model, inputs, **how)
        found = hw.generate(ours, **inputs, search=search, max_new_tokens=LIMIT)
        assert [one.tokens for one in found] == want.sequences.tolist()
        assert not {token for one in found for token in one.tokens} & set(often)
        if isinstance(search, Beam):
            assert [one.score for one in found] == pytest.approx(want.sequences_scores.tolist(), abs=2e-4)


# What the files say


@pytest.mark.parametrize("name", ["MarianMTModel", "GPT2LMHeadModel"])
def test_generation_config_goes_over_config(name, tmp_path):
    model, inputs = lively(name), batch(name)
    ours = read_back(model, tmp_path)
    free = [one.tokens for one in hw.generate(ours, **inputs, max_new_tokens=LIMIT)]
    eos, other = said_by_half(free), free[0][0]
    config, generation = tmp_path / "config.json", tmp_path / "generation_config.json"
    entries = json.loads(config.read_text()) | {"eos_token_id": eos, "bad_words_ids": None}

    def generated(in_config: dict[str, Any], in_generation: dict[str, Any] | None) -> list[tuple[list[int], bool]]:
        config.write_text(json.dumps(entries | in_config))
        generation.unlink(missing_ok=True)
        if in_generation is not None:
            generation.write_text(json.dumps(in_generation))
        return said(hw.generate(hw.load(tmp_path), **inputs, max_new_tokens=LIMIT))

    ended = [cut(row, {eos}) for row in free]
    assert generated({}, None) == generated({}, {}) == ended
    assert generated({}, {"eos_token_id": None}) == [(row, False) for row in free]
    assert generated({}, {"eos_token_id": other}) == [cut(row, {other}) for row in free] != ended
    assert generated({}, {"eos_token_id": [eos, other]}) == [cut(row, {eos, other}) for row in free]
    without = generated({}, {"bad_words_ids": [[other]]})
    assert without == generated({"bad_words_ids": [[other]]}, None) != ended
    assert generated({"bad_words_ids": [[other]]}, {"bad_words_ids": None}) == ended
    assert generated({}, {"bad_words_ids": [[other, other]], "num_beams": 4, "temperature": 3.0}) == ended  # not applied


# Sampling


def by_hand(p: list[float], temperature: float, top_k: int | None, top_p: float | None) -> list[float]:
    """What Sample.kept promises, token by token."""
    weights = [x ** (1 / temperature) for x in p]
    if top_k is not None:
        least = sorted(weights)[-top_k:][0]
        weights = [x if x >= least else 0.0 for x in weights]
    if top_p is not None:
        order, held, total, kept = sorted(range(len(p)), key=lambda i: -weights[i]), 0.0, sum(weights), set[int]()
        while order and held < top_p * total:
            kept.add(order[0])
            held += weights[order.pop(0)]
        weights = [x if i in kept else 0.0 for i, x in enumerate(weights)]
    return [x / sum(weights) for x in weights]


@pytest.mark.parametrize("top_p", [None, 1e-9, 0.21, 0.57, 0.93, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 7, 11, 13])
def test_what_is_drawn_from(top_k, top_p):
    weights = torch.cat([torch.randint(1, 5, (19, 11)).double(), torch.randn(19, 11).double().exp()])  # with ties, and without
    p = weights / weights.sum(-1, keepdim=True)
    for temperature in (1.0, 0.31, 2.3):
        kept = Sample(temperature, top_k, top_p).kept(p.log())
        want = torch.tensor([by_hand(row, temperature, top_k, top_p) for row in p.tolist()], dtype=torch.float64)
        torch.testing.assert_close(kept, want)
        assert torch.equal(kept > 0, want > 0)


def test_what_is_drawn_from_by_hand():
    log_p = torch.tensor([[0.1, 0.2, 0.2, 0.5]]).log()
    for sample, want in (
        (Sample(), [0.1, 0.2, 0.2, 0.5]),
        (Sample(top_k=2), [0, 2 / 9, 2 / 9, 5 / 9]),  # what is as probable as the second stays
        (Sample(top_k=99), [0.1, 0.2, 0.2, 0.5]),
        (Sample(top_p=0.6), [0, 2 / 7, 0, 5 / 7]),  # among equals the first
        (Sample(top_p=0.01), [0, 0, 0, 1]),
        (Sample(temperature=0.5), [1 / 34, 4 / 34, 4 / 34, 25 / 34]),
        (Sample(top_k=3, top_p=0.75), [0, 2 / 7, 0, 5 / 7]),  # of what top_k leaves, 0.5 / 0.9 and 0.2 / 0.9 hold 0.78
        (Sample(temperature=1e-3), [0, 0, 0, 1]),
    ):
        torch.testing.assert_close(sample.kept(log_p), torch.tensor([want], dtype=torch.float32))


def test_all_of_a_large_vocabulary_is_kept():
    log_p = (3 * torch.randn(2, 50257)).log_softmax(-1)
    assert torch.equal(Sample(top_p=1.0).kept(log_p), Sample().kept(log_p))
    forbidden = log_p.masked_fill(torch.rand(50257) < 0.5, -torch.inf)
    for sample in (Sample(), Sample(top_k=50257), Sample(top_p=0.999999), Sample(0.7, 40, 0.9)):
        kept = sample.kept(forbidden)
        assert kept[forbidden == -torch.inf].sum() == 0
        torch.testing.assert_close(kept.sum(-1), torch.ones(2))


@pytest.mark.parametrize("sample", [Sample(seed=0), Sample(0.7, top_k=5, top_p=0.9, seed=0)], ids=["plain", "all"])
def test_draws_are_distributed_so(sample):
    log_p, count = torch.randn(1, 11).log_softmax(-1), 100_000
    p = sample.kept(log_p)[0]
    drawn = sample.chooser(log_p.device)(log_p.expand(count, -1)).bincount(minlength=11) / count
    assert ((drawn - p).abs() <= 5 * (p * (1 - p) / count).sqrt()).all()


@EVERY
def test_close_to_the_most_probable_a_sample_is_greedy(pair, name):
    it = pair(name)
    greedy = hw.generate(it.ours, **it.inputs, max_new_tokens=7)
    for search in (Sample(temperature=1e-5), Sample(top_k=1), Sample(top_p=1e-9), Beam(1, 0.0)):
        assert_same(hw.generate(it.ours, **it.inputs, search=search, max_new_tokens=7), greedy)


# Caches and batches


class Recomputing:
    """Steps without a cache: every one is a full pass over everything so far."""

    def __init__(self, model: Any, input_ids: Tensor, attention_mask: Tensor, rows: int) -> None:
        self.model, self.ids = model, input_ids.repeat_interleave(rows, dim=0)
        self.keep = attention_mask.repeat_interleave(rows, dim=0)
        self.answers = hasattr(model, "encode")
        self.read = self.ids[:, :0] if self.answers else self.ids[:, :-1]

    @property
    def start(self) -> Tensor:
        return torch.full_like(self.ids[:, 0], self.model.start_token_id) if self.answers else self.ids[:, -1]

    def advance(self, tokens: Tensor) -> Tensor:
        self.read = torch.cat([self.read, tokens], dim=1)
        if self.answers:
            return self.model(self.ids, self.keep, self.read).logits[:, -1].log_softmax(-1)
        new = self.keep.new_ones(len(self.keep), self.read.shape[1] - self.keep.shape[1])
        return self.model(self.read, torch.cat([self.keep, new], dim=1)).logits[:, -1].log_softmax(-1)

    def reorder(self, index: Tensor) -> None:
        self.read = self.read[index]


@EVERY
@EVERY_SEARCH
def test_every_cache_says_what_full_passes_say(pair, name, search):
    it = pair(name)
    steps = Recomputing(it.ours, **it.inputs, rows=search.rows)
    want = search.run(steps, steps.start[:: search.rows], list(it.ends), [LIMIT] * len(LENGTHS))
    assert isinstance(search, Sample) or len({one.ended for one in want}) == 2
    just_enough = LIMIT + (max(LENGTHS) - 1 if name in ALONE else 0)
    for new in (Growing, lambda: hw.cache.Fixed(just_enough)):
        assert_same(hw.generate(it.ours, **it.inputs, search=search, max_new_tokens=LIMIT, cache=new), want)


@EVERY
@pytest.mark.parametrize(
    ("search", "new"), [(Greedy(), lambda: hw.cache.Fixed(64)), (Beam(3), Growing)], ids=["greedy, fixed", "beam, growing"]
)
def test_a_padded_batch_says_what_each_text_does_alone(pair, name, search, new):
    it = pair(name, 1)
    found = hw.generate(it.ours, **it.inputs, search=search, max_new_tokens=LIMIT, cache=new)
    alone = [hw.generate(it.ours, ids, search=search, max_new_tokens=LIMIT, cache=new)[0] for ids in rows_of(it.inputs)]
    assert_same(found, alone)
    more = batch(name)
    more = {key: nn.functional.pad(value, (3, 0) if name in ALONE else (0, 3)) for key, value in more.items()}
    assert_same(hw.generate(it.ours, **more, search=search, max_new_tokens=LIMIT, cache=new), found)


@EVERY
@pytest.mark.parametrize("masked", [False, True], ids=["all real", "padded"])
def test_a_fixed_cache_that_could_become_too_small(pair, name, masked):
    it = pair(name)
    inputs = it.inputs if masked else {"input_ids": it.inputs["input_ids"]}
    needed = LIMIT + (max(LENGTHS) - 1 if name in ALONE else 0)
    for size in (1, 3, needed - 1):  # less than the prompt, and than what follows
        with pytest.raises(ValueError, match=rf"Fixed\({size}\).* {needed} tokens will be read; make it longer"):
            hw.generate(it.ours, **inputs, max_new_tokens=LIMIT, cache=lambda size=size: hw.cache.Fixed(size))
    limits = [LIMIT, 1, 1, 1, 1]
    assert len(hw.generate(it.ours, **inputs, max_new_tokens=limits, cache=lambda: hw.cache.Fixed(needed))) == 5


@EVERY
def test_masks_of_every_kind(pair, name):
    it = pair(name)
    ids, real = it.inputs["input_ids"], it.inputs["attention_mask"]
    want = hw.generate(it.ours, ids, real, max_new_tokens=5)
    for mask in (real.bool(), real.float(), real.int()):
        assert hw.generate(it.ours, ids, mask, max_new_tokens=5) == want
    assert_same(hw.generate(it.ours, ids.int(), real, max_new_tokens=5), want)
    whole = ids[:1]  # no padding: no mask needed
    assert_same(hw.generate(it.ours, whole, max_new_tokens=5), want[:1])
    assert_same(hw.generate(it.ours, whole, torch.ones_like(whole), max_new_tokens=5), want[:1])
    for wrong in (real[:, 1:], real[:2], real[0]):
        with pytest.raises(ValueError, match=r"attention_mask: expected \(5, 7\), as input_ids; got"):
            hw.generate(it.ours, ids, wrong)


# Limits


@EVERY
def test_without_an_end_token_everything_goes_to_the_limit(endless, name):
    it = endless(name)
    free = theirs(it.reference, it.inputs).sequences.tolist()
    assert said(hw.generate(it.ours, **it.inputs, max_new_tokens=LIMIT)) == [(row, False) for row in free]
    for search in SEARCHES.values():
        found = hw.generate(it.ours, **it.inputs, search=search, max_new_tokens=LIMIT)
        assert [(len(one.tokens), one.ended) for one in found] == [(LIMIT, False)] * len(found)


def test_the_limit_that_nobody_named(endless):
    (found,) = hw.generate(endless("LlamaForCausalLM").ours, torch.tensor([[5]]))
    assert (len(found.tokens), found.ended) == (128, False)


@EVERY
@EVERY_SEARCH
def test_a_limit_for_every_row(pair, name, search):
    it, limits = pair(name), [3, LIMIT, 1, 3, LIMIT]
    found = hw.generate(it.ours, **it.inputs, search=search, max_new_tokens=limits)
    assert all(len(one.tokens) <= limit for one, limit in zip(found, limits, strict=True))
    assert any(not one.ended for one in found)
    for limit in set(limits):
        alike = hw.generate(it.ours, **it.inputs, search=search, max_new_tokens=limit)
        rows = [row for row in range(5) if limits[row] == limit]
        assert_same([alike[row] for row in rows], [found[row] for row in rows])


@pytest.mark.nohook
@pytest.mark.parametrize("limits", [0, -1, 2.0, None, [], [3], [3, 0, 3, 3, 3], [3, 3, 3, 3, 2.0], [1, 2, 3, 4, 5, 6]], ids=str)
def test_limits_that_are_none(pair, limits):
    it = pair("GPT2LMHeadModel")
    with pytest.raises(ValueError, match="max_new_tokens: expected at least 1, or that for each of 5 rows; got"):
        hw.generate(it.ours, **it.inputs, max_new_tokens=limits)


@pytest.mark.parametrize(("name", "room"), [("GPT2LMHeadModel", 58), ("MarianMTModel", 64)])
@pytest.mark.parametrize("new", [Growing, lambda: hw.cache.Fixed(64)], ids=["growing", "fixed"])
def test_positions_are_a_limit(endless, name, room, new):
    it = endless(name)
    want = theirs(it.reference, it.inputs, room).sequences.tolist()
    found = hw.generate(it.ours, **it.inputs, max_new_tokens=room + 1, cache=new)
    assert said(found) == [(row, False) for row in want]
    found = hw.generate(it.ours, **it.inputs, search=Beam(2), max_new_tokens=[1000] * 5, cache=new)
    assert [(len(one.tokens), one.ended) for one in found] == [(room, False)] * 5


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "LlamaForCausalLM"])
def test_without_a_table_of_positions_nothing_else_limits(endless, name):
    it = endless(name)  # Llama's max_position_embeddings, 64, is no table
    want = theirs(it.reference, it.inputs, 71).sequences.tolist()
    assert [one.tokens for one in hw.generate(it.ours, **it.inputs, max_new_tokens=71)] == want


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "MarianMTModel"])
@pytest.mark.parametrize("new", [Growing, lambda: hw.cache.Fixed(99)], ids=["growing", "fixed"])
def test_a_text_as_long_as_the_positions_and_longer(endless, name, new):
    it = endless(name)
    full = batch(name, (64, 3))
    found = hw.generate(it.ours, **full, max_new_tokens=5, cache=new)
    assert {len(one.tokens) for one in found} == ({1} if name in ALONE else {5})
    assert [one.tokens for one in found] == theirs(it.reference, full, len(found[0].tokens)).sequences.tolist()
    for length in (65, 66, 80):
        for inputs in (batch(name, (length, 3)), {"input_ids": torch.full((2, length), 5)}):
            with pytest.raises(ValueError, match=f"{length} tokens are more than this model's 64 positions"):
                hw.generate(it.ours, **inputs, max_new_tokens=5, cache=new)


@EVERY
@pytest.mark.parametrize("shape", [(2, 0), (0, 3)], ids=str)
def test_nothing_to_go_on_from(pair, name, shape):
    with pytest.raises(ValueError, match="input_ids: expected tokens, "):
        hw.generate(pair(name).ours, torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("name", ALONE)
def test_a_prompt_padded_on_the_right(pair, name):
    flipped = {key: value.flip(1) for key, value in batch(name).items()}
    with pytest.raises(ValueError, match="padded on its left"):
        hw.generate(pair(name).ours, **flipped)


def test_a_model_without_a_decoder(tmp_path):
    reference("BertForMaskedLM").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertForMaskedLM does not generate: it has no decoder"):
        hw.generate(hw.load(tmp_path), torch.tensor([[5, 7]]))


def test_a_model_in_training(tmp_path):
    """Its dropout would be heard, and nobody would know."""
    reference("GPT2LMHeadModel").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model: expected in eval mode"):
        hw.generate(hw.load(tmp_path).train(), torch.tensor([[5, 7]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sample(temperature=0.0), "temperature: expected a number above 0"),
        (lambda: Sample(temperature=float("nan")), "temperature: expected a number above 0"),
        (lambda: Sample(top_k=0), "top_k: expected at least 1; got 0"),
        (lambda: Sample(top_p=0.0), "top_p: expected a number in"),
        (lambda: Sample(top_p=1.01), "top_p: expected a number in"),
        (lambda: Beam(0), "width: expected at least 1; got 0"),
    ],
)
def test_searches_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# What stays


@EVERY
@EVERY_SEARCH
def test_nothing_is_changed(pair, name, search):
    it, made = pair(name), list[Growing]()
    weights = {key: value.clone() for key, value in it.ours.state_dict().items()}
    inputs = {key: value.clone() for key, value in it.inputs.items()}
    limits, modes = [5] * 5, {module: module.training for module in it.ours.modules()}
    hw.generate(it.ours, **inputs, search=search, max_new_tokens=limits, cache=lambda: made.append(Growing()) or made[-1])
    assert all(module.training == mode for module, mode in modes.items())
    assert limits == [5] * 5
    assert all(torch.equal(inputs[key], value) for key, value in it.inputs.items())
    assert all(torch.equal(weights[key], value) for key, value in it.ours.state_dict().items())
    assert torch.is_grad_enabled()
    assert all(weight.requires_grad and weight.grad is None for weight in it.ours.parameters())
    assert len(made) == 2
    assert not any(cache.key.requires_grad or cache.value.requires_grad for cache in made)


@EVERY
def test_in_inference_mode(pair, name):
    it = pair(name)
    want = hw.generate(it.ours, **it.inputs, search=Beam(2), max_new_tokens=5)
    for new in (Growing, lambda: hw.cache.Fixed(64)):
        with torch.inference_mode():
            assert_same(hw.generate(it.ours, **it.inputs, search=Beam(2), max_new_tokens=5, cache=new), want)


@EVERY
def test_every_step_can_be_observed(endless, name):
    it = endless(name)
    ids = torch.randint(3, 98, (3, 7))
    with hw.observe(it.ours) as record:
        found = hw.generate(it.ours, ids, max_new_tokens=11)
    tokens = torch.tensor([one.tokens for one in found])[:, :-1]  # the last one is not read
    with hw.observe(it.ours) as full:
        if name in ALONE:
            it.ours(torch.cat([ids, tokens], dim=1))
        else:
            it.ours(ids, decoder_input_ids=torch.cat([torch.full_like(ids[:, :1], it.ours.start_token_id), tokens], dim=1))
    assert set(record) == set(full)
    for address, calls in record.items():
        assert len(calls) == (1 if address.startswith("encoder") else 11)
        torch.testing.assert_close(calls.joined().weights(), full[address].weights(), rtol=1e-4, atol=1e-5)
    plain = hw.generate(it.ours, ids, max_new_tokens=11)
    assert_same(found, plain)  # looking changes nothing
