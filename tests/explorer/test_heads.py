"""``headwise heads``, ``prune`` and ``compare``: what they print is what the library computes, of any family's checkpoint."""

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

import headwise as hw
from headwise.cli import app
from headwise.explorer.compare import compare
from headwise.explorer.heads import measure
from headwise.models.transformer import Transformer, TransformerConfig
from headwise.tasks.examples import Checkpoint, Line, read, some
from headwise.tasks.quality import answers, translation
from headwise.tasks.scoring import score
from headwise.tasks.tokens import train_tokenizer
from headwise.tasks.translate import Search, Translator

PAIRS = [
    ("Tom likes the sea.", "汤姆喜欢海。"),
    ("The tree is tall.", "树很高。"),
    ("We see the sea.", "我们看海。"),
    ("Tom is tall.", "汤姆很高。"),
    ("The tree, Tom!", "树，汤姆！"),
]
WORDS = "[PAD] [UNK] [MASK] a dog lies on the grass".split()
SIZES = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 17}
TEXT = SIZES | {"vocab_size": len(WORDS), "max_position_embeddings": 7}


def headwise(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def refused(*arguments: object) -> str:
    result = headwise(*arguments)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A translator, and pairs.tsv beside it."""
    torch.manual_seed(3)
    tokenizer = train_tokenizer([side for pair in PAIRS for side in pair], 80)
    model = Transformer(TransformerConfig(tokenizer.get_vocab_size(), 12, 3, 2, 1, 17, max_positions=23))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    folder = tmp_path_factory.mktemp("translator")
    Translator(model, tokenizer, "LATIN").save(folder / "model")
    (folder / "pairs.tsv").write_text("".join(f"{source}\t{target}\tignored\n" for source, target in PAIRS), "utf-8")
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Callable[..., Path]:
    """Makes a folder of a model of transformers, with a tokenizer of nine words."""

    def make(name: str, config: transformers.PreTrainedConfig) -> Path:
        torch.manual_seed(5)
        model = getattr(transformers, name)(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        words.save(str(folder / "tokenizer.json"))
        return folder

    return make


def text_file(folder: Path, *lines: str, name: str = "lines.txt") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
    return folder / name


def test_every_number_of_a_head_is_the_librarys_own(folder):
    found = headwise("heads", folder / "model", "--data", folder / "pairs.tsv", "--out", folder / "heads.csv")
    assert found.exit_code == 0
    translator = Translator.load(folder / "model")
    translator.model.label_smoothing = 0.0
    batches = [
        {"input_ids": torch.tensor(translator.encode([a])), "labels": torch.tensor(translator.encode([b]))} for a, b in PAIRS
    ]
    importance = hw.importance(translator.model, batches)

    def measured():
        for batch in batches:
            with hw.observe(translator.model) as record, torch.no_grad():
                translator.model(**batch)
            yield hw.statistics(record)

    means = hw.bootstrap(measured())
    with (folder / "heads.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["address"], int(row["head"])) for row in rows] == [(at, h) for at in importance.value for h in range(3)]
    for row in rows:
        at, h = row["address"], int(row["head"])
        assert float(row["importance_low"]) == importance.low[at][h]
        assert float(row["entropy"]) == means[at]["entropy"].mean[h]
        assert float(row["diagonality_high"]) == means[at]["diagonality"].high[h]
        assert (row["distance"] == "") == ("cross" in at)


def test_the_table_is_sorted_by_any_number_and_json_holds_the_same(folder):
    run = headwise("heads", folder / "model", "--data", folder / "pairs.tsv", "--sort", "entropy", "--out", folder / "h.json")
    rows = json.loads((folder / "h.json").read_text("utf-8"))["heads"]
    printed = [line.split()[:3] for line in run.stdout.splitlines() if ".layers." in line]
    ranked = sorted(rows, key=lambda row: -row["entropy"])
    assert printed == [[row["address"], str(row["head"]), f"{row['entropy']:.3f}"] for row in ranked]
    assert "--sort: expected place or one of importance, entropy" in refused(
        "heads", folder / "model", "--data", folder / "pairs.tsv", "--sort", "beauty"
    )


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_written(folder, suffix):
    file = folder / f"heads.{suffix}"
    assert headwise("heads", folder / "model", "--data", folder / "pairs.tsv", "--examples", 2, "--out", file).exit_code == 0
    if suffix == "png":
        assert np.asarray(Image.open(file).convert("L")).std() > 10
    else:
        assert "<svg" in file.read_text("utf-8")


def test_a_model_of_transformers_goes_on_with_lines_of_its_length(theirs):
    config = transformers.OPTConfig(**TEXT, ffn_dim=17, word_embed_proj_dim=20)
    folder = theirs("OPTForCausalLM", config)
    lines = text_file(folder, "a dog lies", "", "dog", "the grass lies on a dog", "a a a a a a a a")
    run = headwise("heads", folder, "--data", lines)
    assert "left out 2 of 4 lines; " in run.stderr
    assert "line 3: 1 tokens, of which none can be predicted" in run.stderr
    assert "OPTForCausalLM: 10 heads, 2 examples" in run.stdout
    assert all(name in run.stdout for name in ("importance", "entropy", "induction"))
    assert "has no hw.MultiHeadAttention" in refused("prune", folder, "--data", lines, "--out", folder / "out")


def test_masked_tokens_are_the_same_ones_and_never_none(theirs):
    checkpoint = Checkpoint.load(theirs("BertForMaskedLM", transformers.BertConfig(**TEXT)))
    file = text_file(checkpoint.folder, "a dog lies on the grass", "grass")
    for line in read(file):
        batch, plain = checkpoint.batch([line]), checkpoint.tokens(line.given)["input_ids"]
        hidden = batch["labels"] != -100
        assert hidden.any()
        assert batch["input_ids"][hidden].eq(WORDS.index("[MASK]")).all()
        assert batch["labels"][hidden].equal(plain[hidden])
        assert batch["input_ids"][~hidden].equal(plain[~hidden])
        assert all(x.equal(checkpoint.batch([line])[name]) for name, x in batch.items())
        assert not hidden[plain == WORDS.index("[PAD]")].any()
    texts = [Line(file, i, " ".join(row), None) for i, row in enumerate(itertools.product(["a", "dog", "the"], repeat=4))]
    places = [checkpoint.batch([line])["labels"].ne(-100).nonzero()[0, 1].item() for line in texts]
    assert {*places} == {0, 1, 2, 3}  # another text hides other places
    together = checkpoint.batch([texts[0], Line(file, 0, "a dog", None)])["labels"]
    assert together[1, :2].equal(checkpoint.batch([Line(file, 0, "a dog", None)])["labels"][0])  # padding changes nothing


def test_a_bare_body_has_statistics_and_no_importance(theirs):
    folder = theirs("BertModel", transformers.BertConfig(**TEXT))
    found = measure(checkpoint := Checkpoint.load(folder), read(text_file(folder, "a dog lies", "the grass")))
    assert "importance" not in found.names
    assert found.labelled == 0
    assert found.by("entropy")[0].numbers["entropy"].mean == max(head.numbers["entropy"].mean for head in found.heads)
    with pytest.raises(ValueError, match="nothing says what the model should say to it"):
        answers(checkpoint, read(text_file(folder, "a dog")))


def test_classes_go_by_name_or_number_and_accuracy_counts_them(theirs):
    names = {"id2label": {0: "good", 1: "bad", 2: "odd"}, "label2id": {"good": 0, "bad": 1, "odd": 2}}
    checkpoint = Checkpoint.load(theirs("BertForSequenceClassification", transformers.BertConfig(**TEXT, **names)))
    file = text_file(checkpoint.folder, "a dog\tbad", "the grass lies\t1", "on\todd", name="lines.tsv")
    lines = read(file)
    with torch.no_grad():
        said = [checkpoint.model(**checkpoint.tokens(line.given)).logits.argmax().item() for line in lines]
    assert answers(checkpoint, lines)["accuracy"] == [float(a == b) for a, b in zip(said, [1, 1, 2], strict=True)]
    assert "has no class 'ugly'" in refused(
        "heads", checkpoint.folder, "--data", text_file(checkpoint.folder, "a\tugly", name="wrong.tsv")
    )


def test_pictures_lie_beside_the_file_and_distances_are_between_patches(theirs):
    folder = theirs("ViTForImageClassification", transformers.ViTConfig(**SIZES, image_size=24, patch_size=8, num_labels=3))
    sizes = {"do_resize": True, "size": {"height": 24, "width": 24}, "image_processor_type": "ViTImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes))
    for i in range(2):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (30, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    lines = read(text_file(folder, "0.png\t2", "1.png\t0", name="lines.tsv"))
    found = measure(checkpoint := Checkpoint.load(folder), lines)
    with hw.observe(checkpoint.model) as record, torch.no_grad():
        checkpoint.model(hw.image_processor(folder)([folder / "0.png", folder / "1.png"])["pixel_values"])
    numbers = hw.statistics(record, places=hw.places.Grid(3, 3, special=1))
    for head in found.heads:
        torch.testing.assert_close(head.numbers["distance"].mean, numbers[head.address].distance[head.head].item())
    assert found.labelled == 2


def test_a_pruned_model_is_smaller_scored_on_other_lines_and_names_the_heads_that_stay(folder, tmp_path):
    run = headwise("prune", folder / "model", "--data", folder / "pairs.tsv", "--keep", 5, "--out", tmp_path / "small")
    assert "ranked by |d loss / d gate| on 3 examples, scored on 2 others" in run.stdout
    whole, small = Checkpoint.load(folder / "model"), Checkpoint.load(tmp_path / "small")
    ranking = [whole.batch([line]) for line in read(folder / "pairs.tsv")[::2]]
    gone = hw.importance(whole.model, ranking).least(7 / 12)
    silent = {at: torch.tensor([float(h not in heads) for h in range(3)]) for at, heads in gone.items()}
    batch = whole.batch(read(folder / "pairs.tsv"))
    with torch.no_grad(), hw.gates(whole.model, silent):
        torch.testing.assert_close(small.model(**batch).logits, whole.model(**batch).logits)
    found = compare(whole, small, read(folder / "pairs.tsv"), read(folder / "pairs.tsv"))
    assert (found.first.heads, found.second.heads) == (12, 5)
    assert found.second.bytes == (tmp_path / "small" / "model.safetensors").stat().st_size < found.first.bytes
    cells = {line.split()[0]: line.split()[1:4] for line in run.stdout.splitlines() if line.strip()}
    assert cells["bytes"][:2] == [f"{found.first.bytes:,}", f"{found.second.bytes:,}"]
    assert cells["parameters"][1] == f"{sum(p.numel() for p in small.model.parameters()):,}"
    for match in found.matches:
        assert (match.second is None) == (match.first in gone.get(match.address, []))
        assert match.second is None or match.parameters == pytest.approx(1.0)
    assert Translator.load(tmp_path / "small").translate(["Tom is tall."])  # its tokenizer came along


def test_a_folder_ranks_on_train_and_scores_on_valid(folder, tmp_path):
    for part, pairs in (("train", PAIRS[:3]), ("valid", PAIRS[3:])):
        text_file(tmp_path, *("\t".join(pair) for pair in pairs), name=f"{part}.tsv")
    run = headwise("prune", folder / "model", "--data", tmp_path, "--examples", 2, "--out", tmp_path / "small")
    assert "on 2 examples, scored on 2 others" in run.stdout


def test_losses_and_translations_are_those_of_the_model(folder):
    checkpoint, lines = Checkpoint.load(folder / "model"), read(folder / "pairs.tsv")
    translator = Translator.load(folder / "model")
    translator.model.label_smoothing = 0.0
    with torch.no_grad():
        alone = [float(translator.model(**checkpoint.batch([line])).loss) for line in lines]
    assert answers(checkpoint, lines) == {"loss": alone}
    written = score(translator.translate([source for source, _ in PAIRS], Search(beams=1)), [target for _, target in PAIRS])
    assert translation(checkpoint, lines)[0] == written.bleu


def test_a_model_beside_itself_differs_in_nothing(folder):
    checkpoint, lines = Checkpoint.load(folder / "model"), read(folder / "pairs.tsv")
    found = compare(checkpoint, checkpoint, lines, lines[:2])
    assert found.differences["loss"] == (0.0, 0.0, 0.0)
    assert all(match.first == match.second for match in found.matches)
    assert all(match.attention == pytest.approx(1.0) for match in found.matches)
    assert "attention alike" in headwise("compare", folder / "model", folder / "model").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--keep", "0%"), "--keep: expected a share such as 50%, or a number of heads from 1 to 12; got '0%'"),
        (("--keep", "13"), "got '13'"),
        (("--keep", "half"), "got 'half'"),
        (("--out", "model"), "model is there already: choose another folder"),
    ],
)
def test_prune_refuses_in_a_sentence(folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    assert words in refused("prune", "model", "--data", "pairs.tsv", "--out", "small", *arguments)


def test_lines_are_evenly_spaced(tmp_path):
    lines = [Line(tmp_path, number, "x", None) for number in range(7)]
    assert [line.number for line in some(lines, 3)] == [0, 2, 4]
    assert some(lines, None) == some(lines, 9) == lines


def test_differences_are_paired_and_second_less_first(folder, tmp_path):
    other = Transformer(Translator.load(folder / "model").model.config)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    first, lines = Checkpoint.load(folder / "model"), read(folder / "pairs.tsv")
    second = first.save(other, tmp_path / "other")
    found = compare(first, second, lines, lines[:2])
    losses = [torch.tensor(answers(one, lines)["loss"]) for one in (first, second)]
    assert found.differences["loss"].mean == pytest.approx(float((losses[1] - losses[0]).mean()))
    assert found.first.quality["loss"].mean == pytest.approx(float(losses[0].mean()))
    drawn = torch.stack([losses[0][torch.randint(5, (5,))].mean() for _ in range(4000)])
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    assert found.first.quality["loss"][1:] == pytest.approx((low, high), abs=0.15 * (high - low))
    for address in ("encoder.layers.1.self_attention", "decoder.layers.0.cross_attention"):
        alike = []
        for line in lines[:2]:
            calls = {}
            for i, one in enumerate((first, second)):
                with hw.observe(one.model) as record, torch.no_grad():
                    one.model(**one.batch([line]))
                calls[str(i)] = [record[address][0]]
            alike.append(hw.similarity.weights(calls).matrix[:3, 3:])
        for match in (match for match in found.matches if match.address == address):
            assert match.attention == pytest.approx(float(torch.stack(alike).mean(0)[match.first, match.second]), abs=1e-6)


def test_the_pace_is_the_second_models(folder, monkeypatch):
    checkpoint, clock = Checkpoint.load(folder / "model"), itertools.accumulate(itertools.cycle([0.0, 2.0, 0.0, 3.0]))
    monkeypatch.setattr("headwise.explorer.compare.time.perf_counter", lambda: next(clock))
    found = compare(checkpoint, checkpoint, read(folder / "pairs.tsv"))
    assert found.seconds == pytest.approx((2.0, 3.0))
    assert found.slower == pytest.approx(1.5)


def test_heads_that_only_the_second_has_are_listed(folder, tmp_path):
    whole = Checkpoint.load(folder / "model")
    pruned = hw.prune(Checkpoint.load(folder / "model").model, {"encoder.layers.1.self_attention": [1]})
    found = compare(whole.save(pruned, tmp_path / "pruned"), whole)
    alone = [(match.address, match.second) for match in found.matches if match.first is None]
    assert alone == [("encoder.layers.1.self_attention", 1)]


def test_translations_come_in_the_order_of_the_lines(folder, monkeypatch):
    seen = {}
    monkeypatch.setattr("headwise.tasks.scoring.score", lambda written, wanted: seen.update(both=(written, wanted)) or FAKE)
    translation(Checkpoint.load(folder / "model"), read(folder / "pairs.tsv"))
    translator = Translator.load(folder / "model")
    assert seen["both"] == (translator.translate([a for a, _ in PAIRS], Search(beams=1)), [b for _, b in PAIRS])


FAKE = type("Score", (), {"bleu": 1.0, "interval": 0.5})


def test_numbers_and_several_classes_have_labels_of_their_own(theirs):
    one = Checkpoint.load(theirs("BertForSequenceClassification", transformers.BertConfig(**TEXT, num_labels=1)))
    file = text_file(one.folder, "a dog\t3.5", name="numbers.tsv")
    said = one.model(**one.tokens("a dog")).logits.item()
    assert answers(one, read(file)) == {"loss": [pytest.approx((said - 3.5) ** 2, rel=1e-4)]}
    config = transformers.BertConfig(**TEXT, num_labels=3, problem_type="multi_label_classification")
    several = Checkpoint.load(theirs("BertForSequenceClassification", config))
    batch = several.batch(read(text_file(several.folder, "a dog\tLABEL_0, LABEL_2", name="several.tsv")))
    assert batch["labels"].tolist() == [[1.0, 0.0, 1.0]]
    assert answers(several, read(several.folder / "several.tsv")).keys() == {"loss"}


def test_weights_that_are_missing_or_of_another_class_are_refused(theirs):
    folder = theirs("OPTForCausalLM", transformers.OPTConfig(**TEXT, ffn_dim=17, word_embed_proj_dim=20))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    lines = text_file(folder, "a dog lies")
    for name, words in (
        ("OPTForSequenceClassification", "does not hold the weights of a OPTForSequenceClassification: 1 are missing"),
        ("set_seed", "neither headwise nor transformers"),
        (5, "architectures is [5]"),
    ):
        (folder / "config.json").write_text(json.dumps(config | {"architectures": [name]}), "utf-8")
        assert words in refused("heads", folder, "--data", lines)


def test_an_error_without_words_is_told_by_its_kind(theirs, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise AssertionError

    folder = theirs("OPTForCausalLM", transformers.OPTConfig(**TEXT, ffn_dim=17, word_embed_proj_dim=20))
    monkeypatch.setattr(transformers.OPTForCausalLM, "from_pretrained", broken)
    assert "transformers cannot read it: AssertionError" in refused("heads", folder, "--data", text_file(folder, "a dog lies"))


def test_bytes_are_those_of_the_files_that_are_read_and_dtypes_stay(folder, tmp_path):
    whole = Checkpoint.load(folder / "model")
    model = tmp_path / "model"
    hw.save(whole.model, model, torch.bfloat16)
    (model / "training.safetensors").write_bytes(b"x" * 999)
    for name in ("tokenizer.json", "task.json"):
        (model / name).write_bytes((folder / "model" / name).read_bytes())
    found = Checkpoint.load(model)
    assert found.bytes == (model / "model.safetensors").stat().st_size
    assert json.loads((model / "config.json").read_text("utf-8")) == json.loads(
        (found.save(found.model, tmp_path / "again").folder / "config.json").read_text("utf-8")
    )
    assert found.bytes == Checkpoint.load(tmp_path / "again").bytes


def test_a_save_that_breaks_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("headwise.tasks.examples.shutil.copyfile", full)
    assert "no space left" in refused("prune", folder / "model", "--data", folder / "pairs.tsv", "--out", tmp_path / "out")
    assert not [*tmp_path.iterdir()]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("{}")
    assert "is there already" in refused("prune", "nowhere", "--data", "nothing", "--out", tmp_path / "there")
