"""What is pruned is gone: outputs are those with gates of 0, and folders keep it."""

import copy
import json

import pytest
import torch

import headwise as hw
from headwise.models.checkpoint.folder import CheckpointError
from headwise.models.systems import ARCHITECTURES

WIDTH, HEADS = 30, 5
BERT = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 37}
TEXT = BERT | {"vocab_size": 53, "max_position_embeddings": 17}
STACKS = {f"{stack}_layers": 2 for stack in ("encoder", "decoder")} | {
    f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in (("attention_heads", HEADS), ("ffn_dim", 37))
}
IDS = torch.arange(14).reshape(2, 7) + 3
MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
TOKENS = {"input_ids": IDS, "attention_mask": MASK}
TARGET = {"decoder_input_ids": IDS[:, :5]}
CONFORMER = BERT | {
    "vocab_size": 53, "conv_depthwise_kernel_size": 7, "mask_time_prob": 0.0, "conv_dim": [11, 13], "conv_kernel": [10, 3],
    "conv_stride": [5, 2], "num_feat_extract_layers": 2, "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 16,
}  # fmt: skip
SOUND = {"input_values": torch.linspace(-1, 1, 2 * 181).sin().reshape(2, 181)}

SYSTEMS = {
    "BertForMaskedLM": (TEXT, TOKENS),
    "GPT2LMHeadModel": ({"vocab_size": 53, "n_positions": 17, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS}, TOKENS),
    "LlamaForCausalLM": (TEXT | {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4}, TOKENS),
    "T5ForConditionalGeneration": (
        {"vocab_size": 53, "d_model": WIDTH, "d_kv": 7, "d_ff": 37, "num_layers": 2, "num_heads": HEADS},
        TOKENS | TARGET,
    ),
    "MarianMTModel": (
        STACKS | {"vocab_size": 53, "d_model": WIDTH, "max_position_embeddings": 17, "pad_token_id": 0}
        | {"decoder_start_token_id": 0, "forced_eos_token_id": 1},
        TOKENS | TARGET,
    ),
    "ViTForImageClassification": (BERT | {"image_size": 24, "patch_size": 8}, {"pixel_values": torch.rand(2, 3, 24, 24)}),
    "Wav2Vec2ConformerForCTC": (CONFORMER | {"position_embeddings_type": "relative"}, SOUND),
    "Wav2Vec2ConformerForCTC, rotary": (CONFORMER | {"position_embeddings_type": "rotary"}, SOUND),
    "WhisperForConditionalGeneration": (
        STACKS | {"vocab_size": 53, "d_model": WIDTH, "num_mel_bins": 11, "max_source_positions": 13}
        | {"max_target_positions": 17, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
        {"input_features": torch.rand(2, 11, 26)} | TARGET,
    ),
    "Transformer": (
        {"vocab_size": 53, "embed_dim": WIDTH, "num_heads": HEADS, "num_encoder_layers": 1, "num_decoder_layers": 2}
        | {"feedforward_dim": 37},
        TOKENS | TARGET,
    ),
}  # fmt: skip


def make(name: str) -> torch.nn.Module:
    form, entries = ARCHITECTURES[name.split(",")[0]], SYSTEMS[name][0]
    model = form.models[name.split(",")[0]](form.config.from_entries(entries))
    for tensor in (*model.parameters(), *(x for key, x in model.named_buffers() if "running" in key)):
        torch.nn.init.uniform_(tensor, 0.1, 0.5)
        tensor.data.mul_(torch.randn_like(tensor).sign() if tensor.dim() > 1 else 1.0)
    return model.eval()


def some_of(model: torch.nn.Module) -> dict[str, list[int]]:
    """Another choice of heads for every module."""
    found = {}
    for number, (address, module) in enumerate(modules(model).items()):
        grouped = module.num_heads != module.num_kv_heads
        found[address] = ([[0, 1], [1, 2, 5]] if grouped else [[0, 3], [1], [2, 3, 4], []])[number % (2 if grouped else 4)]
    return found


def modules(model: torch.nn.Module) -> dict[str, hw.MultiHeadAttention]:
    return {name: module for name, module in model.named_modules() if isinstance(module, hw.MultiHeadAttention)}


def closed(model: torch.nn.Module, heads: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    gates = {address: torch.ones(modules(model)[address].num_heads) for address in heads}
    for address, gate in gates.items():
        gate[heads[address]] = 0
    return gates


@torch.no_grad()
def logits(model: torch.nn.Module, name: str) -> torch.Tensor:
    return model(**SYSTEMS[name][1]).logits


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_pruned_model_is_the_one_with_gates_of_0_and_comes_back_from_its_folder(name, tmp_path):
    model = make(name)
    heads, whole = some_of(model), logits(model, name)
    with hw.gates(model, closed(model, heads)):
        want = logits(model, name)
    assert (want - whole).abs().max() > 1e-2
    counts = {address: module.num_heads - len(heads[address]) for address, module in modules(model).items()}
    assert hw.prune(model, heads) is model
    assert {address: module.num_heads for address, module in modules(model).items()} == counts
    torch.testing.assert_close(logits(model, name), want)
    hw.save(model, tmp_path)
    loaded = hw.load(tmp_path)
    assert torch.equal(logits(loaded, name), logits(model, name))
    again = {next(iter(heads)): [0] if "Llama" not in name else [0, 1]}
    with hw.gates(model, closed(model, again)):
        want = logits(model, name)
    torch.testing.assert_close(logits(hw.prune(loaded, again), name), want)
    hw.save(loaded, tmp_path)  # what was pruned twice
    assert torch.equal(logits(hw.load(tmp_path), name), logits(loaded, name))


RULES = {
    "nothing": lambda: {},
    "sinks, norms and two widths": lambda: {
        "head_dim": (7, 11), "scores": hw.Scores(sinks=True), "qk_norm": torch.nn.RMSNorm, "position": None
    },
    "biases of some projections": lambda: {"bias": ("v_proj", "out_proj")},
    "Rotary": lambda: {"position": hw.positions.Rotary(), "head_dim": 6},
    "Alibi": lambda: {"position": hw.positions.Alibi(6)},
    "Alibi with slopes": lambda: {"position": hw.positions.Alibi(6, [0.1, 0.7, 0.3, 0.9, 0.5, 0.2])},
    "T5Buckets": lambda: {"position": hw.positions.T5Buckets(6, 8, 11)},
    "Shaw": lambda: {"position": hw.positions.Shaw(5, 2, 3)},
    "TransformerXL": lambda: {"position": hw.positions.TransformerXL(30, 6)},
    "grouped": lambda: {"num_kv_heads": 3, "scores": hw.Scores(sinks=True)},
    "grouped with Alibi": lambda: {"num_kv_heads": 2, "position": hw.positions.Alibi(6)},
    "grouped with TransformerXL": lambda: {"num_kv_heads": 3, "position": hw.positions.TransformerXL(30, 6)},
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_what_a_module_holds_for_each_head_goes_with_it(name):
    module = hw.MultiHeadAttention(30, 6, **RULES[name]()).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    module.k_proj.weight.requires_grad_(False)
    x, mask, removed = torch.randn(2, 7, 30).double(), hw.masks.causal(), {"": [0, 3, 4] if "2" in name else [1, 2, 4]}
    if name in ("grouped", "grouped with TransformerXL"):
        removed = {"": [1, 2, 5]}
    elif name == "grouped with Alibi":
        removed = {"": [0, 1, 2]}
    with hw.gates(module, closed(module, removed)):
        want, before = module(x, mask=mask), sum(p.numel() for p in module.parameters())
    hw.prune(module, removed)
    torch.testing.assert_close(module(x, mask=mask), want)
    gone, width = before - sum(p.numel() for p in module.parameters()), module.head_dim + module.value_dim
    assert gone >= 30 * 3 * width  # of queries and outputs alone
    assert not module.k_proj.weight.requires_grad
    assert module.q_proj.weight.requires_grad
    module(x, mask=mask).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)
    assert [module.get_submodule(part).out_features for part in ("q_proj", "v_proj", "out_proj")] == [
        3 * module.head_dim, module.num_kv_heads * module.value_dim, 30
    ]  # fmt: skip
    torch.testing.assert_close(copy.deepcopy(module)(x, mask=mask), want)


def test_layers_go_on_sharing_the_table_of_t5():
    model = make("T5ForConditionalGeneration")
    hw.prune(model, some_of(model))
    first, second = (layer.self_attention.position for layer in model.encoder.layers)
    assert first.weight is second.weight
    model.double()
    assert first.weight is second.weight
    model(**SYSTEMS["T5ForConditionalGeneration"][1]).logits.sum().backward()
    used = first.weight.grad.abs().sum(0) > 0  # the first layer has lost heads 0 and 3, the second head 1
    assert used.tolist() == [True] * 5
    assert first.heads == [1, 2, 4]
    assert second.heads == [0, 2, 3, 4]


def test_a_llama_pruned_alike_everywhere_is_a_llama_that_others_read(tmp_path):
    model = make("LlamaForCausalLM")
    hw.prune(model, {address: [0, 1, 4, 5] for address in modules(model)})
    hw.save(model, tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    assert "headwise" not in entries
    assert (entries["num_attention_heads"], entries["num_key_value_heads"], entries["head_dim"]) == (2, 1, 4)
    import transformers

    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        want = theirs(**TOKENS).logits
    torch.testing.assert_close(logits(model, "LlamaForCausalLM")[MASK.bool()], want[MASK.bool()], rtol=1e-4, atol=1e-4)
    hw.prune(model, {next(iter(modules(model))): [1]})
    hw.save(model, tmp_path)
    assert torch.equal(logits(hw.load(tmp_path), "LlamaForCausalLM"), logits(model, "LlamaForCausalLM"))


def test_numbers_of_heads_that_others_would_refuse_stand_in_our_own_entry(tmp_path):
    model = make("LlamaForCausalLM")
    hw.prune(model, {address: [0, 1] for address in modules(model)})  # 4 heads, and 30 is no multiple of them
    hw.save(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["headwise"]["heads"].keys() == modules(model).keys()
    assert torch.equal(logits(hw.load(tmp_path), "LlamaForCausalLM"), logits(model, "LlamaForCausalLM"))


def test_a_pruned_body_takes_another_head(tmp_path):
    model = make("BertForMaskedLM")
    hw.save(hw.prune(model, some_of(model)), tmp_path)
    loaded = hw.load(tmp_path, architecture="BertForSequenceClassification", labels=["a", "b", "c"])
    assert loaded(**TOKENS).logits.shape == (2, 3)
    assert [module.num_heads for module in modules(loaded).values()] == [3, 4]


KEPT = [([1, 0], 2), ([0, 0], 1), ([], 1), ([0, 5], 1), ([-1, 0], 1), ([0, 1, 2], 2), ([0], 0), ([False, True], 2), (["0"], 1)]
OF_ONE = [None, [0, 1], {"kept": [0]}, *({"kept": kept, "num_kv_heads": number} for kept, number in KEPT)]
ENTRIES = [[], {"heads": 3}, {"tails": {}}, {"heads": {"nowhere": {"kept": [0], "num_kv_heads": 1}}}]


@pytest.mark.parametrize("wrong", [*ENTRIES, *({"heads": {"encoder.layers.0.self_attention": x}} for x in OF_ONE)], ids=str)
def test_a_wrong_entry_is_refused(wrong, tmp_path):
    hw.save(make("Transformer"), tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    assert "headwise" not in entries
    (tmp_path / "config.json").write_text(json.dumps(entries | {"headwise": wrong}))
    with pytest.raises(CheckpointError, match="headwise: "):
        hw.load(tmp_path)


@pytest.mark.nohook
class TestWrongCalls:
    @pytest.mark.parametrize(
        ("removed", "error", "said"),
        [
            ({"nowhere": [0]}, KeyError, "no attention at 'nowhere'"),
            ({"decoder.layers.1.self_attention": [6]}, ValueError, r"'decoder\.layers\.1.* heads 0 to 5; got \[6\]"),
            ({"decoder.layers.1.self_attention": [-1]}, ValueError, r"got \[-1\]"),
            ({"decoder.layers.1.self_attention": range(6)}, ValueError, "at least one of its 6 heads must stay"),
            ({"decoder.layers.1.self_attention": [0]}, ValueError, r"whole groups.*\[1, 2, 2\]"),
            ({"decoder.layers.1.self_attention": [0, 1, 2]}, ValueError, r"whole groups.*\[0, 1, 2\]"),
        ],
    )
    def test_nothing_changes_where_something_is_wrong(self, removed, error, said):
        model = make("LlamaForCausalLM")
        with pytest.raises(error, match=said):
            hw.prune(model, {"decoder.layers.0.self_attention": [0, 1]} | removed)
        assert [module.num_heads for module in modules(model).values()] == [6, 6]

    def test_what_cannot_be_cut_is_told(self):
        module = hw.MultiHeadAttention(12, 3)
        module.v_proj = torch.nn.utils.parametrizations.weight_norm(module.v_proj)
        with pytest.raises(ValueError, match="v_proj is a ParametrizedLinear"):
            hw.prune(module, {"": [0]})
        with pytest.raises(ValueError, match="Linear cannot be cut"):
            hw.prune(torch.nn.Linear(2, 3), {"": [0]})

        class Own(hw.positions.Bias):
            def added(self, tile, query, key, scale):
                return torch.zeros(())

        with pytest.raises(ValueError, match="Own does not say"):
            hw.prune(hw.MultiHeadAttention(12, 3, position=Own()), {"": [0]})
