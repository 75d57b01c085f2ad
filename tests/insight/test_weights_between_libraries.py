"""hw.weights: one layer between libraries. What is installed computes itself; the layouts of the others are read here anew."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel

import headwise as hw


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def make(embed_dim=10, num_heads=6, **options) -> hw.MultiHeadAttention:
    return randomised(hw.MultiHeadAttention(embed_dim, num_heads, **{"dtype": torch.float64, **options}))


def inputs(*widths: int) -> list[torch.Tensor]:
    """Query, key and value of 5 and 7 positions."""
    lengths = (5, 7, 7)
    return [torch.randn(2, length, width, dtype=torch.float64) for length, width in zip(lengths, widths, strict=True)]


def attend(query, key, value):
    """(batch, length, heads, width), as many heads in all: the formula in the axes of Keras, flax and flash-attn."""
    weights = torch.einsum("bihd,bjhd->bhij", query, key) / query.shape[-1] ** 0.5
    return torch.einsum("bhij,bjhd->bihd", weights.softmax(-1), value)


def repeated(x, num_heads):
    """Query head h uses key head h // group."""
    return x.repeat_interleave(num_heads // x.shape[2], dim=2)


def by_kernels(state, out, query, key, value):
    """Keras and flax: kernels with an axis of heads."""
    q, k, v = (
        torch.einsum("blm,mhd->blhd", x, state[f"{name}/kernel"]) + state.get(f"{name}/bias", 0)
        for x, name in ((query, "query"), (key, "key"), (value, "value"))
    )
    heads = attend(q, *(repeated(x, q.shape[2]) for x in (k, v)))
    return torch.einsum("blhd,hdm->blm", heads, state[f"{out}/kernel"]) + state.get(f"{out}/bias", 0)


def by_flash_attn(state, num_heads, head_dim, query, key):
    """flash-attn's MHA: rows of Wqkv are those of the query heads, of the key heads, of the values' heads; or Wq, and Wkv."""
    inner = num_heads * head_dim
    if "Wqkv.weight" in state:
        qkv = query @ state["Wqkv.weight"].T + state.get("Wqkv.bias", 0)
        q, kv = qkv[..., :inner], qkv[..., inner:]
    else:
        q = query @ state["Wq.weight"].T + state.get("Wq.bias", 0)
        kv = key @ state["Wkv.weight"].T + state.get("Wkv.bias", 0)
    kv = kv.unflatten(-1, (2, -1, head_dim))
    heads = attend(q.unflatten(-1, (-1, head_dim)), *(repeated(kv[:, :, i], num_heads) for i in (0, 1)))
    return heads.flatten(-2) @ state["out_proj.weight"].T + state.get("out_proj.bias", 0)


def by_x_transformers(state, num_heads, head_dim, query, key):
    """x-transformers' Attention: 'b kvh n d -> b (r kvh) n d' lets query head h use key head h % kvh."""
    q = (query @ state["to_q.weight"].T).unflatten(-1, (num_heads, head_dim))
    k, v = ((key @ state[f"to_{x}.weight"].T).unflatten(-1, (-1, head_dim)) for x in "kv")
    k, v = (torch.cat([x] * (num_heads // x.shape[2]), dim=2) for x in (k, v))
    return attend(q, k, v).flatten(-2) @ state["to_out.weight"].T


@pytest.mark.parametrize("bias", [True, False], ids=["biases", "none"])
@pytest.mark.parametrize(("library", "out"), [("keras", "attention_output"), ("flax", "out")])
@pytest.mark.parametrize("groups", [6, 2, 1])
def test_kernels_of_keras_and_flax(library, out, bias, groups):
    width = 7 if library == "keras" else 3  # flax has one width for keys and values
    shapes = {"query": (10, 6, 3), "key": (5, groups, 3), "value": (11, groups, width), out: (6, width, 10)}
    state = {f"{name}/kernel": torch.randn(shape).double() for name, shape in shapes.items()}
    if bias:
        state |= {f"{name}/bias": torch.randn(shape[1:] if name != out else 10).double() for name, shape in shapes.items()}
    q, k, v = inputs(10, 5, 11)
    expected = by_kernels(state, out, q, k, v)
    nested = {name: {} for name in shapes}
    for name, x in state.items():
        nested[name.split("/")[0]][name.split("/")[1]] = x.numpy()
    for layer, prefix in ((state, ""), (nested, ""), ({"params": {"mha": nested}, "step": np.zeros(3)}, "params/mha/")):
        attention = hw.weights.read(layer, library, prefix=prefix)
        torch.testing.assert_close(attention(q, k, v), expected)
    torch.testing.assert_close(hw.weights.write(attention, library), state)


@pytest.mark.parametrize("bias", [True, False], ids=["biases", "none"])
@pytest.mark.parametrize("groups", [6, 2, 1])
def test_fused_rows_of_flash_attn(groups, bias):
    state = {"Wqkv.weight": (3 * (6 + 2 * groups), 10), "Wqkv.bias": (3 * (6 + 2 * groups),)}
    state |= {"out_proj.weight": (10, 18), "out_proj.bias": (10,)}
    state = {name: torch.randn(shape).double() for name, shape in state.items() if bias or "bias" not in name}
    x, _, _ = inputs(10, 10, 10)
    attention = hw.weights.read(state, "flash-attn", num_heads=6)
    torch.testing.assert_close(attention(x), by_flash_attn(state, 6, 3, x, x))
    torch.testing.assert_close(hw.weights.write(attention, "flash-attn"), state)


def test_keys_of_another_width_in_flash_attn():
    attention = make(kdim=5, vdim=5, head_dim=3, num_kv_heads=2, bias=("q_proj", "v_proj"))
    state = hw.weights.write(attention, "flash-attn")
    assert set(state) == {"Wq.weight", "Wq.bias", "Wkv.weight", "Wkv.bias", "out_proj.weight"}
    q, k, _ = inputs(10, 5, 5)
    torch.testing.assert_close(attention(q, k), by_flash_attn(state, 6, 3, q, k))
    torch.testing.assert_close(hw.weights.read(state, "flash-attn", num_heads=6)(q, k), attention(q, k))


@pytest.mark.parametrize("groups", [6, 3, 2, 1])
def test_grouped_heads_of_x_transformers_change_their_order(groups):
    shapes = {
        "to_q.weight": (18, 10),
        "to_k.weight": (3 * groups, 5),
        "to_v.weight": (3 * groups, 5),
        "to_out.weight": (10, 18),
    }
    state = {name: torch.randn(shape).double() for name, shape in shapes.items()}
    q, k, _ = inputs(10, 5, 5)
    attention = hw.weights.read(state, "x-transformers", num_heads=6)
    torch.testing.assert_close(attention(q, k), by_x_transformers(state, 6, 3, q, k))
    torch.testing.assert_close(hw.weights.write(attention, "x-transformers"), state)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 5, "vdim": 11}, {"kdim": 5, "bias": False}], ids=str)
def test_torchs_layers_come_and_go(options):
    theirs = randomised(nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64, **options))
    q, k, v = inputs(12, options.get("kdim", 12), options.get("vdim", 12))
    for layer, more in ((theirs, {}), (theirs.state_dict(), {"num_heads": 3}), (hw.replace_attention(theirs), {})):
        attention = hw.weights.read(layer, "torch", **more)
        torch.testing.assert_close(attention(q, k, v), theirs(q, k, v)[0])
    randomised(attention)
    theirs.load_state_dict(hw.weights.write(attention, "torch"))
    torch.testing.assert_close(theirs(q, k, v)[0], attention(q, k, v))


