"""Folders as others wrote them: those of every age are read as the reference library reads them, damaged ones are refused."""

import copy
import json
import logging
import os
import random
import re
import resource
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from parity import CLOSE
from safetensors.torch import load_file, save_file
from test_transformer import CONFIG as TRANSFORMER
from torch import Tensor, nn

import headwise as hw
from headwise.models.checkpoint.folder import CheckpointError
from headwise.models.systems import ARCHITECTURES
from headwise.models.transformer import Transformer

CLASSES = (
    "BertForQuestionAnswering",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "MarianMTModel",
    "T5ForConditionalGeneration",
    "ViTForImageClassification",
    "YolosForObjectDetection",
    "DetrForObjectDetection",
    "ImageGPTForCausalImageModeling",
    "TimesformerForVideoClassification",
    "VideoMAEForVideoClassification",
    "Wav2Vec2ConformerForCTC",
    "ParakeetForCTC",
    "Speech2TextForConditionalGeneration",
    "WhisperForConditionalGeneration",
    "SpeechT5ForTextToSpeech",
    "FastSpeech2ConformerModel",
)
EVERY = pytest.mark.parametrize("name", CLASSES)
Tensors = dict[str, Tensor]
Theirs = Callable[..., Path]


@pytest.fixture(autouse=True, scope="module")
def _silent() -> Iterator[None]:
    """No progress bars, and nothing logged by the reference library, which warns of many of these files."""
    from transformers.utils import logging as theirs

    theirs.disable_progress_bar()
    level = theirs.get_verbosity()
    theirs.set_verbosity(logging.CRITICAL)
    yield
    theirs.set_verbosity(level)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Callable[..., tuple[Path, Tensors]]:
    """Once each: what save_pretrained writes, and the state_dict of the same model."""
    done: dict[str, tuple[Path, Tensors]] = {}

    def write(name: str, **changes: Any) -> tuple[Path, Tensors]:
        key = f"{name} {changes}"
        if key not in done:
            model, folder = tiny.reference(name, **changes), tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            held = load_file(folder / "model.safetensors")
            state = dict(model.state_dict())  # with the copies of what is tied
            done[key] = folder, state if held.keys() <= state.keys() else held  # some it calls otherwise than its files
        return done[key]

    return write


@pytest.fixture
def theirs(written, tmp_path) -> Theirs:
    """A copy of a written folder, to be changed."""

    def take(name: str, **changes: Any) -> Path:
        return shutil.copytree(written(name, **changes)[0], tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")

    return take


def entries(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text("utf-8"))


def say(folder: Path, **changes: Any) -> None:
    """Changes config.json; ``...`` takes an entry away."""
    said = entries(folder) | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in said.items() if value is not ...}))


def rewrite(folder: Path, change: Callable[[Tensors], Tensors | None]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights) or weights, folder / "model.safetensors")


def pickle(folder: Path, weights: Any, **how: Any) -> None:
    """The weights as pytorch_model.bin, in place of all others."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(weights, folder / "pytorch_model.bin", **how)


def logits_of(output: Any) -> Tensor:
    """What a model says, a voice too."""
    if hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits], -1)
    return output.spectrogram if hasattr(output, "spectrogram") else output.logits


def logits(model: nn.Module, name: str, **changes: Any) -> Tensor:
    """On real rows."""
    batch = tiny.inputs(name, **changes)
    with torch.no_grad():
        output = model(**batch)
    found = logits_of(output)
    real = batch.get("decoder_attention_mask", batch.get("attention_mask"))
    return found if real is None or found.shape[:2] != real.shape else found[real.bool()]


def read_by_them(folder: Path, name: str, complete: bool = True) -> nn.Module:
    import transformers

    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not complete or not any(info.values()), info
    return tiny.ready(model)


def precisions(tensors: Iterable[Tensor]) -> set[torch.dtype]:
    """Of what is no counter."""
    return {x.dtype for x in tensors if x.dtype != torch.int64}


def same(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refusal(folder: Path, seconds: float = 2, **how: Any) -> str:
    """What is said; quickly, in one line, and without gigabytes."""
    begin, most = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as error:
        hw.load(folder, **how)
    assert time.monotonic() - begin < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 500_000  # kilobytes
    said = str(error.value)
    assert said.isprintable(), said
    assert len(said) <= 1000
    return said


# -- files of every age


def shards(count: int) -> Callable[[Path, Tensors], None]:
    """``count`` pickles with an index, as before safetensors."""

    def write(folder: Path, state: Tensors) -> None:
        (folder / "model.safetensors").unlink()
        places = {name: f"pytorch_model-{number % count + 1:05}-of-{count:05}.bin" for number, name in enumerate(state)}
        for file in set(places.values()):
            torch.save({name: state[name] for name in state if places[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))

    return write


def old_names(folder: Path, state: Tensors) -> None:
    """Of BERT's first files, which came from TensorFlow."""
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    pickle(folder, {re.sub(r"LayerNorm\.\w+$", lambda new: old[new[0]], name): x for name, x in state.items()})


def old_buffers(folder: Path, state: Tensors) -> None:
    """What the libraries of their time saved though it is computed, or never used."""
    causal, table = torch.ones(64, 64).tril().bool()[None, None], torch.rand(64, 32)
    more = {
        "transformer.wte.weight": {f"transformer.h.{i}.attn.bias": causal for i in range(2)}
        | {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)},
        "model.norm.weight": {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(4) for i in range(2)},
        "bert.embeddings.LayerNorm.weight": {"bert.embeddings.position_ids": torch.arange(64)[None]},
        "model.shared.weight": {f"model.{side}coder.embed_positions.weight": table for side in ("en", "de")},
        "shared.weight": {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.zeros(32, 4)},
        "vit.embeddings.cls_token": {"vit.pooler.dense.weight": table, "vit.pooler.dense.bias": table[0]},
        "model.query_position_embeddings.weight": {
            f"model.backbone.conv_encoder.model.{place}.normalization.num_batches_tracked": torch.tensor(7)
            for place in ("embedder.embedder", "encoder.stages.0.layers.0.layer.1")
        },
        "fc_norm.weight": {"decoder.norm.weight": table[0], "encoder_to_decoder.weight": table, "mask_token": table[:1, None]}
        | {"position_embeddings": table[None]},
        "wav2vec2_conformer.encoder.layer_norm.weight": {"quantizer.codevectors": table[None], "project_q.bias": table[0]},
        "timesformer.embeddings.cls_token": {},  # nothing is known
        "model.encoder.conv.conv_layers.0.weight": {
            f"model.{side}coder.embed_positions.weights": table for side in ("en", "de")
        },
        "speecht5.encoder.prenet.encode_positions.alpha": {
            f"speecht5.{side}coder.prenet.encode_positions.pe": table[None] for side in ("en", "de")
        },
        **{name: {} for name in ("ctc_head.weight", "model.encoder.conv1.weight", "duration_predictor.linear.weight")},
    }
    (mine,) = (buffers for name, buffers in more.items() if name in state)
    pickle(folder, state | mine)


