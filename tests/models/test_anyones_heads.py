"""Heads of models of transformers: what is recorded is what they compute, by their own eager code; and after looking they are
what they were before."""

import logging

import pytest
import tiny
import torch
from parity import CLOSE
from torch import nn

import headwise as hw
from headwise.attention.record import Recorded
from headwise.insight.observing import observe

TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
GROUPED = TEXT | {"num_key_value_heads": 2, "pad_token_id": 0}
VISION = {name: size for name, size in TEXT.items() if name != "vocab_size"} | {"image_size": 16, "patch_size": 8}
STACK = {"layers": 2, "attention_heads": 4, "ffn_dim": 37}
FAMILIES = {  # besides those of the parity table
    "RobertaForMaskedLM": TEXT | {"max_position_embeddings": 32},
    "DistilBertForMaskedLM": {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37},
    "AlbertForMaskedLM": TEXT | {"embedding_size": 16},
    "ElectraForMaskedLM": TEXT | {"embedding_size": 16},
    "OPTForCausalLM": TEXT | {"ffn_dim": 37, "word_embed_proj_dim": 32, "max_position_embeddings": 32},
    "Qwen2ForCausalLM": GROUPED,
    "Qwen3ForCausalLM": GROUPED | {"head_dim": 8},
    "MistralForCausalLM": GROUPED | {"sliding_window": 3},
    "GemmaForCausalLM": GROUPED | {"head_dim": 16},
    "Gemma2ForCausalLM": GROUPED | {"head_dim": 16, "sliding_window": 3, "attn_logit_softcapping": 2.0},
    "Gemma3ForCausalLM": GROUPED | {"head_dim": 16, "sliding_window": 3},
    "PhiForCausalLM": GROUPED,
    "GPTNeoXForCausalLM": TEXT,
    "GptOssForCausalLM": GROUPED | {"head_dim": 8, "sliding_window": 3, "num_local_experts": 4, "intermediate_size": 48},
    "BartForConditionalGeneration": {"vocab_size": 99, "d_model": 32, "max_position_embeddings": 32}
    | {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in STACK.items()},
}
OF_TABLE = [
    "BertForMaskedLM",
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "MarianMTModel",
    "T5ForConditionalGeneration",
    "ViTForImageClassification",
    "YolosForObjectDetection",
    "DetrForObjectDetection",
    "Wav2Vec2ConformerForCTC",
    "ParakeetForCTC",
    "Speech2TextForConditionalGeneration",
    "WhisperForConditionalGeneration",
    "CLIPModel",
    "VivitForVideoClassification",
    "VideoMAEForVideoClassification",
]


