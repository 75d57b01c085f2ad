"""Identities of the module: heads, groups, gates, caches, positions."""

import inspect

import pytest
import torch

import headwise as hw

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module.double().eval()


def attention(**options) -> hw.MultiHeadAttention:
    return randomised(hw.MultiHeadAttention(**{"embed_dim": 30, "num_heads": 6, **options}))


def reference(module: hw.MultiHeadAttention, x: torch.Tensor, y: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """The paper's formula, head by head."""

    def part(linear: torch.nn.Linear, z: torch.Tensor, i: int, width: int) -> torch.Tensor:
        rows = slice(i * width, (i + 1) * width)
        return z @ linear.weight[rows].T + (0 if linear.bias is None else linear.bias[rows])

    total = 0 if module.out_proj.bias is None else module.out_proj.bias
    group, dk, dv = module.num_heads // module.num_kv_heads, module.head_dim, module.value_dim
    for h in range(module.num_heads):
        q, k = part(module.q_proj, x, h, dk), part(module.k_proj, y, h // group, dk)
        s = (q @ k.mT / dk**0.5).masked_fill(~allowed, -torch.inf)
        z = torch.softmax(s, -1) @ part(module.v_proj, y, h // group, dv)
        total = total + z @ module.out_proj.weight[:, h * dv : (h + 1) * dv].T
    return total


@pytest.mark.parametrize("bias", [True, False, ("q_proj", "v_proj", "out_proj")], ids=str)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("head_dim", [None, 7, (7, 11)], ids=str)
def test_module_is_the_formula_head_by_head(bias, num_kv_heads, head_dim):
    module = attention(bias=bias, num_kv_heads=num_kv_heads, head_dim=head_dim)
    x, y = torch.randn(2, 5, 30).double(), torch.randn(2, 13, 30).double()
    everything = torch.ones(5, 13, dtype=torch.bool)
    torch.testing.assert_close(module(x, y), reference(module, x, y, everything), **EXACT)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(module(x, mask=hw.masks.causal()), reference(module, x, x, causal), **EXACT)


def test_key_and_value_inputs_of_their_own_width():
    module = attention(kdim=17, vdim=19)
    x, key, value = (torch.randn(2, n, width).double() for n, width in ((5, 30), (7, 17), (7, 19)))
    q, k, v = (
        linear(z).unflatten(-1, (6, 5)).transpose(1, 2)
        for linear, z in ((module.q_proj, x), (module.k_proj, key), (module.v_proj, value))
    )
    expected = module.out_proj(hw.attend(q, k, v, backend="formula").transpose(1, 2).flatten(-2))
    torch.testing.assert_close(module(x, key, value), expected, **EXACT)


def test_gate_zero_is_deleting_the_columns_is_subtracting_the_head():
    module = attention()
    x = torch.randn(2, 5, 30).double()
    with hw.observe(module) as record:
        whole = module(x)
    (address,) = record
    gate = torch.ones(6)
    gate[4] = 0
    with hw.gates(module, {address: gate}):
        gated = module(x)
    columns = slice(4 * 5, 5 * 5)
    minus = whole - record[address].head_outputs[:, 4] @ module.out_proj.weight[:, columns].T
    with torch.no_grad():
        module.out_proj.weight[:, columns] = 0
    torch.testing.assert_close(gated, minus, **EXACT)
    torch.testing.assert_close(gated, module(x), **EXACT)


def test_groups_with_repeated_weights_are_ungrouped():
    grouped, whole = attention(num_kv_heads=2), attention()
    whole.load_state_dict(grouped.state_dict() | {
        f"{name}.{kind}": getattr(getattr(grouped, name), kind).unflatten(0, (2, 5)).repeat_interleave(3, 0).flatten(0, 1)
        for name in ("k_proj", "v_proj")
        for kind in ("weight", "bias")
    })  # fmt: skip
    x = torch.randn(2, 7, 30).double()
    torch.testing.assert_close(grouped(x), whole(x), **EXACT)


def test_heads_permuted_with_their_weights_change_nothing():
    module, permuted = attention(), attention()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    state = module.state_dict()
    for name in ("q_proj", "k_proj", "v_proj"):
        for kind in ("weight", "bias"):
            state[f"{name}.{kind}"] = state[f"{name}.{kind}"].unflatten(0, (6, 5))[order].flatten(0, 1)
    state["out_proj.weight"] = state["out_proj.weight"].unflatten(1, (6, 5))[:, order].flatten(1)
    permuted.load_state_dict(state)
    x = torch.randn(2, 7, 30).double()
    torch.testing.assert_close(module(x, mask=hw.masks.causal()), permuted(x, mask=hw.masks.causal()), **EXACT)


@pytest.mark.parametrize("position", [None, hw.positions.Rotary(), hw.positions.Rotary(dim=2, interleaved=True)], ids=str)
@pytest.mark.parametrize("mask", [hw.masks.causal(), hw.masks.window(2, 0)], ids=str)
def test_step_by_step_is_one_pass(position, mask):
    module = attention(num_kv_heads=3, head_dim=(6, 5), position=position)
    x = torch.randn(2, 11, 30).double()
    whole, cache = module(x, mask=mask), hw.cache.Growing()
    pieces = [module(piece, mask=mask, cache=cache) for piece in x.split([4, 1, 1, 3, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **EXACT)
    assert cache.length == 11


def test_cross_cache_projects_once():
    module = attention()
    x, memory = torch.randn(2, 5, 30).double(), torch.randn(2, 13, 30).double()
    keep = torch.rand(2, 13) > 0.3
    cache, seen = hw.cache.Cross(), []
    module.k_proj.register_forward_hook(lambda *_: seen.append(1))
    pieces = [module(piece, memory, mask=hw.masks.padding(keep), cache=cache) for piece in x.split(1, dim=1)]
    assert len(seen) == 1
    torch.testing.assert_close(torch.cat(pieces, 1), module(x, memory, mask=hw.masks.padding(keep)), **EXACT)


def test_cache_reorder_and_reset():
    module, cache = attention(), hw.cache.Growing()
    x = torch.randn(3, 4, 30).double()
    module(x[:, :3], mask=hw.masks.causal(), cache=cache)
    order = torch.tensor([2, 2, 0])
    cache.reorder(order)
    torch.testing.assert_close(
        module(x[order, 3:], mask=hw.masks.causal(), cache=cache), module(x, mask=hw.masks.causal())[order, 3:], **EXACT
    )
    cache.reset()
    assert cache.length == 0


def test_a_failed_call_leaves_the_cache_as_it_was():
    module, cache = attention(), hw.cache.Growing()
    x = torch.randn(2, 7, 30).double()
    with pytest.raises(ValueError, match="mask"):
        module(x, mask=torch.ones(3, 3, dtype=torch.bool), cache=cache)
    assert cache.length == 0


def test_inputs_of_the_wrong_width_say_so():
    with pytest.raises(ValueError, match=r"query: expected \(\*batch, length, 30\)"):
        attention()(torch.randn(2, 5, 31).double())
    with pytest.raises(ValueError, match=r"key: expected .* 17\); got \(2, 5, 30\)"):
        attention(kdim=17)(torch.randn(2, 5, 30).double(), torch.randn(2, 5, 30).double())


def test_masks_take_tensors_and_say_what_integers_mean():
    q = torch.randn(2, 3, 5, 7)
    allowed = torch.rand(5, 5) > 0.3
    both = hw.masks.causal() & allowed
    assert torch.equal(hw.attend(q, q, q, mask=both), hw.attend(q, q, q, mask=allowed & torch.ones(5, 5).bool().tril()))
    with pytest.raises(ValueError, match=r"attention_mask\.bool"):
        hw.attend(q, q, q, mask=hw.masks.padding(torch.ones(2, 5, dtype=torch.int64)))


def test_caches_belong_to_their_kind_of_attention():
    module, x = attention(), torch.randn(1, 3, 30).double()
    with pytest.raises(ValueError, match="Growing"):
        module(x, cache=hw.cache.Cross())
    with pytest.raises(ValueError, match="Cross"):
        module(x, x, cache=hw.cache.Growing())


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_scores_depend_on_distance_alone(interleaved):
    rotary = hw.positions.Rotary(interleaved=interleaved)
    q, k = torch.randn(2, 1, 8).double()
    turn = lambda x, p: rotary.rotate(x[None], torch.tensor([p]))[0]
    score = lambda i, j: (turn(q, i) * turn(k, j)).sum()
    torch.testing.assert_close(score(9, 4), score(7, 2), rtol=1e-6, atol=1e-6)
    assert (score(9, 4) - score(9, 5)).abs() > 1e-3


def test_rotary_by_complex_numbers():
    x, p, m = torch.randn(6).double(), 5, torch.arange(3)
    angle = torch.exp(1j * p * 10000.0 ** (-2 * m.double() / 6))
    interleaved = torch.view_as_real(torch.view_as_complex(x.view(3, 2)) * angle).flatten()
    halves = torch.complex(x[:3], x[3:]) * angle
    got = lambda rotary: rotary.rotate(x[None, None], torch.tensor([p])).flatten()
    torch.testing.assert_close(got(hw.positions.Rotary(interleaved=True)), interleaved, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got(hw.positions.Rotary()), torch.cat([halves.real, halves.imag]), rtol=1e-6, atol=1e-6)


def test_left_padding_changes_nothing_under_rotary():
    module = attention(position=hw.positions.Rotary(), head_dim=6)
    x = torch.randn(1, 5, 30).double()
    padded = torch.cat([torch.randn(1, 3, 30).double(), x], 1)
    keep = torch.tensor([[False] * 3 + [True] * 5])
    got = module(padded, mask=hw.masks.causal() & hw.masks.padding(keep))[:, 3:]
    torch.testing.assert_close(got, module(x, mask=hw.masks.causal()), rtol=1e-6, atol=1e-6)


def test_packed_is_padded():
    module = attention()
    a, b = torch.randn(1, 3, 30).double(), torch.randn(1, 5, 30).double()
    ids = torch.tensor([[0] * 3 + [1] * 5])
    packed = module(torch.cat([a, b], 1), mask=hw.masks.documents(ids) & hw.masks.causal())
    torch.testing.assert_close(packed[:, :3], module(a, mask=hw.masks.causal()), **EXACT)
    torch.testing.assert_close(packed[:, 3:], module(b, mask=hw.masks.causal()), **EXACT)


def test_qk_norm_softcap_and_sinks_reach_the_formula():
    module = attention(qk_norm=torch.nn.RMSNorm, scores=hw.Scores(scale=0.7, softcap=3.0, sinks=True))
    x = torch.randn(2, 5, 30).double()
    q, k, v = (linear(x).unflatten(-1, (6, 5)).transpose(1, 2) for linear in (module.q_proj, module.k_proj, module.v_proj))
    s = 3 * torch.tanh(module.q_norm(q) @ module.k_norm(k).mT * 0.7 / 3)
    p = torch.softmax(torch.cat([s, module.sinks[:, None, None].expand(2, 6, 5, 1)], -1), -1)[..., :-1]
    torch.testing.assert_close(module(x), module.out_proj((p @ v).transpose(1, 2).flatten(-2)), **EXACT)


def test_thirteen_parameters_and_no_more():
    parameters = list(inspect.signature(hw.MultiHeadAttention).parameters)
    assert parameters == (
        "embed_dim num_heads num_kv_heads head_dim kdim vdim bias position qk_norm scores dropout device dtype".split()
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num_heads": 7}, "does not divide"), ({"num_kv_heads": 4}, "multiple"), ({"bias": ["query"]}, "q_proj")],
    ids=["divide", "groups", "bias"],
)
def test_wrong_constructions_say_what_to_write(options, words):
    with pytest.raises(ValueError, match=words):
        hw.MultiHeadAttention(**{"embed_dim": 30, "num_heads": 6, **options})


def test_meta_device_then_reset():
    with torch.device("meta"):
        module = hw.MultiHeadAttention(30, 6, scores=hw.Scores(sinks=True), qk_norm=torch.nn.RMSNorm)
    module = module.to_empty(device="cpu")
    module.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in module.parameters())
