"""Results: intervals from raw numbers, files that keep them, and what a new run does not confirm."""

import json
from dataclasses import replace

import pytest
from scipy import stats

from headwise.lecture.experiments.results import Results, compare, differences, interval, key, read


def results(*values: float, name: str = "accuracy heads=8") -> Results:
    return Results("made_up", "a command", "7 samples", {"heads": [8]}, {seed: {name: x} for seed, x in enumerate(values)})


def test_keys_name_their_conditions():
    assert key("accuracy", heads=8, distance=64) == "accuracy heads=8 distance=64"
    assert results(0.1, 0.2).values("accuracy", heads=8) == [0.1, 0.2]
    with pytest.raises(ValueError, match="made_up have no 'accuracy heads=9'; the nearest is 'accuracy heads=8'"):
        results(0.1).values("accuracy", heads=9)


def test_the_interval_is_students():
    values = [0.3, 0.5, 0.4, 0.9]
    low, high = stats.t.interval(0.95, 3, loc=stats.tmean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx((0.525, low, high))
    assert interval([0.5])[0] == 0.5
    assert interval([0.5]).low != interval([0.5]).low  # nan: one seed has no interval
    with pytest.raises(ValueError, match="at least one value"):
        interval([])


def test_differences_are_those_of_pairs():
    assert differences([1.1, 2.1, 3.1], [1.0, 2.0, 3.0]) == pytest.approx((0.1, 0.1, 0.1))


def test_results_are_read_as_they_were_written(tmp_path):
    found = replace(results(0.1, 0.2, 0.4), hardware={"cores": 2}, versions={"torch": "x"}, date="2026-11-23")
    path = found.write(tmp_path)
    assert read("made_up", tmp_path) == found
    entries = json.loads(path.read_text())
    assert {"command", "samples", "settings", "by_seed", "interval_method", "hardware", "versions", "date"} <= entries.keys()


def test_a_perturbed_file_moves_the_interval(tmp_path):
    path = results(0.1, 0.2, 0.4).write(tmp_path)
    entries = json.loads(path.read_text())
    entries["by_seed"]["1"]["accuracy heads=8"] = 0.3
    path.write_text(json.dumps(entries))
    before, after = (
        results(0.1, 0.2, 0.4).interval("accuracy", heads=8),
        read("made_up", tmp_path).interval("accuracy", heads=8),
    )
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_seeds_that_were_not_measured_alike_are_refused(tmp_path):
    path = results(0.1, 0.2).write(tmp_path)
    entries = json.loads(path.read_text())
    entries["by_seed"]["1"] = {"loss": 1.0}
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="the same numbers of every seed"):
        read("made_up", tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"experiment": "another"}, "expected results of 'made_up'; got those of 'another'"),
        ({"more": 1}, "expected results with by_seed, command, .*; got by_seed, command"),
        ({"settings": None}, "expected settings by their names; got None"),
        ({"settings": {"heads": ["<b>8</b>"]}}, "expected settings that are numbers"),
        ({"settings": {"heads": []}}, "expected settings that are numbers"),
        ({"by_seed": {}}, "expected at least one seed"),
        ({"by_seed": [{"loss": 1.0}]}, "expected at least one seed"),
        ({"by_seed": {"first": {"loss": 1.0}}}, "expected at least one seed"),
        ({"by_seed": {"0": None}}, "expected at least one seed"),
        *(
            ({"by_seed": {"0": {"loss": value}}}, "seed 0: expected a number for 'loss'")
            for value in ("<b>1</b>", None, [1.0], float("nan"), 10**400)
        ),
    ],
)
def test_a_file_that_holds_no_such_results_is_refused_with_its_name(tmp_path, entries, message):
    path = results(0.1, 0.2).write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    with pytest.raises(ValueError, match=f"^{path}.*{message}"):
        read("made_up", tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"by_seed'])
def test_a_file_that_is_cut_or_something_else_is_refused_with_its_name(tmp_path, text):
    path = tmp_path / "made_up.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}"):
        read("made_up", tmp_path)


def test_what_a_file_does_not_say_is_its_mistake(tmp_path):
    results(0.1).write(tmp_path)
    with pytest.raises(ValueError, match="the results say no 'lengths', only heads"):
        read("made_up", tmp_path).settings["lengths"]


def test_a_new_run_is_compared_with_where_it_should_lie():
    old = results(0.1, 0.2, 0.3)
    half = stats.t.ppf(0.975, 2) * 0.1 * (1 / 3 + 1) ** 0.5
    assert not compare(old, results(0.2 + 0.99 * half))
    (found,) = compare(old, results(0.2 + 1.01 * half))
    assert found.key == "accuracy heads=8"
    assert found.expected == pytest.approx((0.2 - half, 0.2 + half))
    assert "accuracy heads=8: " in str(found)


def test_numbers_that_never_varied_must_be_the_same():
    """Parameters, operations."""
    assert not compare(results(7.0, 7.0, 7.0), results(7.0))
    assert compare(results(7.0, 7.0, 7.0), results(8.0))


def test_what_only_one_run_measured_is_not_compared():
    assert not compare(results(0.1, 0.2), results(5.0, name="loss"))
