"""Every experiment runs, at a tiny size, and measures what its claims need."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import headwise as hw
from headwise.cli import app
from headwise.lecture.claims import CLAIMS
from headwise.lecture.experiments import ablation, distance, efficiency, features, translation, two_fetch
from headwise.lecture.experiments.catalogue import EXPERIMENTS
from headwise.lecture.experiments.experiment import Experiment, Workspace
from headwise.lecture.experiments.results import read
from headwise.lecture.experiments.small import OneLayer, check_equal, held_out, trained
from headwise.tasks.pairs import read_pairs

WORDS = {"a": "甲", "b": "乙", "c": "丙", "d": "丁", "e": "戊"}
TRANSLATION = translation.Size(
    (1, 4, 8, 16, 32), 1, 32, embed_dim=64, num_layers=1, feedforward_dim=16, max_positions=16, tokens=9
)
TINY = {
    "two_fetch": replace(two_fetch.EXPERIMENT.full, vocabularies=(3, 5), steps=2, batch=3, held_out=7, embed_dim=16),
    "distance": replace(distance.EXPERIMENT.full, length=80, steps=2, batch=2, held_out=7),
    "translation": TRANSLATION,
    "features": features.Size(sentences=5, trained=TRANSLATION),
    "ablation": ablation.Size(sentences=4, at_once=2, trained=TRANSLATION),
    "efficiency": efficiency.Size(
        (1, 4, 8, 16), embed_dim=32, lengths=(256, 1024, 4096), written_out=(7,), looped=(64, 256, 1024), repeats=1
    ),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lecture")
    for split, pairs in (("train", 24), ("valid", 12)):
        generator = torch.Generator().manual_seed(pairs)
        rows = [[list(WORDS)[i] for i in torch.randint(5, (3,), generator=generator).tolist()] for _ in range(pairs)]
        lines = [f"{' '.join(row)}\t{''.join(WORDS[word] for word in row)}\n" for row in rows]
        (folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    return Workspace(folder, folder / "runs")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_runs_at_a_tiny_size_and_feeds_its_claims(name, workspace):
    experiment = replace(EXPERIMENTS[name], full=TINY[name], seeds=(0,))
    results = experiment.measure(workspace, "what was typed")
    assert results.experiment == name
    assert results.seeds == (0,)
    assert results.command == "what was typed"
    assert all(torch.tensor(results.values(one)).isfinite().all() for one in results.keys)
    claims = [claim for claim in CLAIMS.values() if claim.experiment == name]
    assert claims
    for claim in claims:
        assert claim.verdict(results) == "undecided"  # one seed decides nothing


def test_a_quick_run_measures_a_part_of_the_full_one_at_the_same_size():
    for experiment in EXPERIMENTS.values():
        full, quick = vars(experiment.full), vars(experiment.quick)
        for name, value in quick.items():
            assert value == full[name] or set(value) < set(full[name]), name


def test_what_is_finished_is_kept_unless_the_size_changes(tmp_path):
    workspace, made = Workspace(tmp_path, tmp_path), []
    make = lambda: {"made": float(len(made) or made.append(1) or 0)}
    assert workspace.kept("one", TRANSLATION, make) == {"made": 0.0}
    assert workspace.kept("one", TRANSLATION, make) == {"made": 0.0}
    assert workspace.kept("one", replace(TRANSLATION, epochs=7), make) == {"made": 1.0}


def test_table_recompute_writes_results_and_makes_the_table_from_them_and_quick_compares(tmp_path, monkeypatch):
    tiny = TINY["efficiency"]
    quick = replace(tiny, heads=(1, 4))
    monkeypatch.setitem(EXPERIMENTS, "efficiency", replace(EXPERIMENTS["efficiency"], full=tiny, quick=quick))
    monkeypatch.chdir(tmp_path)

    def table(*arguments: str) -> str:
        found = CliRunner().invoke(app, ["lecture", "table", "9", "--lang", "en", *arguments], catch_exceptions=False)
        assert found.exit_code == 0, found.stderr
        return found.stdout

    said = table("--recompute")
    found = read("efficiency", Path("lecture-results"))
    assert found.seeds == (0, 1, 2)
    assert found.command == "headwise lecture table 9 --recompute"
    assert said.startswith("wrote lecture-results/efficiency.json\n| measure |")
    assert "| d = 32, n = 7 |" in said
    assert "| d = 32, n = 7 |" in table("--results", "lecture-results")
    by_seed = {seed: numbers | {"parameters heads=4 length=256": 5} for seed, numbers in found.by_seed.items()}
    path = replace(found, by_seed=by_seed).write(Path("lecture-results"))
    before = path.read_bytes()
    compared = table("--recompute", "--quick", "--results", "lecture-results")
    assert compared.startswith("efficiency: 37 numbers, ")
    assert "  parameters heads=4 length=256: 4224, expected 5 to 5\n" in compared
    assert "  parameters heads=4 length=1024: " not in compared
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("table 9 --quick --results nowhere", "no results of efficiency in nowhere"),
        ("table 9 --results taken", "--results: taken is not a folder that can be written to"),
        ("table 2 --data .", ". holds neither train.tsv nor train.tsv.gz"),
        ("build --data nowhere", "--data: nothing at nowhere"),
        ("build --out taken", "--out: taken is not a folder that can be written to"),
        ("build --out taken/deck", "--out: taken is not a folder that can be written to"),
    ],
)
def test_what_will_be_missing_is_said_before_the_work(tmp_path, monkeypatch, asked, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Experiment, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "taken").touch()
    found = CliRunner().invoke(app, ["lecture", *asked.split(), "--recompute"], catch_exceptions=False)
    assert found.exit_code == 1
    assert found.stderr.startswith(f"headwise: {said}")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_two_fetches_ask_for_two_different_places_in_an_order_that_matters():
    inputs, targets = two_fetch.draw(5, torch.Generator().manual_seed(0), length=7, tokens=11)
    token, p, q, position = inputs.unbind(-1)
    assert (p != q).all()
    assert (position == torch.arange(7)).all()
    for row in range(5):
        for i in range(7):
            assert targets[row, i].tolist() == [token[row, p[row, i]], token[row, q[row, i]]]
    assert (targets[..., 0] != targets[..., 1]).any()


def test_a_distance_asks_for_the_token_so_far_back_and_for_nothing_before_the_first():
    inputs, targets = distance.draw(5, torch.Generator().manual_seed(0), length=13, tokens=7, farthest=11)
    for row in range(5):
        for i in range(13):
            token, back = inputs[row, :, 0].tolist(), int(inputs[row, i, 1])
            assert 1 <= back <= 11
            assert targets[row, i].item() == (token[i - back] if back <= i else -100)


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16])
def test_the_number_of_heads_changes_no_parameter(heads):
    one, other = (OneLayer((5, 7), 2, 11, embed_dim=16, num_heads=n) for n in (1, heads))
    shapes = [[(name, tuple(x.shape)) for name, x in model.named_parameters()] for model in (one, other)]
    assert shapes[0] == shapes[1]


def test_unequal_parameters_are_refused():
    with pytest.raises(ValueError, match="equal parameters for every number of heads"):
        check_equal({1: 100, 8: 101})


def test_training_learns_and_draws_the_same_for_every_model():
    """One head fetches one place; loss falls well below chance, log 3."""
    seen = []

    def draw(sequences, generator):
        drawn = distance.draw(sequences, generator, length=8, tokens=3, farthest=1)
        seen.append(drawn.inputs)
        return drawn

    for heads in (1, 2):
        make = lambda heads=heads: OneLayer((3, 2), 1, 3, embed_dim=8, num_heads=heads, position=None)
        trained(make, draw, seed=0, steps=3, batch=5, lr=0.01)
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], seen[3:], strict=True))
    scored = held_out(draw, 0, 5).inputs
    assert not any(torch.equal(scored, batch) for batch in seen[:3])


def test_the_loop_over_heads_computes_the_same():
    q, k, v = torch.randn(3, 2, 5, 7, 11)
    assert torch.allclose(efficiency.loop(q, k, v), efficiency.attend(q, k, v), atol=1e-6)


def test_times_are_ratios_to_the_first():
    ratios = efficiency.in_turn({"one": lambda: sum(range(20_000)), "three": lambda: sum(range(60_000))}, repeats=5)
    assert ratios["one"] == 1
    assert 1.5 < ratios["three"] < 6


def test_the_two_answers_are_counted_together_apart_and_in_either_order(tmp_path, monkeypatch):
    """Of four positions: both right, the first alone, turned round, none."""
    targets = torch.tensor([[[1, 2], [1, 2], [1, 2], [1, 2]]])
    said = torch.tensor([[[1, 2], [1, 0], [2, 1], [0, 0]]])
    monkeypatch.setattr(two_fetch, "trained", lambda *_: OneLayer((3,), 1, 3, embed_dim=4, num_heads=1))
    monkeypatch.setattr(two_fetch, "held_out", lambda *_: two_fetch.Drawn(targets, targets))
    monkeypatch.setattr(two_fetch, "answers", lambda *_: (said, 0.0))
    found = two_fetch.run(0, replace(two_fetch.Size(), heads=(1,), vocabularies=(3,)), Workspace(tmp_path, tmp_path))
    counted = {name: found[f"{name} heads=1 tokens=3"] for name in ("accuracy", "better", "worse", "unordered")}
    assert counted == {"accuracy": 0.25, "better": 0.5, "worse": 0.25, "unordered": 0.5}


@pytest.mark.parametrize(("losses", "spared"), [([1.0, 1.09, 1.11, 1.0], 1), ([1.0, 1.2], 0), ([1.0] * 25, 24)])
def test_heads_are_spared_until_the_loss_is_first_a_tenth_worse(workspace, tmp_path, monkeypatch, losses, spared):
    monkeypatch.setattr(ablation, "removed_in_turn", lambda *_: losses)
    found = ablation.run(0, TINY["ablation"], Workspace(workspace.data, tmp_path))
    assert found["share spared"] == spared / 24


def test_the_loss_is_that_of_tokens_however_they_are_batched_and_every_seed_is_its_own(workspace, monkeypatch):
    translator = translation.trained(0, 8, TRANSLATION, workspace)
    pairs = [("a b c", "甲乙丙"), ("c", "丙"), ("d a", "丁甲"), ("e", "戊")]
    together = translation.held_out_loss(translator, pairs)
    logits = translator.model(**(batch := translation.batch_of(translator, pairs))).logits
    assert together == pytest.approx(torch.nn.functional.cross_entropy(logits.mT, batch["labels"]).item(), rel=1e-5)
    monkeypatch.setattr(translation, "AT_ONCE", 3)
    assert translation.held_out_loss(translator, pairs) == pytest.approx(together, rel=1e-5)
    assert [TRANSLATION.recipe(8, seed).seed for seed in (0, 1, 2)] == [0, 1, 2]


def test_heads_are_ranked_and_judged_on_different_sentences_without_label_smoothing(workspace, tmp_path, monkeypatch):
    seen = []
    ranked = lambda model, batches: seen.append((model.label_smoothing, batches)) or hw.leave_one_out(model, batches)
    judged = lambda model, _, batches: seen.append((model.label_smoothing, batches)) or [1.0]
    monkeypatch.setattr(ablation, "leave_one_out", ranked)
    monkeypatch.setattr(ablation, "removed_in_turn", judged)
    ablation.run(0, TINY["ablation"], Workspace(workspace.data, tmp_path))
    translator = translation.trained(0, 8, TRANSLATION, Workspace(workspace.data, tmp_path))
    pairs = read_pairs(workspace.data, "valid")
    for (smoothing, batches), start in zip(seen, (0, 4), strict=True):
        assert smoothing == 0
        for place, batch in enumerate(batches):
            at = start + 2 * place
            assert batch["labels"].equal(translation.batch_of(translator, pairs[at : at + 2])["labels"])


def test_each_path_is_timed_under_its_own_name(monkeypatch):
    """Times are told by the backend that was asked for: the formula takes thrice as long."""
    monkeypatch.setattr(efficiency, "_seconds", lambda one: {"formula": 3.0, "sdpa": 1.0}[one.keywords["backend"]])
    monkeypatch.setattr(efficiency, "peak_bytes", lambda one: {"formula": 3, "sdpa": 1}[one.keywords["backend"]])
    found = efficiency._paths(7, TINY["efficiency"])
    for heads in TINY["efficiency"].heads:
        of = lambda name, heads=heads: found[f"{name} heads={heads} length=7"]
        assert (of("slower"), of("formula_bytes"), of("fused_bytes")) == (3, 3, 1)


def test_removing_all_heads_in_turn_ends_where_none_is_left(workspace, tmp_path):
    translator = translation.trained(0, 8, TRANSLATION, workspace)
    batches = [translation.batch_of(translator, [("a b", "甲乙"), ("c", "丙")])]
    costs = ablation.leave_one_out(translator.model, batches)
    losses = ablation.removed_in_turn(translator.model, costs, batches)
    assert len(losses) == 1 + 3 * 8
    assert losses[0] == pytest.approx(translator.model(**batches[0]).loss.item(), abs=1e-5)
    least_address, least = costs.ranking()[-1]
    assert losses[1] - losses[0] == pytest.approx(float(costs.value[least_address][least]), abs=1e-5)
