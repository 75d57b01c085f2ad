"""Figures and tables 1 and 3 to 7: what is drawn and written is what ran."""

import csv
import io
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import headwise as hw
from headwise.cli import app
from headwise.lecture import deck
from headwise.lecture.costs import costs
from headwise.lecture.deck import build
from headwise.lecture.figures.canvas import SMALL
from headwise.lecture.figures.structure import FIGURES
from headwise.lecture.material import Material
from headwise.lecture.outline import REFERENCES, SECTIONS
from headwise.lecture.recording import Recording, record
from headwise.lecture.subspaces import bases, mean_angle, subspaces
from headwise.lecture.tables.structure import TABLES
from headwise.lecture.words import LANGUAGES, words
from headwise.models.transformer import Transformer, TransformerConfig
from headwise.tasks.tokens import train_tokenizer
from headwise.tasks.translate import Translator

SENTENCES = ["Tom likes the sea.", "The tree is tall."]
COMPUTED = (1, 3, 4, 5, 6, 7)


@pytest.fixture(scope="module")
def translator() -> Translator:
    torch.manual_seed(7)
    tokenizer = train_tokenizer([*SENTENCES, "汤姆喜欢海。", "树很高。"], 70)
    model = Transformer(TransformerConfig(tokenizer.get_vocab_size(), 21, 3, 2, 1, 17, max_positions=37))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Translator(model.eval(), tokenizer, "LATIN")


@pytest.fixture(scope="module")
def run(translator) -> Recording:
    return record(translator, SENTENCES[0])


def test_the_recording_is_the_formula_step_by_step(run):
    module = run.module
    for name, heads in (("q_proj", run.query), ("k_proj", run.key), ("v_proj", run.value)):
        torch.testing.assert_close(module.get_submodule(name)(run.x), heads.transpose(0, 1).flatten(1))
    scores = run.query @ run.key.mT / module.head_dim**0.5
    weights = (scores - scores.logsumexp(-1, keepdim=True)).exp()
    for mine, theirs in (
        (run.scores, scores),
        (run.weights, weights),
        (run.context, weights @ run.value),
        (run.output, module.out_proj(run.joined)),
    ):
        torch.testing.assert_close(mine, theirs)
    assert run.difference < 1e-5


@pytest.mark.parametrize("number", COMPUTED)
def test_every_picture_of_a_figure_is_a_recorded_tensor_and_its_shape_stands_beside_it(run, number):
    figure = FIGURES[number](run)
    stacked = [run.query, run.key, run.value, run.scores, run.weights, run.context, run.contributions]
    there = [part for parts in stacked for part in parts]
    there += [part.transpose(0, 1).flatten(1) for part in stacked[:3]] + [run.x, run.joined, run.output]
    drawn = [torch.as_tensor(ax.images[0].get_array().data) for ax in figure.axes if ax.images]
    assert len(drawn) >= 5
    assert all(any(matrix.shape == part.shape and matrix.equal(part.double()) for part in there) for matrix in drawn)
    said = {text.get_text() for text in figure.axes[0].texts}
    shapes = {" × ".join(map(str, matrix.shape)) for matrix in drawn if len(matrix) != matrix.shape[1]}
    assert shapes & said


@pytest.mark.parametrize("number", COMPUTED)
def test_another_sentence_and_another_layer_make_another_figure(translator, run, number):
    def pixels(recording: Recording) -> list[float]:
        return [float(ax.images[0].get_array().sum()) for ax in FIGURES[number](recording).axes if ax.images]

    assert pixels(run) != pixels(record(translator, SENTENCES[1]))
    assert pixels(run) != pixels(record(translator, SENTENCES[0], layer=1))


@pytest.mark.parametrize("number", COMPUTED)
def test_a_figure_says_what_its_colours_mean(run, number):
    said = [text.get_text() for text in FIGURES[number](run).axes[0].texts]
    assert r"$-\max|\cdot|$" in said
    assert ("1" in said) == (number in (1, 3, 5))


@pytest.mark.parametrize("number", COMPUTED)
def test_of_a_long_sentence_fewer_tokens_are_written_but_none_smaller(translator, number):
    recording = record(translator, " ".join(SENTENCES * 2))
    axes = [axis for ax in FIGURES[number](recording).axes if ax.images for axis in (ax.xaxis, ax.yaxis)]
    written = [axis.get_ticklabels() for axis in axes if axis.get_ticklabels()]
    assert all(1 < len(labels) < len(recording.tokens) for labels in written)
    assert {label.get_fontsize() for labels in written for label in labels} == {SMALL}


