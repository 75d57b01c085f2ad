"""Greedy and beam search against full passes, brute force and themselves: one by one, and in a batch."""

import math
from itertools import product

import pytest
import torch

from headwise.attention.cache import Growing
from headwise.models.generation import Beam, Greedy, _Answering
from headwise.models.transformer import Transformer
from headwise.tasks.pairs import pad
from headwise.tasks.translate import Search, search

START, END, VOCAB = 0, 1, 4
LONGEST = 17
SEEDS = pytest.mark.parametrize("seed", range(4))


def greedy(steps, start, end, limits):
    return Greedy().run(steps, torch.full((len(limits),), start), [end], limits)


def beam(steps, start, end, limits, width, length_penalty):
    return Beam(width, length_penalty).run(steps, torch.full((len(limits),), start), [end], limits)


def random_sources() -> list[list[int]]:
    return [[*torch.randint(3, 11, (n - 1,)).tolist(), 2] for n in (11, 3, 2, 7, 5)]


@torch.no_grad()
def log_p(model: Transformer, source: list[int], tokens: list[int]) -> torch.Tensor:
    """Of every next token after each of ``tokens``, by one full pass over one sentence."""
    return model(torch.tensor([source]), decoder_input_ids=torch.tensor([[1, *tokens]])).logits[0].log_softmax(-1)


def penalty(length: int, power: float) -> float:
    return ((5 + length) / 6) ** power


@SEEDS
def test_greedy_is_full_passes_without_a_cache(random_model, seed):
    model, sources = random_model(seed), random_sources()
    for source, found in zip(sources, search(model, sources, Search(beams=1)), strict=True):
        tokens, score = [], 0.0
        while len(tokens) < LONGEST:
            best, token = log_p(model, source, tokens)[-1].max(-1)
            score += best.item()
            if token == 2:
                break
            tokens.append(token.item())
        assert found.tokens == tokens
        assert found.ended == (token == 2)
        assert found.score == pytest.approx(score, abs=1e-4)


@SEEDS
@pytest.mark.parametrize("beams", [1, 4])
def test_batched_is_one_by_one(random_model, seed, beams):
    model, sources = random_model(seed), random_sources()
    for source, found in zip(sources, search(model, sources, Search(beams)), strict=True):
        (alone,) = search(model, [source], Search(beams))
        assert (found.tokens, found.ended) == (alone.tokens, alone.ended)
        assert found.score == pytest.approx(alone.score, abs=1e-4)


def test_these_models_end_and_do_not_only_repeat_themselves(random_model):
    found = [h.tokens for seed in range(4) for h in search(random_model(seed), random_sources(), Search(beams=4))]
    assert 4 <= sum(len(tokens) < LONGEST for tokens in found) <= 16
    assert sum(len(set(tokens)) > 1 for tokens in found) >= 8


@pytest.mark.parametrize("beams", [1, 4])
def test_extra_tokens_are_counted_from_the_source_itself(random_model, beams):
    model, sources = random_model(0), random_sources()
    for source, found in zip(sources, search(model, sources, Search(beams, extra_tokens=2)), strict=True):
        (alone,) = search(model, [source], Search(beams, extra_tokens=2))
        assert len(alone.tokens) <= len(source) + 2
        assert found.tokens == alone.tokens  # whatever its neighbours


@SEEDS
def test_a_beam_of_one_is_greedy(random_model, seed):
    model, source = random_model(seed), random_sources()
    ids = pad(source, 0)
    steps = [_Answering(model, Growing, ids, ids != 0, torch.ones_like(ids[:, :1]), 1) for _ in range(2)]
    want = greedy(steps[0], 1, 2, [13] * len(source))
    got = beam(steps[1], 1, 2, [13] * len(source), width=1, length_penalty=0.6)
    assert [(h.tokens, h.ended) for h in got] == [(h.tokens, h.ended) for h in want]
    for one, other in zip(got, want, strict=True):
        assert one.score == pytest.approx(other.score / penalty(min(len(one.tokens) + 1, 13), 0.6), abs=1e-5)


