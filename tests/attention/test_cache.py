"""Caches: decoding step by step, padded, reordered, compiled or observed, is one full pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import headwise as hw
from headwise.insight.observing.record import Record

EXACT = {"rtol": 1e-10, "atol": 1e-10}
TURNED = {"rtol": 1e-5, "atol": 1e-5}  # angles up to 30 are computed in float32
HEADS, HEAD_DIM, VALUE_DIM, EMBED_DIM = 6, 10, 7, 30
PROMPTS, STEPS = (5, 2, 7), (1, 1, 1, 3)  # three prompts of their own lengths, then single steps and one of three
PROMPT, LENGTH = max(PROMPTS), max(PROMPTS) + sum(STEPS)

POSITIONS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "rotary": hw.positions.Rotary,
    "rotary of a part": lambda: hw.positions.Rotary(100.0, 6, True, hw.positions.Llama3(original_max_position_embeddings=64)),
    "alibi": lambda: hw.positions.Alibi(HEADS),
    "t5": lambda: hw.positions.T5Buckets(HEADS, 8, 11, bidirectional=False),
    "shaw": lambda: hw.positions.Shaw(HEAD_DIM, 3, 2),
    "transformer-xl": lambda: hw.positions.TransformerXL(19, HEADS, HEAD_DIM),
}
MASKS = {"causal": hw.masks.causal(), "window": hw.masks.causal() & hw.masks.window(5, 0)}
CACHES: dict[str, Callable[[], hw.cache.Growing]] = {
    "growing": hw.cache.Growing,
    "fixed": lambda: hw.cache.Fixed(1024),
    "fixed to the brim": lambda: hw.cache.Fixed(LENGTH),
}
every_position = pytest.mark.parametrize("position", POSITIONS)
every_mask = pytest.mark.parametrize("mask", MASKS)
every_cache = pytest.mark.parametrize("kind", CACHES)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def attention(position: str = "none", **options: Any) -> hw.MultiHeadAttention:
    torch.manual_seed(1)
    made = hw.MultiHeadAttention(EMBED_DIM, HEADS, head_dim=(HEAD_DIM, VALUE_DIM), position=POSITIONS[position](), **options)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made.double().eval()


def inputs(length: int = LENGTH, batch: int = len(PROMPTS)) -> Tensor:
    return torch.randn(batch, length, EMBED_DIM, dtype=torch.float64)


def left_padded() -> Tensor:
    """Which of the positions are real: (batch, LENGTH)."""
    return torch.arange(LENGTH) >= PROMPT - torch.tensor(PROMPTS)[:, None]


def step(module: Any, x: Tensor, cache: hw.cache.Growing, mask: str = "causal", keep: Tensor | None = None) -> Tensor:
    """One call with a cache. ``keep`` (batch, LENGTH) is cut or continued to what the cache has its masks be about."""
    rule = MASKS[mask]
    if keep is not None:
        held = cache.max_len if isinstance(cache, hw.cache.Fixed) else cache.length + x.shape[1]
        more = keep.new_ones(len(keep), max(0, held - keep.shape[1]))
        rule = rule & hw.masks.padding(torch.cat([keep, more], dim=1)[:, :held])
    return module(x, mask=rule, cache=cache)


def decode(module: Any, x: Tensor, cache: hw.cache.Growing, lengths: Any, *rules: Any) -> Tensor:
    return torch.cat([step(module, piece, cache, *rules) for piece in x.split([*lengths], dim=1)], dim=1)


@every_position
@every_mask
@every_cache
@pytest.mark.parametrize("kv_heads", [2, HEADS], ids=["grouped", "equal"])
def test_steps_over_padded_prompts_are_one_pass_over_each_alone(position: str, mask: str, kind: str, kv_heads: int) -> None:
    module, cache, x, keep = attention(position, num_kv_heads=kv_heads), CACHES[kind](), inputs(), left_padded()
    got = decode(module, x, cache, [PROMPT, *STEPS], mask, keep)
    assert cache.length == LENGTH
    whole = module(x, mask=MASKS[mask] & hw.masks.padding(keep))
    torch.testing.assert_close(got[keep], whole[keep], **EXACT)
    near = TURNED if position.startswith("rotary") else EXACT  # turned by more, the same distance is rounded otherwise
    for row, real in enumerate(keep):
        alone = module(x[row, real], mask=MASKS[mask])
        torch.testing.assert_close(got[row, real], alone, **near)


@every_position
@pytest.mark.parametrize(
    "mask", [None, hw.masks.window(3, None), hw.masks.prefix(torch.tensor([9, 4, 11]))], ids=["all", "ahead", "prefix"]
)
def test_slots_not_yet_written_are_forbidden(position: str, mask: hw.masks.Mask | None) -> None:
    """Where no causal mask forbids them anyway: a step sees all keys up to its own last."""
    module, fixed, growing, x = attention(position), hw.cache.Fixed(16), hw.cache.Growing(), inputs()
    held = 0
    with hw.observe(module) as record:
        for piece in x.split([PROMPT, *STEPS], dim=1):
            held += piece.shape[1]
            got, want = (module(piece, mask=mask, cache=cache) for cache in (fixed, growing))
            whole = module(x[:, :held], mask=mask)
            torch.testing.assert_close(got, want, **EXACT)
            torch.testing.assert_close(got, whole[:, held - piece.shape[1] :], **EXACT)
    assert not record[""][0].weights()[..., PROMPT:].any()


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=9), position=st.sampled_from([*POSITIONS]),
    mask=st.sampled_from([*MASKS]), room=st.integers(0, 3), growing=st.booleans(),
)  # fmt: skip
def test_any_steps_are_one_pass(lengths: list[int], position: str, mask: str, room: int, growing: bool) -> None:
    with torch.no_grad():
        module, x = attention(position, num_kv_heads=3), inputs(sum(lengths), batch=2)
        cache = hw.cache.Growing() if growing else hw.cache.Fixed(sum(lengths) + room)
        torch.testing.assert_close(decode(module, x, cache, lengths, mask), module(x, mask=MASKS[mask]), **EXACT)


@every_cache
@every_position
def test_rows_follow_their_beams(kind: str, position: str) -> None:
    module, cache, x = attention(position), CACHES[kind](), inputs(7)
    whole = module(x, mask=MASKS["causal"])
    step(module, x[:, :5], cache)
    for order, at in (([2, 2, 0], 5), ([1, 2, 0], 6)):
        x, whole = x[order], whole[order]
        cache.reorder(torch.tensor(order))
        torch.testing.assert_close(step(module, x[:, at : at + 1], cache), whole[:, at : at + 1], **EXACT)


def test_the_other_sequence_follows_its_beams() -> None:
    module, cache, x, memory = attention(), hw.cache.Cross(), inputs(2), inputs(5)
    keep, order = torch.rand(3, 5) < 0.7, torch.tensor([2, 2, 0])
    keep[:, 0] = True
    module(x[:, :1], memory, mask=hw.masks.padding(keep), cache=cache)
    cache.reorder(order)
    got = module(x[order, 1:], memory[order], mask=hw.masks.padding(keep[order]), cache=cache)
    torch.testing.assert_close(got, module(x, memory, mask=hw.masks.padding(keep))[order, 1:], **EXACT)


@every_cache
def test_a_reset_cache_is_a_new_one(kind: str) -> None:
    """For another batch, and after numbers that are none."""
    module, cache = attention("alibi"), CACHES[kind]()
    for batch, length, spoiled in ((3, 9, True), (3, 4, False), (2, 5, False), (3, 5, False)):
        x = inputs(length, batch)
        if spoiled:
            x[0, 7] = torch.nan  # in a slot that the next sequences leave empty
        got = decode(module, x, cache, [length - 1, 1])
        if not spoiled:
            torch.testing.assert_close(got, module(x, mask=MASKS["causal"]), **EXACT)
        cache.reset()
        assert cache.length == 0


def test_fixed_memory_keeps_its_place() -> None:
    module, cache, x = attention("rotary"), hw.cache.Fixed(13), inputs(9)
    places = set()
    for piece in x.split([5, 1, 1, 2], dim=1):
        step(module, piece, cache)
        assert cache.key is not None
        assert cache.value is not None
        assert (cache.key.shape, cache.value.shape) == ((3, HEADS, 13, HEAD_DIM), (3, HEADS, 13, VALUE_DIM))
        places.add((cache.key.data_ptr(), cache.value.data_ptr(), cache.length.data_ptr()))
    cache.reorder(torch.tensor([1, 0, 2]))
    cache.reset()
    step(module, x, cache)
    places.add((cache.key.data_ptr(), cache.value.data_ptr(), cache.length.data_ptr()))
    assert len(places) == 1


@every_cache
@pytest.mark.parametrize("filled", [0, 4])
def test_a_failed_call_does_not_advance(kind: str, filled: int) -> None:
    module, cache, x = attention("t5"), CACHES[kind](), inputs(9)
    if filled:
        step(module, x[:, :filled], cache)
    with pytest.raises(ValueError, match="mask"):
        module(inputs(3), mask=torch.ones(11, 11, dtype=torch.bool), cache=cache)
    assert cache.length == filled
    got = decode(module, x[:, filled:], cache, [3, 6 - filled])
    torch.testing.assert_close(got, module(x, mask=MASKS["causal"])[:, filled:], **EXACT)


def test_what_does_not_fit_leaves_the_cache_as_it_was() -> None:
    module, cache, x = attention("shaw"), hw.cache.Fixed(7), inputs(7)
    step(module, x[:, :5], cache)
    for wrong, words in ((inputs(3), r"Fixed\(7\) holds 5 keys: 3 more"), (inputs(1, batch=2), "holds .* reset it first")):
        with pytest.raises(ValueError, match=words):
            step(module, wrong, cache)
    with pytest.raises(ValueError, match=r"one index per row, 3; got 1"):
        cache.reorder(torch.tensor([1]))
    torch.testing.assert_close(step(module, x[:, 5:], cache), module(x, mask=MASKS["causal"])[:, 5:], **EXACT)
    with pytest.raises(ValueError, match=r"holds 7 keys: 1 more"):
        step(module, x[:, :1], cache)
    with pytest.raises(ValueError, match=r"max_len of at least 1; got 0"):
        hw.cache.Fixed(0)


def test_fixed_takes_no_gradients() -> None:
    module, x = attention(), inputs(4)
    with torch.enable_grad():
        with pytest.raises(ValueError, match=r"no_grad.*Growing"):
            step(module, x, hw.cache.Fixed(8))
        growing = step(module, x, hw.cache.Growing())
        assert growing.requires_grad
        frozen = module.requires_grad_(False)
        torch.testing.assert_close(step(frozen, x, hw.cache.Fixed(8)), growing, **EXACT)


@pytest.mark.nohook
def test_caches_belong_to_their_kind_of_attention() -> None:
    module, x = attention(), inputs(4)
    with pytest.raises(ValueError, match=r"self-attention .* takes hw.cache.Growing or Fixed.* got Cross"):
        module(x, cache=hw.cache.Cross())
    for cache in (hw.cache.Growing(), hw.cache.Fixed(8)):
        with pytest.raises(ValueError, match=rf"cross-attention hw.cache.Cross; got {type(cache).__name__}"):
            module(x, x, cache=cache)
        assert cache.length == 0


# -- observed -----------------------------------------------------------------------------------------------------------


@every_position
@every_mask
@every_cache
def test_observed_steps_joined_are_the_observed_pass(position: str, mask: str, kind: str) -> None:
    module, cache, x, keep = attention(position, num_kv_heads=2), CACHES[kind](), inputs(), left_padded()
    with hw.observe(module) as once:
        module(x, mask=MASKS[mask] & hw.masks.padding(keep))
    with hw.observe(module) as stepwise:
        decode(module, x, cache, [PROMPT, *STEPS], mask, keep)
    assert len(stepwise[""]) == 1 + len(STEPS)
    cache.reset()
    step(module, inputs(), cache)  # the memory is written anew, the record stays
    (want,), got = once[""], stepwise[""].joined()
    weights, empty_slots = got.weights().split([LENGTH, got.key.shape[-2] - LENGTH], dim=-1)
    torch.testing.assert_close(weights, want.weights(), **EXACT)
    assert not empty_slots.any()
    real = keep[:, None].expand(-1, HEADS, -1)
    torch.testing.assert_close(got.head_outputs[real], want.head_outputs[real], **EXACT)
    torch.testing.assert_close(got.lse, want.lse, **EXACT)
    chosen = {"rows": torch.tensor([LENGTH - 1, 0, 8]), "columns": slice(2, LENGTH, 3)}
    torch.testing.assert_close(got.weights(1, 4, **chosen), want.weights(1, 4, **chosen), **EXACT)
    assert_same_statistics(stepwise, once)


def assert_same_statistics(stepwise: Record, once: Record) -> None:
    got, want = hw.statistics({"": [stepwise[""].joined()]})[""], hw.statistics(once)[""]
    for name in ("entropy", "alignment", "first", "previous", "own", "next", "distance", "queries", "top_weights"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), **EXACT)
    assert got.received is not None
    torch.testing.assert_close(got.received[..., :LENGTH], want.received, **EXACT)
    assert not got.received[..., LENGTH:].any()
    # Of keys without weight any may be named.
    named = want.top_weights > 0
    assert torch.equal(got.top_keys[named], want.top_keys[named])


# -- compiled -----------------------------------------------------------------------------------------------------------


def compiled_steps(position: str, mask: str, backend: str, near: dict[str, float]) -> int:
    """After a prompt, 20 steps on a compiled module and the same without; how many graphs were made."""
    torch._dynamo.reset()
    module, x = attention(position, num_kv_heads=2), inputs(PROMPT + 20)
    keep = torch.arange(64) >= PROMPT - torch.tensor(PROMPTS)[:, None]
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    outputs = []
    for decoder in (compiled, module):
        cache = hw.cache.Fixed(64)
        step(module, x[:, :PROMPT], cache, mask, keep)
        outputs.append(decode(decoder, x[:, PROMPT:], cache, [1] * 20, mask, keep))
        assert cache.length == PROMPT + 20
    torch.testing.assert_close(*outputs, **near)
    return counter.frame_count


@pytest.mark.nohook
@every_position
@every_mask
def test_one_graph_runs_all_steps(position: str, mask: str) -> None:
    assert compiled_steps(position, mask, "aot_eager", EXACT) == 1


@pytest.mark.nohook
@pytest.mark.slow
@pytest.mark.parametrize("position", ["rotary", "t5"])
def test_one_kernel_runs_all_steps(position: str) -> None:
    near = TURNED if position == "rotary" else EXACT  # the kernel's own power, sine and cosine
    assert compiled_steps(position, "window", "inductor", near) == 1


@pytest.mark.nohook
def test_one_graph_runs_reset_caches_and_other_memory() -> None:
    torch._dynamo.reset()
    module, counter = attention("rotary"), CompileCounterWithBackend("aot_eager")
    compiled, used = torch.compile(module, backend=counter, fullgraph=True), hw.cache.Fixed(16)
    for cache in (used, used, hw.cache.Fixed(16)):
        x = inputs(9)
        got = torch.cat([step(module, x[:, :4], cache), decode(compiled, x[:, 4:], cache, [1] * 5)], dim=1)
        torch.testing.assert_close(got, module(x, mask=MASKS["causal"]), **EXACT)
        cache.reset()
    assert counter.frame_count == 1


@pytest.mark.nohook
def test_a_compiled_step_beyond_the_end_raises() -> None:
    torch._dynamo.reset()
    module, cache, x = attention(), hw.cache.Fixed(5), inputs(6)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    step(module, x[:, :4], cache)
    step(compiled, x[:, 4:5], cache)
    with pytest.raises(IndexError, match="index 5 is out of bounds"):
        step(compiled, x[:, 5:], cache)
    assert cache.length == 5
