"""Statistics against their closed forms on the full matrix, and on heads whose answer is known."""

import math

import pytest
import torch
from heads import pattern, recorded

import headwise as hw
from headwise.insight.measuring import statistics as module


@pytest.mark.parametrize("block", [1, 60, 2**22], ids=["row by row", "some rows", "at once"])
def test_closed_forms_on_the_full_matrix(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    query, key = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 11, 7)
    keep = torch.rand(2, 11) > 0.3
    keep[:, -5:] = True
    call = recorded(query, key, hw.masks.causal() & hw.masks.padding(keep))
    got = hw.statistics({"a": [call]}, top=2)["a"]
    p = call.weights()
    i, j = torch.arange(5)[:, None] + 6, torch.arange(11)
    heads = lambda x: x.transpose(0, 1).flatten(1).mean(1)
    entropy = -(p * p.clamp(min=1e-30).log()).sum(-1)
    mean_row = p.mean(-2)
    mutual = -(mean_row * mean_row.clamp(min=1e-30).log()).sum(-1) - entropy.mean(-1)
    expected = {
        "entropy": heads(entropy),
        "alignment": mutual.mean(0),
        "first": heads(torch.stack([one[..., real.nonzero()[0, 0]] for one, real in zip(p, keep, strict=True)])),
        "previous": heads((p * (j == i - 1)).sum(-1)),
        "own": heads((p * (j == i)).sum(-1)),
        "next": heads((p * (j == i + 1)).sum(-1)),
        "distance": heads((p * (i - j).abs()).sum(-1)),
        "spread": heads((p * (i - j - (p * (i - j)).sum(-1, keepdim=True)) ** 2).sum(-1).sqrt()),  # causal: no sign is lost
        "top_mass": heads(p.topk(2).values.sum(-1)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(got, name), value, msg=name)
    seen = call.allowed().sum(-2)
    torch.testing.assert_close(got.received, p.sum(-2) / seen.clamp(min=1))
    assert torch.equal(got.top_keys, p.topk(2).indices)
    assert got.queries.tolist() == [2 * 5] * 3


def test_known_heads():
    n = 6
    previous = torch.eye(n).roll(1, 0)
    previous[0] = torch.eye(n)[0]
    uniform = torch.full((n, n), 1 / n)
    sink = torch.zeros(n, n)
    sink[:, 0] = 1
    copy, previous, uniform, sink = (
        hw.statistics({"a": [pattern(weights)]})["a"] for weights in (torch.eye(n), previous, uniform, sink)
    )
    assert copy.own == 1
    assert copy.distance == copy.spread == 0
    assert copy.diagonality == pytest.approx(1)
    assert copy.alignment == pytest.approx(math.log(n))
    assert previous.previous == pytest.approx((n - 1) / n)
    assert previous.own == pytest.approx(1 / n)
    assert uniform.entropy == pytest.approx(math.log(n))
    assert uniform.alignment == pytest.approx(0, abs=1e-6)
    assert uniform.diagonality == pytest.approx(0, abs=1e-6)
    assert uniform.top_mass == pytest.approx(3 / n)
    assert sink.diagonality == 0
    assert sink.first == 1
    assert sink.entropy == 0
    assert sink.distance == pytest.approx((n - 1) / 2)
    assert torch.equal(sink.received.flatten(), torch.tensor([1.0, 0, 0, 0, 0, 0]))


def test_padded_and_empty_queries_are_left_out():
    query = torch.randn(1, 2, 7, 3)
    keep = torch.tensor([[True] * 4 + [False] * 3])
    padded = hw.statistics({"a": [recorded(query, query, hw.masks.padding(keep))]})["a"]
    alone = hw.statistics({"a": [recorded(query[:, :, :4], query[:, :, :4])]})["a"]
    torch.testing.assert_close(padded.entropy, alone.entropy)
    torch.testing.assert_close(padded.distance, alone.distance)
    torch.testing.assert_close(padded.received[..., :4], alone.received)
    assert padded.received[..., 4:].abs().max() == 0
    assert padded.queries.tolist() == [4, 4]
    later = hw.statistics({"a": [recorded(query, query[:, :, :3], hw.masks.causal())]})["a"]  # rows 0 to 3 are empty
    assert later.queries.tolist() == [3, 3]
    assert later.entropy.isfinite().all()


def test_across_two_sequences_there_are_no_distances():
    call = recorded(torch.randn(1, 2, 5, 3), torch.randn(1, 2, 7, 3), same_sequence=False)
    got = hw.statistics({"a": [call]})["a"]
    assert got.distance is None
    assert got.previous is None
    assert got.entropy.shape == (2,)


def test_several_calls_are_weighted_by_their_queries():
    calls = [recorded(x, x) for x in (torch.randn(1, 2, 3, 5), torch.randn(2, 2, 7, 5))]
    one, other = (hw.statistics({"a": [call]})["a"] for call in calls)
    both = hw.statistics({"a": calls})["a"]
    torch.testing.assert_close(both.entropy, (one.entropy * 3 + other.entropy * 14) / 17)
    assert both.queries.tolist() == [17, 17]
    assert both.received is None


def test_a_head_without_queries_in_one_call_is_counted_in_the_others():
    x = torch.randn(2, 2, 3, 5)
    nothing = torch.tensor([True, False])[:, None, None]
    calls = [recorded(x, x), recorded(x, x, hw.masks.dense(nothing))]
    one, other = (hw.statistics({"a": [call]})["a"] for call in calls)
    both = hw.statistics({"a": calls})["a"]
    assert both.queries.tolist() == [12, 6]
    torch.testing.assert_close(both.entropy[0], (one.entropy[0] + other.entropy[0]) / 2)
    torch.testing.assert_close(both.entropy[1], one.entropy[1])
    with pytest.raises(ValueError, match="all self-attention"):
        hw.statistics({"a": [recorded(x, x), recorded(x, x, same_sequence=False)]})


@pytest.mark.parametrize("same_sequence", [True, False], ids=["one sequence", "two"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", ""])
@pytest.mark.parametrize(("batch", "queries", "keys"), [(2, 0, 3), (2, 3, 0), (2, 0, 0), (0, 3, 3)])
def test_nothing_to_count(batch, queries, keys, masked, same_sequence):
    query, key = torch.randn(batch, 2, queries, 5), torch.randn(batch, 2, keys, 5)
    mask = hw.masks.padding(torch.ones(batch, keys, dtype=torch.bool)) if masked else None
    known = {"tokens": torch.zeros(batch, keys, dtype=torch.long), "groups": {"all": torch.ones(batch, keys, dtype=torch.bool)}}
    got = hw.statistics({"a": [recorded(query, key, mask, same_sequence=same_sequence)]}, **known)["a"]
    assert got.queries.tolist() == [0, 0]
    assert {"entropy", "to all"} <= got.by_sequence.keys()
    assert ("induction" in got.by_sequence) == same_sequence
    for numbers in got.by_sequence.values():
        assert numbers.mean.shape == (batch, 2)
        assert numbers.mean.isnan().all()
        assert numbers.overall.isnan().all()
    assert got.received.shape == (batch, 2, keys)
    assert got.top_keys.shape == (batch, 2, queries, min(3, keys))
    assert "0 queries" in repr(got)
