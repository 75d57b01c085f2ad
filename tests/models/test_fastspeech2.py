"""FastSpeech 2 says what the reference says of a text alone, and the same beside others."""

import pickle
from dataclasses import replace

import pytest
import tiny
import torch
from parity import CLOSE

import headwise as hw
from headwise.models.fastspeech2_conformer import FastSpeech2ConformerConfig, FastSpeech2ConformerModel
from headwise.models.fastspeech2_conformer.layers import repeated
from headwise.models.synthesis import synthesise

NAME = "FastSpeech2ConformerModel"
VOICES = {"num_speakers": 2, "num_languages": 5, "speaker_embed_dim": 11}
OUTPUTS = ("spectrogram", "duration_outputs", "pitch_outputs", "energy_outputs", "encoder_last_hidden_state")


def pair(folder, slowness=1.2, **changes):
    """The reference, its convolutions reading what they like, and ours; tokens take about exp(slowness) frames."""
    random = tiny.reference(NAME, **changes)
    theirs = type(random)(random.config).eval()
    theirs.load_state_dict(random.state_dict())
    with torch.no_grad():
        theirs.duration_predictor.linear.bias.fill_(slowness)
    theirs.save_pretrained(folder)
    return theirs, hw.load(folder)


def texts():
    inputs = tiny.inputs(NAME)
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def labelled(**changes):
    """A batch without padding."""
    inputs, real = tiny.inputs(NAME, **changes), torch.ones(3, 7)
    times = torch.tensor([[3, 0, 1, 4, 1, 5, 2], [2, 6, 0, 3, 3, 1, 1], [4, 4, 4, 1, 1, 1, 1]])
    spectrogram = torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(3))
    return inputs | {"attention_mask": real, "duration_labels": times, "spectrogram_labels": spectrogram}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"speaking_speed": 1.7},
        {"slowness": -9.0},  # no token would be heard
        {"decoder_normalize_before": True, "use_macaron_style_in_conformer": False},
        VOICES,
    ],
    ids=str,
)
@torch.no_grad()
def test_a_text_alone_is_said_as_the_reference_says_it(changes, tmp_path):
    theirs, ours = pair(tmp_path, **changes)
    inputs = tiny.inputs(NAME, **{name: value for name, value in changes.items() if name != "slowness"})
    for i, length in enumerate(tiny.LENGTHS):
        alone = {name: x[i : i + 1] for name, x in inputs.items() if "labels" not in name and name != "attention_mask"}
        alone["input_ids"] = alone["input_ids"][:, :length]
        want, got = theirs(**alone), ours(**alone)
        assert want.spectrogram.shape[1] > 1
        for name in OUTPUTS[: None if "slowness" not in changes else 1]:
            torch.testing.assert_close(getattr(got, name), getattr(want, name), **CLOSE)
        assert got.loss is None


@pytest.mark.parametrize("slowness", [1.2, -9.0])  # with the latter every token lasts one frame
@torch.no_grad()
def test_a_text_is_said_the_same_beside_longer_ones(slowness, tmp_path):
    theirs, ours = pair(tmp_path, slowness)
    together, batch = ours(**texts()), synthesise(ours, **texts())
    for i, length in enumerate(tiny.LENGTHS):
        ids = texts()["input_ids"][i : i + 1, :length]
        alone = ours(ids)
        torch.testing.assert_close(batch[i], alone.spectrogram[0], **CLOSE)
        torch.testing.assert_close(synthesise(ours, ids)[0], batch[i], **CLOSE)
        for name in OUTPUTS[1:]:
            torch.testing.assert_close(getattr(together, name)[i, :length], getattr(alone, name)[0], **CLOSE)
            assert name.startswith("encoder") or not getattr(together, name)[i, length:].any()
        assert len(batch[i]) == (together.duration_outputs[i].sum() or length)
    assert len({len(spectrogram) for spectrogram in batch}) == 3
    shortest = theirs(texts()["input_ids"][2:, :3]).pitch_outputs[0]
    assert not torch.allclose(theirs(**texts()).pitch_outputs[2, :3], shortest, atol=1e-3)  # why we leave the reference


