"""Means over a data set and their intervals."""

import pytest
import torch
from heads import recorded

import headwise as hw
from headwise.insight.measuring.bootstrap import interval
from headwise.insight.measuring.statistics import PerSequence


def batch(sequences: int, length: int, spread: float = 1.0) -> dict:
    query, key = (spread * torch.randn(sequences, 3, length, 5) for _ in range(2))
    return {"a": [recorded(query, key)]}


def test_the_mean_is_that_of_all_batches_at_once():
    records = [batch(2, 7), batch(3, 11), batch(1, 5)]
    tokens = [torch.randint(3, (2, 7)), torch.randint(3, (3, 11)), torch.randint(3, (1, 5))]
    measured = [hw.statistics(record, tokens=ids) for record, ids in zip(records, tokens, strict=True)]
    found = hw.bootstrap(measured, resamples=50)["a"]
    together = hw.statistics({"a": [call for record in records for call in record["a"]]})["a"]
    assert {"entropy", "spread", "induction", "diagonality"} <= found.keys()
    for name in together.by_sequence:
        torch.testing.assert_close(found[name].mean, getattr(together, name))
        assert ((found[name].low <= found[name].mean) & (found[name].mean <= found[name].high)).all()
        assert found[name].sequences == 6


def test_the_interval_is_the_percentiles_of_resampled_ratios():
    sums, queries = torch.rand(13, 2) * 9, torch.randint(1, 9, (13, 2))
    found = interval(PerSequence(sums, queries), resamples=200, confidence=0.8, seed=3)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(13, (200, 13), generator=generator)
    ratios = torch.stack([sums[d].sum(0) / queries[d].sum(0) for d in drawn])
    torch.testing.assert_close(found.low, ratios.quantile(0.1, dim=0))
    torch.testing.assert_close(found.high, ratios.quantile(0.9, dim=0))
    torch.testing.assert_close(found.mean, sums.sum(0) / queries.sum(0))


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    hits = 0
    for seed in range(200):
        sums = torch.randn(40, 1, generator=torch.Generator().manual_seed(1000 + seed))
        found = interval(PerSequence(sums, torch.ones(40, 1, dtype=torch.long)), resamples=200, confidence=0.9, seed=seed)
        hits += int(found.low < 0 < found.high)
    assert 165 <= hits <= 195  # 180, within three standard deviations


def test_more_sequences_narrow_it_and_seeds_repeat_it():
    measured = [hw.statistics(batch(5, 7, 3.0)) for _ in range(16)]
    few, many, again = (hw.bootstrap(part, seed=1)["a"]["entropy"] for part in (measured[:2], measured, measured))
    assert ((many.high - many.low) < (few.high - few.low)).all()
    assert torch.equal(many.low, again.low)
    assert not torch.equal(many.low, hw.bootstrap(measured, seed=2)["a"]["entropy"].low)


def test_a_sequence_without_a_query_counts_for_nothing():
    numbers = PerSequence(torch.tensor([[6.0], [0.0], [9.0]]), torch.tensor([[2], [0], [3]]))
    found = interval(numbers, resamples=100, confidence=0.95, seed=0)
    assert found.mean == found.low == found.high == 3
    nothing = interval(PerSequence(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.long)), 10, 0.95, 0)
    assert nothing.mean.isnan()
    assert nothing.low.isnan()


def test_interrupted_it_keeps_what_was_finished(capsys):
    def measured():
        yield hw.statistics(batch(2, 5))
        raise KeyboardInterrupt

    assert hw.bootstrap(measured())["a"]["entropy"].sequences == 2
    assert "interrupted" in capsys.readouterr().err


def test_wrong_input_is_said():
    one, other = hw.statistics(batch(2, 5)), hw.statistics(batch(2, 5), tokens=torch.zeros(2, 5, dtype=torch.long))
    for measured, options, message in (
        ([], {}, "nothing was measured"),
        ([one, other], {}, "in every batch; got .*induction"),
        ([one], {"resamples": 0}, "at least 1 .* got 0"),
        ([one], {"confidence": 95.0}, "between 0 and 1; got .*95"),
    ):
        with pytest.raises(ValueError, match=message):
            hw.bootstrap(measured, **options)