@pytest.mark.parametrize("number", set(COMPUTED) - {5})
def test_how_many_heads_are_drawn_is_said_where_not_all_are(run, number):
    names = ("query", "key", "value", "scores", "weights", "context", "contributions")
    many = replace(run, **{name: getattr(run, name).repeat(4, 1, 1) for name in names})
    for recording, counts in ((run, []), (many, ["8 / 12"])):
        said = [text.get_text() for text in FIGURES[number](recording).axes[0].texts]
        assert [text for text in said if re.fullmatch(r"\d+ / \d+", text)] == counts


def test_the_largest_weight_of_every_row_is_written_on_it(translator):
    recording = record(translator, "Tom.")
    said = [text.get_text() for text in FIGURES[5](recording).axes[0].texts]
    numbers = [f"{weight:.2f}" for weight in recording.weights[0].amax(1)]
    assert [text for text in said if re.fullmatch(r"\d\.\d\d", text)] == numbers


def test_angles_are_0_between_equal_subspaces_and_90_between_those_with_nothing_in_common():
    """Two planes that share a line stand at 0 and 90 degrees; a turned basis spans the same plane."""
    x, y, z, u = torch.eye(4)
    for other, angle in (([x + y, x - 3 * y], 0.0), ([x, z], 45.0), ([z, u], 90.0)):
        planes = torch.stack([torch.stack([x, y]), torch.stack(other)])
        assert mean_angle(bases(planes)) == pytest.approx(angle, abs=1e-5)


def test_a_heads_subspace_is_what_it_reads_or_writes(run):
    module, width = run.module, run.module.head_dim
    for name, weight in (("k_proj", module.k_proj.weight), ("out_proj", module.out_proj.weight.mT)):
        for head, basis in enumerate(subspaces(module, name)):
            rows = weight[head * width : (head + 1) * width].double()
            torch.testing.assert_close(rows @ basis @ basis.mT, rows)


def test_tables_say_what_was_measured(run):
    read = {number: list(csv.DictReader(io.StringIO(TABLES[number](run).csv()))) for number in COMPUTED}
    first = {row["characteristic"]: row["value"] for row in read[1]}
    assert first["parameters"] == first["parameters_counted"] == str(sum(p.numel() for p in run.module.parameters()))
    assert first["weights_formed"] == str(run.weights.numel())
    assert float(read[7][-1]["difference"]) == run.difference
    alike = {row["measure"]: row["measured"] for row in read[3]}
    matrix = hw.similarity.weights({"": [run.call]}).matrix
    assert float(alike["weights_alike"]) == pytest.approx(float(matrix[~torch.eye(3).bool()].mean()))
    drawn = {row["measure"]: float(row["random"]) for row in read[3] if row["random"]}
    assert drawn["angle_q_proj"] == pytest.approx(mean_angle(bases(torch.randn(50, 7, 21))), abs=2)
    assert 0 < drawn["weights_alike"] < 1
    assert drawn["weights_alike"] != float(alike["weights_alike"])
    assert [row["step"] for row in read[5]] == [step.step for step in costs(run.module, 1)]
    assert all(float(row["microseconds"]) >= 0 for row in read[5])