def test_trained_without_padding_it_is_the_reference_as_it_stands(tmp_path):
    still = {entry: 0.0 for entry in vars(tiny.configuration(NAME)) if "dropout" in entry}
    theirs, ours = pair(tmp_path, **still)
    want, got = theirs.train()(**labelled()), ours.train()(**labelled())
    for name in ("loss", *OUTPUTS):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), **CLOSE)
    statistics = (norms[0].running_mean for norms in (ours.postnet.norms, [theirs.speech_decoder_postnet.layers[0].batch_norm]))
    torch.testing.assert_close(*statistics, **CLOSE)


@pytest.mark.parametrize("changes", [{}, {"use_masking": False, "use_weighted_masking": True}], ids=str)
def test_what_padding_holds_changes_no_loss_and_no_gradient(changes, tmp_path):
    ours, inputs = pair(tmp_path, **changes)[1], tiny.inputs(NAME, **changes)
    inputs["attention_mask"][:, 1] = 0  # within the text too
    padded = inputs["attention_mask"] == 0
    other = inputs | {
        "input_ids": inputs["input_ids"].masked_fill(padded, 33),
        "duration_labels": inputs["duration_labels"].masked_fill(padded, 4),
        "pitch_labels": inputs["pitch_labels"].masked_fill(padded[..., None], 70.0),
        "energy_labels": inputs["energy_labels"].masked_fill(padded[..., None], -70.0),
    }
    losses, gradients = [], []
    for batch in (inputs, other):
        losses.append(ours(**batch).loss)
        gradients.append(torch.autograd.grad(losses[-1], list(ours.parameters())))
    assert torch.equal(*losses)
    torch.testing.assert_close(*gradients, **CLOSE)


