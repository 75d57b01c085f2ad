"""Every system at its published size, compiled, and under the tools that look into heads."""

import json
import math
import pickle
import traceback
from dataclasses import fields, replace
from pathlib import Path

import pytest
import tiny
import torch
from parity import CLOSE, Pair, outputs
from test_parity import SYSTEMS

import headwise as hw
from headwise.attention import backends, formula
from headwise.insight.observing.observe import attention_modules
from headwise.models.bert import BertConfig, BertForMaskedLM, BertForQuestionAnswering
from headwise.models.detr import DetrConfig, DetrForObjectDetection
from headwise.models.dit import DiTConfig, DiTTransformer2DModel
from headwise.models.fastspeech2_conformer import FastSpeech2ConformerConfig, FastSpeech2ConformerModel
from headwise.models.gpt2 import GPT2Config, GPT2LMHeadModel
from headwise.models.imagegpt import ImageGPTConfig, ImageGPTForCausalImageModeling
from headwise.models.llama import LlamaConfig, LlamaForCausalLM
from headwise.models.marian import MarianConfig, MarianMTModel
from headwise.models.parakeet import ParakeetCTCConfig, ParakeetEncoderConfig, ParakeetForCTC
from headwise.models.speech_to_text import Speech2TextConfig, Speech2TextForConditionalGeneration
from headwise.models.speecht5 import SpeechT5Config, SpeechT5ForTextToSpeech
from headwise.models.t5 import T5Config, T5ForConditionalGeneration
from headwise.models.timesformer import TimesformerConfig, TimesformerForVideoClassification
from headwise.models.videomae import VideoMAEConfig, VideoMAEForVideoClassification
from headwise.models.vit import ViTConfig, ViTForImageClassification
from headwise.models.wav2vec2_conformer import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC
from headwise.models.whisper import WhisperConfig, WhisperForConditionalGeneration
from headwise.models.yolos import YolosConfig, YolosForObjectDetection

LARGE = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
OPUS = MarianConfig(
    d_model=512,
    encoder_layers=6,
    decoder_layers=6,
    encoder_attention_heads=8,
    decoder_attention_heads=8,
    encoder_ffn_dim=2048,
    decoder_ffn_dim=2048,
    max_position_embeddings=512,
)
TINY_LLAMA = LlamaConfig(
    hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4
)
SMOL = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
IMAGENET, KINETICS, COCO = ({"id2label": {i: str(i) for i in range(labels)}} for labels in (1000, 400, 91))
YOLOS_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "image_size": [800, 1333]}
YOLOS_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
VIT_LARGE = ViTConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, **IMAGENET)


def both(embed_dim, layers, heads, feedforward_dim, decoder_layers=None):
    """The sizes of both sides, as fairseq's models and Whisper name them."""
    sides = {"attention_heads": heads, "ffn_dim": feedforward_dim}
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sides.items()}
    return {"d_model": embed_dim, "encoder_layers": layers, "decoder_layers": decoder_layers or layers, **sizes}