@SEEDS
@pytest.mark.parametrize("beams", [2, 4])
def test_scores_are_those_of_the_tokens_found(random_model, seed, beams):
    model, sources = random_model(seed), random_sources()
    for source, found in zip(sources, search(model, sources, Search(beams, 1.3)), strict=True):
        said = [*found.tokens, 2][:LONGEST]
        score = log_p(model, source, said[:-1]).gather(1, torch.tensor(said)[:, None]).sum().item()
        assert found.score == pytest.approx(score / penalty(len(said), 1.3), abs=1e-4)


@torch.no_grad()
def test_reordered_rows_go_on_as_the_rows_they_were(random_model):
    model, ids, width = random_model(0), pad(random_sources()[1:3], 0), 3
    steps = _Answering(model, Growing, ids, ids != 0, torch.ones_like(ids[:, :1]), width)
    first, second, index = torch.arange(3, 9)[:, None], torch.arange(4, 10)[:, None], torch.tensor([2, 0, 0, 4, 5, 3])
    steps.advance(first)
    steps.reorder(index)
    ids = ids.repeat_interleave(width, dim=0)
    want = model(ids, ids != 0, torch.cat([first[index], second], dim=1)).logits[:, -1]
    torch.testing.assert_close(steps.advance(second), want.float().log_softmax(-1))


