"""What turns speech into text, beyond the table: frames, positions, what answers begin with, a Conformer that translates."""

from collections import Counter
from dataclasses import fields
from functools import partial

import pytest
import tiny
import torch
from parity import CLOSE
from test_generate import Pair, compare_beams, cut, lively, read_back, said, said_by_half, theirs

import headwise as hw
from headwise.models.conformer_translation import ConformerForSpeechTranslation, ConformerTranslationConfig
from headwise.models.parakeet import ParakeetEncoderConfig
from headwise.models.search import Beam
from headwise.models.speech_to_text import Speech2TextConfig, Speech2TextDecoderConfig, Speech2TextForConditionalGeneration
from headwise.models.whisper import WhisperConfig, WhisperForConditionalGeneration

S2T, WHISPER, PARAKEET = "Speech2TextForConditionalGeneration", "WhisperForConditionalGeneration", "ParakeetForCTC"
BOTH = pytest.mark.parametrize("name", [S2T, WHISPER])
LABELS = torch.tensor([[21, 22, 23, 24, 25, 2], [26, 31, 27, 28, 2, -100], [29, 2, *[-100] * 4]])


def of_reference(name, folder, **changes):
    model = tiny.reference(name, **changes)
    model.save_pretrained(folder)
    return model, hw.load(folder)


def heard(name):
    return {key: x for key, x in tiny.inputs(name).items() if not key.startswith("decoder_")}


@pytest.fixture
def halves(tmp_path):
    """A Parakeet and a Speech2Text of the reference, ours, and the translator made of them."""
    parakeet, ours = of_reference(PARAKEET, tmp_path / "parakeet")
    s2t, decoder = of_reference(S2T, tmp_path / "s2t")
    return parakeet, s2t, ConformerForSpeechTranslation.from_halves(ours, decoder).eval()


# Frames and positions


@torch.no_grad()
def test_frames_behind_a_sound_change_nothing(tmp_path):
    """Speech2Text's two convolutions look 5 frames past the end, as published; no further."""
    _, model = of_reference(S2T, tmp_path)
    inputs = tiny.inputs(S2T)
    before, lengths = model(**inputs), inputs["attention_mask"].sum(-1)
    behind = torch.arange(inputs["input_features"].shape[1]) >= lengths[:, None] + 6
    inputs["input_features"][behind] = 7.0
    after, real = model(**inputs), tiny.rows(S2T)[16]
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(after.encoder_last_hidden_state[real], before.encoder_last_hidden_state[real])
    inputs["input_features"][1, lengths[1] + 4] = 7.0
    assert not torch.equal(model(**inputs).logits[1], before.logits[1])


@torch.no_grad()
def test_positions_count_tokens_that_are_no_padding(tmp_path):
    reference, model = of_reference(S2T, tmp_path)
    inputs, pad = tiny.inputs(S2T), reference.config.pad_token_id
    inputs["decoder_input_ids"] = torch.tensor([[2, pad, 5, 6, pad, 7], [pad, pad, 2, 5, 6, 7], [2, 5, 6, 7, pad, pad]])
    del inputs["decoder_attention_mask"]
    torch.testing.assert_close(model(**inputs).logits, reference(**inputs).logits, **CLOSE)
    embedded = model.embed_target(inputs["decoder_input_ids"], 0)
    for row in (0, 1):  # the same tokens, wherever the padding is
        assert torch.equal(embedded[row][inputs["decoder_input_ids"][row] != pad], embedded[2, :4])


@torch.no_grad()
def test_whisper_hears_the_silence_that_a_mask_says(tmp_path):
    """As the reference: its attention_mask has no effect."""
    reference, model = of_reference(WHISPER, tmp_path)
    inputs = tiny.inputs(WHISPER)
    masked = inputs | {"attention_mask": torch.zeros(3, 22)}
    assert torch.equal(model(**masked).logits, model(**inputs).logits)
    torch.testing.assert_close(reference(**masked).logits, model(**masked).logits, **CLOSE)