WHISPER = {
    "tiny": (WhisperConfig(), 37_760_640),
    "base": (WhisperConfig(**both(512, 6, 8, 2048)), 72_593_920),
    "small": (WhisperConfig(**both(768, 12, 12, 3072)), 241_734_912),
    "medium": (WhisperConfig(**both(1024, 24, 16, 4096)), 763_857_920),
    "large-v2": (WhisperConfig(**both(1280, 32, 20, 5120)), 1_543_304_960),
    "large-v3": (WhisperConfig(**both(1280, 32, 20, 5120), num_mel_bins=128, vocab_size=51866), 1_543_490_560),
    "large-v3-turbo": (WhisperConfig(**both(1280, 32, 20, 5120, 4), num_mel_bins=128, vocab_size=51866), 808_878_080),
}
WAV2VEC2 = Wav2Vec2ConformerConfig(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    hidden_act="swish",
    feat_extract_norm="layer",
    conv_bias=True,
)
PARAKEET_42 = ParakeetCTCConfig(encoder_config=ParakeetEncoderConfig(num_hidden_layers=42))
# Parameters of the published models, tied ones counted once.
SIZES = {
    # The reference keeps the sinusoids of both sides as frozen parameters; here they are computed.
    "opus-mt-en-de": (MarianMTModel, OPUS, 74_410_496 - 2 * 512 * 512),
    "t5-small": (T5ForConditionalGeneration, T5Config(), 60_506_624),
    "bert-base, questions": (BertForQuestionAnswering, BertConfig(), 108_893_186),
    "bert-large, questions": (BertForQuestionAnswering, LARGE, 334_094_338),
    "bert-base, masked": (BertForMaskedLM, BertConfig(), 109_514_298),
    "gpt2": (GPT2LMHeadModel, GPT2Config(), 124_439_808),
    "gpt2-medium": (GPT2LMHeadModel, GPT2Config(n_embd=1024, n_layer=24, n_head=16), 354_823_168),
    "gpt2-large": (GPT2LMHeadModel, GPT2Config(n_embd=1280, n_layer=36, n_head=20), 774_030_080),
    "gpt2-xl": (GPT2LMHeadModel, GPT2Config(n_embd=1600, n_layer=48, n_head=25), 1_557_611_200),
    "Llama 2 7B": (LlamaForCausalLM, LlamaConfig(), 6_738_415_616),
    "TinyLlama": (LlamaForCausalLM, TINY_LLAMA, 1_100_048_384),
    "SmolLM2-135M": (LlamaForCausalLM, SMOL, 134_515_008),
    "ViT-B/16": (ViTForImageClassification, ViTConfig(**IMAGENET), 86_567_656),
    "ViT-L/16": (ViTForImageClassification, VIT_LARGE, 304_326_632),
    "yolos-tiny": (YolosForObjectDetection, YolosConfig(use_mid_position_embeddings=False, **YOLOS_TINY, **COCO), 6_488_736),
    "yolos-small": (YolosForObjectDetection, YolosConfig(**YOLOS_SMALL, **COCO), 30_684_768),
    "yolos-base": (YolosForObjectDetection, YolosConfig(image_size=[800, 1344], **COCO), 127_798_368),
    "detr-resnet-50": (DetrForObjectDetection, DetrConfig(**COCO), 41_524_768),  # without its frozen norms
    "DiT-XL/2": (DiTTransformer2DModel, DiTConfig(out_channels=8), 749_826_464),
    "imagegpt-small": (ImageGPTForCausalImageModeling, ImageGPTConfig(), 76_682_240),
    "imagegpt-medium": (ImageGPTForCausalImageModeling, ImageGPTConfig(n_embd=1024, n_layer=36), 455_489_536),
    "imagegpt-large": (ImageGPTForCausalImageModeling, ImageGPTConfig(n_embd=1536, n_layer=48, n_head=16), 1_362_914_304),
    "speecht5_tts": (SpeechT5ForTextToSpeech, SpeechT5Config(), 144_431_684),
    "fastspeech2_conformer": (FastSpeech2ConformerModel, FastSpeech2ConformerConfig(), 70_262_259),
    "timesformer-base": (TimesformerForVideoClassification, TimesformerConfig(**KINETICS), 121_566_352),
    "wav2vec2-conformer-rel-pos-large": (Wav2Vec2ConformerForCTC, WAV2VEC2, 618_591_904),
    "parakeet-ctc-0.6b": (ParakeetForCTC, ParakeetCTCConfig(), 608_799_745),
    "parakeet-ctc-1.1b": (ParakeetForCTC, PARAKEET_42, 1_062_540_289),
    "videomae-base": (VideoMAEForVideoClassification, VideoMAEConfig(**KINETICS), 86_534_800),
    "s2t-small": (Speech2TextForConditionalGeneration, Speech2TextConfig(), 29_536_256),
    "s2t-medium": (Speech2TextForConditionalGeneration, Speech2TextConfig(**both(512, 12, 8, 2048, 6)), 71_207_936),
    "s2t-large": (Speech2TextForConditionalGeneration, Speech2TextConfig(**both(1024, 12, 16, 4096, 6)), 267_834_368),
    **{f"whisper-{name}": (WhisperForConditionalGeneration, *sized) for name, sized in WHISPER.items()},
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_of_the_published_size(name):
    make, config, count = SIZES[name]
    with torch.device("meta"):
        model = make(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


PLAIN = [system for system in SYSTEMS if not system.changes]


@pytest.fixture(params=PLAIN, ids=str)
def pair(request, tmp_path):
    return Pair(request.param, tmp_path)


# A graph holds every layer, one like the other: it takes one to find what breaks it, but where layers share or differ.
DEEP = ("T5ForConditionalGeneration", "YolosForObjectDetection")


@pytest.fixture(params=PLAIN, ids=str)
def shallow_pair(request, tmp_path):
    system = request.param
    return Pair(system if system.name in DEEP else replace(system, changes=tiny.shallow(system.name)), tmp_path)


@pytest.fixture(params=[system for system in PLAIN if system.reads_text], ids=str)
def text_pair(request, tmp_path):
    return Pair(request.param, tmp_path)


def test_heads_are_seen_measured_and_silenced(pair):
    model, inputs = pair.ours, pair.system.inputs()
    with hw.observe(model) as record:
        before = model(**inputs)
    assert set(record) == set(attention_modules(model))
    measured = hw.statistics(record)
    for address, recorded in record.items():
        assert measured[address].entropy.shape == (recorded.num_heads,)
        most = math.log(recorded.key.shape[-2])
        assert bool(((measured[address].entropy >= 0) & (measured[address].entropy < most)).all())
        assert (measured[address].distance is None) == ("cross" in address)
        module = model.get_submodule(address)
        silenced = torch.tensor([1.0, 0.0, 1.0, 1.0])
        with torch.no_grad(), hw.gates(model, {address: silenced}):
            gated = model(**inputs)
        weight = module.out_proj.weight.detach().clone()
        with torch.no_grad():
            module.out_proj.weight[:, module.value_dim : 2 * module.value_dim] = 0.0  # the second head's columns
            cut = model(**inputs)
            module.out_proj.weight.copy_(weight)
        for name, seen in outputs(cut).items():
            torch.testing.assert_close(outputs(gated)[name], seen, **CLOSE)
            past = name.startswith(("encoder_", "duration_", "pitch_", "energy_")) and address.startswith("decoder.")
            assert past or not torch.allclose(seen, outputs(before)[name], atol=1e-4)


def test_training_goes_on_from_a_checkpoint_and_the_reference_reads_the_result(pair):
    model, inputs, loss = pair.ours, pair.system.inputs() | pair.system.asked, pair.system.loss

    def measured(model):
        torch.manual_seed(0)  # for noise, where the loss draws it
        return loss(model, **inputs).item()

    optimizer, before = torch.optim.AdamW(model.parameters(), lr=1e-2), measured(model)
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        loss(model, **inputs).backward()
        optimizer.step()
    after = measured(model.eval())
    # DETR's queries, from random weights and of noise, come to the mean of all boxes in this time, no nearer, the reference's
    # too; test_detection.py has it learn. FastSpeech 2's frames are noise each for itself; test_fastspeech2.py has it learn.
    slow = pair.system.name in ("DetrForObjectDetection", "FastSpeech2ConformerModel")
    assert after < (0.5 if slow else 0.3) * before
    hw.save(model, pair.folder / "trained")
    theirs = pair.read_by_reference(pair.folder / "trained")
    assert measured(theirs) == pytest.approx(after, abs=1e-4)


@torch.no_grad()
def test_a_token_that_a_mask_forbids_changes_nothing_elsewhere(text_pair):
    pair, inputs = text_pair, text_pair.system.inputs()
    for ids, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        if ids not in inputs:
            continue
        before = pair.ours(**inputs)
        inputs[mask] = inputs[mask].clone()
        inputs[mask][:, 1] = 0
        outputs = []
        for token in (11, 13):
            inputs[ids] = inputs[ids].clone()
            inputs[ids][:, 1] = token
            outputs.append(pair.ours(**inputs))
        for entry in fields(before):
            one, other, seen = (getattr(output, entry.name) for output in (*outputs, before))
            if one is not None:
                at_it = one.dim() > 1 and one.shape[1] == inputs[ids].shape[1]
                one, other, seen = (torch.cat([x[:, :1], x[:, 2:]], dim=1) if at_it else x for x in (one, other, seen))
                assert torch.equal(one, other)
                assert not torch.equal(one, seen) or entry.name == "encoder_last_hidden_state"


def test_a_quantised_checkpoint_is_refused(pair):
    """Its numbers are not the weights."""
    path = pair.folder / "theirs" / "config.json"
    entries = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**entries, "quantization_config": {"quant_method": "bitsandbytes"}}), "utf-8")
    with pytest.raises(ValueError, match="quantization_config"):
        hw.load(pair.folder / "theirs")


