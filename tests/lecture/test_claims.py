"""The rule that judges claims reaches all four verdicts, and every claim reads what its experiment measures."""

from dataclasses import replace

import pytest

from headwise.lecture.claims import CLAIMS, verdict
from headwise.lecture.experiments.catalogue import EXPERIMENTS
from headwise.lecture.experiments.results import FOLDER, Interval, Results, read

WON, LOST, SMALL, UNKNOWN = (
    Interval(0.5, 0.4, 0.6),
    Interval(-0.5, -0.6, -0.4),
    Interval(0.01, 0.005, 0.015),
    Interval(0.1, -1, 1.2),
)


@pytest.mark.parametrize(
    ("advantages", "expected"),
    [
        ([WON, WON], "holds"),
        ([WON, LOST], "holds in part"),
        ([WON, UNKNOWN], "holds in part"),
        ([LOST, LOST], "does not hold"),
        ([LOST, SMALL], "does not hold"),  # real, but too small to matter
        ([LOST, UNKNOWN], "undecided"),
        ([Interval(0.5, float("nan"), float("nan"))], "undecided"),  # one seed
        ([], "undecided"),
    ],
)
def test_the_rule_reaches_all_four_verdicts(advantages, expected):
    assert verdict(advantages, margin=0.02) == expected


def test_an_interval_that_touches_zero_shows_nothing():
    assert verdict([Interval(0.5, 0.0, 1.0)], margin=0.02) == "undecided"
    assert verdict([Interval(0.0, -0.02, 0.02)], margin=0.02) == "undecided"


def made_up(experiment: str, numbers: dict[str, list[float]]) -> Results:
    by_seed = {seed: {name: values[seed] for name, values in numbers.items()} for seed in range(3)}
    return Results(experiment, "none", "none", {}, by_seed)


NOISE = [0.01, 0.0, -0.01]


def around(*levels: float) -> dict[int, list[float]]:
    """Values of three seeds for 1, 2, 4, 8, 16 and 32 heads (the last level goes on)."""
    heads = (1, 2, 4, 8, 16, 32)
    return {n: [levels[min(i, len(levels) - 1)] + x for x in NOISE] for i, n in enumerate(heads)}


def test_more_is_better_for_accuracy_and_less_for_loss():
    levels = around(0.2, 0.9)
    accuracy = made_up("two_fetch", {f"accuracy heads={n}": values for n, values in levels.items()})
    assert CLAIMS["one head averages"].verdict(accuracy) == "holds"
    loss = made_up("translation", {f"loss heads={n}": values for n, values in levels.items()})
    assert CLAIMS["better quality"].verdict(loss) == "does not hold"
    better = made_up("translation", {f"loss heads={n}": values for n, values in around(0.9, 0.2).items()})
    assert CLAIMS["better quality"].verdict(better) == "holds"
    assert CLAIMS["too many heads"].verdict(better) == "does not hold"


def test_differences_are_taken_seed_by_seed():
    """What all numbers of heads share in a seed says nothing about heads."""
    shared = [0.1, 0.5, 0.8]
    numbers = {f"accuracy heads={n}": [x + (0.1 if n > 1 else 0.0) for x in shared] for n in (1, 2, 4, 8)}
    assert CLAIMS["one head averages"].verdict(made_up("two_fetch", numbers)) == "holds"


@pytest.mark.parametrize(
    ("near", "far", "expected"),
    [(0.0, 0.5, "holds"), (0.5, 0.5, "holds in part"), (0.5, -0.5, "does not hold")],
)
def test_a_longer_reach_is_an_advantage_that_grows_with_distance(near, far, expected):
    numbers = {f"accuracy heads=1 distance={at}": [0.3 + x for x in NOISE] for at in (1, 8, 64)}
    numbers |= {f"accuracy heads=8 distance={at}": [0.3 + by] * 3 for at, by in ((1, near), (8, 0.2), (64, far))}
    assert CLAIMS["long-range dependencies"].verdict(made_up("distance", numbers)) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.99, "holds"), (0.7, "holds in part"), (0.3, "does not hold")])
def test_a_share_is_judged_by_two_limits(share, expected):
    results = made_up("ablation", {"share needed": [share + x / 10 for x in NOISE], "share spared": NOISE})
    assert CLAIMS["every head counts"].verdict(results) == expected


def test_angles_hold_where_they_are_within_five_degrees_of_random():
    numbers = {f"angle random projection={name}": [70.0, 70.1, 69.9] for name in "QKV"}
    for apart, expected in ((-1.0, "holds"), (-9.0, "does not hold")):
        trained = {f"angle trained projection={name}": [70.0 + apart, 70.1 + apart, 70.1 + apart] for name in "QKV"}
        assert CLAIMS["different subspaces"].verdict(made_up("features", numbers | trained)) == expected


def test_heads_are_unlike_in_what_is_named():
    """Weights part by training, outputs do not: half of the claim."""
    levels = {"weights alike untrained": 0.9, "weights alike trained": 0.2, "outputs alike untrained": 0.5}
    numbers = {
        f"{name} kind={kind}": [level + x for x in NOISE]
        for name, level in (levels | {"outputs alike trained": 0.5}).items()
        for kind in ("encoder", "decoder", "cross")
    }
    found = CLAIMS["different features"].advantages(made_up("features", numbers))
    for name, advantage in found.items():
        assert advantage.mean == pytest.approx(0.7 if name.startswith("unlike_weights") else 0.0)


def test_claims_refuse_the_results_of_another_experiment():
    with pytest.raises(ValueError, match="expected results of 'two_fetch'"):
        CLAIMS["one head averages"].verdict(made_up("distance", {"loss": NOISE}))


COMMITTED = [claim for claim in CLAIMS.values() if (FOLDER / f"{claim.experiment}.json").exists()]


def test_every_claim_has_its_experiment_and_both_languages():
    for claim in CLAIMS.values():
        assert claim.experiment in EXPERIMENTS
        assert not claim.zh.isascii()
        assert claim.en.isascii()


@pytest.mark.parametrize("claim", COMMITTED, ids=lambda claim: claim.key)
def test_committed_results_come_from_their_experiment_with_three_seeds_or_more(claim):
    results, experiment = read(claim.experiment), EXPERIMENTS[claim.experiment]
    assert set(results.seeds) <= set(experiment.seeds)
    assert len(results.seeds) >= 3
    assert results.samples == experiment.samples
    assert claim.advantages(results)
    assert results.hardware["cpu"]
    assert results.versions["torch"]


@pytest.mark.parametrize("claim", COMMITTED, ids=lambda claim: claim.key)
def test_a_perturbed_result_moves_what_a_claim_says(claim):
    """Every number drawn anew: no comparison is typed."""
    results = read(claim.experiment)
    before = claim.advantages(results)
    moved = {
        seed: {name: value + 1 + 0.1 * i + 0.01 * seed for i, (name, value) in enumerate(numbers.items())}
        for seed, numbers in results.by_seed.items()
    }
    after = claim.advantages(replace(results, by_seed=moved))
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)
