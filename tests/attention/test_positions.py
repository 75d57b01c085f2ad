"""Positions inside attention: the rules that are added to the scores, and every position inside the module."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import headwise as hw
from headwise.attention import blocks
from headwise.attention.positions import Bias, _by_distance, sinusoids
from headwise.attention.tiles import Tile

EXACT = {"rtol": 1e-10, "atol": 1e-10}
BATCH, HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM, EMBED_DIM, SCALE, SOFTCAP = 2, 6, 3, 10, 7, 30, 0.7, 1.7
LENGTHS = {"q<k": (11, 13), "q=k": (13, 13), "q>k": (17, 13)}

# Every rule by its number of heads and their width.
RULES: dict[str, Callable[[int, int], Bias]] = {
    "alibi": lambda heads, width: hw.positions.Alibi(heads),
    "alibi slopes": lambda heads, width: hw.positions.Alibi(heads, [0.3 + 0.2 * h for h in range(heads)]),
    "t5": lambda heads, width: hw.positions.T5Buckets(heads, 8, 11),
    "t5 one way": lambda heads, width: hw.positions.T5Buckets(heads, 5, 11, bidirectional=False),
    "shaw": lambda heads, width: hw.positions.Shaw(width, before=3, after=2),
    "transformer-xl": lambda heads, width: hw.positions.TransformerXL(2 * width - 1, heads, width),
}
TURNS: dict[str, Any] = {
    "none": None,
    "rotary": hw.positions.Rotary(),
    "rotary of a part": hw.positions.Rotary(
        100.0, 4, interleaved=True, scaling=hw.positions.Llama3(8.0, original_max_position_embeddings=64)
    ),
    "rotary yarn": hw.positions.Rotary(scaling=hw.positions.YaRN(4.0, 64)),
}
every_rule = pytest.mark.parametrize("name", RULES)
every_position = pytest.mark.parametrize("name", [*TURNS, *RULES])
every_length = pytest.mark.parametrize("lengths", LENGTHS)


def randomised(module: Any, std: float = 0.4) -> Any:
    if not isinstance(module, nn.Module):
        return module
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module.double().eval()


def rule_of(name: str, heads: int = HEADS, width: int = HEAD_DIM) -> Any:
    return TURNS[name] if name in TURNS else randomised(RULES[name](heads, width), std=1.0)


def attention(name: str = "none", num_heads: int = HEADS, **options: Any) -> hw.MultiHeadAttention:
    widths = {"embed_dim": EMBED_DIM, "num_heads": num_heads, "head_dim": (HEAD_DIM, VALUE_DIM)}
    return randomised(hw.MultiHeadAttention(**widths, position=rule_of(name, num_heads), **options))


def bucket_by_hand(distance: int, buckets: int, max_distance: int, bidirectional: bool) -> int:
    """systems.md 5.1b, with the float32 of the published code."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if distance > 0 else 0
    back, half = abs(distance) if bidirectional else max(-distance, 0), buckets // 2
    if back < half:
        return first + back
    share = np.log(np.float32(back) / np.float32(half)) / np.float32(math.log(max_distance / half))
    return first + min(half + math.floor(share * np.float32(buckets - half)), buckets - 1)


