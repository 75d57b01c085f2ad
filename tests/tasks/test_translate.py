"""Sentences in, sentences out: what is refused, what is kept in a folder, and in which order translations come."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from headwise.models.checkpoint.folder import CheckpointError
from headwise.tasks.tokens import train_tokenizer
from headwise.tasks.translate import Search, Translator, main_script


@pytest.fixture
def translator(random_model, tokenizer) -> Translator:
    model = random_model(2, tokenizer.get_vocab_size(), max_positions=13)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()  # as they are stored
    return Translator(model.float(), tokenizer, "LATIN")


@pytest.mark.parametrize(
    ("lines", "script"),
    [
        (["Hello, 世界!"], "LATIN"),
        (["你好", "ok"], "CJK"),
        (["hi", "你好啊"], "CJK"),
        (["Привет, Tom"], "CYRILLIC"),
        (["Γειά σου"], "GREEK"),
        (["aaaaa", "бвгд"], "LATIN"),
        (["  123 !?…", "42"], ""),
        ([""], ""),
        ([], ""),
    ],
)
def test_main_script(lines, script):
    assert main_script(lines) == script
    assert main_script(iter(lines)) == script


def test_check_lets_sentences_pass(translator):
    for sentence in ("I read 3 books.", " a café ", "Tom 读", "I " * 12):
        translator.check(sentence)
    Translator(translator.model, translator.tokenizer).check("我读3本书。")


@pytest.mark.parametrize(
    ("sentence", "problem"),
    [
        ("", "the sentence is empty"),
        (" \t\u3000", "the sentence is empty"),
        ("I " * 13, "the sentence has 14 tokens, and the model reads at most 13: cut it into sentences"),
        ("我读3本书。", "the model reads LATIN script; this is CJK: '我读3本书。'"),
        ("Привет", "the model reads LATIN script; this is CYRILLIC: 'Привет'"),
        ("123 + 4?", "the sentence has no letters: '123 + 4?'"),
    ],
)
def test_check_says_why_not(translator, sentence, problem):
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        translator.check(sentence)


@pytest.mark.parametrize("text", ["I wrote <pad> 3 books.", "I wrote </s> 3 books.", "<s> I wrote"])
def test_special_tokens_are_not_read_out_of_the_text(translator, tmp_path, text):
    translator.save(tmp_path)
    for each in (translator, Translator.load(tmp_path)):
        (ids,) = each.encode([text])
        assert ids[-1] == 2
        assert not set(ids[:-1]) & {0, 1, 2}


def test_round_trip(translator, tmp_path):
    translator.save(tmp_path / "model")
    loaded = Translator.load(tmp_path / "model")
    assert loaded.script == "LATIN"
    assert {x.dtype for x in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.float16}
    assert not loaded.model.training
    for name, tensor in translator.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    sentences = ["Tom wrote a letter.", "I read 3 books."]
    assert loaded.encode(sentences) == translator.encode(sentences)
    assert loaded.translate(sentences) == translator.translate(sentences)
    names = ["config.json", "model.safetensors", "task.json", "tokenizer.json"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == names
    (tmp_path / "model" / "task.json").unlink()
    assert Translator.load(tmp_path / "model").script == ""


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "config.json").unlink(), "model holds no config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "model holds no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json is no tokenizer: "),
        (lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\x00"), "tokenizer.json is no tokenizer: "),
        (
            lambda folder: train_tokenizer(["a b c 你"], 11).save(str(folder / "tokenizer.json")),
            "tokenizer.json has 11 tokens, the model beside it ",
        ),
        (lambda folder: (folder / "task.json").write_text("{"), "task.json"),
        (lambda folder: (folder / "task.json").write_text(json.dumps({"task": "translate"})), "task.json"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(translator, tmp_path, damage, problem):
    folder = tmp_path / "model"
    translator.save(folder)
    Translator.load(folder)
    damage(folder)
    with pytest.raises(CheckpointError) as error:
        Translator.load(folder)
    assert str(error.value).startswith(str(folder))
    assert problem in str(error.value)


@pytest.mark.parametrize("beams", [1, 4])
def test_translations_come_in_order(translator, sentences, beams):
    english = [source for source, _ in sentences if len(translator.encode([source])[0]) <= 13]
    translator.model.double()
    english = ["", *english[:4], "  \t", *english[-3:], "a", ""]
    assert len({len(ids) for ids in translator.encode(english)}) > 3
    how = Search(beams, extra_tokens=99)
    alone = [translator.translate([sentence], how)[0] for sentence in english]
    assert [not translation for translation in alone] == [not sentence.strip() for sentence in english]
    assert len(set(alone)) > 3
    for batch_size in (3, 64):
        assert translator.translate(english, how, batch_size) == alone
    assert translator.translate([]) == []


def test_four_beams_unless_said_otherwise(translator, sentences):
    english = [source for source, _ in sentences if len(translator.encode([source])[0]) <= 13]
    greedy, four = (translator.translate(english, Search(beams, length_penalty=0.6)) for beams in (1, 4))
    assert translator.translate(english) == four != greedy
