"""What needs more than the record: tokens, groups of keys, places; and what kind of head gives which number."""

import pytest
import torch
from heads import pattern, recorded

import headwise as hw


def measured(call, **known) -> "hw.insight.statistics.HeadStatistics":
    return hw.statistics({"a": [call]}, **known)["a"]


def random_call(batch=2, heads=3, length=11, **options):
    return recorded(2 * torch.randn(batch, heads, length, 5), 2 * torch.randn(batch, heads, length, 5), **options)


def per_head(number: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean over the queries counted, (batch, heads, queries) -> (heads,)."""
    counted = counted.expand_as(number)
    return torch.stack([x[c].mean() for x, c in zip(number.unbind(1), counted.unbind(1), strict=True)])


# -- places -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sinks", [None, torch.randn(3)], ids=["no sinks", "sinks"])
def test_distance_and_spread_are_mean_and_deviation_under_p(sinks):
    call = random_call(sinks=sinks)
    p, i = call.weights().double(), torch.arange(11.0).double()
    apart = (i[:, None] - i).abs()
    missing = 1 - p.sum(-1)  # a sink's share, at distance 0
    mean = (p * apart).sum(-1)
    variance = (p * (apart - mean[..., None]) ** 2).sum(-1) + missing * mean**2
    got = measured(call, places=hw.places.Line(0.02))
    torch.testing.assert_close(got.distance.double(), 0.02 * mean.mean((0, 2)), rtol=1e-5, atol=0)
    torch.testing.assert_close(got.spread.double(), 0.02 * variance.sqrt().mean((0, 2)), rtol=1e-5, atol=0)


def test_spread_of_a_sharp_head_far_away_is_not_rounding():
    query, key = torch.ones(1, 1, 3, 1), torch.zeros(1, 1, 32771, 1)
    key[..., 5, 0], key[..., 7, 0] = 90.0, 84.0
    call = recorded(query, key)
    near = torch.sigmoid(torch.tensor(6.0).double())  # the weight on key 5, the rest on key 7
    torch.testing.assert_close(measured(call).spread.double(), (near * (1 - near) * 4).sqrt()[None], rtol=1e-4, atol=0)


def test_patches_are_apart_in_two_dimensions_and_special_tokens_count_for_nothing():
    call, special, height, width = random_call(length=2 + 3 * 5), 2, 3, 5
    got = measured(call, places=hw.places.Grid(height, width, special=special, unit=16.0))
    at = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()
    p = call.weights()[:, :, special:]
    apart = torch.nn.functional.pad(torch.cdist(at, at), (special, 0))
    mean = (p * apart).sum(-1)
    torch.testing.assert_close(got.distance, 16 * mean.mean((0, 2)))
    torch.testing.assert_close(got.spread, 16 * (p * (apart - mean[..., None]) ** 2).sum(-1).sqrt().mean((0, 2)))
    assert got.by_sequence["distance"].queries.tolist() == [[height * width] * 3] * 2
    assert got.queries.tolist() == [2 * (special + height * width)] * 3


# -- diagonality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(7, 7), (7, 13), (13, 7)])
def test_diagonality_is_the_correlation_of_drawn_pairs(lengths):
    p = torch.rand(2, 3, *lengths).double() ** 4
    p = p / p.sum(-1, keepdim=True)
    expected = torch.stack([correlation(one) for one in p.flatten(0, 1)]).unflatten(0, (2, 3)).mean(0)
    got = measured(pattern(p.float(), same_sequence=False)).diagonality
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def correlation(p: torch.Tensor) -> torch.Tensor:
    i, j = torch.meshgrid(torch.arange(p.shape[0]), torch.arange(p.shape[1]), indexing="ij")
    (ii, ij), (_, jj) = torch.cov(torch.stack([i.flatten(), j.flatten()]), aweights=p.flatten(), correction=0)
    return ij / (ii * jj).sqrt()


def test_a_monotone_alignment_across_sequences_is_diagonal_and_its_mirror_is_not():
    queries, keys = 12, 36
    weights = torch.zeros(queries, keys)
    weights[torch.arange(queries), 3 * torch.arange(queries)] = 1
    assert measured(pattern(weights, same_sequence=False)).diagonality == pytest.approx(1)
    assert measured(pattern(weights.flip(0), same_sequence=False)).diagonality == pytest.approx(-1)


def test_diagonality_does_not_see_padding():
    length, far = 5, 2003
    weights = torch.rand(length, length) ** 4
    weights = weights / weights.sum(-1, keepdim=True)
    wide = torch.nn.functional.pad(weights, (0, far - length, 0, far - length), value=0.5)
    padded = measured(pattern(wide, mask=hw.masks.padding(torch.arange(far)[None] < length)))
    torch.testing.assert_close(padded.diagonality, measured(pattern(weights)).diagonality, rtol=1e-3, atol=1e-4)


# -- tokens -------------------------------------------------------------------------------------------------------------


def test_duplicate_and_induction_are_sums_over_earlier_occurrences():
    call, tokens = random_call(mask=hw.masks.causal()), torch.randint(4, (2, 11))
    p, duplicate, induction = call.weights(), torch.zeros(2, 3, 11), torch.zeros(2, 3, 11)
    occurred = torch.zeros(2, 1, 11, dtype=torch.bool)
    for b in range(2):
        for i in range(11):
            for k in range(i):
                if tokens[b, k] == tokens[b, i]:
                    occurred[b, 0, i] = True
                    duplicate[b, :, i] += p[b, :, i, k]
                    induction[b, :, i] += p[b, :, i, k + 1]
    got = measured(call, tokens=tokens)
    torch.testing.assert_close(got.duplicate, per_head(duplicate, occurred))
    torch.testing.assert_close(got.induction, per_head(induction, occurred))
    torch.testing.assert_close(got.by_query["induction"], induction)
    assert got.by_sequence["induction"].queries[:, 0].tolist() == occurred[:, 0].sum(-1).tolist()


def test_known_heads_on_a_repeated_sequence():
    n = 7
    tokens = torch.randperm(n).repeat(2)[None]
    at = torch.arange(2 * n)
    induction, duplicate = torch.eye(2 * n), torch.eye(2 * n)
    induction[n:], duplicate[n:] = torch.eye(2 * n)[at[n:] - n + 1], torch.eye(2 * n)[at[n:] - n]
    found = measured(pattern(induction), tokens=tokens), measured(pattern(duplicate), tokens=tokens)
    assert [(one.induction.item(), one.duplicate.item()) for one in found] == [(1, 0), (0, 1)]
    assert measured(pattern(induction), tokens=at[None]).induction.isnan()  # nothing occurs twice
    assert measured(pattern(induction)).induction is None


def test_padding_occurs_nowhere():
    tokens = torch.tensor([[9, 9, 9, 4, 9, 5]])  # the beginning is padding, of a token that also occurs
    keep = torch.tensor([[False, False, False, True, True, True]])
    got = measured(random_call(1, 2, 6, mask=hw.masks.padding(keep)), tokens=tokens)
    assert got.by_sequence["duplicate"].queries.tolist() == [[0, 0]]


# -- groups -------------------------------------------------------------------------------------------------------------


def test_shares_of_groups_are_sums_over_their_keys():
    keep = torch.arange(11) < torch.tensor([[11], [8]])
    call = random_call(mask=hw.masks.padding(keep))
    p, real = call.weights(), keep[:, None]
    groups = {"marks": torch.rand(2, 11) > 0.6, "padding": ~keep, "head": torch.arange(11) < 2}
    got = measured(call, groups=groups)
    assert not got.shares["to padding"].any()
    for name, keys in groups.items():
        keys = keys.expand(2, 11)
        share = (p * keys[:, None, None]).sum(-1)
        torch.testing.assert_close(got.shares[f"to {name}"], per_head(share, real))
        for of, queries in groups.items():
            if of != "padding":
                expected = per_head(share, real & queries.expand(2, 11)[:, None])
                torch.testing.assert_close(got.shares[f"{of} to {name}"], expected)
    assert got.shares["padding to marks"].isnan().all()


def test_groups_of_queries_are_those_at_their_positions():
    call = recorded(torch.randn(2, 3, 5, 7), torch.randn(2, 3, 11, 7))  # the last five of eleven
    left = torch.rand(2, 11) > 0.5
    got = measured(call, groups={"left": left})
    share = (call.weights() * left[:, None, None]).sum(-1)
    torch.testing.assert_close(got.shares["left to left"], per_head(share, left[:, None, -5:]))


def test_a_block_matrix_gives_exact_block_scores():
    text, image = 5, 8
    blocks = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    weights = blocks.repeat_interleave(torch.tensor([text, image]), 0).repeat_interleave(torch.tensor([text, image]), 1)
    weights = weights / torch.tensor([text] * text + [image] * image)
    is_text = torch.arange(text + image)[None] < text
    shares = measured(pattern(weights), groups={"text": is_text, "image": ~is_text}).shares
    found = [[shares[f"{q} to {k}"].item() for k in ("text", "image")] for q in ("text", "image")]
    torch.testing.assert_close(torch.tensor(found), blocks)
    assert shares["to text"] == pytest.approx((text * 0.75 + image * 0.5) / (text + image))
    torch.testing.assert_close(shares["to text"] + shares["to image"], torch.ones(1))


def test_across_two_sequences_queries_have_groups_of_their_own():
    call = recorded(torch.randn(2, 3, 5, 7), torch.randn(2, 3, 11, 7), same_sequence=False)
    keys, queries = torch.rand(2, 11) > 0.5, torch.tensor([True, True, False, False, True]).expand(2, 5)
    got = measured(call, groups={"left": keys}, query_groups={"nouns": queries})
    share = (call.weights() * keys[:, None, None]).sum(-1)
    torch.testing.assert_close(got.shares["nouns to left"], per_head(share, queries[:, None]))
    assert set(got.shares) == {"to left", "nouns to left"}
    assert got.by_query["to left"].shape == (2, 3, 5)
    assert got.received.shape == (2, 3, 11)


# -- everything together ------------------------------------------------------------------------------------------------


def test_a_joined_decoding_with_grouped_heads_and_sinks_is_the_one_pass():
    module = hw.MultiHeadAttention(24, 4, num_kv_heads=2, scores=hw.Scores(sinks=True)).requires_grad_(False)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x, tokens = torch.randn(2, 13, 24), torch.randint(3, (2, 13))
    known = {"tokens": tokens, "groups": {"twos": tokens == 2}, "places": hw.places.Grid(4, 3, special=1)}
    with hw.observe(module) as once:
        module(x, mask=hw.masks.causal())
    cache = hw.cache.Growing()
    with hw.observe(module) as steps:
        for piece in x.split([4, 1, 5, 3], dim=1):
            module(piece, mask=hw.masks.causal(), cache=cache)
    want, got = measured(once[""][0], **known), measured(steps[""].joined(), **known)
    assert {"spread", "induction", "twos to twos", "diagonality"} <= want.by_sequence.keys()
    for name, numbers in want.by_sequence.items():
        torch.testing.assert_close(got.by_sequence[name].sums, numbers.sums, rtol=1e-4, atol=1e-5, msg=name)
        assert torch.equal(got.by_sequence[name].queries, numbers.queries)


def test_nothing_is_dropped_the_shown_mass_and_the_rest_are_all():
    call = random_call()
    got = measured(call)
    p = call.weights()
    rest = p.scatter(-1, got.top_keys, 0.0).sum(-1)
    torch.testing.assert_close(got.by_query["top_mass"] + rest, torch.ones(2, 3, 11))
    first = pattern(torch.tensor([0.6, 0.3, 0.1]).repeat(3, 1))
    assert hw.statistics({"a": [first]}, top=1)["a"].top_keys.unique().tolist() == [0]  # position 0 is a key like others


def test_patterns_are_no_importance():
    """A head without values has no effect, and the same numbers."""
    module, x = hw.MultiHeadAttention(12, 3).requires_grad_(False), torch.randn(2, 7, 12)
    numbers = []
    for _ in range(2):
        with hw.observe(module) as record:
            output = module(x)
        numbers.append(hw.statistics(record)[""])
        silenced = torch.tensor([1.0, 0.0, 1.0])
        with hw.gates(module, {"": silenced}):
            effect = (module(x) - output).abs().max()
        module.v_proj.weight[4:8] = module.v_proj.bias[4:8] = 0.0  # the second head's values
    assert effect == 0
    for name in ("entropy", "top_mass", "received", "distance"):
        assert torch.equal(getattr(numbers[0], name), getattr(numbers[1], name))


def test_sequences_are_entries_of_the_first_batch_dimension():
    query = torch.randn(2, 5, 3, 7, 4)  # 2 films of 5 frames
    got = measured(recorded(query, query))
    assert got.by_sequence["entropy"].queries.tolist() == [[35] * 3] * 2
    each = [measured(recorded(film, film)).entropy for film in query]
    torch.testing.assert_close(got.by_sequence["entropy"].mean, torch.stack(each))
    torch.testing.assert_close(got.entropy, torch.stack(each).mean(0))
    alone = measured(recorded(query[0, 0], query[0, 0]))  # no batch dimension at all
    assert alone.by_sequence["entropy"].sums.shape == (1, 3)


def test_a_table_is_printed():
    lines = repr(measured(random_call(heads=2), groups={"all": torch.ones(11, dtype=torch.bool)})).splitlines()
    assert len(lines) == 4
    assert lines[1].split()[:3] == ["head", "entropy", "alignment"]
    assert lines[1].endswith("to all  all to all")
    assert lines[3].endswith("1.000       1.000")
    assert "... 4 heads more" in repr(measured(random_call(heads=20)))


# -- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"places": hw.places.Grid(2, 5)}, r"'a': expected 0 special positions and 2 x 5 patches, 10 in all; got 11"),
        ({"places": hw.positions.Rotary()}, r"hw\.places\.Line.*got Rotary"),
        ({"tokens": torch.zeros(2, 7, dtype=torch.long)}, r"tokens: expected .* = \(2, 11\).*got \(2, 7\).*part of the record"),
        ({"tokens": torch.zeros(2, 11)}, r"tokens: expected a tensor of integers.*float32"),
        ({"groups": {"x": torch.zeros(3, 11, dtype=torch.bool)}}, r"group 'x': .*\(2, 11\).*got \(3, 11\)"),
        ({"groups": {"x": torch.zeros(2, 11)}}, r"group 'x': expected a tensor of bools.*float32"),
        ({"groups": {"x": [3, 4]}}, r"group 'x': expected a tensor of bools.*a list"),
    ],
)
def test_what_does_not_fit_is_said(known, message):
    with pytest.raises(ValueError, match=message):
        measured(random_call(), **known)
