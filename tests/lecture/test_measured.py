"""Figures and tables 2, 8 and 9, and what is counted in 1 and 5: numbers are the formula's, or move with a results file."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch

from headwise.cli.common import SHIPPED
from headwise.lecture import deck
from headwise.lecture.claims import CLAIMS
from headwise.lecture.experiments.results import Interval, Results, read
from headwise.lecture.figures import FIGURES
from headwise.lecture.material import Material
from headwise.lecture.outline import SLIDES
from headwise.lecture.recording import Recording, record
from headwise.lecture.tables import TABLES, Table
from headwise.lecture.tables.table import Cell
from headwise.tasks.translate import Translator

MEASURED = [number for number, slide in SLIDES.items() if slide.table]
EXPERIMENTS = sorted({name for number in MEASURED for name in SLIDES[number].table})


@pytest.fixture(scope="module")
def run() -> Recording:
    return record(Translator.load(SHIPPED), "Tom is here.")


@pytest.fixture(scope="module")
def material(run) -> Material:
    return Material(run, "en")


def perturbed(run: Recording, experiment: str, folder: Path) -> Material:
    """The committed results, but for every number of one experiment, each moved by another amount in every seed."""
    for name in EXPERIMENTS:
        results = read(name)
        entries = json.loads(results.write(folder).read_text())
        if name == experiment:
            for seed, numbers in entries["by_seed"].items():
                for place, one in enumerate(numbers):
                    numbers[one] = numbers[one] * 1.01 + 0.1 + 0.001 * place + 0.003 * int(seed) ** 2
            (folder / f"{name}.json").write_text(json.dumps(entries))
    return Material(run, "en", folder)


def origin(number: int, row: list[Cell]) -> str | None:
    """The experiment that a row of table 2, 8 or 9 comes from; none: the formula."""
    if number == 8:
        return next(claim.experiment for claim in CLAIMS.values() if claim.en == row[0])
    if number == 2:
        return dict.fromkeys(("accuracy", "better", "worse"), "two_fetch").get(str(row[0])) or (
            "translation" if row[0] in ("loss", "bleu") else None
        )
    return "efficiency" if any(isinstance(cell, Interval) for cell in row) else None


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_number_of_a_table_moves_with_the_results_it_comes_from_and_with_no_others(material, run, experiment, tmp_path):
    other, moved = perturbed(run, experiment, tmp_path), 0
    for number in MEASURED:
        for before, after in zip(TABLES[number](material).rows, TABLES[number](other).rows, strict=True):
            comes_from_it = origin(number, list(before)) == experiment
            for one, changed in zip(before, after, strict=True):
                if isinstance(one, Interval) and comes_from_it:
                    assert isinstance(changed, Interval)
                    assert all(a != b for a, b in zip(one, changed, strict=True))
                    moved += 1
                elif not comes_from_it:
                    assert one == changed
    assert moved >= 2


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_line_of_a_figure_moves_with_the_results_it_comes_from_and_with_no_others(material, run, experiment, tmp_path):
    other = perturbed(run, experiment, tmp_path)

    def lines(number: int, of: Material) -> list[list[float]]:
        return [list(map(float, line.get_ydata())) for ax in FIGURES[number](of).axes for line in ax.lines]

    moved = 0
    for number in MEASURED:
        for before, after in zip(lines(number, material), lines(number, other), strict=True):
            same = [one == changed for one, changed in zip(before, after, strict=True)]
            assert all(same) or not any(same)
            moved += not any(same)
    assert moved >= 1


def test_a_row_is_what_it_is_called(material):
    found, table = read("efficiency"), TABLES[9](material)
    for name, where, *cells, _, _ in [row for row in table.rows if str(row[1]).startswith("n = ")]:
        for heads, cell in zip(found.settings["heads"], cells, strict=True):
            if cell is not None:
                assert cell == found.interval(str(name), heads=heads, length=str(where).removeprefix("n = "))


def test_a_bar_of_a_figure_is_the_interval(material):
    _, right = FIGURES[2](material).axes
    bars = [segment[:, 1].tolist() for one in right.collections for segment in one.get_segments()]
    found = read("translation")
    expected = [found.interval("loss", heads=heads) for heads in found.settings["heads"]]
    assert bars == [pytest.approx([one.low, one.high]) for one in expected]


def test_the_deck_says_other_numbers_and_other_verdicts_with_other_results(run, tmp_path, monkeypatch):
    monkeypatch.setattr(deck, "FIGURES", {})  # they take their time, and are looked at above

    def cells(of: Material) -> list[str]:
        page = deck.build(of, tmp_path / "deck").read_text(encoding="utf-8")
        return re.findall(r"<td[^>]*>(.*?)</td>", page)

    for name in EXPERIMENTS:
        read(name).write(tmp_path)
    results = read("translation")
    better = {
        seed: numbers | {name: 9.0 - 0.1 * int(name.split("heads=")[1]) for name in numbers if name.startswith("loss ")}
        for seed, numbers in results.by_seed.items()
    }
    before = cells(Material(run, "en", tmp_path))
    Results(**(vars(results) | {"by_seed": better})).write(tmp_path)
    after = cells(Material(run, "en", tmp_path))
    assert "8.9" in after
    places = [place for place, cell in enumerate(after) if cell == CLAIMS["too many heads"].en]
    assert [after[place + next_to] for place, next_to in zip(places, (5, 1), strict=True)] == ["does not hold"] * 2
    assert before != after


@pytest.mark.parametrize("number", MEASURED)
def test_every_interval_is_one_over_three_seeds_or_more_and_every_claim_has_its_verdict(material, number):
    table = TABLES[number](material)
    assert all(len(material.results(name).seeds) >= 3 for name in SLIDES[number].table)
    intervals = [cell for row in table.rows for cell in row if isinstance(cell, Interval)]
    assert intervals
    assert all(cell.low <= cell.mean <= cell.high for cell in intervals)
    verdicts = {row[table.columns.index("claim")]: row[table.columns.index("verdict")] for row in table.rows}
    judged = {claim.en: claim.verdict(material.results(claim.experiment)) for claim in CLAIMS.values()}
    assert {claim: verdict for claim, verdict in verdicts.items() if claim} == {
        claim: judged[claim] for claim in verdicts if claim
    }


def test_a_verdict_stands_beside_the_lengths_that_it_judges(material):
    beside = {(row[0], row[1]) for row in TABLES[9](material).rows if row[-2] == CLAIMS["more efficient"].en}
    assert beside == {("time", f"n = {length}") for length in (256, 1024, 4096)}


def test_every_claim_is_in_a_table(material):
    said = {row[0] for row in TABLES[8](material).rows} | {row[-2] for row in TABLES[9](material).rows}
    assert {claim.en for claim in CLAIMS.values()} <= said


def counted(d: int, n: int, heads: int, size: int = 4) -> dict[str, int]:
    """Of self-attention over n tokens of width d, by hand (Vaswani et al. 2017, section 3.2.2)."""
    return {
        "parameters": 4 * (d * d + d),
        "multiply_adds": 4 * n * d * d + 2 * n * n * d,
        "exponentials": heads * n * n,
        "bytes": size * (6 * n * d + 2 * heads * n * n),  # Q K V, context, its concatenation, output; scores and weights
    }


@pytest.mark.parametrize(("number", "d", "n"), [(2, 64, 16), (9, 256, 1024)])
def test_what_several_heads_cost_is_the_formula(material, number, d, n):
    table = TABLES[number](material)
    by_name = {row[0]: row for row in table.rows if row[1] == f"d = {d}, n = {n}"}
    for place, column in enumerate(table.columns):
        if column.startswith("h = "):
            for name, value in counted(d, n, int(column.removeprefix("h = "))).items():
                assert by_name[name][place] == value, (name, column)


def test_what_the_recorded_module_costs_is_the_formula(run, material):
    module, n = run.module, len(run.tokens)
    expected = counted(module.embed_dim, n, module.num_heads, run.x.element_size())
    first = dict(TABLES[1](material).rows)
    steps = list(csv.DictReader(io.StringIO(TABLES[5](material).csv())))
    for name in ("parameters", "multiply_adds", "bytes"):
        assert first[name] == sum(int(step[name]) for step in steps) == expected[name]
    assert first["weights_formed"] == expected["exponentials"]


def test_the_measured_counts_are_the_formula_too():
    results = read("efficiency")
    for heads in results.settings["heads"]:
        for n in results.settings["lengths"]:
            for name in ("parameters", "multiply_adds", "exponentials"):
                expected = counted(results.settings["embed_dim"], n, heads)[name]
                assert results.values(name, heads=heads, length=n) == [expected] * len(results.seeds)


def test_a_page_of_a_long_table_ends_between_groups():
    table = Table(("claim", "x"), [("a", 1), ("a", 2), ("b", 3), ("c", 4), ("c", 5), ("c", 6), ("c", 7)], ("claim",))
    assert [[row[1] for row in page.rows] for page in table.pages(3)] == [[1, 2, 3], [4, 5, 6, 7]]
    assert [len(page.rows) for page in table.pages(7)] == [7]


def test_what_is_grouped_is_one_cell_and_intervals_are_three_numbers():
    table = Table(("claim", "x"), [("a<", Interval(0.36, -1.0, 1.7)), ("a<", Interval(0.5, 0.5, 0.5)), ("b", 1)], ("claim",))
    assert table.markdown({"claim": "Claim", "b": "B|"}) == (
        "| Claim | x |\n| --- | --- |\n| a< | 0.4 [-1.0, 1.7] |\n|  | 0.5 |\n| B\\| | 1 |\n"
    )
    assert '<td rowspan="2">a&lt;</td><td class="number">0.4 <small>[-1.0, 1.7]</small></td></tr>' in table.html({})
    assert table.csv() == "claim,x,x_low,x_high\na<,0.36,-1.0,1.7\na<,0.5,0.5,0.5\nb,1,,\n"


def test_a_folder_without_results_is_named(run, tmp_path):
    with pytest.raises(ValueError, match="no results of efficiency in"):
        TABLES[9](Material(run, "en", tmp_path))


def test_one_seed_has_no_interval_to_show():
    assert Table(("x",), [(Interval(0.25, torch.nan, torch.nan),)]).markdown({}).endswith("| 0.25 |\n")
