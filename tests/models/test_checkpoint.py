"""Folders: what goes in comes out, and what is wrong with one is said in a sentence."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import headwise as hw
from headwise.models.checkpoint.folder import CheckpointError, write
from headwise.models.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(
    vocab_size=29,
    embed_dim=26,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=2,
    feedforward_dim=17,
    dropout=0.25,
    label_smoothing=0.05,
    norm="pre",
    max_positions=13,
    pad_token_id=3,
    bos_token_id=4,
    eos_token_id=5,
)
IDS = {"input_ids": torch.arange(7)[None], "decoder_input_ids": torch.arange(5)[None]}


def random_model(config: TransformerConfig = CONFIG) -> Transformer:
    model = Transformer(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hw.save(random_model(), tmp_path / "a" / "model")
    return tmp_path / "a" / "model"


def test_round_trip(tmp_path):
    model = random_model()
    hw.save(model, tmp_path / "new" / "folder")
    loaded = hw.load(str(tmp_path / "new" / "folder"))
    assert not loaded.training
    assert loaded.config == CONFIG
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded(**IDS).logits, model(**IDS).logits)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]


def test_config_round_trip(folder):
    stored = json.loads((folder / "config.json").read_text("utf-8"))
    assert stored.pop("model_type") == "transformer"
    assert stored.pop("architectures") == ["Transformer"]
    assert stored.pop("dtype") == "float32"
    assert TransformerConfig(**stored) == CONFIG
    (folder / "config.json").write_text(json.dumps({"model_type": "transformer", **stored}))
    assert hw.load(folder).config == CONFIG


def test_saving_again_replaces_the_model(folder):
    model = random_model(replace(CONFIG, num_decoder_layers=1, norm="post"))
    hw.save(model, folder)
    assert torch.equal(hw.load(folder)(**IDS).logits, model(**IDS).logits)


def test_half_precision_on_disk(folder, tmp_path):
    model = hw.load(folder)
    hw.save(model, tmp_path / "half", torch.float16)
    sizes = [sum(x.nbytes for x in load_file(place / "model.safetensors").values()) for place in (tmp_path / "half", folder)]
    assert 2 * sizes[0] == sizes[1]
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size
    for name, tensor in hw.load(tmp_path / "half").state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())  # the model itself is left alone


def test_only_known_models_are_saved(tmp_path):
    with pytest.raises(TypeError, match=r"Linear has no format here; known are Transformer, "):
        hw.save(torch.nn.Linear(2, 3), tmp_path)


def config(**changes):
    """``None`` takes an entry away."""

    def damage(folder: Path) -> None:
        entries = json.loads((folder / "config.json").read_text("utf-8")) | changes
        (folder / "config.json").write_text(json.dumps({name: x for name, x in entries.items() if x is not None}))

    return damage


def text(content: bytes):
    return lambda folder: (folder / "config.json").write_bytes(content)


def weights(change):
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def truncate(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


EXPAND = "encoder.layers.0.feed_forward.expand.weight"
DAMAGES = {
    "no folder": (shutil.rmtree, "model is not a folder"),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "model is not a folder"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "model holds no config.json"),
    "not JSON": (text(b"{'vocab_size': 29}"), "config.json is not JSON: "),
    "not UTF-8": (text(b"\xff\xfe{}"), "config.json is not JSON: "),
    "a list": (text(b"[]"), "config.json is not a JSON object"),
    "unknown model": (
        config(model_type="a", architectures=["B"]),
        "architectures is ['B'] and model_type 'a'; known are Transformer, MarianMTModel, ",
    ),
    "another type": (config(model_type="bert"), "holds a 'bert' model, not Transformer's 'transformer'"),
    "no model type": (config(model_type=None, architectures=None), "architectures is [] and model_type None; known are"),
    "model type a list": (config(model_type=["transformer"], architectures=None), "model_type ['transformer']; known are"),
    "unknown entries": (
        config(rope_theta=1e4, hidden_size=3),
        "config.json makes no Transformer: unknown entries hidden_size, rope_theta",
    ),
    "missing entry": (config(vocab_size=None), "config.json makes no Transformer: .*vocab_size"),
    "heads do not divide": (config(num_heads=4), "config.json makes no Transformer: embed_dim = 26 .* num_heads = 4"),
    "no heads": (config(num_heads=0), "config.json makes no Transformer: "),
    "unknown norm": (config(norm="middle"), "config.json makes no Transformer: .*norm.*middle"),
    "words for numbers": (config(vocab_size="many"), "config.json makes no Transformer: "),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model holds no model.safetensors"),
    "truncated": (truncate, "model.safetensors is damaged or holds more than tensors: "),
    "empty": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        "model.safetensors is damaged or holds more than tensors: ",
    ),
    "a pickle": (
        lambda folder: torch.save({"embedding.weight": torch.ones(2)}, folder / "model.safetensors"),
        "model.safetensors is damaged or holds more than tensors: ",
    ),
    "missing tensor": (weights(lambda x: x.pop(EXPAND)), f"model.safetensors misses 1 tensors: {EXPAND}"),
    "unexpected tensors": (
        weights(lambda x: x.update({f"{n}.weight": torch.ones(2) for n in "dacb"})),
        "model.safetensors has unexpected 4 tensors: a.weight, b.weight, c.weight, ...",
    ),
    "wrong shape": (
        weights(lambda x: x.update({EXPAND: torch.ones(26, 17)})),
        f"{EXPAND} is (26, 17), the model's is (17, 26)",
    ),
}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [pytest.param(*DAMAGES[name], id=name, marks=[pytest.mark.nohook] * (name == "unknown norm")) for name in DAMAGES],
)
def test_what_is_wrong_is_said(folder, damage, problem):
    hw.load(folder)
    damage(folder)
    with pytest.raises(CheckpointError) as error:
        hw.load(folder)
    assert str(error.value).startswith(str(folder)), str(error.value)
    assert re.search(re.escape(problem).replace(r"\.\*", ".*"), str(error.value)), str(error.value)


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", ["old", None])
def test_a_write_that_fails_changes_nothing(tmp_path, stop, before):
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)

    def fill(place: Path) -> None:
        assert place.parent == path.parent
        place.write_text("half of")
        raise stop

    with pytest.raises(stop):
        write(path, fill)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({"file.txt": before} if before else {})


def test_a_write_replaces_the_file_at_once(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fill(place: Path) -> None:
        place.write_text("new")
        assert path.read_text() == "old"

    write(path, fill)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file.txt", "new")]
    assert path.stat().st_mode & 0o777 == 0o644