def test_rows_are_repeated():
    x = torch.randn(3, 5, 2)
    times = torch.tensor([[2, 0, 3, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
    got = repeated(x, times, 7)
    for row, whole, count in zip(x, got, times, strict=True):
        want = row.repeat_interleave(count, dim=0)
        assert torch.equal(whole[: len(want)], want)
        assert not whole[len(want) :].any()


@torch.no_grad()
def test_twice_the_speaking_speed_takes_twice_the_frames(tmp_path):
    ours = pair(tmp_path)[1]
    plain = synthesise(ours, **texts())
    ours.config = replace(ours.config, speaking_speed=2.0)
    assert [len(slow) for slow in synthesise(ours, **texts())] == [2 * len(spectrogram) for spectrogram in plain]
    sounds = synthesise(ours, **texts(), vocoder=lambda spectrogram: spectrogram.exp().sum(dim=1))
    assert [sound.shape for sound in sounds] == [(2 * len(spectrogram),) for spectrogram in plain]


@torch.no_grad()
def test_another_voice_and_language_sound_otherwise(tmp_path):
    ours, wishes = pair(tmp_path, **VOICES)[1], tiny.inputs(NAME, **VOICES)
    voice = {name: wishes[name] for name in ("speaker_ids", "lang_ids", "speaker_embedding")}
    ids = texts()["input_ids"][:, :3]
    said = ours(ids, **voice).pitch_outputs
    others = {name: (voice[name] + 1) % count for name, count in (("speaker_ids", 2), ("lang_ids", 5))}
    for name, other in (others | {"speaker_embedding": torch.ones(3, 11)}).items():
        assert not torch.allclose(ours(ids, **voice | {name: other}).pitch_outputs, said, atol=1e-4)
    louder = voice | {"speaker_embedding": 3 * voice["speaker_embedding"]}
    torch.testing.assert_close(ours(ids, **louder).pitch_outputs, said, **CLOSE)
    assert len(synthesise(ours, ids, **voice)) == 3


def test_it_learns_to_say_a_spectrogram():
    torch.manual_seed(0)
    still = {entry: 0.0 for entry in vars(FastSpeech2ConformerConfig()) if "dropout" in entry}
    model, inputs = FastSpeech2ConformerModel(FastSpeech2ConformerConfig(**tiny.TINY[NAME][1] | still)), labelled()
    tones = torch.randn(40, 12, generator=torch.Generator().manual_seed(4))[inputs["input_ids"]]  # of every token its own
    inputs["spectrogram_labels"] = repeated(tones, inputs["duration_labels"], 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = model(**inputs).loss.item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * first
    said = model.eval()(inputs["input_ids"])
    assert torch.equal(said.duration_outputs, inputs["duration_labels"])


def test_it_is_pickled_in_training(tmp_path):
    ours = pair(tmp_path)[1].train()
    ours(**tiny.inputs(NAME)).loss.backward()
    again = pickle.loads(pickle.dumps(ours)).eval()
    torch.testing.assert_close(again(**tiny.inputs(NAME)).loss, ours.eval()(**tiny.inputs(NAME)).loss)


@pytest.mark.nohook
@torch.no_grad()
def test_free_running_too_it_is_one_graph_where_the_number_of_frames_may_be_a_symbol(tmp_path):
    ours, inputs = pair(tmp_path, encoder_layers=1, decoder_layers=1)[1], texts()
    assert torch._dynamo.explain(ours)(**inputs).graph_count == 2  # before the number of frames is known, and after
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(**inputs).spectrogram, ours(**inputs).spectrogram, **CLOSE)


@pytest.mark.nohook
@torch.no_grad()
def test_free_running_it_is_exported_for_any_batch_and_length(tmp_path):
    ours, inputs = pair(tmp_path, encoder_layers=1, decoder_layers=1)[1], texts()
    shapes = {name: {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")} for name in inputs}
    program = torch.export.export(ours, (), inputs, dynamic_shapes=shapes, strict=True).module()
    for batch, length in ((3, 7), (1, 5), (5, 2)):
        some = {name: torch.cat([x, x])[:batch, :length] for name, x in inputs.items()}
        torch.testing.assert_close(program(**some).spectrogram, ours(**some).spectrogram, **CLOSE)


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pitch_labels": None}, "labels: expected all of spectrogram_labels, .* in training always; pitch_labels missing"),
        ({"energy_labels": torch.zeros(3, 7)}, r"energy_labels: expected \(3, 7, 1\); got torch.float32 \(3, 7\)"),
        ({"spectrogram_labels": torch.zeros(3, 16, 80)}, r"spectrogram_labels: expected \(3, 16, 12\); got torch.float32"),
        ({"duration_labels": torch.ones(3, 7)}, r"duration_labels: expected sums of \[16, 16, 16\], .*; got \[7.0, 7.0, 7.0\]"),
        ({"speaker_ids": torch.tensor([0, 0, 0])}, "speaker_ids: this model has no choice of them; got torch.int64"),
        ({"speaker_embedding": torch.ones(3, 11)}, "speaker_embedding: this model has no choice of them"),
        ({"attention_mask": torch.ones(3, 5)}, r"attention_mask: expected \(3, 7\), 1 = a real token; got \(3, 5\)"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_a_wrong_call_is_refused_with_a_sentence(changes, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        pair(tmp_path)[1](**labelled() | changes)


@pytest.mark.nohook
def test_in_training_labels_are_wanted(tmp_path):
    with pytest.raises(ValueError, match="labels: expected all of"):
        pair(tmp_path)[1].train()(**texts())


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"encoder_layers": 3, "encoder_config": {"layers": 4}}, "encoder_layers is 3, and in encoder_config, .*, 4"),
        ({"decoder_kernel_size": 8}, "kernels: expected odd sizes, .* got decoder_kernel_size = 8"),
        ({"use_weighted_masking": True}, "use_masking, use_weighted_masking: expected at most one of them; got both"),
        ({"speaking_speed": 0.0}, "speaking_speed: expected more than 0; got 0.0"),
        ({"reduction_factor": 2}, "reduction_factor is 2; only 1 is known here"),
        ({"decoder_config": {"concat_after": True}}, "decoder_concat_after is True; only False"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_refused_with_a_sentence(entries, said):
    with pytest.raises(ValueError, match=said):
        FastSpeech2ConformerConfig.from_entries(entries)


def test_what_only_a_side_s_own_entry_says_counts():
    config = FastSpeech2ConformerConfig.from_entries({"encoder_config": {"layers": 3, "normalize_before": True}})
    assert (config.encoder_layers, config.encoder_normalize_before, config.decoder_layers) == (3, True, 4)
    assert config.to_entries()["encoder_config"]["layers"] == 3