def test_whispers_positions_begin_as_the_references_and_stay():
    from transformers import WhisperForConditionalGeneration as Reference

    model = WhisperForConditionalGeneration(WhisperConfig(encoder_layers=1, decoder_layers=1))
    want = Reference(Reference.config_class(encoder_layers=1, decoder_layers=1)).model.encoder.embed_positions.weight
    assert torch.equal(model.source_positions, want)
    assert not model.source_positions.requires_grad


# Generation


def generating(name, folder, seed=0, **says):
    """A reference whose answers change from token to token, and ours; an end token that ends some of them."""
    from transformers import GenerationMixin

    inputs, eos = heard(name), None
    while eos is None:
        model, seed = lively(name, seed), seed + 10
        model.generate = partial(GenerationMixin.generate, model)  # Whisper's own is another program
        read_back(model, folder, **says)
        eos = said_by_half(theirs(model, inputs).sequences.tolist())
    return Pair(model, read_back(model, folder, eos_token_id=eos, **says), inputs, {eos})


@BOTH
def test_greedy_and_beams_are_the_references(name, tmp_path):
    it = generating(name, tmp_path)
    found = hw.generate(it.ours, **it.inputs, max_new_tokens=13)
    assert said(found) == [cut(row, it.ends) for row in theirs(it.reference, it.inputs).sequences.tolist()]
    assert 0 < sum(one.ended for one in found) < 3
    kinds = [compare_beams(it, Beam(width, 1.0, offset=0.0))[0] for width in (2, 3, 4)]
    assert sum(kind["ended"] + kind["cut off"] for kind in kinds) >= 7  # of 9


@BOTH
def test_what_answers_begin_with_and_what_is_never_said(name, tmp_path):
    """A language's token behind the start; the usual words never, and the usual first ones not at first."""
    it = generating(name, tmp_path)
    start = it.reference.config.decoder_start_token_id
    begun = torch.tensor([[start, 17], [start, 19], [start, 17]])

    def wanted():
        rows = theirs(it.reference, it.inputs, decoder_input_ids=begun).sequences[:, 1:].tolist()
        return [cut(row, it.ends) for row in rows]

    free = [tokens for tokens, _ in wanted()]
    first = {token for row in free for token in row[:1]}
    often = [token for token, _ in Counter(token for row in free for token in row[1:] if token not in first).most_common(2)]
    says = {"begin_suppress_tokens": sorted(first), "suppress_tokens": often, "eos_token_id": min(it.ends)}
    ours = read_back(it.reference, tmp_path, **says)
    found = said(hw.generate(ours, **it.inputs, decoder_input_ids=begun, max_new_tokens=13))
    assert found == wanted()
    alike = said(hw.generate(ours, **it.inputs, decoder_input_ids=begun[:1], max_new_tokens=13))
    assert [alike[0], alike[2]] == [found[0], found[2]]
    assert all(first.isdisjoint(tokens[:1]) and not {*often} & {*tokens} for tokens, _ in found)
    assert often
    assert first


@BOTH
@pytest.mark.parametrize("new", [hw.cache.Growing, partial(hw.cache.Fixed, 20)], ids=["growing", "fixed"])
@torch.no_grad()
def test_step_by_step_is_one_pass(name, new, tmp_path):
    _, model = of_reference(name, tmp_path)
    inputs = tiny.inputs(name)
    ids, mask = inputs["decoder_input_ids"].clamp(min=3), inputs.get("attention_mask")
    memory, kept = model.encode(inputs["input_features"], mask), model.memory_mask(mask)
    want, cache = model.decode(ids, memory, kept), model.make_cache(new)
    got = [model.decode(ids[:, start:end], memory, kept, cache=cache) for start, end in ((0, 3), (3, 4), (4, 6))]
    torch.testing.assert_close(torch.cat(got, dim=1), want, **CLOSE)