def test_an_attention_with_some_biases_goes_where_all_or_none_are():
    attention = make(12, 3, bias=("q_proj", "v_proj"))
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(hw.weights.write(attention, "torch"))
    x, _, _ = inputs(12, 12, 12)
    torch.testing.assert_close(theirs(x, x, x)[0], attention(x))
    torch.testing.assert_close(by_kernels(hw.weights.write(attention, "keras"), "attention_output", x, x, x), attention(x))


TINY = {"vocab_size": 53, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 6, "intermediate_size": 17}
CAUSAL = hw.masks.causal()
FAMILIES = {  # configuration, where the attention is, what the weights do not say, the mask, the modules' names
    "bert": ({**GROUPED}, "encoder.layer.0.attention", {}, None, ("self.query", "self.key", "self.value", "output.dense")),
    "distilbert": (
        {"dim": 12, "n_layers": 1, "n_heads": 3, "hidden_dim": 17},
        "transformer.layer.0.attention", {}, None, ("q_lin", "k_lin", "v_lin", "out_lin"),
    ),
    "gpt2": ({"n_embd": 12, "n_layer": 1, "n_head": 3}, "h.0.attn", {}, CAUSAL, ("c_attn", "c_proj")),
    "llama": (
        {**GROUPED, "num_key_value_heads": 2, "head_dim": 10},
        "layers.0.self_attn", {"position": hw.positions.Rotary()}, CAUSAL, ("q_proj", "k_proj", "v_proj", "o_proj"),
    ),
    "phi3": (
        {**GROUPED, "num_key_value_heads": 2},
        "layers.0.self_attn", {"position": hw.positions.Rotary()}, CAUSAL, ("qkv_proj", "o_proj"),
    ),
    "gpt_neox": (
        {**GROUPED}, "layers.0.attention", {"position": hw.positions.Rotary(dim=2)}, CAUSAL, ("query_key_value", "dense"),
    ),
    "falcon": (
        {**GROUPED, "num_kv_heads": 2, "new_decoder_architecture": True},
        "h.0.self_attention", {"position": hw.positions.Rotary()}, CAUSAL, ("query_key_value", "dense"),
    ),
    "t5": (
        {"d_model": 12, "d_kv": 5, "num_layers": 2, "num_heads": 3, "d_ff": 17},
        "encoder.block.1.layer.0.SelfAttention", {"scores": hw.Scores(scale=1.0)}, None, ("q", "k", "v", "o"),
    ),
    "bart": (
        {"d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 3, "decoder_attention_heads": 3},
        "encoder.layers.0.self_attn", {}, None, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_transformers_come_and_go(family):
    options, address, settings, mask, names = FAMILIES[family]
    config = CONFIG_MAPPING[family](**TINY, **options)
    dtype = torch.float32 if "position" in settings else torch.float64  # transformers turns in float32 whatever comes
    model = randomised(AutoModel.from_config(config, attn_implementation="eager").to(dtype).eval())
    layer, seen = model.get_submodule(address), {}
    if family == "t5":  # whose distances are weighed by the first layer, for all
        nn.init.zeros_(model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)

    def keep(module, arguments, keywords, output):
        seen["x"] = arguments[0] if arguments else keywords["hidden_states"]
        seen["y"] = output[0]

    layer.register_forward_hook(keep, with_kwargs=True)
    ids = torch.randint(3, 53, (2, 7))
    model(ids, **({"decoder_input_ids": ids} if config.is_encoder_decoder else {}))
    attention = hw.weights.read(layer, "transformers", **settings)
    found = attention(seen["x"], mask=mask)
    if family == "bert":  # whose attention ends with the norm around it
        found = layer.output.LayerNorm(found + seen["x"])
    torch.testing.assert_close(found, seen["y"])
    expected = {name: x for name, x in layer.state_dict().items() if "LayerNorm" not in name}
    torch.testing.assert_close(hw.weights.write(attention, "transformers", names=names), expected)
    state = model.state_dict()
    if family != "bert":
        whole = hw.weights.read(state, "transformers", prefix=f"{address}.", num_heads=attention.num_heads)
        torch.testing.assert_close(whole.state_dict(), attention.state_dict())


@pytest.mark.parametrize("library", ["transformers", "flash-attn", "keras", "flax", "x-transformers"])
def test_what_goes_and_comes_back_is_the_same(library):
    attention = make(head_dim=3, num_kv_heads=2, bias=library != "x-transformers", dtype=torch.float32)
    state = hw.weights.write(attention, library)
    back = hw.weights.read(state, library, num_heads=6)
    torch.testing.assert_close(back.state_dict(), attention.state_dict())
    for tensor in state.values():  # copies: neither side changes with the other
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        tensor.zero_()
    torch.testing.assert_close(back.state_dict(), attention.state_dict())


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("library", "options", "message"),
    [
        ("torch", {"num_kv_heads": 2, "head_dim": 2}, "torch cannot hold grouped heads"),
        ("torch", {"head_dim": 5}, "torch cannot hold heads that are not"),
        ("torch", {"embed_dim": 12, "scores": hw.Scores(softcap=3.0)}, "torch cannot hold positions, a scale"),
        ("keras", {"head_dim": 2, "position": hw.positions.Rotary()}, "keras cannot hold positions"),
        ("flax", {"head_dim": (2, 3)}, "flax cannot hold values of another width"),
        (
            "flash-attn",
            {"head_dim": 2, "qk_norm": nn.RMSNorm},
            r"parameters beside the projections \(k_norm.weight, q_norm.weight\)",
        ),
        ("flash-attn", {"head_dim": 2, "kdim": 5}, "flash-attn: what is fused has one width"),
        ("x-transformers", {"head_dim": 2, "bias": "q_proj"}, r"x-transformers cannot hold biases \(q_proj\)"),
        ("jax", {"head_dim": 2}, "library: expected one of 'torch', .*; got 'jax'"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_a_library_cannot_hold_is_not_written(library, options, message):
    with pytest.raises(ValueError, match=message):
        hw.weights.write(make(**options), library)


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("library", "change", "options", "message"),
    [
        ("flash-attn", {}, {}, "num_heads: expected the number of query heads"),
        ("flash-attn", {}, {"num_heads": 5}, "num_heads = 5 does not fit 18 rows for queries and 6 for keys"),
        ("flash-attn", {"Wqkv.weight": torch.zeros(29, 10)}, {"num_heads": 6}, "its 29 rows are not those of"),
        (
            "flash-attn",
            {"out_proj.weight": None},
            {"num_heads": 6},
            "expected the tensors Wqkv.weight, out_proj.weight; or Wq.weight",
        ),
        ("flash-attn", {"dwconv.weight": torch.zeros(3)}, {"num_heads": 6}, "alone; there is dwconv.weight, too"),
        ("flash-attn", {"out_proj.bias": torch.zeros(9)}, {"num_heads": 6}, r"biases \(out,\); got .*\(9,\)"),
        ("flash-attn", {"out_proj.bias": torch.zeros(10)}, {"num_heads": 6}, "one dtype and device"),
        ("flash-attn", {}, {"num_heads": 6, "names": ("a", "b")}, "names: flash-attn has its own"),
        ("transformers", {}, {"num_heads": 6, "names": ("a",)}, "names: expected those of q, k, v and out"),
        (
            "transformers",
            {"out_proj.weight": torch.zeros(9, 18).double(), "out_proj.bias": None},
            {"num_heads": 6},
            r"expected .* output of shape \(10, 18\)",
        ),
        ("keras", {}, {"num_heads": 3}, "num_heads: expected the number of query heads, 6; got 3"),
        ("keras", {"query/kernel": torch.zeros(10, 18)}, {}, r"query/kernel: expected \(embed, heads, width\)"),
        ("flax", {"query_ln/scale": torch.zeros(3)}, {}, "query_ln.scale, too"),
        ("x-transformers", {"to_q.weight": torch.zeros(17, 10)}, {"num_heads": 6}, "num_heads = 6 does not fit 17 rows"),
        ("x-transformers", {"to_k.weight": None}, {"num_heads": 6}, "expected the tensors to_q.weight"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_does_not_fit_is_not_read(library, change, options, message):
    attention = make(head_dim=3, num_kv_heads=2, bias=library != "x-transformers")
    state = {name: x for name, x in (hw.weights.write(attention, library) | change).items() if x is not None}
    with pytest.raises(ValueError, match=message):
        hw.weights.read(state, library, **options)


@pytest.mark.nohook
def test_keys_that_join_a_sequence_are_not_lost_in_silence():
    for option, message in (("add_bias_kv", "bias_k, bias_v, too"), ("add_zero_attn", "add_zero_attn")):
        for kind in (nn.MultiheadAttention, hw.compat.MultiheadAttention):
            with pytest.raises(ValueError, match=message):
                hw.weights.read(kind(12, 3, **{option: True}), "torch")
