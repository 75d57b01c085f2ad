"""The command: one output line per input line, and one sentence where the input is bad."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import headwise as hw
from headwise.cli import app
from headwise.cli.common import SHIPPED
from headwise.models.hifigan import SpeechT5HifiGan, SpeechT5HifiGanConfig
from headwise.models.llama import LlamaConfig, LlamaForCausalLM
from headwise.models.systems import ARCHITECTURES
from headwise.models.transformer import Transformer, TransformerConfig
from headwise.tasks.tokens import train_tokenizer
from headwise.tasks.translate import Translator


def headwise(*arguments: object, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False, **options)


def refused(result) -> str:
    """The one sentence on stderr."""
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("headwise: ")
    return lines[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    tokenizer = train_tokenizer(["Tom likes the sea.", "The tree is tall.", "汤姆喜欢海。", "树很高。"], 80)
    model = Transformer(TransformerConfig(tokenizer.get_vocab_size(), 12, 3, 1, 1, 17, max_positions=23))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    Translator(model, tokenizer, "LATIN").save(tmp_path / "model")
    return tmp_path / "model"


def test_run_prints_a_line_for_every_line_and_nothing_else(folder):
    lines = ["Tom likes the sea.", "", "The tree is tall."]
    result = headwise("run", "translate", "--model", folder, input="\n".join(lines) + "\n")
    assert result.exit_code == 0
    printed = result.stdout.split("\n")
    assert len(printed) == 3 + 1
    assert printed[1] == printed[3] == ""
    alone = headwise("run", "translate", "Tom likes the sea.", "The tree is tall.", "--model", folder)
    assert alone.stdout.split("\n")[:2] == [printed[0], printed[2]]
    assert Translator.load(folder).translate(lines) == printed[:3]


def test_it_is_run_as_a_module_too():
    run = subprocess.run([sys.executable, "-m", "headwise", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: headwise [OPTIONS] COMMAND" in run.stdout


@pytest.mark.parametrize("command", [("look",), ("run", "translate")], ids=["look", "run"])
@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("tree " * 99, "at most 23"),
        ("Том любит море.", "reads LATIN script; this is CYRILLIC"),
        ("汤姆喜欢海。", "reads LATIN script; this is CJK"),
        ("123 !?", "no letters"),
    ],
    ids=["empty", "blank", "long", "cyrillic", "chinese", "no letters"],
)
def test_bad_sentences_get_one_sentence(folder, command, sentence, words):
    assert words in refused(headwise(*command, sentence, "--model", folder))


def test_a_line_that_cannot_be_read_stays_empty_and_is_named(folder):
    result = headwise("run", "translate", "--model", folder, input="The tree.\nдерево\n\nThe sea.\n")
    printed = result.stdout.split("\n")
    assert [bool(line) for line in printed[1:3]] == [False, False]
    assert printed[0] == Translator.load(folder).translate(["The tree."])[0]
    assert len(printed) == 4 + 1
    assert result.exit_code == 1
    assert result.stderr.startswith("headwise: line 2: the model reads LATIN script")
    assert result.stderr.count("\n") == 1
    assert headwise("run", "translate", "дерево", "море", "--model", folder).stdout == "\n\n"


def test_files_that_are_no_model_get_one_sentence(folder, tmp_path):
    assert "is not a folder" in refused(headwise("look", "Tom.", "--model", tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(headwise("look", "Tom.", "--model", tmp_path / "empty"))
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:999])
    assert "damaged" in refused(headwise("look", "Tom.", "--model", broken))
    assert "--out" in refused(headwise("look", "Tom.", "--model", folder, "--out", tmp_path / "look.jpg"))
    assert "--out" in refused(headwise("look", "Tom.", "--model", folder, "--out", tmp_path / "none" / "look.png"))


@pytest.mark.parametrize("suffix", [".png", ".svg", ".json"])
def test_look_writes_what_out_says(folder, tmp_path, suffix):
    out = tmp_path / f"look{suffix}"
    result = headwise("look", "Tom likes the sea.", "--model", folder, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "aligns best" in result.stdout
    assert out.stat().st_size > 1000
    if suffix == ".json":
        data = json.loads(out.read_text(encoding="utf-8"))
        assert data["translation"] == Translator.load(folder).translate(["Tom likes the sea."])[0]
        assert [len(layer["heads"]) for layer in data["layers"]] == [3, 3, 3]


def test_evaluate_scores_with_an_interval(folder, tmp_path):
    (tmp_path / "valid.tsv").write_text("Tom likes the sea.\t汤姆喜欢海。\nThe tree is tall.\t树很高。\n", encoding="utf-8")
    result = headwise("evaluate", "translate", "--data", tmp_path, "--model", folder)
    assert result.exit_code == 0
    assert "sacreBLEU over 2 sentences" in result.stdout
    assert "tok:zh" in result.stdout
    assert "valid.tsv" in refused(headwise("evaluate", "translate", "--data", folder, "--model", folder))


def test_train_names_what_is_wrong(tmp_path):
    assert "no width in the recipe" in refused(headwise("train", "translate", "--data", tmp_path, "--set", "width=3"))
    assert "embed_dim" in refused(headwise("train", "translate", "--data", tmp_path, "--set", "embed_dim=wide"))
    assert "train.tsv" in refused(headwise("train", "translate", "--data", tmp_path, "--out", tmp_path / "out"))
    assert "nothing at" in refused(headwise("train", "translate", "--data", tmp_path / "none", "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_shipped_model_is_small_and_translates():
    assert (SHIPPED / "model.safetensors").stat().st_size <= 16 * 2**20
    assert (SHIPPED / "README.md").exists()
    result = headwise("run", "translate", "Tom is taller than his mother.")
    assert result.exit_code == 0
    assert "汤姆" in result.stdout


def test_models_lists_what_can_be_read():
    printed = headwise("models").stdout
    for name in ARCHITECTURES:
        assert re.search(rf"^{name} +\w", printed, re.MULTILINE), name


def test_models_tells_heads_widths_and_parameters(tmp_path):
    config = LlamaConfig(
        vocab_size=29, hidden_size=24, intermediate_size=17, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2
    )
    hw.save(LlamaForCausalLM(config), tmp_path / "llama")
    (tmp_path / "llama" / "model.safetensors").unlink()  # nothing of it is needed
    lines = headwise("models", tmp_path / "llama").stdout.splitlines()
    layer = 2 * 24 * 24 + 2 * 24 * 8 + 3 * 24 * 17 + 2 * 24
    assert lines[0].strip() == f"LlamaForCausalLM: {2 * 29 * 24 + 3 * layer + 24:,} parameters"
    assert lines[1].split("  ")[0] == "attention"
    assert lines[2].split() == ["decoder.layers.*.self_attention", "3", "6", "2", "4", "24"]
    assert "is not a folder with a model" in refused(headwise("models", tmp_path / "nothing"))
    hw.save(SpeechT5HifiGan(SpeechT5HifiGanConfig()), tmp_path / "vocoder")  # with nothing that attends
    assert headwise("models", tmp_path / "vocoder").stdout.splitlines()[0].strip() == "SpeechT5HifiGan: 12,656,257 parameters"