def family(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A tiny random model as its users have it, and a padded batch."""
    import transformers

    if name in tiny.TINY:
        return tiny.reference(name, attn_implementation=None), tiny.inputs(name)
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**FAMILIES[name])).eval()
    tiny.randomise(model)
    keep = torch.arange(7) < torch.tensor([[7], [5], [3]])
    inputs = {"input_ids": torch.randint(3, 99, (3, 7)), "attention_mask": keep.long()}
    return model, inputs | ({"decoder_input_ids": torch.randint(3, 99, (3, 5))} if model.config.is_encoder_decoder else {})


def eager(name: str, addresses: list[str]) -> dict[str, list[torch.Tensor]]:
    """The weights that a model's own eager code forms."""
    model, inputs = family(name)
    model.set_attn_implementation("eager")
    found: dict[str, list[torch.Tensor]] = {address: [] for address in addresses}

    def look(address: str):
        def keep(module, inputs, outputs) -> None:
            found[address].append(next(x for x in reversed(outputs) if isinstance(x, torch.Tensor) and x.dim() == 4))

        return keep

    for address in addresses:
        model.get_submodule(address).register_forward_hook(look(address))
    model(**inputs)
    return found


HALVES = (torch.float16, torch.bfloat16)


def moved(call: Recorded, dtype: torch.dtype) -> torch.Tensor:
    """By what part of itself a weight may change when query and key are rounded, (batch, heads, queries, 1).

    Rounding moves x by at most eps/2 |x|, or half the distance of subnormal numbers; so a score by at most
    d = scale sum_c (|dq_c k_c| + |q_c dk_c| + |dq_c dk_c|), also through a softcap, whose slope is at most 1, and
    p_ij = exp s_ij / sum_j exp s_ij by a factor between exp(-2 max_j d_ij) and exp(2 max_j d_ij). Positions, masks and sinks
    are not rounded.
    """
    number = torch.finfo(dtype)
    query, key = call.query.abs(), call.key.abs().repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
    off_query, off_key = (number.eps / 2 * (x + number.smallest_normal) for x in (query, key))
    off = call.call.scale * (off_query @ key.mT + query @ off_key.mT + off_query @ off_key.mT)
    return torch.expm1(2 * (off * call.allowed()).amax(-1, keepdim=True))


@pytest.mark.parametrize("name", [*OF_TABLE, *FAMILIES])
@torch.no_grad()
def test_what_is_recorded_is_what_the_model_computes(name):
    torch.manual_seed(0)
    model, inputs = family(name)
    before, implementation = model(**inputs), model.config._attn_implementation
    with hw.observe(model) as record:
        during = model(**inputs)
    halves = {}
    for dtype in HALVES:
        with hw.observe(model, hw.Keep(dtype=dtype)) as halves[dtype]:
            model(**inputs)
    after = model(**inputs)
    assert model.config._attn_implementation == implementation
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(after[key], value), key
            torch.testing.assert_close(during[key][0], value[0], **CLOSE)  # the first row has no padding
    torch.manual_seed(0)
    weights, keep = eager(name, list(record)), inputs.get("attention_mask")
    layers = 6 if model.config.is_encoder_decoder else 4 if name == "CLIPModel" else 2
    assert sum(map(len, record.values())) == sum(map(len, weights.values())) == layers
    for address, calls in record.items():
        for index, (call, want) in enumerate(zip(calls, weights[address], strict=True)):
            real = call.allowed().any(-1)
            if keep is not None and keep.shape[1] == real.shape[-1]:  # theirs go astray at padding
                real &= keep[:, None].bool()
            torch.testing.assert_close(call.weights()[real], want[real], atol=1e-5, rtol=1e-4, msg=address)
            value = call.value.repeat_interleave(call.query.shape[1] // call.value.shape[1], 1)
            torch.testing.assert_close(call.weights() @ value, call.head_outputs, **CLOSE)
            for dtype, half in halves.items():
                off, allowed = (half[address][index].weights() - want).abs(), 1e-5 + (1e-4 + moved(call, dtype)) * want
                assert half[address][index].query.dtype == dtype
                assert bool((off <= allowed)[real].all()), (address, dtype)


COLUMNS = {  # of which module and input width the heads' outputs are, head after head
    "BertForMaskedLM": ("bert.encoder.layer.1.attention.self", "bert.encoder.layer.1.attention.output.dense"),
    "LlamaForCausalLM": ("model.layers.1.self_attn", "model.layers.1.self_attn.o_proj"),
    "T5ForConditionalGeneration": ("decoder.block.1.layer.1.EncDecAttention", "decoder.block.1.layer.1.EncDecAttention.o"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_gate_of_zero_is_a_head_without_its_columns(name):
    (model, inputs), (address, output) = family(name), COLUMNS[name]
    before = model(**inputs).logits
    gate = torch.tensor([1.0, 0.0, 1.0, 0.5], requires_grad=True)
    with hw.gates(model, {address: gate}):
        got = model(**inputs).logits
    assert torch.equal(model(**inputs).logits, before)
    (slope,) = torch.autograd.grad(got.square().sum(), gate)
    assert bool(slope.any())
    with torch.no_grad():
        model.get_submodule(output).weight.unflatten(1, (4, 8)).mul_(gate.detach()[:, None])
    torch.testing.assert_close(got[0], model(**inputs).logits[0], **CLOSE)
    assert not torch.allclose(got, before, atol=1e-3)
    with pytest.raises(ValueError, match=f"'{address}': expected 4 gates"), hw.gates(model, {address: torch.ones(3)}):
        pass


HARD_CODED = {
    "ImageGPTForCausalImageModeling": "attentions",
    "SpeechT5ForTextToSpeech": "encoder_attentions decoder_attentions cross_attentions",
    "FastSpeech2ConformerModel": "encoder_attentions decoder_attentions",
    "TimesformerForVideoClassification": "attentions",
    "BlipForConditionalGeneration": "attentions",
    "GitForCausalLM": "attentions",
    "VisualBertModel": "attentions",
}


def hard_coded(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Models whose attention is not to be replaced."""
    import transformers

    if name in tiny.TINY:
        return tiny.reference(name), tiny.inputs(name)
    marks = TEXT | {"bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0}
    sizes = {
        "BlipForConditionalGeneration": {"text_config": marks | {"encoder_hidden_size": 32}, "vision_config": VISION},
        "GitForCausalLM": marks | {"vision_config": VISION},
        "VisualBertModel": TEXT | {"visual_embedding_dim": 13},
    }[name]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**sizes)).eval()
    tiny.randomise(model)
    seen = (
        ("visual_embeds", torch.randn(3, 5, 13)) if name == "VisualBertModel" else ("pixel_values", torch.randn(3, 3, 16, 16))
    )
    return model, dict([("input_ids", torch.randint(3, 99, (3, 7))), seen])


@pytest.mark.parametrize("name", HARD_CODED)
@torch.no_grad()
def test_what_writes_attention_out_is_recorded_by_the_weights_it_returns(name, caplog):
    model, inputs = hard_coded(name)
    before = model(**inputs)
    observe.warn_of.cache_clear()
    with caplog.at_level(logging.WARNING, logger="headwise"):
        for _ in range(2):  # batches, say
            with hw.observe(model) as record:
                model(**inputs)
    assert caplog.text.count("writes attention out in its own code") == 1
    after, asked = model(**inputs), model(**inputs, output_attentions=True)
    assert list(before) == list(after)
    wanted = [x for key in HARD_CODED[name].split() for x in asked[key]]
    found = [call for calls in record.values() for call in calls]
    for want in wanted:
        assert any(call.weights().shape == want.shape and torch.allclose(call.weights(), want, atol=1e-6) for call in found)
    assert all(len(numbers.entropy) == 4 for numbers in hw.statistics(record).values())
    crossing = [
        call.call.same_sequence for address in record if "cross" in address or "r_attn" in address for call in record[address]
    ]
    assert not any(crossing)


def test_what_writes_attention_out_cannot_be_gated():
    model, _ = hard_coded("ImageGPTForCausalImageModeling")
    said = "ImageGPTAttention write it out in their own code, and can be observed alone"
    with pytest.raises(ValueError, match=said), hw.gates(model, {"transformer.h.0.attn": torch.ones(4)}):
        pass


@pytest.mark.parametrize("added", ["a float mask", "a table that forbids", "both"])
@torch.no_grad()
def test_what_a_t5_adds_is_a_table_and_a_mask_of_numbers(added):
    """Dense masks of floats are added to the table of positions; -inf in either forbids."""
    (model, inputs), pairs = family("T5ForConditionalGeneration"), 2 * torch.randn(3, 1, 6, 6)
    pairs[(torch.rand(3, 1, 6, 6) > 0.7) & ~torch.eye(6, dtype=torch.bool)] = -torch.inf
    keys = 2 * torch.randn(3, 1, 1, 7)
    keys[0, ..., 2], keys[1, ..., 4] = -torch.inf, torch.finfo(torch.float32).min
    if added != "a table that forbids":
        inputs |= {"attention_mask": keys, "decoder_attention_mask": pairs}
    if added != "a float mask":
        for stack in (model.encoder, model.decoder):  # one head is kept from the token before, another from the one after
            table = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
            table[1, 0] = table[len(table) // 2 + 1, 2] = -torch.inf
    with hw.observe(model) as record:
        during = model(**inputs).logits
    model.set_attn_implementation("eager")
    asked = model(**inputs, output_attentions=True)
    torch.testing.assert_close(during, asked.logits, **CLOSE)
    kinds = {"encoder_attentions": "encoder.block.{}.layer.0.SelfAttention"}
    kinds |= {"decoder_attentions": "decoder.block.{}.layer.0.SelfAttention"}
    kinds |= {"cross_attentions": "decoder.block.{}.layer.1.EncDecAttention"}
    for name, address in kinds.items():
        for layer, want in enumerate(asked[name]):
            call = record[address.format(layer)]
            torch.testing.assert_close(call.weights(), want, atol=1e-5, rtol=1e-4)
            assert torch.equal(call.allowed(), want > 0)
    tables = [x for x in record.kept if x.shape[1] == 4]
    assert [tuple(x.shape[-2:]) for x in tables] == [(7, 7), (6, 6), (6, 7)]  # once for all layers of a stack
    assert all(numbers.entropy.isfinite().all() for numbers in hw.statistics(record).values())


PACKED = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])  # positions of two sequences in one row


@torch.no_grad()
def test_masks_are_rules_and_what_the_model_forms_is_kept_once():
    def kept(name: str, **more):
        model, inputs = family(name)
        with hw.observe(model) as record:
            model(**inputs | more)
        return [tuple(x.shape[-2:]) for x in record.kept]

    assert not kept("BertForMaskedLM")
    assert not kept("MistralForCausalLM")
    assert not kept("WhisperForConditionalGeneration")
    assert not kept("LlamaForCausalLM", attention_mask=None, position_ids=PACKED, use_cache=False)
    assert kept("T5ForConditionalGeneration") == [(7, 7), (6, 6), (6, 7)]  # each the table of all layers of a stack
    assert kept("BertForMaskedLM", attention_mask=torch.rand(3, 1, 7, 7) > 0.2) == [(7, 7)]  # whose rule only its maker knows
    assert len(kept("ParakeetForCTC")) == 4  # a mask and positions in every layer


@torch.no_grad()
def test_packed_sequences_see_themselves_alone():
    model, inputs = family("LlamaForCausalLM")
    ids = inputs["input_ids"][:1]
    with hw.observe(model) as record:
        packed = model(ids, position_ids=PACKED, use_cache=False).logits
    apart = torch.cat([model(ids[:, :3]).logits, model(ids[:, 3:]).logits], dim=1)
    torch.testing.assert_close(packed, apart, **CLOSE)
    assert not record["model.layers.1.self_attn"].allowed()[0, 0, 3:, :3].any()


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "MistralForCausalLM"])
@torch.no_grad()
def test_steps_of_a_decoding_join_to_one_pass(name, cache):
    model, inputs = family(name)
    ids, address = inputs["input_ids"][:1], "model.layers.1.self_attn"
    with hw.observe(model) as steps:
        said = model.generate(ids, max_new_tokens=4, min_new_tokens=4, cache_implementation=cache, do_sample=False)
    with hw.observe(model) as whole:
        model(said[:, :-1])
    assert len(steps[address]) == 4
    want = whole[address].weights()
    for call, rows in zip(steps[address], (slice(0, 7), slice(7, 8), slice(8, 9), slice(9, 10)), strict=True):
        got = call.weights()
        keys = min(got.shape[-1], rows.stop)
        first = rows.stop - keys if name == "MistralForCausalLM" else 0  # which holds what its window reaches
        torch.testing.assert_close(got[..., :keys], want[..., rows, first : first + keys], **CLOSE)


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "WhisperForConditionalGeneration", "DetrForObjectDetection"])
@torch.no_grad()
def test_across_two_sequences_there_is_no_distance(name):
    model, inputs = family(name)
    with hw.observe(model) as record:
        model(**inputs)
    crossing = {address for address, numbers in hw.statistics(record).items() if numbers.distance is None}
    assert crossing == {address for address in record if "EncDecAttention" in address or "encoder_attn" in address}
    assert len(crossing) == 2


def test_after_an_exception_all_is_as_before():
    model, inputs = family("BertForMaskedLM")
    hooks = sum(len(module._forward_pre_hooks) for module in model.modules())
    with pytest.raises(RuntimeError, match="stop"), hw.observe(model):
        raise RuntimeError("stop")
    assert model.config._attn_implementation == "sdpa"
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == hooks
    with hw.observe(model) as record:
        model(**inputs)
    assert len(record) == 2


@pytest.mark.nohook
@torch.no_grad()
def test_a_compiled_model_records_too():
    model, inputs = family("BertForMaskedLM")
    compiled = torch.compile(model, backend="eager")
    before = compiled(**inputs).logits
    with hw.observe(compiled) as record:
        during = compiled(**inputs).logits
    assert list(record) == [f"bert.encoder.layer.{i}.attention.self" for i in (0, 1)]
    torch.testing.assert_close(during, before, **CLOSE)
    assert torch.equal(compiled(**inputs).logits, before)
