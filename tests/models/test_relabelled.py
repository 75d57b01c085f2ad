"""A published classifier or detector goes on with classes of one's own."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from parity import Pair
from test_parity import SYSTEMS
from torch import nn

import headwise as hw
from headwise.models.vit import ViTConfig

NAMES = ["cat", "dog", "bird", "fish"]
HEADS = {  # the tensors that know how many classes there are
    "BertForSequenceClassification": "classifier",
    "ViTForImageClassification": "classifier",
    "TimesformerForVideoClassification": "classifier",
    "VideoMAEForVideoClassification": "classifier",
    "YolosForObjectDetection": "class_labels_classifier.layers.2",
    "DetrForObjectDetection": "class_labels_classifier",
}


@pytest.fixture(params=HEADS)
def pair(request, tmp_path):
    return Pair(next(system for system in SYSTEMS if system.name == request.param), tmp_path)


def test_a_head_for_other_classes_starts_afresh_and_all_else_stays(pair, caplog):
    model, head = hw.load(pair.folder / "theirs", labels=NAMES), HEADS[pair.system.name]
    assert f"{head.split('.')[0]}" in caplog.text
    assert model.config.id2label == dict(enumerate(NAMES))
    detects = "Detection" in pair.system.name
    assert model.get_submodule(head).weight.shape[0] == len(NAMES) + detects
    ours, before = model.state_dict(), pair.ours.state_dict()
    changed = {name for name in before if ours[name].shape != before[name].shape}
    assert changed == {f"{head}.weight", f"{head}.bias"}
    assert all(torch.equal(ours[name], before[name]) for name in before.keys() - changed)
    hw.save(model, pair.folder / "relabelled")
    theirs = pair.read_by_reference(pair.folder / "relabelled")
    assert theirs.config.id2label == dict(enumerate(NAMES))
    assert theirs.config.label2id == {name: number for number, name in enumerate(NAMES)}
    inputs = pair.system.inputs()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, theirs(**inputs).logits, atol=1e-5, rtol=1e-4)


def test_as_many_other_classes_keep_the_head(pair):
    names = [f"class {i}" for i in range(pair.ours.config.num_labels)]
    model = hw.load(pair.folder / "theirs", labels=names)
    assert all(torch.equal(x, y) for x, y in zip(model.state_dict().values(), pair.ours.state_dict().values(), strict=True))
    assert model.config == replace(pair.ours.config, id2label=dict(enumerate(names)))


@pytest.mark.nohook
def test_labels_that_are_none_are_refused_with_a_sentence(pair, tmp_path):
    for labels in ("cat", [], [1, 2], [None]):
        with pytest.raises(ValueError, match="labels: expected the names of the classes; got"):
            hw.load(pair.folder / "theirs", labels=labels)
    tiny.reference("GPT2LMHeadModel").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="labels: GPT2LMHeadModel does not tell classes apart"):
        hw.load(tmp_path / "gpt2", labels=NAMES)


def test_a_head_that_the_configuration_does_not_know_is_not_saved(pair, tmp_path):
    name = HEADS[pair.system.name]
    owner, _, leaf = name.rpartition(".")
    setattr(pair.ours.get_submodule(owner), leaf, nn.Linear(32, 17))
    with pytest.raises(ValueError, match=rf"{name}.weight is \(17, 32\), but model.config says \(\d, 32\)"):
        hw.save(pair.ours, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_classes_are_counted_by_numbers_whatever_a_file_has():
    config = ViTConfig.from_entries({"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": "0", "dog": "1"}})
    assert config.id2label == {0: "cat", 1: "dog"}
    assert config.to_entries()["label2id"] == {"cat": 0, "dog": 1}
    for wrong in ({"cat": "0"}, {"-1": "cat"}, ["cat"], {"0": 1}):
        with pytest.raises(ValueError, match="id2label"):
            ViTConfig.from_entries({"id2label": wrong})


def test_a_recogniser_of_speech_gets_an_alphabet_of_its_own(tmp_path, caplog):
    """Where its config.json is told so, and the architecture is asked for."""
    pair = Pair(next(system for system in SYSTEMS if system.name == "Wav2Vec2ConformerForCTC"), tmp_path)
    place = tmp_path / "theirs" / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text("utf-8")) | {"vocab_size": 11}), "utf-8")
    with pytest.raises(ValueError, match=r"lm_head\.bias is"):
        hw.load(tmp_path / "theirs")
    model = hw.load(tmp_path / "theirs", architecture="Wav2Vec2ConformerForCTC")
    assert "lm_head" in caplog.text
    ours, before = model.state_dict(), pair.ours.state_dict()
    assert ours["lm_head.weight"].shape[0] == 11
    assert all(torch.equal(ours[name], before[name]) for name in before if not name.startswith("lm_head"))