# The Conformer that translates


@torch.no_grad()
def test_each_half_is_the_published_one(halves):
    """The reference's encoder feeds the reference's decoder, whose mask is given shortened by hand."""
    parakeet, s2t, model = halves
    sound, text = heard(PARAKEET), tiny.inputs(S2T)["decoder_input_ids"]
    memory = parakeet.encoder(**sound).last_hidden_state
    real = tiny.rows(PARAKEET)[memory.shape[1]]
    hidden = s2t.model.decoder(text, encoder_hidden_states=memory, encoder_attention_mask=real.long()).last_hidden_state
    got = model(**sound, decoder_input_ids=text)
    torch.testing.assert_close(got.encoder_last_hidden_state[real], memory[real], **CLOSE)
    torch.testing.assert_close(got.logits, s2t.lm_head(hidden), **CLOSE)


@torch.no_grad()
def test_padding_changes_nothing_in_the_translator(halves):
    model, sound, text = halves[2], heard(PARAKEET), tiny.inputs(S2T)["decoder_input_ids"]
    together = model(**sound, decoder_input_ids=text).logits
    for row, length in enumerate(tiny.FRAMES):
        alone = {"input_features": sound["input_features"][row : row + 1, :length], "decoder_input_ids": text[row : row + 1]}
        torch.testing.assert_close(model(**alone).logits[0], together[row], **CLOSE)


def test_the_loss_is_that_of_both_heads(halves):
    model, sound = halves[2], heard(PARAKEET)
    said = LABELS.masked_fill(LABELS > 24, 30)
    output, other = model(**sound, labels=LABELS), model(**sound, labels=LABELS, ctc_labels=said)
    smoothed = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), LABELS.flatten(), label_smoothing=0.1)
    logits = model.ctc_head(output.encoder_last_hidden_state).log_softmax(-1).transpose(0, 1)
    frames, counts = tiny.rows(PARAKEET)[logits.shape[0]].sum(-1), (LABELS != -100).sum(-1)
    for got, labels in ((output, LABELS), (other, said)):
        aligned = torch.nn.functional.ctc_loss(logits, labels.clamp(min=0), frames, counts, blank=1, zero_infinity=True)
        torch.testing.assert_close(got.loss, 0.7 * smoothed + 0.3 * aligned)
    other.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.ctc_head.weight.grad.any()