def test_the_languages_say_the_same_things_and_no_number():
    def keys(node):
        return {key: keys(inner) for key, inner in node.items()} if isinstance(node, dict) else type(node)

    def texts(node):
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else [node]
        return [node] if isinstance(node, str) else [text for one in inner for text in texts(one)]

    chinese, english = (words(language) for language in LANGUAGES)
    assert keys(chinese) == keys(english)
    for said in (chinese, english):
        told = texts({key: said[key] for key in ("sections", "slides")})
        assert not [text for text in told if re.search(r"\d", text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_deck_has_every_slide_with_its_figure_table_and_commands(run, language, tmp_path):
    text = unescape(build(Material(run, language), tmp_path, " --text 'Tom likes the sea.'").read_text(encoding="utf-8"))
    said = words(language)
    for section in SECTIONS:
        assert said["sections"][section.key] in text
        for slide in section.slides:
            named = said["slides"][slide.key]
            assert all(part in text for part in (named["title"], named["summary"], *named["points"]))
            assert f"{said['figure']} {slide.number}: {named['figure']}" in text
            assert f"{said['table']} {slide.number}: {named['table']}" in text
    assert all(reference in text for reference in REFERENCES.values())
    for number in range(1, 10):
        for kind in ("figure", "table"):
            assert f"headwise lecture {kind} {number} --lang {language} --text 'Tom likes the sea.'" in text
        assert f'src="figures/{number}.svg"' in text
        assert "<svg" in (tmp_path / "figures" / f"{number}.svg").read_text("utf-8")
        assert (tmp_path / "tables" / f"{number}.csv").is_file()
    for file in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert (tmp_path / file).is_file()
    assert "http" not in re.sub(r"arXiv:\S+", "", text)


def test_what_a_sentence_holds_is_shown_and_not_obeyed(translator, tmp_path):
    marked = record(translator, "<b>Tom</b> $likes$ the sea.")
    text = build(Material(marked, "en"), tmp_path, " --text '<script>'").read_text(encoding="utf-8")
    assert "<b>Tom" not in text
    assert text.count("<script") == 2


def test_what_fails_leaves_nothing_behind(run, tmp_path):
    with pytest.raises(ValueError, match="no results of"):
        build(Material(run, "en", tmp_path), tmp_path / "deck")
    assert not (tmp_path / "deck").exists()


def test_a_long_command_stays_on_its_line_and_is_whole_where_one_points(run, tmp_path, monkeypatch):
    monkeypatch.setattr(deck, "FIGURES", {})
    text = build(Material(run, "en"), tmp_path, f" --text '{'Tom likes the sea. ' * 20}'").read_text(encoding="utf-8")
    commands = re.findall('<code title="(.*?)">(.*?)</code>', text)
    assert commands
    for whole, shown in commands:
        assert unescape(whole).endswith("Tom likes the sea. '")
        assert len(unescape(shown)) == 95
        assert unescape(whole).startswith(unescape(shown)[:-1])


def test_one_head_has_no_other_to_be_compared_with(translator):
    model = Transformer(replace(translator.model.config, num_heads=1)).eval()
    alone = record(Translator(model, translator.tokenizer, "LATIN"), SENTENCES[0])
    for number, column in ((3, "measured"), (3, "random"), (4, "angle"), (4, "random_angle")):
        table = TABLES[number](alone)
        found = [row[table.columns.index(column)] for row in table.rows if not str(row[0]).startswith("sum")]
        assert all(torch.tensor(found).isnan())
        assert "nan" not in table.markdown({})


@pytest.mark.parametrize("number", [3, 7])
def test_the_sum_says_how_many_heads_it_is_over(translator, number):
    """Not all of many are drawn."""
    model = Transformer(replace(translator.model.config, embed_dim=22, num_heads=11)).eval()
    many = record(Translator(model, translator.tokenizer, "LATIN"), SENTENCES[0])
    said = "".join(text.get_text() for text in FIGURES[number](many).axes[0].texts)
    assert r"\sum_{i=0}^{10}" in said


def drawn(run: Recording, number: int) -> list[torch.Tensor]:
    return [torch.as_tensor(ax.images[0].get_array().data).float() for ax in FIGURES[number](run).axes if ax.images]


def test_figures_draw_the_head_that_they_name(run):
    """In the order of drawing: what stands under i = 1 is that of head 1."""

    def joined(part):
        return part.transpose(0, 1).flatten(1)

    expected = {
        1: [run.x, *map(joined, (run.query, run.key, run.value))]
        + [part[head] for head in range(3) for part in (run.weights, run.context)]
        + [run.joined, run.output],
        3: [part[head] for head in range(3) for part in (run.weights, run.contributions)] + [run.output],
        4: [part[head] for part in (run.query, run.key, run.value) for head in range(3)],
        5: [run.x] + [part[0] for part in (run.query, run.key, run.value, run.scores, run.weights, run.context)] + [run.output],
        6: [run.x, joined(run.query), *run.query],
        7: [*run.context, run.joined, run.output],
    }
    for number, tensors in expected.items():
        torch.testing.assert_close(drawn(run, number), tensors)


def test_the_measured_angle_is_not_the_random_one(run):
    for row in TABLES[4](run).rows:
        assert row[-2] == mean_angle(subspaces(run.module, str(row[0])))


def test_the_commands_write_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def headwise(*arguments: object):
        return CliRunner().invoke(app, ["lecture", *map(str, arguments)], catch_exceptions=False)

    assert "wrote figure-7.svg" in headwise("figure", 7).stdout
    assert Path("figure-7.svg").is_file()
    printed = headwise("table", 5, "--lang", "en", "--text", "I am here.").stdout
    assert printed.startswith("| step | shape | parameters | multiply-adds | bytes made |")
    assert printed.count("\n") == 2 + 9
    assert "no experiment is behind this" in headwise("table", 1, "--recompute").stderr
    refused = headwise("table", 10)
    assert refused.exit_code == 1
    assert "number 10 is not computed yet; there is 1, 2, 3" in refused.stderr