@pytest.mark.nohook
def test_a_wrong_call_is_refused_with_a_sentence(text_pair):
    pair, inputs = text_pair, text_pair.system.inputs()
    with pytest.raises(ValueError, match=r"attention_mask: expected \(3, 7\), 1 = a real token; got \(3, 9\)"):
        pair.ours(**inputs | {"attention_mask": torch.ones(3, 9)})
    if "labels" in pair.system.asked and "Classification" not in pair.system.name:
        with pytest.raises(ValueError, match=r"labels: expected \(3, ([67]|12, 16)\); got \(3, 9\)"):
            pair.ours(**inputs, labels=torch.ones(3, 9, dtype=torch.long))
    with pytest.raises(ValueError, match=r"input_ids: expected tokens|does not generate: .* \(hw.ctc.decode reads"):
        hw.generate(pair.ours, inputs["input_ids"][0])


def test_at_most_four_files_are_on_the_stack_at_the_softmax(pair, monkeypatch):
    """From a whole model down to the formula's softmax."""
    stacks, package, softmax = [], Path(hw.__file__).parent, formula.softmax

    def spy(*arguments):
        frames = [frame.filename for frame in traceback.extract_stack()]
        stacks.append({Path(file).name for file in frames if package in Path(file).parents})
        return softmax(*arguments)

    monkeypatch.setattr(formula, "softmax", spy)
    monkeypatch.setattr(backends, "FASTEST_FIRST", backends.FASTEST_FIRST[-1:])
    pair.ours(**pair.system.inputs())
    assert len(stacks) == len(attention_modules(pair.ours))
    assert all(len(files) <= 4 and files >= {"module.py", "formula.py"} for files in stacks)