@torch.no_grad()
def test_the_translator_generates_and_is_saved(halves, tmp_path):
    model, sound = halves[2], heard(PARAKEET)
    hw.save(model, tmp_path / "translator")
    again = hw.load(tmp_path / "translator")
    assert again.config == model.config
    begun = torch.tensor([[2, 17]] * 3)
    found = hw.generate(again, **sound, decoder_input_ids=begun, max_new_tokens=9)
    ids = begun
    for _ in range(9):
        ids = torch.cat([ids, model(**sound, decoder_input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert said(found) == [cut(row, {2}) for row in ids[:, 2:].tolist()]


def translator(width, **settings):
    encoder = ParakeetEncoderConfig(**tiny.TINY[PARAKEET][1]["encoder_config"])
    decoder = Speech2TextDecoderConfig(vocab_size=99, d_model=width, decoder_layers=2, decoder_ffn_dim=64)
    return ConformerForSpeechTranslation(ConformerTranslationConfig(encoder=encoder, decoder=decoder, **settings))


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_halves_of_other_widths_learn(weight):
    torch.manual_seed(0)
    model, sound = translator(24, ctc_weight=weight), heard(PARAKEET)
    assert (model.ctc_head is None) == (weight == 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(**sound, labels=LABELS).loss
        loss.backward()
        optimizer.step()
    found = hw.generate(model.eval(), **sound, max_new_tokens=9)
    assert [one.tokens for one in found] == [row[: row.index(2)] for row in LABELS.tolist()]


@pytest.mark.nohook
@torch.no_grad()
def test_the_translator_is_one_graph_and_takes_any_batch(halves):
    model, inputs = halves[2], heard(PARAKEET) | {"decoder_input_ids": tiny.inputs(S2T)["decoder_input_ids"]}
    want = model(**inputs).logits
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).logits, want, **CLOSE)
    shapes = {name: {0: torch.export.Dim("batch")} for name in inputs}
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
    torch.testing.assert_close(program(**{name: x[:2] for name, x in inputs.items()}).logits, want[:2], **CLOSE)


# Errors

WRONG = [
    ({"input_features": torch.zeros(2, 9, 80)}, r"at most 7 frames, 80 mels\); got torch.float32 \(2, 9, 80\)"),
    ({"input_features": torch.zeros(2, 7, 81)}, r"80 mels\); got torch.float32 \(2, 7, 81\)"),
    ({"input_features": torch.zeros(2, 0, 80)}, r"at most 7 frames"),
    ({"input_features": torch.zeros(2, 7, 80).long()}, "expected floats .* got torch.int64"),
    ({"attention_mask": torch.ones(2, 6)}, r"attention_mask: expected \(2, 7\), 1 = a real frame; got \(2, 6\)"),
    ({"decoder_input_ids": torch.ones(2, 6).long()}, "6 tokens are more than this model's 5 positions"),
    ({"decoder_input_ids": None}, "give decoder_input_ids or labels"),
]


@pytest.mark.nohook
@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_wrong_call_of_speech2text(change, message):
    sizes = {"max_source_positions": 7, "max_target_positions": 5, "encoder_layers": 1, "decoder_layers": 1}
    model = Speech2TextForConditionalGeneration(Speech2TextConfig(vocab_size=11, **sizes))
    right = {"input_features": torch.zeros(2, 7, 80), "decoder_input_ids": torch.ones(2, 5).long()}
    model(**right)
    with pytest.raises(ValueError, match=message):
        model(**right | change)


@pytest.mark.nohook
@pytest.mark.parametrize("shape", [(2, 80, 12), (2, 12, 80), (2, 81, 14), (80, 14)], ids=str)
def test_whisper_wants_thirty_seconds(shape):
    config = WhisperConfig(max_source_positions=7, encoder_layers=1, decoder_layers=1)
    message = r"input_features: expected floats \(batch, 80 mels, 14 frames\)"
    with pytest.raises(ValueError, match=message):
        WhisperForConditionalGeneration(config)(torch.zeros(shape), decoder_input_ids=torch.ones(2, 5).long())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Speech2TextForConditionalGeneration(Speech2TextConfig(pad_token_id=0)), "pad_token_id: expected 1"),
        (lambda: Speech2TextConfig(num_conv_layers=3), r"conv_kernel_sizes: expected num_conv_layers = 3; got \[5, 5\]"),
        (lambda: Speech2TextConfig(pad_token_id=10000), "pad_token_id: expected an integer from 0 to 9999"),
        (lambda: WhisperConfig(pad_token_id=-1), "pad_token_id: expected an integer from 0 to 51864"),
        (lambda: ConformerTranslationConfig(ctc_weight=1.5), r"ctc_weight: expected a number in \[0, 1\]"),
        (lambda: ConformerTranslationConfig(label_smoothing=1.0), r"label_smoothing: expected a number in \[0, 1\)"),
        (lambda: ConformerTranslationConfig.from_entries({"width": 3}), "unknown entries width"),
    ],
)
def test_what_no_model_can_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_published_configuration_holds_its_decoders():
    config = Speech2TextConfig(d_model=24, decoder_ffn_dim=7, encoder_layers=3)
    assert {part.name for part in fields(config.decoder)} < {part.name for part in fields(config)}
    assert (config.decoder.d_model, config.decoder.decoder_ffn_dim) == (24, 7)