class Chain:
    """Next tokens by step and the last two tokens, a table (steps, vocab, vocab, vocab) per input, the last step's for all that
    follow. Every row keeps what it has read, so that a wrong reorder shows."""

    def __init__(self, tables: torch.Tensor, width: int = 1) -> None:
        self.tables, self.width, self.advances = tables, width, 0
        self.read = [[START] for _ in range(len(tables) * width)]

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        assert tokens.shape == (len(self.read), 1)
        for row, token in zip(self.read, tokens[:, 0].tolist(), strict=True):
            row.append(token)
        self.advances += 1
        step = min(self.advances, self.tables.shape[1]) - 1
        scores = [self.tables[i // self.width, step, row[-2], row[-1]] for i, row in enumerate(self.read)]
        return torch.stack(scores).float().log_softmax(-1)

    def reorder(self, index: torch.Tensor) -> None:
        self.read = [list(self.read[i]) for i in index]


def score(table: torch.Tensor, said: list[int]) -> float:
    read, p = [START, START, *said], table.double().log_softmax(-1)
    return sum(p[min(i, len(p) - 1), read[i], read[i + 1], token].item() for i, token in enumerate(said))


def test_a_beam_that_covers_everything_finds_the_best():
    tables = 2 * torch.randn(40, 4, VOCAB, VOCAB, VOCAB)
    tables[:, 3, ..., END] = 99.0  # nothing goes on after the last step: the best hypothesis is one that ends
    said = [[*tokens, END] for length in range(4) for tokens in product([0, 2, 3], repeat=length)]
    scores = torch.tensor([[score(table, tokens) for tokens in said] for table in tables])
    winners = []
    for power in (0.0, 0.6, 3.0):
        found = beam(Chain(tables, 64), START, END, [4] * len(tables), width=64, length_penalty=power)
        best = (scores / torch.tensor([penalty(len(tokens), power) for tokens in said])).max(1)
        winners.append([said[i][:-1] for i in best.indices])
        assert [h.tokens for h in found] == winners[-1]
        assert all(h.ended for h in found)
        assert [h.score for h in found] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert winners[0] != winners[1] != winners[2]  # the penalty matters here,
    assert {len(tokens) for tokens in winners[2]} == {0, 1, 2, 3}
    narrow = beam(Chain(tables), START, END, [4] * len(tables), width=1, length_penalty=0.6)
    assert [h.tokens for h in narrow] != winners[1]  # and so does the width


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_inputs_do_not_depend_on_each_other(width):
    tables = 2 * torch.randn(17, 1, VOCAB, VOCAB, VOCAB)
    together = beam(Chain(tables, width), START, END, [13] * len(tables), width, 0.6)
    alone = [beam(Chain(table[None], width), START, END, [13], width, 0.6)[0] for table in tables]
    assert [h.tokens for h in together] == [h.tokens for h in alone]
    assert [h.score for h in together] == pytest.approx([h.score for h in alone], abs=1e-5)


def test_score_by_hand():
    p = torch.zeros(VOCAB, VOCAB, VOCAB)
    p[START, START] = torch.tensor([0.0, 0.1, 0.6, 0.3])
    p[START, 2] = torch.tensor([0.0, 0.3, 0.35, 0.35])
    p[START, 3] = torch.tensor([0.0, 0.9, 0.1, 0.0])
    (found,) = beam(Chain(p.log()[None, None], 2), START, END, [2], width=2, length_penalty=0.6)
    assert found.tokens == [3]  # 3 END: 0.27; END: 0.1; 2 END: 0.18; 2 2 and 2 3: 0.21
    assert found.score == pytest.approx(math.log(0.27) / (7 / 6) ** 0.6)
    (found,) = greedy(Chain(p.log()[None, None]), START, END, [1])
    assert found.tokens == [2]
    assert found.score == pytest.approx(math.log(0.6))


def test_cut_off_at_max_tokens():
    tables = torch.randn(3, 1, VOCAB, VOCAB, VOCAB)
    tables[..., END] = -torch.inf
    for width in (1, 2, 4):
        steps = Chain(tables, width)
        found = beam(steps, START, END, [7] * 3, width, length_penalty=0.6)
        assert [(len(h.tokens), h.ended) for h in found] == 3 * [(7, False)]
        assert steps.advances == 7
        want = [score(table, h.tokens) / (12 / 6) ** 0.6 for table, h in zip(tables, found, strict=True)]
        assert [h.score for h in found] == pytest.approx(want, abs=1e-5)
    steps = Chain(tables)
    found = greedy(steps, START, END, [7] * 3)
    assert [(len(h.tokens), h.ended) for h in found] == 3 * [(7, False)]
    assert [h.score for h in found] == pytest.approx([score(*x) for x in zip(tables, (h.tokens for h in found), strict=True)])
    assert steps.advances == 7


def test_a_complete_hypothesis_is_preferred_to_one_cut_off():
    p = torch.zeros(VOCAB, VOCAB, VOCAB)
    p[START, START] = torch.tensor([0.0, 0.1, 0.6, 0.3])
    p[START, 2] = torch.tensor([0.0, 0.2, 0.3, 0.5])
    p[START, 3] = torch.tensor([0.0, 0.9, 0.1, 0.0])
    (found,) = beam(Chain(p.log()[None, None], 2), START, END, [2], width=2, length_penalty=0.6)
    assert (found.tokens, found.ended) == ([3], True)  # 0.27, though 2 3, unfinished, has 0.30


@pytest.mark.parametrize("width", [1, 3])
def test_every_input_has_its_own_limit(width):
    tables = torch.randn(3, 1, VOCAB, VOCAB, VOCAB)
    tables[..., END] = -torch.inf
    found = beam(Chain(tables, width), START, END, [5, 2, 7], width, length_penalty=0.6)
    assert [len(h.tokens) for h in found] == [5, 2, 7]
    assert [len(h.tokens) for h in greedy(Chain(tables), START, END, [5, 2, 7])] == [5, 2, 7]


def test_the_search_stops_when_every_input_is_done():
    tables = torch.zeros(2, 1, VOCAB, VOCAB, VOCAB)
    tables[0, 0, START, START, END] = tables[1, 0, START, START, 2] = tables[1, 0, START, 2, END] = 9.0
    for run in (
        lambda steps: greedy(steps, START, END, [100] * 2),
        lambda steps: beam(steps, START, END, [100] * 2, width=1, length_penalty=0.6),
    ):
        steps = Chain(tables)
        assert [h.tokens for h in run(steps)] == [[], [2]]
        assert steps.advances == 2