@pytest.mark.nohook
def test_compiled_is_one_graph(shallow_pair):
    pair = shallow_pair
    compiled, inputs = torch.compile(pair.ours, fullgraph=True, backend="aot_eager_default_partitioner"), pair.system.inputs()
    if all(isinstance(asked, torch.Tensor) for asked in pair.system.asked.values()):  # objects are matched outside a graph
        inputs |= pair.system.asked
    want, got = pair.ours(**inputs), compiled(**inputs)
    loss = getattr(got, "loss", None)
    (sum(x.sum() for x in outputs(got).values()) if loss is None else loss).backward()
    torch.testing.assert_close(loss, getattr(want, "loss", None))
    torch.testing.assert_close(outputs(got), outputs(want), **CLOSE)


@torch.no_grad()
def test_a_model_is_pickled(pair):
    again = pickle.loads(pickle.dumps(pair.ours))
    torch.testing.assert_close(outputs(again(**pair.system.inputs())), outputs(pair.ours(**pair.system.inputs())))


@pytest.mark.nohook
@torch.no_grad()
def test_compiled_it_takes_any_length(tmp_path):
    """Where sizes are symbols from the start, numbers such as a scale are too."""
    model = Pair(next(system for system in SYSTEMS if system.name == "GPT2LMHeadModel"), tmp_path).ours
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    for length in (7, 5, 11):
        ids = torch.arange(2 * length).view(2, length)
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits, **CLOSE)


@pytest.mark.nohook
def test_exported_it_takes_any_batch(shallow_pair):
    pair, inputs = shallow_pair, shallow_pair.system.inputs()
    shapes = {name: {0: torch.export.Dim("batch")} for name in inputs}
    program = torch.export.export(pair.ours, (), inputs, dynamic_shapes=shapes).module()
    for batch in (1, 2, 5):
        some = {name: torch.cat([x, x])[:batch] for name, x in inputs.items()}
        with torch.no_grad():
            torch.testing.assert_close(outputs(program(**some)), outputs(pair.ours(**some)), **CLOSE)


@pytest.mark.nohook
@pytest.mark.slow
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "TimesformerForVideoClassification", "ParakeetForCTC"])
def test_compiled_by_inductor(name, tmp_path):
    system = next(system for system in SYSTEMS if system.name == name)
    pair = Pair(replace(system, changes=tiny.shallow(name)), tmp_path)
    inputs = pair.system.inputs()
    with torch.no_grad():
        got = torch.compile(pair.ours, fullgraph=True)(**inputs)
        torch.testing.assert_close(got.logits, pair.ours(**inputs).logits, atol=1e-5, rtol=1e-5)