OLD: dict[str, Callable[[Path, Tensors], None]] = {
    "pickle": pickle,
    "pickle of 2019": lambda folder, state: pickle(folder, state, _use_new_zipfile_serialization=False),
    "pickle of parameters": lambda folder, state: pickle(
        folder, {name: nn.Parameter(x, x.is_floating_point()) for name, x in state.items()}
    ),
    "sharded pickles": shards(3),
    "every copy": lambda folder, state: save_file({n: x.clone() for n, x in state.items()}, folder / "model.safetensors"),
    "old names": old_names,
    "old buffers": old_buffers,
}


# How a file holds tensors is the same for every class; which tensors there are, is each one's own matter.
CONTAINERS = ("pickle of 2019", "pickle of parameters", "sharded pickles")
SOME = ("BertForMaskedLM", "T5ForConditionalGeneration", "DetrForObjectDetection")  # with ties, shared tables and counters
AGES = [(name, age) for name in CLASSES for age in OLD if age not in CONTAINERS or name in SOME]


@pytest.mark.parametrize(("name", "age"), AGES)
def test_old_files_are_the_same_model(written, theirs, name, age):
    folder, (new, state) = theirs(name), written(name)
    OLD[age](folder, dict(state))
    found, expected = hw.load(folder), hw.load(new)
    assert same(found, expected)
    assert precisions(found.state_dict().values()) == {torch.float32}
    assert all(x.is_contiguous() for x in found.state_dict().values())
    assert len(list(found.parameters())) == len(list(expected.parameters()))


@EVERY
def test_shards_as_written_today(theirs, name):
    import transformers

    folder = theirs(name)
    expected = hw.load(folder)
    getattr(transformers, name).from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="20KB")
    assert not (folder / "shards" / "model.safetensors").exists()
    assert len(list((folder / "shards").glob("model-*.safetensors"))) > 2
    assert same(hw.load(folder / "shards"), expected)


@pytest.mark.parametrize(
    ("name", "changes", "body", "prefix"),
    [
        ("BertForMaskedLM", {}, "BertModel", "bert."),
        ("GPT2LMHeadModel", {}, "GPT2Model", "transformer."),
        ("LlamaForCausalLM", {"tie_word_embeddings": True}, "LlamaModel", "model."),
    ],
)
def test_files_of_the_bare_body(theirs, name, changes, body, prefix):
    """Names as the body's own class writes them; the GPT-2 of the Hub calls itself a GPT2LMHeadModel all the same."""
    folder = theirs(name, **changes)
    expected = hw.load(folder)
    rewrite(folder, lambda x: {n.removeprefix(prefix): t for n, t in x.items()})
    assert same(hw.load(folder), expected)
    say(folder, architectures=[body])
    assert f"architectures is ['{body}']" in refusal(folder)
    assert same(hw.load(folder, architecture=name), expected)


def test_the_only_copy_in_a_file_is_the_tensor(theirs):
    """safetensors' own save_model keeps the first of the tied names, by the alphabet."""
    only = {
        "GPT2LMHeadModel": ("transformer.wte.weight", "lm_head.weight"),
        "BertForMaskedLM": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        "MarianMTModel": ("model.shared.weight", "model.decoder.embed_tokens.weight"),
        "T5ForConditionalGeneration": ("shared.weight", "encoder.embed_tokens.weight"),
    }
    for name, (usual, kept) in only.items():
        folder = theirs(name)
        expected = hw.load(folder)
        rewrite(folder, lambda x, usual=usual, kept=kept: x | {kept: x.pop(usual)} if usual in x else x)
        rewrite(folder, lambda x, usual=usual: {n: t for n, t in x.items() if n != usual})
        assert same(hw.load(folder), expected), name
        torch.testing.assert_close(logits(hw.load(folder), name), logits(read_by_them(folder, name), name), **CLOSE)


WIDTHS = [(name, torch.float16) for name in CLASSES]
WIDTHS += [(name, dtype) for name in SOME for dtype in (torch.bfloat16, torch.float64)]


@pytest.mark.parametrize(("name", "dtype"), WIDTHS)
def test_files_of_other_widths(theirs, name, dtype):
    folder = theirs(name)
    full = hw.load(folder).state_dict()
    rewrite(folder, lambda x: {n: t.to(dtype) for n, t in x.items()})
    for entry, asked in (("dtype", torch.float32), ("torch_dtype", dtype)):
        say(folder, **{"dtype": ..., "torch_dtype": ..., entry: "bfloat16"})  # told of, not believed
        read = hw.load(folder, dtype=asked).state_dict()
        assert precisions(read.values()) == {asked}
        for part, x in read.items():
            assert torch.equal(x, full[part].to(dtype).to(x.dtype)), part


@EVERY
def test_what_a_config_leaves_out_has_its_default(theirs, name):
    folder = theirs(name)
    expected = hw.load(folder)
    said = tiny.configuration(name).to_diff_dict()
    said.pop("transformers_version")
    (folder / "config.json").write_text(json.dumps(said | {"architectures": [name]}))
    found = hw.load(folder)
    assert same(found, expected)
    assert {**found.config.to_entries(), **expected.config.other} == {**expected.config.to_entries(), **found.config.other}


@EVERY
def test_unknown_entries_are_kept(theirs, tmp_path, name):
    folder = theirs(name)
    more = {"custom": {"a": [1, None, "ü"]}, "_name_or_path": "x", "task_specific_params": None, "use_cache": False}
    say(folder, torch_dtype="float16", **more)
    before = entries(folder)
    hw.save(hw.load(folder), tmp_path / "again")
    after = entries(tmp_path / "again")
    assert {entry: after.get(entry) for entry in before if entry != "torch_dtype"} == {
        entry: value for entry, value in before.items() if entry != "torch_dtype"
    }
    assert "torch_dtype" not in after


