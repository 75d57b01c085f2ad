"""SpeechT5 beyond the parity table: speaking step by step, when it stops, in whose voice, and where it looks."""

from dataclasses import replace

import pytest
import tiny
import torch
from parity import CLOSE, Pair
from safetensors.torch import load_file, save_file
from test_parity import SYSTEMS, speech

import headwise as hw
from headwise.models.speecht5.prenet import dropout_alike

SYSTEM = next(system for system in SYSTEMS if system.name == "SpeechT5ForTextToSpeech")
QUIET = {"prenet_dropout": 0.0}


def paired(folder, **changes):
    return Pair(replace(SYSTEM, changes=changes), folder)


def speakers(pair, batch):
    """Both models and a batch in float64: a step's rounding is the next one's input."""
    return pair.ours.double(), pair.reference.double(), batch | {"speaker_embeddings": batch["speaker_embeddings"].double()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return paired(tmp_path_factory.mktemp("speecht5"))


@pytest.fixture
def model(pair):
    return hw.load(pair.folder / "theirs")


@pytest.fixture
def batch():
    """Texts, and voices to say them in."""
    return {name: x for name, x in SYSTEM.inputs().items() if not name.startswith("decoder_")}


def alone(batch, row):
    length = int(batch["attention_mask"][row].sum())
    return {name: x[row : row + 1, :length] if "embed" not in name else x[row : row + 1] for name, x in batch.items()}


def tired(model, p):
    """Every frame is the last one with probability p."""
    with torch.no_grad():
        model.prob_out.weight.zero_()
        model.prob_out.bias.fill_(torch.tensor(p).logit())
    return model


@pytest.mark.parametrize(("threshold", "lengths"), [(0.3, None), (0.5, None), (0.9, None), (2.1, (34, 24, 14))])
def test_every_text_is_said_as_the_reference_says_it(tmp_path, batch, threshold, lengths):
    ours, theirs, batch = speakers(paired(tmp_path), batch)
    said = hw.synthesise(ours, **batch, threshold=threshold, max_ratio=5.0, **QUIET)
    assert lengths is None or tuple(map(len, said)) == lengths
    for row, spectrogram in enumerate(said):
        want = theirs.generate_speech(**alone(batch, row), threshold=threshold, maxlenratio=5.0)
        torch.testing.assert_close(spectrogram, want, **CLOSE)


@pytest.mark.parametrize(("frames", "threshold", "lengths"), [(1, 0.8, [3, 35, 1]), (2, 0.6, [12, 34, 4])])
def test_a_batch_is_said_as_the_reference_says_it(tmp_path, batch, frames, threshold, lengths):
    """Of texts of one length: to the reference the longest one's is that of all."""
    ours, theirs, batch = speakers(paired(tmp_path, reduction_factor=frames), batch)
    batch |= {"input_ids": torch.arange(3, 24).view(3, 7), "attention_mask": torch.ones(3, 7)}
    said = hw.synthesise(ours, **batch, threshold=threshold, max_ratio=5.0, **QUIET)
    want, ends = theirs.generate_speech(**batch, threshold=threshold, maxlenratio=5.0, return_output_lengths=True)
    assert list(map(len, said)) == ends == lengths
    for spectrogram, row in zip(said, want, strict=True):
        torch.testing.assert_close(spectrogram, row[: len(spectrogram)], **CLOSE)


def test_without_a_mask_padding_is_what_the_tokens_say(model, batch):
    masked = hw.synthesise(model, **batch, max_ratio=3.0, **QUIET)
    del batch["attention_mask"]
    torch.testing.assert_close(hw.synthesise(model, **batch, max_ratio=3.0, **QUIET), masked)


def test_steps_end_where_their_probabilities_add_up(model, batch):
    tired(model, 0.3)  # two frames a step: 0.6
    for wishes, frames in (
        ({"threshold": 0.59}, [2, 2, 2]),
        ({"threshold": 0.61, "max_ratio": 5.0}, [34, 24, 14]),  # the whole steps in 35, 25, 15 frames
        ({"threshold": 0.59, "min_ratio": 3.0}, [20, 14, 8]),
        ({"threshold": 0.59, "max_ratio": 0.0}, [2, 2, 2]),
        ({"threshold": 0.61, "max_ratio": 1000.0}, [128, 128, 128]),  # 64 positions
    ):
        assert [len(said) for said in hw.synthesise(model, **batch, **wishes, **QUIET)] == frames


def test_no_text_depends_on_the_others_nor_on_their_dropout(model, batch):
    together = hw.synthesise(model, **batch, max_ratio=4.0, seed=3)
    for row, said in enumerate(together):
        torch.testing.assert_close(said, hw.synthesise(model, **alone(batch, row), max_ratio=4.0, seed=3)[0], **CLOSE)
    assert not torch.allclose(together[0], hw.synthesise(model, **batch, max_ratio=4.0, seed=4)[0][: len(together[0])])


def test_one_voice_for_all(model, batch):
    voice = batch["speaker_embeddings"][:1]
    for_all = hw.synthesise(
        model, **batch | {"speaker_embeddings": 7 * voice}, max_ratio=4.0, **QUIET
    )  # its length is no matter
    torch.testing.assert_close(
        for_all, hw.synthesise(model, **batch | {"speaker_embeddings": voice.expand(3, -1)}, max_ratio=4.0, **QUIET)
    )


@torch.no_grad()
def test_one_voice_for_all_that_is_to_be_learned(model, batch):
    voice, labels = batch["speaker_embeddings"][:1], speech(2)["labels"]
    one, each = (model(**batch | {"speaker_embeddings": x}, labels=labels).loss for x in (voice, voice.expand(3, -1)))
    assert torch.equal(one, each)


def test_dropout_in_speaking_has_one_mask_for_all_rows_and_keeps_the_mean():
    x = dropout_alike(0.2, 0, torch.device("cpu"))(torch.ones(2, 1, 10000))
    assert torch.equal(x[0], x[1])
    assert set(x.unique().tolist()) == {0.0, 1.25}
    assert x.mean() == pytest.approx(1, abs=0.02)


@torch.no_grad()
def test_the_prenet_drops_in_training_alone(model):
    frames, voices = (SYSTEM.inputs()[name] for name in ("decoder_input_values", "speaker_embeddings"))
    assert torch.equal(model.prenet(frames, voices), model.prenet(frames, voices))
    model.prenet.train()
    assert not torch.allclose(model.prenet(frames, voices), model.prenet(frames, voices))


@torch.no_grad()
def test_step_by_step_is_one_pass(model, batch):
    frames, caches = SYSTEM.inputs()["decoder_input_values"], model.decoder.make_cache()
    memory, mask, voices = (
        model.encode(batch["input_ids"], batch["attention_mask"]),
        batch["attention_mask"],
        batch["speaker_embeddings"],
    )
    steps = [model.decode(frames[:, [i]], memory, mask, None, voices, caches) for i in range(frames.shape[1])]
    torch.testing.assert_close(torch.cat(steps, dim=1), model.decode(frames, memory, mask, None, voices), **CLOSE)


@torch.no_grad()
def test_far_tokens_share_the_last_relative_key(tmp_path, batch):
    model = paired(tmp_path, encoder_max_relative_position=2).ours
    with hw.observe(model) as record:
        model.encode(batch["input_ids"][:1])
    for layer in range(2):
        seen = record[f"encoder.layers.{layer}.self_attention"]
        added = seen.weights(stage="masked") - seen.weights(stage="product")
        back = torch.arange(7)[:, None] - torch.arange(7)
        keys = model.relative_keys.weight[back.clamp(-2, 1) + 2]  # two ahead, one back
        torch.testing.assert_close(added[0], torch.einsum("hid,ijd->hij", seen.query[0], keys) * 8**-0.5, **CLOSE)


@torch.no_grad()
def test_the_loss_of_guided_attention_is_that_of_what_is_observed(pair, batch, tmp_path):
    inputs = batch | speech(2)
    free = hw.load(pair.folder / "theirs")
    free.config = replace(free.config, use_guided_attention_loss=False)
    with hw.observe(pair.ours) as record:
        guided = pair.ours(**inputs).loss
    losses = []
    for text, (tokens, steps) in enumerate(zip(tiny.LENGTHS, (6, 3, 2), strict=True)):  # 7 frames are 3 steps and a half
        away = torch.arange(tokens) / tokens - torch.arange(steps)[:, None] / steps
        for layer in range(2):
            weights = record[f"decoder.layers.{layer}.cross_attention"].weights(batch=text)[:2, :steps, :tokens]
            losses.append((1 - torch.exp(-(away**2) / (2 * 0.4**2))) * weights)
    mean = torch.cat([loss.flatten() for loss in losses]).mean()
    torch.testing.assert_close(guided - free(**inputs).loss, 10 * mean, **CLOSE)


def test_a_row_that_says_nothing_teaches_nothing_about_where_to_look(pair, batch):
    labels = speech(2)["labels"].clone()
    labels[1] = -100
    model = pair.ours
    model.zero_grad()
    loss = model(**batch, labels=labels).loss
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert model.decoder.layers[0].cross_attention.q_proj.weight.grad.any()


def test_heads_that_are_not_guided_get_no_gradient_of_it(pair, batch):
    grads = []
    for guided in (True, False):
        model = hw.load(pair.folder / "theirs")
        model.config = replace(model.config, use_guided_attention_loss=guided)
        model(**batch | speech(2)).loss.backward()
        grads.append(model.decoder.layers[-1].cross_attention.q_proj.weight.grad.unflatten(0, (4, 8)))
    assert (grads[0] - grads[1]).abs().amax((1, 2)).gt(1e-5).tolist() == [True, True, False, False]


@pytest.mark.parametrize("seed", range(4))
def test_layers_are_left_out_as_the_reference_leaves_them_out(tmp_path, batch, seed):
    pair, losses = paired(tmp_path, encoder_layerdrop=0.5, decoder_layerdrop=0.4), []
    for model in (pair.reference, pair.ours):
        torch.manual_seed(seed)
        losses.append(model.train()(**batch | speech(2)).loss)
    torch.testing.assert_close(*losses, **CLOSE)


def test_where_all_layers_are_left_out_nothing_is_guided(tmp_path, batch):
    model = paired(tmp_path, decoder_layerdrop=0.999).ours.train()
    torch.manual_seed(0)
    assert model(**batch | speech(2)).loss.isfinite()


@torch.no_grad()
@pytest.mark.parametrize("left", ["speaker_embeddings", "attention_mask"])
def test_without_a_voice_or_a_mask(pair, batch, left):
    inputs = {name: x for name, x in SYSTEM.inputs().items() if name != left}
    torch.testing.assert_close(pair.ours(**inputs).spectrogram, pair.reference(**inputs).spectrogram, **CLOSE)


@torch.no_grad()
def test_labels_come_with_a_mask_and_with_their_ends(pair, batch):
    labels = speech(2)["labels"]
    real = labels[..., 0] != -100
    inputs = batch | {"labels": labels, "decoder_attention_mask": real.long()}
    want = pair.reference(**inputs).loss
    torch.testing.assert_close(pair.ours(**inputs).loss, want, **CLOSE)
    ends = real & ~torch.nn.functional.pad(real[:, 1:], (0, 1))
    torch.testing.assert_close(pair.ours(**inputs, stop_labels=ends.float()).loss, want, **CLOSE)
    assert abs(pair.ours(**inputs, stop_labels=ends.roll(1, 1)).loss - want) > 0.01


def test_a_vocoder_makes_sound_of_each(model, batch):
    said = hw.synthesise(model, **batch, max_ratio=3.0, **QUIET)
    heard = hw.synthesise(model, **batch, max_ratio=3.0, **QUIET, vocoder=lambda spectrogram: spectrogram.sum(-1))
    torch.testing.assert_close(heard, [spectrogram.sum(-1) for spectrogram in said])


def test_files_of_other_years_hold_computed_positions(pair, tmp_path):
    pair.reference.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights |= {f"speecht5.{side}.prenet.encode_positions.pe": torch.zeros(1, 64, 32) for side in ("encoder", "decoder")}
    save_file(weights, tmp_path / "model.safetensors")
    assert torch.equal(hw.load(tmp_path).relative_keys.weight, pair.ours.relative_keys.weight)


LABELS = torch.zeros(3, 12, 16)


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": None}, "give decoder_input_values or labels"),
        ({"labels": LABELS[:, :7]}, r"labels: expected \(batch, frames, 16\), frames a multiple of 2, .*; got \(3, 7, 16\)"),
        ({"labels": torch.zeros(3, 130, 16)}, "65 steps of speech are more than this model's 64 positions"),
        ({"labels": LABELS[..., :9]}, r"expected floats \(batch, steps, 16\); got torch.float32 \(3, 6, 9\)"),
        ({"speaker_embeddings": torch.zeros(2, 11)}, r"speaker_embeddings: expected \(3 or 1, 11\), .*; got \(2, 11\)"),
        ({"input_ids": torch.ones(3, 65).long(), "attention_mask": None}, "65 tokens are more than this model's 64 positions"),
        ({"decoder_attention_mask": torch.ones(3, 9)}, r"attention_mask: expected \(3, 6\), 1 = a real token; got \(3, 4\)"),
    ],
)
def test_a_wrong_call_is_refused(model, batch, wrong, message):
    with pytest.raises(ValueError, match=message):
        model(**batch | {"labels": LABELS} | wrong)


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input_ids": torch.ones(3, 5)}, r"input_ids: expected tokens, \(batch, length\); got torch.float32 \(3, 5\)"),
        ({"attention_mask": torch.ones(3, 5)}, r"attention_mask: expected \(3, 7\)"),
        ({"speaker_embeddings": torch.zeros(11)}, r"speaker_embeddings: expected \(3 or 1, 11\), .*; got \(11,\)"),
        ({"speaker_embeddings": None}, r"speaker_embeddings: expected \(batch or 1, 11\), a voice; got None"),
        ({"prenet_dropout": 1.0}, r"expected prenet_dropout in \[0, 1\)"),
        ({"attention_mask": torch.zeros(3, 7)}, "attention_mask: no token is real"),
        ({"max_ratio": float("inf")}, "0 <= min_ratio <= max_ratio < inf; got .* inf"),
        ({"min_ratio": 3.0, "max_ratio": 2.0}, "0 <= min_ratio <= max_ratio < inf; got .* 3.0 and 2.0"),
    ],
)
def test_a_wrong_wish_is_refused(model, batch, wrong, message):
    with pytest.raises(ValueError, match=message):
        hw.synthesise(model, **batch | wrong)


def test_who_speaks_says_no_tokens_and_the_other_way_round(model, batch):
    with pytest.raises(ValueError, match="SpeechT5ForTextToSpeech does not generate: it has no decoder of tokens"):
        hw.generate(model, batch["input_ids"])
    with pytest.raises(ValueError, match="Linear does not synthesise: it says no spectrogram"):
        hw.synthesise(torch.nn.Linear(2, 2), batch["input_ids"])
    with pytest.raises(ValueError, match="model: expected in eval mode"):
        hw.synthesise(model.train(), **batch)


def test_a_postnet_has_a_middle(tmp_path):
    with pytest.raises(ValueError, match="kernel_size of the postnet: expected an odd number; got 4"):
        hw.models.synthesis.Postnet(16, 20, 5, 4, 0.5)