def sinusoid_rows(count: int, width: int) -> Tensor:
    """Row r is the sinusoid of the signed distance count - 1 - r, as systems.md 4.4 has it."""
    row = lambda d: [(math.cos if c % 2 else math.sin)(d * 10000.0 ** (-2 * (c // 2) / width)) for c in range(width)]
    return torch.tensor([row(count - 1 - r) for r in range(2 * count - 1)], dtype=torch.float64)


@torch.no_grad()
def bias_by_hand(rule: Any, query: Tensor, key: Tensor, scale: float) -> Tensor:
    """What a rule adds for query (heads, query_len, width) and key (heads, key_len, width), pair by pair."""
    (heads, query_len, _), key_len = query.shape, key.shape[-2]
    longest = max(query_len, key_len)
    if isinstance(rule, hw.positions.TransformerXL):
        relative = (sinusoid_rows(longest, rule.proj.in_features) @ rule.proj.weight.T).unflatten(-1, rule.u.shape)

    def entry(h: int, row: int, j: int) -> Any:
        i = key_len - query_len + row
        match rule:
            case hw.positions.Alibi():
                return -(rule.slopes or alibi_of_the_paper(heads))[h] * abs(i - j)
            case hw.positions.T5Buckets():
                return rule.weight[bucket_by_hand(j - i, rule.num_buckets, rule.max_distance, rule.bidirectional), h]
            case hw.positions.Shaw():
                return scale * query[h, row] @ rule.weight[min(max(i - j, -rule.after), rule.before) + rule.after]
            case hw.positions.TransformerXL():
                r = relative[longest - 1 - (i - j), h]
                whole = (query[h, row] + rule.u[h]) @ key[h, j] + (query[h, row] + rule.v[h]) @ r
                return scale * (whole - query[h, row] @ key[h, j])
        return 0.0

    pairs = [float(entry(*pair)) for pair in product(range(heads), range(query_len), range(key_len))]
    return torch.tensor(pairs, dtype=torch.float64).reshape(heads, query_len, key_len)


def alibi_of_the_paper(heads: int) -> list[float]:
    """get_slopes of github.com/ofirpress/attention_with_linear_biases."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    below = 2 ** math.floor(math.log2(heads))
    return alibi_of_the_paper(below) + alibi_of_the_paper(2 * below)[0::2][: heads - below]


def bias_of(rule: Any, query: Tensor, key: Tensor, **tile: Any) -> Tensor:
    """What a call adds to its scores: the masked stage with keys of their own, less the stage before."""
    stages = (hw.attention_weights(query, key, bias=rule, scale=SCALE, stage=s, **tile) for s in ("masked", "capped"))
    return next(stages) - next(stages)


# -- goldens ------------------------------------------------------------------------------------------------------------


def test_alibi_slopes() -> None:
    slopes = lambda heads: hw.positions.Alibi(heads).of_heads(torch.zeros(1, dtype=torch.float64)).tolist()
    assert slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert slopes(1) == [1 / 256]
    assert slopes(12) == pytest.approx([*slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5], rel=1e-15)
    for heads in range(1, 41):
        assert slopes(heads) == pytest.approx(alibi_of_the_paper(heads), rel=1e-14), heads


def test_alibi_matrix() -> None:
    zeros = torch.zeros(2, 3, 4, dtype=torch.float64)
    got = bias_of(hw.positions.Alibi(2, [1.0, 0.5]), zeros, zeros)
    one = torch.tensor([[0.0, -1, -2], [-1, 0, -1], [-2, -1, 0]]).double()
    torch.testing.assert_close(got, torch.stack([one, one / 2]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("bidirectional", "buckets"),
    [
        (
            True,
            {0: 0, -1: 1, -7: 7, -8: 8, -11: 8, -12: 9, -15: 9, -16: 10, -22: 10, -23: 11, -90: 14, -91: 15, -128: 15}
            | {-5000: 15, 1: 17, 7: 23, 8: 24, 12: 25, 91: 31, 128: 31, 5000: 31},
        ),
        (
            False,
            {0: 0, 1: 0, 300: 0, -1: 1, -15: 15, -16: 16, -18: 16, -19: 17, -32: 21, -64: 26, -112: 30, -113: 31}
            | {-127: 31, -128: 31, -5000: 31},
        ),
    ],
    ids=["both ways", "one way"],
)
def test_t5_buckets_of_the_published_sizes(bidirectional: bool, buckets: dict[int, int]) -> None:
    rule = hw.positions.T5Buckets(1, bidirectional=bidirectional)
    assert dict(zip(buckets, rule.bucket(torch.tensor([*buckets])).tolist(), strict=True)) == buckets


@pytest.mark.parametrize("bidirectional", [True, False], ids=["both ways", "one way"])
@pytest.mark.parametrize("sizes", [(32, 128), (8, 20), (64, 256), (5, 7)], ids=str)
def test_t5_buckets_in_plain_python(sizes: tuple[int, int], bidirectional: bool) -> None:
    distances = range(-300, 301)
    want = [bucket_by_hand(distance, *sizes, bidirectional) for distance in distances]
    assert hw.positions.T5Buckets(1, *sizes, bidirectional).bucket(torch.tensor(distances)).tolist() == want


def test_shaw_of_speecht5() -> None:
    """Its table of 320 rows: pe_k[clip(i - j, -160, 159) + 160]. Row r holds r, every query is 1."""
    rule = hw.positions.Shaw(1, before=159, after=160)
    assert rule.weight.shape == (320, 1)
    rule.weight.data = torch.arange(320.0)[:, None]
    ones = torch.ones(1, 400, 1)
    got = hw.attention_weights(ones, torch.zeros(1, 400, 1), bias=rule, scale=1.0, stage="masked")[0]
    wanted = {(0, 0): 160, (1, 0): 161, (0, 1): 159, (159, 0): 319, (399, 0): 319, (0, 160): 0, (0, 399): 0}
    assert {pair: got[pair].item() for pair in wanted} == wanted


def test_sinusoids_are_the_rows_of_the_conformers() -> None:
    torch.testing.assert_close(sinusoids(torch.arange(4, -5, -1), 7, torch.float64), sinusoid_rows(5, 7), **EXACT)


# -- rules --------------------------------------------------------------------------------------------------------------


@every_rule
@every_length
@pytest.mark.parametrize("kv_heads", [KV_HEADS, HEADS], ids=["grouped", "equal"])
def test_a_rule_pair_by_pair(name: str, lengths: str, kv_heads: int) -> None:
    rule, (query_len, key_len) = rule_of(name), LENGTHS[lengths]
    query = torch.randn(BATCH, HEADS, query_len, HEAD_DIM).double()
    key, value = (torch.randn(BATCH, kv_heads, key_len, width).double() for width in (HEAD_DIM, VALUE_DIM))
    k, v = (x.repeat_interleave(HEADS // kv_heads, dim=1) for x in (key, value))
    added = torch.stack([bias_by_hand(rule, query[b], k[b], SCALE) for b in range(BATCH)])
    torch.testing.assert_close(bias_of(rule, query, key).expand(added.shape), added, **EXACT)
    # After the cap: a bias is not squeezed by it.
    p = torch.softmax(SOFTCAP * torch.tanh(SCALE * query @ k.mT / SOFTCAP) + added, dim=-1)
    got = hw.attend(query, key, value, bias=rule, scale=SCALE, softcap=SOFTCAP)
    torch.testing.assert_close(got, p @ v, **EXACT)


@pytest.mark.parametrize("name", ["t5", "t5 one way", "shaw", "transformer-xl"])
@every_length
def test_relative_shift_is_the_gather(name: str, lengths: str) -> None:
    """The same tile by slices, which are shifted, and by indices, which are gathered."""
    rule, (query_len, key_len) = rule_of(name), LENGTHS[lengths]
    query, key = (torch.randn(h, n, HEAD_DIM).double() for h, n in ((HEADS, query_len), (KV_HEADS, key_len)))
    whole = bias_of(rule, query, key)
    for rows, columns in product((slice(None), slice(3, 8), slice(-1, None), slice(4, 4)), repeat=2):
        by_index = torch.arange(query_len)[rows], torch.arange(key_len)[columns]
        shifted, gathered = (bias_of(rule, query, key, rows=r, columns=c) for r, c in ((rows, columns), by_index))
        torch.testing.assert_close(shifted, gathered, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(shifted, whole[..., rows, columns], rtol=1e-13, atol=1e-13)
    mixed = {"rows": torch.tensor([7, 0, 10, 7]), "columns": slice(1, None, 3)}
    torch.testing.assert_close(
        bias_of(rule, query, key, **mixed), whole[..., mixed["rows"], mixed["columns"]], rtol=1e-13, atol=1e-13
    )


@every_length
def test_distances_themselves_are_shifted_and_gathered_exactly(lengths: str) -> None:
    query_len, key_len = LENGTHS[lengths]
    wanted = (torch.arange(query_len) + key_len - query_len)[:, None] - torch.arange(key_len)
    for index in (False, True):
        rows, columns = (torch.arange(n) if index else slice(None) for n in (query_len, key_len))
        tile = Tile(query_len, key_len, rows, columns, torch.device("cpu"), 0)
        assert tile.is_run is not index
        assert torch.equal(_by_distance(tile, lambda back: back[None]), wanted)


@pytest.mark.parametrize("rule", [hw.positions.T5Buckets(HEADS), hw.positions.Shaw(HEAD_DIM, 5, 3)], ids=["t5", "shaw"])
def test_rules_start_as_plain_attention(rule: Any) -> None:
    query, key = (torch.randn(BATCH, HEADS, n, HEAD_DIM).double() for n in (11, 13))
    options = {"mask": hw.masks.window(3, 2)}
    torch.testing.assert_close(hw.attend(query, key, key, bias=rule, **options), hw.attend(query, key, key, **options), **EXACT)


# -- in the module ------------------------------------------------------------------------------------------------------


def by_hand(module: hw.MultiHeadAttention, x: Tensor, allowed: Tensor) -> list[Tensor]:
    """The output z_h of every head of self-attention on x (length, embed_dim)."""

    def part(linear: nn.Linear, h: int, width: int) -> Tensor:
        rows = slice(h * width, (h + 1) * width)
        return x @ linear.weight[rows].T + linear.bias[rows]

    heads, group = range(module.num_heads), module.num_heads // module.num_kv_heads
    q = torch.stack([part(module.q_proj, h, HEAD_DIM) for h in heads])
    k = torch.stack([part(module.k_proj, h // group, HEAD_DIM) for h in heads])
    after, rule = module.norm_after_rotation, module.position
    q, k = (y if after else norm(y) for y, norm in ((q, module.q_norm), (k, module.k_norm)))
    if isinstance(rule, hw.positions.Rotary):
        q, k = (rule.rotate(y, torch.arange(len(x))) for y in (q, k))
    q, k = (norm(y) if after else y for y, norm in ((q, module.q_norm), (k, module.k_norm)))
    scale = HEAD_DIM**-0.5
    s = (scale * q @ k.mT + bias_by_hand(rule, q, k, scale)).masked_fill(~allowed, -torch.inf)
    return [torch.softmax(s[h], dim=-1) @ part(module.v_proj, h // group, VALUE_DIM) for h in heads]


def concatenated(module: hw.MultiHeadAttention, heads: list[Tensor], gates: Tensor) -> Tensor:
    """sum_h gate_h z_h W_O^h + b."""
    columns = module.out_proj.weight.split(VALUE_DIM, dim=1)
    return sum((g * z @ w.T for g, z, w in zip(gates, heads, columns, strict=True)), module.out_proj.bias)


@every_position
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (HEADS, HEADS), (HEADS, KV_HEADS)], ids=["one", "equal", "grouped"])
def test_the_module_is_the_sum_of_its_heads(name: str, heads: int, kv_heads: int) -> None:
    module, x = attention(name, heads, num_kv_heads=kv_heads), torch.randn(11, EMBED_DIM).double()
    zs = by_hand(module, x, torch.ones(11, 11).tril().bool())
    with hw.observe(module) as record:
        torch.testing.assert_close(module(x, mask=hw.masks.causal()), concatenated(module, zs, torch.ones(heads)), **EXACT)
    (call,) = record[""]
    torch.testing.assert_close(call.head_outputs, torch.stack(zs), **EXACT)
    value = call.value.repeat_interleave(heads // kv_heads, dim=0)
    torch.testing.assert_close(call.weights() @ value, torch.stack(zs), **EXACT)
    gate = torch.randn(heads).double()
    with hw.gates(module, {"": gate}):
        torch.testing.assert_close(module(x, mask=hw.masks.causal()), concatenated(module, zs, gate), **EXACT)


@every_position
def test_groups_with_repeated_weights_are_ungrouped(name: str) -> None:
    grouped, whole = attention(name, num_kv_heads=KV_HEADS), attention(name)
    state = grouped.state_dict()
    for projection, kind in product(("k_proj", "v_proj"), ("weight", "bias")):
        by_head = state[f"{projection}.{kind}"].unflatten(0, (KV_HEADS, -1))
        state[f"{projection}.{kind}"] = by_head.repeat_interleave(HEADS // KV_HEADS, dim=0).flatten(0, 1)
    whole.load_state_dict(state)
    x = torch.randn(BATCH, 11, EMBED_DIM).double()
    torch.testing.assert_close(grouped(x), whole(x), **EXACT)


@every_position
def test_heads_permuted_with_all_that_is_theirs_change_nothing(name: str) -> None:
    """Grouped: groups change places, and heads inside their group."""
    scores = hw.Scores(sinks=True)
    module, permuted = (attention(name, num_kv_heads=KV_HEADS, scores=scores) for _ in range(2))
    groups, order = [2, 0, 1], [5, 4, 0, 1, 3, 2]
    state = module.state_dict()
    for projection, kind in product(("q_proj", "k_proj", "v_proj"), ("weight", "bias")):
        own = order if projection == "q_proj" else groups
        state[f"{projection}.{kind}"] = state[f"{projection}.{kind}"].unflatten(0, (len(own), -1))[own].flatten(0, 1)
    state["out_proj.weight"] = state["out_proj.weight"].unflatten(1, (HEADS, -1))[:, order].flatten(1)
    state["sinks"] = state["sinks"][order]
    if isinstance(module.position, hw.positions.Alibi):
        slopes = module.position.of_heads(torch.zeros((), dtype=torch.float64))[order]
        permuted.position = hw.positions.Alibi(HEADS, slopes.tolist())
    if isinstance(module.position, hw.positions.T5Buckets):
        state["position.weight"] = state["position.weight"][:, order]
    if isinstance(module.position, hw.positions.TransformerXL):
        for vector in ("u", "v"):
            state[f"position.{vector}"] = state[f"position.{vector}"][order]
        state["position.proj.weight"] = state["position.proj.weight"].unflatten(0, (HEADS, -1))[order].flatten(0, 1)
    permuted.load_state_dict(state)
    x = torch.randn(BATCH, 11, EMBED_DIM).double()
    torch.testing.assert_close(module(x, mask=hw.masks.causal()), permuted(x, mask=hw.masks.causal()), **EXACT)


@every_position
def test_norm_before_and_after_rotation(name: str) -> None:
    before, after = (attention(name, qk_norm=norm) for norm in (nn.RMSNorm, hw.positions.AfterRotation(nn.RMSNorm)))
    after.load_state_dict(before.state_dict())
    x, everything = torch.randn(11, EMBED_DIM).double(), torch.ones(11, 11, dtype=torch.bool)
    for module in (before, after):
        torch.testing.assert_close(module(x), concatenated(module, by_hand(module, x, everything), torch.ones(HEADS)), **EXACT)
    rotates = isinstance(before.position, hw.positions.Rotary)
    assert ((before(x) - after(x)).abs().max() > 1e-3) == rotates
    if rotates and before.position.scaling is None:  # a norm with one weight for all channels turns with them
        for norm in (before.q_norm, before.k_norm, after.q_norm, after.k_norm):
            nn.init.constant_(norm.weight, 0.8)
        torch.testing.assert_close(before(x), after(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_meta_device_then_reset_is_a_fresh_module(name: str) -> None:
    def make(device: str) -> hw.MultiHeadAttention:
        with torch.device(device):
            rule = RULES[name](HEADS, HEAD_DIM)
        return hw.MultiHeadAttention(
            EMBED_DIM, HEADS, head_dim=HEAD_DIM, position=rule, qk_norm=nn.RMSNorm, scores=hw.Scores(sinks=True), device=device
        )

    def reset(module: nn.Module) -> None:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    torch.manual_seed(5)
    fresh = make("cpu").state_dict()
    made = make("meta").to_empty(device="cpu")
    for parameter in made.parameters():
        nn.init.constant_(parameter, torch.nan)  # what empty memory may hold
    torch.manual_seed(5)
    got = made.apply(reset).state_dict()  # children first, as in construction
    assert list(got) == list(fresh)
    for key, tensor in got.items():
        torch.testing.assert_close(tensor, fresh[key], rtol=0, atol=0)
        assert tensor.any() == key.endswith(("_proj.weight", "_norm.weight", "position.proj.weight"))


# -- gradients ----------------------------------------------------------------------------------------------------------


class Ruled(nn.Module):
    """A call of hw.attend as a function of everything that has a gradient: sinks and the rule's parameters, too."""

    def __init__(self, rule: Any, **options: Any) -> None:
        super().__init__()
        self.rule, self.options = rule, options
        torch.manual_seed(3)
        self.inputs = [torch.randn(h, n, width).double() for h, n, width in ((2, 5, 3), (1, 4, 3), (1, 4, 2))]
        self.inputs += [torch.randn(2).double(), *(p.detach().clone() for p in self.parameters())]

    def forward(self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor) -> Tensor:
        return hw.attend(query, key, value, bias=self.rule, sinks=sinks, **self.options)

    def of(self, *inputs: Tensor) -> Tensor:
        names = (name for name, _ in self.named_parameters())
        return torch.func.functional_call(self, dict(zip(names, inputs[4:], strict=True)), inputs[:4])


forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch 2.13, when first used
# Causal with five queries and four keys: the first query has its sink alone.
MASKS = {"causal": hw.masks.causal(), "window": hw.masks.window(1, 1)}


@every_rule
@forward_mode
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("backend", ["formula", "sdpa", "blocks"])
def test_gradients(name: str, mask: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS", 2)  # so that there are three
    call = Ruled(rule_of(name, heads=2, width=3), mask=MASKS[mask], backend=backend)
    inputs = [x.requires_grad_() for x in call.inputs]
    assert gradcheck(call.of, inputs, check_forward_ad=backend == "formula")


@every_rule
def test_second_gradients_of_the_formula(name: str) -> None:
    call = Ruled(rule_of(name, heads=2, width=3), mask=hw.masks.causal(), softcap=SOFTCAP, backend="formula")
    assert gradgradcheck(call.of, [x.requires_grad_() for x in call.inputs])


@every_rule
@forward_mode
@pytest.mark.parametrize("which", ["all", "sinks and rule"])
def test_forward_mode_is_reverse_mode(name: str, which: str) -> None:
    """<c, J t> = <J^T c, t>, the first on the backend that can, unasked, the second on the fastest."""
    call = Ruled(rule_of(name, heads=2, width=3), mask=hw.masks.causal())
    fixed = 0 if which == "all" else 3
    of = lambda *inputs: call.of(*call.inputs[:fixed], *inputs)
    inputs = tuple(call.inputs[fixed:])
    tangents = tuple(torch.randn_like(x) for x in inputs)
    output, forward = torch.func.jvp(of, inputs, tangents)
    cotangent = torch.randn_like(output)
    backward = torch.func.vjp(of, *inputs)[1](cotangent)
    assert forward.abs().max() > 1e-3
    want = sum((b * t).sum() for b, t in zip(backward, tangents, strict=True))
    torch.testing.assert_close((cotangent * forward).sum(), want, **EXACT)


# -- wrong arguments ----------------------------------------------------------------------------------------------------

QUERY = torch.randn(2, 6, 5, 7)
attend_with = lambda rule: hw.attend(QUERY, QUERY, QUERY, bias=rule)
WRONG: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "slopes of other heads": (lambda: hw.positions.Alibi(8, [0.5] * 4), ("Alibi", "num_heads = 8", "got 4")),
    "alibi without heads": (lambda: hw.positions.Alibi(0), ("Alibi", "num_heads = 0")),
    "alibi of more heads": (lambda: attend_with(hw.positions.Alibi(8)), ("Alibi", "num_heads = 8", "(2, 6, 5, 7)")),
    "alibi of one head": (lambda: attend_with(hw.positions.Alibi(1)), ("Alibi", "num_heads = 1", "(2, 6, 5, 7)")),
    "two buckets": (lambda: hw.positions.T5Buckets(6, num_buckets=2), ("T5Buckets", "2 buckets", "num_buckets = 2")),
    "one bucket one way": (lambda: hw.positions.T5Buckets(6, 1, bidirectional=False), ("T5Buckets", "num_buckets = 1")),
    "exact buckets alone": (lambda: hw.positions.T5Buckets(6, 32, 8), ("T5Buckets", "max_distance = 8")),
    "t5 of one head": (lambda: attend_with(hw.positions.T5Buckets(1)), ("T5Buckets", "num_heads = 1", "(2, 6, 5, 7)")),
    "negative reach": (lambda: hw.positions.Shaw(7, -1, 2), ("Shaw", "not be negative", "-1 and 2")),
    "shaw of another width": (lambda: attend_with(hw.positions.Shaw(8, 2, 2)), ("Shaw", "head_dim = 8", "(2, 6, 5, 7)")),
    "transformer-xl of other heads": (
        lambda: attend_with(hw.positions.TransformerXL(21, 3, 7)), ("TransformerXL", "num_heads = 3", "(2, 6, 5, 7)")
    ),
    "transformer-xl of another width": (
        lambda: attend_with(hw.positions.TransformerXL(30, 6, 5)), ("TransformerXL", "head_dim = 5", "(2, 6, 5, 7)")
    ),
    "odd head": (lambda: hw.positions.Rotary().rotate(QUERY, torch.arange(5)), ("Rotary", "even", "head_dim = 7", "got 7")),
    "odd part": (lambda: hw.positions.Rotary(dim=3).rotate(QUERY, torch.arange(5)), ("Rotary", "even", "got 3")),
    "part of nothing": (lambda: hw.positions.Rotary(dim=0).rotate(QUERY, torch.arange(5)), ("Rotary", "got 0")),
    "part beyond the head": (lambda: hw.positions.Rotary(dim=8).rotate(QUERY, torch.arange(5)), ("Rotary", "got 8")),
    "odd head in a module": (
        lambda: hw.MultiHeadAttention(30, 6, position=hw.positions.Rotary())(torch.randn(5, 30)), ("Rotary", "head_dim = 5")
    ),
    "a class as position": (lambda: hw.MultiHeadAttention(30, 6, position=hw.positions.Rotary), ("position", "Rotary()")),
    "a word as position": (lambda: hw.MultiHeadAttention(30, 6, position="rotary"), ("position", "'rotary'")),
    "a class as bias": (lambda: attend_with(hw.positions.Alibi), ("bias", "a rule", "hw.positions.Alibi")),
    "rotary as bias": (lambda: attend_with(hw.positions.Rotary()), ("bias", "a rule", "a Rotary")),
}  # fmt: skip


@pytest.mark.nohook
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_say_so(wrong: str) -> None:
    call, words = WRONG[wrong]
    with pytest.raises(ValueError, match=r".") as error:
        call()
    assert not [word for word in words if word not in str(error.value)], error.value