# -- settings: as the reference understands them, or refused

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
ROPE: list[tuple[dict[str, Any], str]] = [  # entries of config.json, and what is said where they are refused
    ({}, ""),
    ({"rope_theta": 100}, ""),
    ({"rope_theta": 100.0, "rope_scaling": None, "rope_parameters": None}, ""),
    ({"rope_theta": 100.0, "rope_parameters": {"rope_type": "default"}}, ""),
    ({"rope_theta": 100.0, "rope_parameters": {"rope_theta": 50.0}}, ""),
    ({"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 2}}, ""),
    ({"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2.0}}, ""),
    ({"rope_scaling": {"factor": 2.0}}, ""),
    ({"rope_parameters": {"type": "linear", "factor": 2.0}}, ""),
    ({"rope_parameters": {"type": "linear", "factor": 2.0}, "rope_scaling": {"type": "linear", "factor": 4.0}}, ""),
    ({"rope_theta": 100.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, ""),
    ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": ...}}, ""),
    ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "original_max_position_embeddings": 32}, ""),
    ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": ...}}, "low_freq_factor: expected a number above 0"),
    ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 0.5}}, "high_freq_factor must be above low"),
    ({"rope_theta": 100.0, "rope_scaling": {"type": "yarn", **YARN}}, ""),
    ({"rope_scaling": {"type": "yarn", **YARN, "finetuned": True}}, ""),  # as published
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, ""),
    ({"rope_scaling": {"type": "yarn", **YARN, "attention_factor": 0.7}}, ""),
    ({"rope_theta": 100.0, "rope_scaling": {"type": "yarn", **YARN, "beta_fast": 4, "beta_slow": 2.0}}, ""),
    ({"rope_scaling": {"type": "yarn", **YARN, "beta_fast": None, "mscale": 0.7, "truncate": True}}, ""),
    ({"rope_scaling": {"type": "yarn", **YARN, "mscale": 0.7, "mscale_all_dim": 1.0}}, "mscale_all_dim is 1.0; only 0 is"),
    ({"rope_scaling": {"type": "yarn", **YARN, "truncate": False}}, "truncate is False; only True is known here"),
    (
        {"rope_scaling": {"type": "yarn", **YARN, "beta_fast": 1, "beta_slow": 32}},
        "beta_slow = 32.0, beta_fast = 1.0, .*no ramp",
    ),
    ({"rope_scaling": {"type": "yarn", **YARN, "original_max_position_embeddings": 10**12}}, "make no ramp"),
    ({"partial_rotary_factor": 1.0}, ""),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; only 1.0 is known here"),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type: expected one of default, linear, llama3, yarn; got"),
    ({"rope_scaling": {"type": ["linear"]}}, "rope_type: expected one of"),
    ({"rope_scaling": {"type": "linear"}}, "factor: expected a number above 0; got None"),
    ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, "factor: expected a number above 0; got nan"),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor: expected a number above 0; got '2'"),
    ({"rope_scaling": "linear"}, "expected an object; got 'linear'"),
    ({"rope_theta": 10**400}, "rope_theta: expected a number above 1"),
    ({"rope_theta": None}, "rope_theta: expected a number above 1; got None"),
    ({"head_dim": 9}, "even width"),
]


@pytest.mark.parametrize(("said", "refused"), ROPE, ids=lambda x: str(x)[:90])
def test_rotary_positions_of_every_kind(theirs, tmp_path, said, refused):
    folder = theirs("LlamaForCausalLM")
    said = {name: {k: x for k, x in y.items() if x is not ...} if isinstance(y, dict) else y for name, y in said.items()}
    say(folder, **{"rope_parameters": ..., **said})
    if refused:
        assert re.search(refused, refusal(folder))
        return
    ids = torch.arange(2 * 45).view(2, 45)  # beyond what was trained on
    hw.save(hw.load(folder), tmp_path / "again")
    with torch.no_grad():
        expected = read_by_them(folder, "LlamaForCausalLM")(ids).logits
        torch.testing.assert_close(hw.load(folder)(ids).logits, expected, atol=3e-5, rtol=1e-4)
        torch.testing.assert_close(read_by_them(tmp_path / "again", "LlamaForCausalLM")(ids).logits, expected)


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    # Further names of fields, which the reference library has too. Most change no shape.
    ("GPT2LMHeadModel", {"n_head": ..., "num_attention_heads": 2}, ""),
    ("GPT2LMHeadModel", {"num_attention_heads": 4, "hidden_size": 32}, ""),
    ("GPT2LMHeadModel", {"num_attention_heads": 2}, "n_head is 4, and num_attention_heads, which means the same, 2"),
    ("MarianMTModel", {"encoder_attention_heads": ..., "num_attention_heads": 2}, ""),
    ("MarianMTModel", {"num_hidden_layers": 2}, ""),  # as published
    ("T5ForConditionalGeneration", {"d_kv": ..., "head_dim": 8}, ""),
    ("VideoMAEForVideoClassification", {"qv_bias": ..., "qkv_bias": False}, r"unexpected 4 tensors: videomae\..*\.q_bias"),
    # What would change the numbers.
    ("GPT2LMHeadModel", {"is_causal": False}, "is_causal is False; only True is known here"),
    ("LlamaForCausalLM", {"is_causal": False}, "is_causal is False"),
    ("MarianMTModel", {"is_causal": False}, "is_causal is False"),
    ("T5ForConditionalGeneration", {"is_causal": False}, "is_causal is False"),
    ("LlamaForCausalLM", {"per_layer_config": {"0": {"rms_norm_eps": 1.0}}}, "per_layer_config is"),
    ("BertForMaskedLM", {"per_layer_config": {"0": {"hidden_act": "relu"}}}, "per_layer_config is"),
    ("BertForMaskedLM", {"is_decoder": True}, "is_decoder is True; only False is known here"),
    ("ImageGPTForCausalImageModeling", {"tie_word_embeddings": True}, "tie_word_embeddings is True; only False is known here"),
    ("BertForMaskedLM", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ("GPT2LMHeadModel", {"add_cross_attention": True}, "add_cross_attention is True"),
    ("T5ForConditionalGeneration", {"dense_act_fn": "gelu_new"}, "dense_act_fn is 'gelu_new', though feed_forward_proj is"),
    ("T5ForConditionalGeneration", {"is_gated_act": True}, "is_gated_act is True"),
    ("T5ForConditionalGeneration", {"feed_forward_proj": "swiglu"}, "though feed_forward_proj is 'swiglu'"),
    ("BertForMaskedLM", {"hidden_act": "gelu_10"}, "no activation 'gelu_10'; known are relu, gelu, "),
    ("BertForSequenceClassification", {"problem_type": "ranking"}, "problem_type"),
    # What would not.
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}, ""),
    ("GPT2LMHeadModel", {"scale_attn_weights": False, "activation_function": "relu"}, ""),
    ("T5ForConditionalGeneration", {"scale_decoder_outputs": False}, ""),
    ("T5ForConditionalGeneration", {"relative_attention_max_distance": ...}, ""),
    ("T5ForConditionalGeneration", {"dense_act_fn": ..., "is_gated_act": ..., "feed_forward_proj": "silu"}, ""),
    ("MarianMTModel", {"scale_embedding": True, "activation_function": "swish", "normalize_before": True}, ""),
    ("BertForMaskedLM", {"layer_norm_eps": 0.5, "pad_token_id": None, "chunk_size_feed_forward": 0}, ""),
    ("LlamaForCausalLM", {"pad_token_id": -1, "pretraining_tp": 2, "attention_dropout": 0}, ""),  # as the first ones
    ("BertForSequenceClassification", {"id2label": ..., "label2id": ..., "num_labels": 5}, ""),
    ("BertForSequenceClassification", {"id2label": None, "label2id": None, "num_labels": 5}, ""),
    ("BertForSequenceClassification", {"id2label": ..., "num_labels": 4}, r"classifier\.\w+ is \(5.*, the model's is \(4"),
    ("BertForSequenceClassification", {"id2label": ..., "num_labels": 2**30}, "num_labels: expected an integer from 1 to"),
]


@pytest.mark.parametrize(("name", "said", "refused"), OTHERS, ids=lambda x: str(x)[:90])
def test_settings_mean_what_they_mean_to_the_reference(theirs, tmp_path, name, said, refused):
    folder = theirs(name)
    say(folder, **said)
    if refused:
        assert re.search(refused, refusal(folder))
        return
    expected = logits(read_by_them(folder, name), name)
    torch.testing.assert_close(logits(hw.load(folder), name), expected, **CLOSE)
    hw.save(hw.load(folder), tmp_path / "again")
    torch.testing.assert_close(logits(read_by_them(tmp_path / "again", name), name), expected)


UNTIED: list[tuple[str, dict[str, Any]]] = [
    ("BertForMaskedLM", {"tie_word_embeddings": False}),
    ("GPT2LMHeadModel", {"tie_word_embeddings": False}),
    ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    ("MarianMTModel", {"share_encoder_decoder_embeddings": False}),
    ("MarianMTModel", {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 101}),
    ("MarianMTModel", {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 101, "tie_word_embeddings": False}),
    ("T5ForConditionalGeneration", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
]


@pytest.mark.parametrize(("name", "changes"), UNTIED, ids=str)
def test_embeddings_apart_and_together(theirs, tmp_path, name, changes):
    folder = theirs(name, **changes)
    model, expected = hw.load(folder), logits(read_by_them(folder, name), name, **changes)
    torch.testing.assert_close(logits(model, name, **changes), expected, **CLOSE)
    hw.save(model, tmp_path / "again")
    again = read_by_them(tmp_path / "again", name)
    torch.testing.assert_close(logits(again, name, **changes), expected)
    assert same(hw.load(tmp_path / "again"), model)


@pytest.mark.parametrize(
    ("name", "head", "shared"),
    [
        ("BertForMaskedLM", "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("GPT2LMHeadModel", "lm_head.weight", "transformer.wte.weight"),
        ("MarianMTModel", "lm_head.weight", "model.shared.weight"),
        ("T5ForConditionalGeneration", "lm_head.weight", "shared.weight"),
    ],
)
def test_a_head_that_differs_was_trained_apart_whatever_is_said(theirs, name, head, shared):
    """T5 goes on to scale, as its settings say tied; version 1.1 says untied and does not."""
    folder = theirs(name)
    rewrite(folder, lambda x: x | {head: x[shared] + 0.25})
    say(folder, scale_decoder_outputs=...)
    model = hw.load(folder)
    assert model.config.tie_word_embeddings is False
    torch.testing.assert_close(logits(model, name), logits(read_by_them(folder, name, complete=False), name), **CLOSE)
    if name == "T5ForConditionalGeneration":
        say(folder, tie_word_embeddings=False)
        expected = logits(read_by_them(folder, name, complete=False), name)
        torch.testing.assert_close(logits(hw.load(folder), name), expected, **CLOSE)
        assert not torch.allclose(logits(hw.load(folder), name), logits(model, name))


def test_marian_untied_but_shared(theirs, tmp_path):
    """The reference holds three tables for it, which are the same in all files of its older versions."""
    folder = theirs("MarianMTModel", tie_word_embeddings=False)
    assert "has unexpected 2 tensors: model.decoder.embed_tokens.weight" in refusal(folder)
    copies = [f"model.{side}coder.embed_tokens.weight" for side in ("en", "de")]
    for change in (
        lambda x: x | {name: x["model.shared.weight"].clone() for name in copies},
        lambda x: x | {"model.shared.weight": torch.zeros_like(x["model.shared.weight"])},  # then nobody reads it
    ):
        rewrite(folder, change)
        hw.save(hw.load(folder), tmp_path / "again")
        expected = logits(read_by_them(folder, "MarianMTModel"), "MarianMTModel")
        torch.testing.assert_close(logits(hw.load(folder), "MarianMTModel"), expected, **CLOSE)
        torch.testing.assert_close(logits(read_by_them(tmp_path / "again", "MarianMTModel"), "MarianMTModel"), expected)


# -- another head


def pretraining(folder: Path) -> None:
    """As google-bert/bert-base-uncased is: pooler and next-sentence head beside the masked language model, old names."""
    weights = load_file(folder / "model.safetensors")
    weights |= {"bert.pooler.dense.weight": torch.rand(32, 32), "bert.pooler.dense.bias": torch.rand(32)}
    weights |= {"cls.seq_relationship.weight": torch.rand(2, 32), "cls.seq_relationship.bias": torch.rand(2)}
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    old_names(folder, weights)
    say(folder, architectures=["BertForPreTraining"])


def body(folder: Path) -> None:
    """As BertModel writes itself."""
    pooler = {"pooler.dense.weight": torch.rand(32, 32), "pooler.dense.bias": torch.rand(32)}
    inner = lambda x: {n.removeprefix("bert."): t for n, t in x.items() if n.startswith("bert.")} | pooler
    rewrite(folder, inner)
    say(folder, architectures=["BertModel"])


def test_pretraining_files_are_masked_language_models(theirs):
    folder = theirs("BertForMaskedLM")
    expected = hw.load(folder)
    pretraining(folder)
    assert same(hw.load(folder), expected)


def test_a_body_says_which_heads_it_may_get(theirs):
    folder = theirs("BertForMaskedLM")
    body(folder)
    heads = ARCHITECTURES["BertForMaskedLM"].models
    assert refusal(folder).endswith(f"model_type 'bert'; read it with architecture= one of {', '.join(heads)}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head", ["BertForQuestionAnswering", "BertForSequenceClassification"])
@pytest.mark.parametrize("source", ["masked", "pretraining", "body"])
def test_another_head_starts_afresh(theirs, tmp_path, caplog, source, head, dtype):
    folder = theirs("BertForMaskedLM")
    expected = hw.load(folder, dtype=dtype).bert.state_dict()
    if source != "masked":
        (pretraining if source == "pretraining" else body)(folder)
    with caplog.at_level(logging.WARNING, logger="headwise"):
        model = hw.load(folder, architecture=head, dtype=dtype)
    classifier = "classifier.bias, classifier.weight"
    if source == "masked":
        classifier = "bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, ..."
    own = "qa_outputs.bias, qa_outputs.weight" if head == "BertForQuestionAnswering" else classifier
    assert [record.message.split(" has no ")[1] for record in caplog.records] == [f"{own}: they start afresh and want training"]
    for name, x in model.bert.state_dict().items():
        assert torch.equal(x, expected[name]), name
    for name, parameter in model.named_parameters():
        assert parameter.dtype == dtype, name
        assert parameter.device.type == "cpu", name
        assert parameter.isfinite().all(), name
    assert not model.training
    asked = {"labels": torch.tensor([0, 1, 0])} if "Sequence" in head else {"start_positions": torch.ones(3).long()}
    asked |= {"end_positions": asked["start_positions"]} if "start_positions" in asked else {}
    batch, optimizer = tiny.inputs("BertForMaskedLM") | asked, torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(3):
        losses.append(model(**batch).loss)
        losses[-1].backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[0]
    hw.save(model, tmp_path / "again", torch.float32)
    torch.testing.assert_close(logits(read_by_them(tmp_path / "again", head), head), logits(model.float(), head), **CLOSE)


def test_another_heads_words_are_not_forgotten(theirs):
    """An untied masked language model read under another head: its word embeddings are no copies of what is left out."""
    folder = theirs("BertForMaskedLM", tie_word_embeddings=False)
    expected = load_file(folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    for tied in (True, False):
        say(folder, tie_word_embeddings=tied)
        assert torch.equal(hw.load(folder, architecture="BertForQuestionAnswering").bert.embedding.weight, expected)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_weights_are_floating_point_numbers(theirs, tmp_path, dtype):
    folder = theirs("GPT2LMHeadModel")
    with pytest.raises(ValueError, match=f"dtype: expected one of torch.float64, .*; got {dtype}"):
        hw.load(folder, dtype=dtype)
    with pytest.raises(ValueError, match=f"dtype: expected one of torch.float64, .*; got {dtype}"):
        hw.save(hw.load(folder), tmp_path / "new", dtype)
    assert not (tmp_path / "new").exists()


def test_a_head_without_a_body_is_refused(theirs):
    folder = theirs("BertForMaskedLM")
    rewrite(folder, lambda x: {n: t for n, t in x.items() if "layer.1." not in n})
    said = refusal(folder, architecture="BertForQuestionAnswering")
    assert "misses 16 tensors: bert.encoder.layer.1.attention.output.LayerNorm.bias, " in said
    assert "'Bert'; known are Transformer, " in refusal(folder, architecture="Bert")
    assert "holds a 'bert' model, not GPT2LMHeadModel's 'gpt2'" in refusal(folder, architecture="GPT2LMHeadModel")


# -- round trips


@EVERY
def test_round_trip(theirs, tmp_path, name):
    folder = theirs(name)
    model = hw.load(folder)
    for again in ("once", "once", "twice"):
        hw.save(model, tmp_path / again)
        model = hw.load(tmp_path / again)
    wrote, read = (load_file(place / "model.safetensors") for place in (tmp_path / "twice", folder))
    assert wrote.keys() == read.keys()
    assert all(torch.equal(wrote[part], read[part]) and wrote[part].dtype == read[part].dtype for part in read)
    assert len({(tmp_path / again / "model.safetensors").read_bytes() for again in ("once", "twice")}) == 1
    assert len({(tmp_path / again / "config.json").read_text() for again in ("once", "twice")}) == 1
    assert entries(folder).items() <= (entries(tmp_path / "twice") | {"architectures": [name]}).items()
    torch.testing.assert_close(logits(read_by_them(tmp_path / "twice", name), name), logits(read_by_them(folder, name), name))


@EVERY
def test_saved_in_half(theirs, tmp_path, name):
    folder = theirs(name)
    model = hw.load(folder)
    for dtype in (torch.float16, torch.bfloat16) if name in SOME else (torch.bfloat16,):
        hw.save(model, tmp_path / str(dtype), dtype)
        assert precisions(load_file(tmp_path / str(dtype) / "model.safetensors").values()) == {dtype}
        assert entries(tmp_path / str(dtype))["dtype"] == str(dtype).removeprefix("torch.")
        assert read_by_them(tmp_path / str(dtype), name).dtype == dtype
        rounded = hw.load(tmp_path / str(dtype)).state_dict()
        assert all(torch.equal(x, model.state_dict()[part].to(dtype).float()) for part, x in rounded.items())


def test_a_save_that_fails_leaves_the_old_model(theirs, tmp_path, monkeypatch):
    model = hw.load(theirs("GPT2LMHeadModel"))
    hw.save(model, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    other = hw.load(theirs("GPT2LMHeadModel", n_embd=16))

    def full(weights, place, metadata):
        Path(place).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("headwise.models.checkpoint.folder.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        hw.save(other, tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_another_models_generation_config_does_not_stay(theirs, tmp_path):
    folder = theirs("MarianMTModel")
    marian = hw.load(folder)
    assert marian.generation_config == json.loads((folder / "generation_config.json").read_text())
    hw.save(marian, tmp_path / "model")
    assert hw.load(tmp_path / "model").generation_config == marian.generation_config
    hw.save(Transformer(TRANSFORMER), tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def places(model: nn.Module) -> list[list[str]]:
    """The names of every tensor."""
    found: dict[int, list[str]] = {}
    for name, x in model.state_dict(keep_vars=True).items():
        found.setdefault(id(x), []).append(name)
    return list(found.values())


@EVERY
def test_a_model_is_its_own(theirs, name):
    """Nothing shared with another load, nor with the file, nor between tensors; nothing left without numbers."""
    folder = theirs(name)
    model, other = hw.load(folder), hw.load(folder)
    before = copy.deepcopy(model)
    every = [x for one in (model, other) for names in places(one) for x in [one.state_dict(keep_vars=True)[names[0]]]]
    assert len({x.untyped_storage().data_ptr() for x in every}) == len(every)
    assert all(x.untyped_storage().nbytes() == x.nbytes and x.device.type == "cpu" and x.is_leaf for x in every)
    assert all(x.device.type == "cpu" for x in [*model.parameters(), *model.buffers()])
    learns = [parameter.requires_grad for parameter in type(model)(model.config).parameters()]
    assert [parameter.requires_grad for parameter in model.parameters()] == learns
    assert all(learns) or name in ("DetrForObjectDetection", "WhisperForConditionalGeneration")
    with (folder / "model.safetensors").open("r+b") as file:  # somebody writes over it
        file.seek(-4000, os.SEEK_END)
        file.write(bytes(4000))
    assert same(model, before)
    assert same(other, before)


def test_tensors_that_share_numbers_in_a_file_do_not_in_the_model(theirs, written):
    """As torch.save writes an untied model whose head was set to the embedding once."""
    folder = theirs("LlamaForCausalLM")
    state = dict(written("LlamaForCausalLM")[1])
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    pickle(folder, state)
    model = hw.load(folder)
    assert model.config.tie_word_embeddings is False
    assert torch.equal(model.lm_head.weight, model.embedding.weight)
    assert model.lm_head.weight.data_ptr() != model.embedding.weight.data_ptr()


@EVERY
def test_what_is_one_stays_one(theirs, tmp_path, name):
    folder = theirs(name)
    model = hw.load(folder)
    assert places(model) == places(type(model)(model.config))
    if name.startswith("T5"):
        shared = [names for names in places(model) if len(names) > 1]
        assert [len(names) for names in shared] == [2, 2]  # the relative biases of either stack's layers
    batch = tiny.inputs(name)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    (logits_of(model(**batch)) ** 2).mean().backward()
    optimizer.step()
    copied = copy.deepcopy(model)
    assert places(copied) == places(model)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    fresh = type(model)(model.config).eval()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert places(fresh) == places(model)
    expected = logits(model, name)
    assert torch.equal(logits(copied, name), expected)
    assert torch.equal(logits(fresh, name), expected)
    half = copied.to(torch.float16)
    assert places(half) == places(model)
    assert precisions([*half.parameters(), *half.buffers()]) == {torch.float16}
    torch.testing.assert_close(logits(half, name).float(), expected, atol=0.1, rtol=0.1)
    hw.save(half, tmp_path / "half")
    assert entries(tmp_path / "half")["dtype"] == "float16"


# -- damaged and hostile


class Hostile:
    """Runs a command where a pickle is read without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def lying_header(length: int) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")


def header(**tensors: Any) -> Callable[[Path], None]:
    """A safetensors file of a few bytes that claims these."""

    def write(folder: Path) -> None:
        text = json.dumps(tensors).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))

    return write


def weights(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    """Changed in place."""
    return lambda folder: rewrite(folder, lambda x: change(x) and None)


def pickled(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    return lambda folder: pickle(folder, change(load_file(folder / "model.safetensors")))


def index(**changes: str) -> Callable[[Path], None]:
    """Two shards and an index, some of whose file names are others."""

    def write(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(state)}
        for file in set(names.values()):
            save_file({name: state[name] for name in state if names[name] == file}, folder / file)
        changed = {name: changes.get(name.replace(".", "_"), file) for name, file in names.items()}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": changed}))

    return write


def bomb(folder: Path) -> None:
    """A pickle that unpacks to five gigabytes."""
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(3)}, folder / "small.bin")
    with zipfile.ZipFile(folder / "small.bin") as small:
        parts = {entry.filename: small.read(entry) for entry in small.infolist()}
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as large:
        for name, content in parts.items():
            large.writestr(name, content if "/data/" not in name else bytes(50_000_000))


def many_keys(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    claims, end = json.loads(content[8 : 8 + length]), len(content) - 8 - length
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    text = json.dumps(claims | {f"extra.{number}": nothing for number in range(10**5)}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def overlapping(folder: Path) -> None:
    """Both shards hold one tensor, with other numbers."""
    index()(folder)
    shards = [load_file(folder / f"model-{number}.safetensors") for number in range(2)]
    save_file(shards[0] | {name: x + 1 for name, x in list(shards[1].items())[:1]}, folder / "model-0.safetensors")


def remake(kind: Callable[[Path], Any], name: str = "model.safetensors") -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        kind(folder / name)

    return damage


WTE, BIAS = "transformer.wte.weight", "transformer.ln_f.bias"
EMPTY = torch.empty(0)
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a class": (lambda folder: pickle(folder, {"a": Hostile("true")}), "is damaged or holds more than tensors"),
    "a command": (lambda folder: pickle(folder, {"a": Hostile(f"touch {folder}/run")}), "holds more than tensors"),
    "an old command": (
        lambda folder: pickle(folder, Hostile(f"touch {folder}/run"), _use_new_zipfile_serialization=False),
        "holds more than tensors",
    ),
    "a command called safetensors": (
        lambda folder: (pickle(folder, Hostile(f"touch {folder}/run")), remake((folder / "pytorch_model.bin").rename)(folder)),
        "model.safetensors is damaged",
    ),
    "a pickled model": (lambda folder: pickle(folder, nn.Linear(2, 2)), "holds more than tensors"),
    "a list": (lambda folder: pickle(folder, [torch.ones(2)]), "is not a dictionary of plain tensors"),
    "a number": (pickled(lambda x: x | {"epoch": 3}), "is not a dictionary of plain tensors"),
    "nested": (pickled(lambda x: {"state_dict": x}), "is not a dictionary of plain tensors"),
    "numbered": (pickled(lambda x: dict(enumerate(x.values()))), "is not a dictionary of plain tensors"),
    "meta": (pickled(lambda x: x | {WTE: x[WTE].to("meta")}), "is not a dictionary of plain tensors"),
    "sparse": (pickled(lambda x: x | {WTE: x[WTE].to_sparse()}), "is not a dictionary of plain tensors"),
    "one number a billion times": (
        pickled(lambda x: x | {"a": torch.ones(1).expand(10**5, 10**5)}),
        "claims more numbers than it holds",
    ),
    "one number a hundred thousand times": (
        pickled(lambda x: x | {"a": torch.ones(1).expand(10**5)}),
        "claims more numbers than it holds",
    ),
    "a bomb": (bomb, "would unpack to more than it is"),
    "a long header": (lying_header(2**63), "is damaged"),
    "a header past the end": (lying_header(10**9), "is damaged"),
    "a short header": (lying_header(1), "is damaged"),
    "offsets past the end": (header(a={"dtype": "F32", "shape": [10**6], "data_offsets": [0, 4 * 10**6]}), "is damaged"),
    "a shape past all": (header(a={"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 64]}), "is damaged"),
    "an unknown type": (header(a={"dtype": "F128", "shape": [1], "data_offsets": [0, 16]}), "is damaged"),
    "overlapping offsets": (
        header(**{n: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} for n in "ab"}),
        "is damaged",
    ),
    "integers": (weights(lambda x: x.update({WTE: x[WTE].int()})), f"{WTE} is torch.int32; known are torch.float64, "),
    "booleans": (weights(lambda x: x.update({BIAS: x[BIAS] > 0})), f"{BIAS} is torch.bool; known are"),
    "eight bits": (weights(lambda x: x.update({WTE: x[WTE].to(torch.float8_e4m3fn)})), "is torch.float8_e4m3fn; known are"),
    "complex": (weights(lambda x: x.update({BIAS: x[BIAS] * 1j})), "is torch.complex64; known are"),
    "nan": (weights(lambda x: x[WTE].view(-1)[7:8].fill_(torch.nan)), f"{WTE} holds nan or infinity"),
    "infinity": (weights(lambda x: x[BIAS][:1].fill_(-torch.inf)), f"{BIAS} holds nan or infinity"),
    "too large for float32": (
        weights(lambda x: x.update({BIAS: x[BIAS].double() + 1e300})),
        f"{BIAS} holds nan or infinity",
    ),
    "empty": (weights(lambda x: x.update({WTE: EMPTY})), f"{WTE} is (0,), the model's is (20, 8)"),
    "no tensors": (weights(lambda x: x.clear()), "holds 0 tensors, too few for 1 layers"),
    "transposed": (weights(lambda x: x.update({WTE: x[WTE].T.contiguous()})), f"{WTE} is (8, 20), the model's is (20, 8)"),
    "flat": (weights(lambda x: x.update({WTE: x[WTE].flatten()})), f"{WTE} is (160,)"),
    "ten thousand layers": (lambda folder: say(folder, n_layer=1000), "holds 16 tensors, too few for 1000 layers"),
    "under two names": (weights(lambda x: x.update({"wte.weight": x[WTE].clone()})), "under an old and a new name"),
    "many keys": (
        many_keys,
        "has unexpected 100000 tensors: extra.0, extra.1, extra.10, ...",
    ),
    "a long key": (weights(lambda x: x.update({"long" * 10**6: EMPTY})), "has unexpected 1 tensors: longlong"),
    "a key that writes on terminals": (weights(lambda x: x.update({"\x1b[2J\n\u202e": EMPTY})), "unexpected 1 tensors:  [2J"),
    "an index outside": (
        index(transformer_wte_weight="../model.safetensors"),
        "'../model.safetensors' is not a file beside it",
    ),
    "an absolute index": (index(transformer_wte_weight="/etc/hostname"), "'/etc/hostname' is not a file beside it"),
    "an index to above": (index(transformer_wte_weight=".."), "'..' is not a file beside it"),
    "an index to nothing": (index(transformer_wte_weight=""), "'' is not a file beside it"),
    "an index to nul": (index(transformer_wte_weight="a\0"), r"'a\x00' is not a file beside it"),
    "an index to half a letter": (index(transformer_wte_weight="\ud800"), r"'\ud800' is not a file beside it"),
    "an index to a long name": (index(transformer_wte_weight="a" * 5000), "aaaa"),
    "an index to itself": (index(transformer_wte_weight="model.safetensors.index.json"), "differ in transformer.wte"),
    "an index to the settings": (index(transformer_wte_weight="config.json"), "config.json is damaged"),
    "an index to a missing file": (index(transformer_wte_weight="model-9.safetensors"), "is not a file beside it"),
    "an index that errs": (index(transformer_wte_weight="model-0.safetensors"), "differ in transformer.wte.weight"),
    "a tensor in two shards": (overlapping, "and model-0.safetensors differ in"),
    "an index of lists": (
        lambda folder: (index()(folder), (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": []}}')),
        'expected an object "weight_map"',
    ),
    "a folder for weights": (remake(Path.mkdir), "holds no model.safetensors"),
    "a folder for settings": (remake(Path.mkdir, "config.json"), "holds no config.json"),
    "a pipe for settings": (remake(os.mkfifo, "config.json"), "holds no config.json"),
    "a pipe for weights": (remake(os.mkfifo), "holds no model.safetensors"),
    "a link to nothing": (remake(lambda path: path.symlink_to("nowhere")), "holds no model.safetensors"),
    "a link to itself": (remake(lambda path: path.symlink_to(path.name)), "holds no model.safetensors"),
    "a link to zeros": (remake(lambda path: path.symlink_to("/dev/zero"), "config.json"), "holds no config.json"),
    "deep settings": (
        lambda folder: (folder / "config.json").write_text('{"a":' * 10**5 + "1" + "}" * 10**5),
        "config.json is not JSON",
    ),
    "a number without end": (
        lambda folder: (folder / "config.json").write_text('{"vocab_size": ' + "9" * 10**5 + "}"),
        "config.json is not JSON",
    ),
    "architectures of lists": (lambda folder: say(folder, architectures=[[], {}, None]), "architectures is [[], {}, None]"),
    "damaged wishes": (
        lambda folder: (folder / "generation_config.json").write_text("{"),
        "generation_config.json is not JSON",
    ),
    "wishes in a list": (lambda folder: (folder / "generation_config.json").write_text("[]"), "is not a JSON object"),
}
SMALL = {"n_layer": 1, "vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_head": 2}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.nohook] * (kind == "many keys")) for kind in HOSTILE], ids=str
)
def test_hostile_files_are_refused(theirs, kind):
    folder = theirs("GPT2LMHeadModel", **SMALL)
    damage, problem = HOSTILE[kind]
    damage(folder)
    said = refusal(folder, seconds=10 if kind == "many keys" else 2)  # most of it spent by safetensors
    assert problem in said
    assert said.startswith(str(folder.parent))
    assert not (folder / "run").exists()


def test_a_command_would_have_run(theirs):
    """Else the tests above would prove nothing."""
    folder = theirs("GPT2LMHeadModel", **SMALL)
    pickle(folder, Hostile(f"touch {folder}/run"))
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (folder / "run").exists()


def test_safetensors_stand_before_pickles(theirs):
    folder = theirs("GPT2LMHeadModel", **SMALL)
    torch.save(Hostile(f"touch {folder}/run"), folder / "pytorch_model.bin")
    hw.load(folder)
    assert not (folder / "run").exists()


def test_a_model_stands_before_a_pipelines_index(theirs):
    folder = theirs("GPT2LMHeadModel", **SMALL)
    expected = hw.load(folder)
    (folder / "model_index.json").write_text("{}")
    assert same(hw.load(folder), expected)


def test_an_unreadable_file(theirs, monkeypatch):
    folder = theirs("GPT2LMHeadModel", **SMALL)

    def unreadable(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("headwise.models.checkpoint.folder.load_file", unreadable)
        assert "Permission denied" in refusal(folder)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", unreadable)
        assert "config.json cannot be read: Permission denied" in refusal(folder)


def formats(folder: Path) -> dict[str, bytes]:
    """One model's weights as files of every kind."""
    found = {"model.safetensors": (folder / "model.safetensors").read_bytes()}
    state = load_file(folder / "model.safetensors")
    for name, new in (("new/pytorch_model.bin", True), ("old/pytorch_model.bin", False)):
        torch.save(state, folder / "a.bin", _use_new_zipfile_serialization=new)
        found[name] = (folder / "a.bin").read_bytes()
    (folder / "model.safetensors").unlink()
    return found


def test_truncated_files(theirs):
    folder = theirs("GPT2LMHeadModel", **SMALL)
    for name, content in formats(folder).items():
        place = folder / Path(name).name
        place.write_bytes(content)
        hw.load(folder)
        for cut in [*range(0, len(content), len(content) // 50), len(content) - 1]:
            place.write_bytes(content[:cut])
            assert "is damaged or holds more than tensors: " in refusal(folder), (name, cut)
        place.unlink()


def test_random_bytes_in_files(theirs):
    """Every one is read or refused."""
    folder, chance = theirs("GPT2LMHeadModel", **SMALL), random.Random(0)
    settings = (folder / "config.json").read_bytes()
    found = formats(folder)
    for name, content in (found | {"config.json": settings, "model.safetensors": found["model.safetensors"]}).items():
        place, refused = folder / Path(name).name, 0
        for _ in range(80):
            damaged = bytearray(content)
            for _ in range(chance.choice([1, 3, 9])):
                damaged[chance.randrange(min(2000, len(content)))] = chance.randrange(256)
            if name == "config.json":
                (folder / "model.safetensors").write_bytes(found["model.safetensors"])
            place.write_bytes(damaged)
            try:
                hw.load(folder)
            except CheckpointError:
                refused += 1
        place.unlink()
        (folder / "config.json").write_bytes(settings)
        assert refused > 20, name


BAD = [10**30, -1, float("nan"), float("inf"), "x", "\ud800", "a" * 10**4, [], [[]], [None, 1.5], {}, {"0": 1}]
BAD += [True, None, 0, 1.5, 2**31 - 1]
SETTINGS = ("BertForSequenceClassification", "GPT2LMHeadModel", "LlamaForCausalLM", "MarianMTModel")
SETTINGS += ("T5ForConditionalGeneration", "Transformer")


@pytest.mark.nohook  # which would refuse most of them itself
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_wrong_kinds(theirs, tmp_path, name):
    """Every field with every bad value is refused, or the same tensors are found; never anything else, and soon."""
    folder = tmp_path / "model" if name == "Transformer" else theirs(name, **tiny.shallow(name))
    if name == "Transformer":
        hw.save(Transformer(TRANSFORMER), folder)
    model, said, refused, slowest = hw.load(folder), entries(folder), 0, 0.0
    for entry in [*(item.name for item in fields(model.config)), *model.config.aliases, "model_type", "architectures"]:
        for value in BAD:
            (folder / "config.json").write_text(json.dumps(said | {entry: value}))
            begin = time.monotonic()
            try:
                assert same(hw.load(folder), model), (entry, value)
            except CheckpointError:
                refused += 1
            slowest = max(slowest, time.monotonic() - begin)
    assert refused > 10 * len(fields(model.config))
    assert slowest < 2


# -- the Hub


@pytest.fixture
def cached(theirs, tmp_path, monkeypatch) -> Path:
    """A Hub cache with one model, "someone/tiny", and no network."""
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository, commit = cache / "models--someone--tiny", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in theirs("GPT2LMHeadModel", **SMALL).iterdir():
        path.rename(repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    monkeypatch.chdir(tmp_path)
    return snapshot


def test_names_on_the_hub(cached):
    assert same(hw.load("someone/tiny"), hw.load(cached))
    pickle(cached, load_file(cached / "model.safetensors"))
    assert same(hw.load("someone/tiny"), hw.load(cached))
    (cached / "config.json").unlink()
    assert "holds no config.json" in refusal("someone/tiny")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["someone/else", "../x", "a" * 200 + "/b", "-/-", "someone/.."])
def test_unknown_names_on_the_hub(cached, name):
    assert refusal(name).startswith(f"{name} is no folder here, and could not be fetched from the Hub: ")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gpt2", "", "a/b/c", "a" * 5000, "\0", "https://huggingface.co/someone/tiny", "/dev/null"])
def test_what_is_no_folder(cached, name):
    assert "is not a folder with a model" in refusal(name) or "holds no config.json" in refusal(name)  # type: ignore[arg-type]


def test_a_folder_stands_before_the_hub(cached, theirs):
    shutil.copytree(theirs("BertForMaskedLM"), Path("someone") / "tiny")
    assert type(hw.load("someone/tiny")).__name__ == "BertForMaskedLM"


def test_whatever_stops_the_fetch_is_said(cached, monkeypatch):
    def stop(*_: Any, **__: Any) -> None:
        raise RuntimeError("proxy\nsays no")

    monkeypatch.setattr("huggingface_hub.snapshot_download", stop)
    assert refusal("someone/else").endswith("could not be fetched from the Hub: proxy says no")  # type: ignore[arg-type]
