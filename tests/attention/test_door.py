"""Wrong calls fail at the door with a ValueError that says what was expected, what came and what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import headwise as hw

pytestmark = pytest.mark.nohook

QUERY, KEY, VALUE = torch.randn(5, 6, 11, 23), torch.randn(5, 3, 13, 23), torch.randn(5, 3, 13, 19)

# What is wrong: the options of the call, or what makes them, and what the message contains.
OPTIONS: dict[str, tuple[dict[str, Any] | Callable[[], Any], tuple[str, ...]]] = {
    "float mask": ({"mask": torch.zeros(11, 13)}, ("mask", "bool", "float32", "bias=", "mask == 0")),
    "integer mask": ({"mask": torch.ones(11, 13).long()}, ("mask", "bool", "int64", "mask.bool()")),
    "mask per sequence": ({"mask": torch.ones(5, 11, 13).bool()}, ("(5, 6, 11, 13)", "(5, 11, 13)", "mask[:, None]")),
    "mask per key-value head": ({"mask": torch.ones(5, 3, 11, 13).bool()}, ("mask", "(5, 6, 11, 13)", "(5, 3, 11, 13)")),
    "mask with more dimensions": ({"mask": torch.ones(2, 5, 6, 11, 13).bool()}, ("mask", "(2, 5, 6, 11, 13)")),
    "mask transposed": ({"mask": torch.ones(13, 11).bool()}, ("mask", "query_len=11, key_len=13", "(13, 11)")),
    "padding as a mask": ({"mask": torch.ones(5, 13).bool()}, ("mask", "(5, 13)", "hw.masks.padding(keep)")),
    "padding of one sequence as a mask": ({"mask": torch.ones(13).bool()}, ("mask", "(13,)", "hw.masks.padding(keep)")),
    "float padding": (lambda: hw.masks.padding(torch.ones(5, 13)), ("padding", "integer lengths", "bool", "float32")),
    "lengths of other sequences": ({"mask": hw.masks.padding(torch.full((7,), 9))}, ("mask", "(5, 6,", "(7, 1, ")),
    "keep of other keys": ({"mask": hw.masks.padding(torch.ones(5, 11).bool())}, ("padding", "11 keys", "13")),
    "negative window": (lambda: hw.masks.window(-1, 0), ("window", "before", "not be negative", "-1")),
    "ids of other keys": ({"mask": hw.masks.documents(torch.zeros(5, 11).long())}, ("documents", "11 ids", "one id per")),
    "mask elsewhere": ({"mask": torch.ones(11, 13, dtype=torch.bool, device="meta")}, ("mask", "meta", "cpu", "one device")),
    "bool bias": ({"bias": torch.ones(11, 13).bool()}, ("bias", "float", "bool", "mask=")),
    "bias per sequence": ({"bias": torch.zeros(5, 11, 13)}, ("bias", "(5, 6, 11, 13)", "(5, 11, 13)")),
    "bias with more dimensions": ({"bias": torch.zeros(2, 5, 6, 11, 13)}, ("bias", "(2, 5, 6, 11, 13)")),
    "bias per key alone": ({"bias": torch.zeros(5, 13)}, ("bias", "query_len=11, key_len=13", "(5, 13)")),
    "sinks per key-value head": ({"sinks": torch.zeros(3)}, ("sinks", "one number per head", "(6,)", "(3,)")),
    "softcap of 0": ({"softcap": 0.0}, ("softcap", "positive", "0.0")),
    "dropout of 1": ({"dropout": 1.0}, ("dropout", "[0, 1)", "1.0")),
    "unknown backend": ({"backend": "flash"}, ("backend", "formula, sdpa, blocks, flex", "'flash'")),
}

TENSORS: dict[str, tuple[tuple[Tensor, Tensor, Tensor], tuple[str, ...]]] = {
    "heads no multiple": ((torch.randn(5, 7, 11, 23), KEY, VALUE), ("multiple of kv_heads", "(5, 7, 11, 23)")),
    "heads of key and value": ((QUERY, KEY, VALUE[:, :2]), ("as many heads", "(5, 2, 13, 19)")),
    "head_dim": ((QUERY[..., :22], KEY, VALUE), ("one head_dim", "(5, 6, 11, 22)", "(5, 3, 13, 23)")),
    "lengths of key and value": ((QUERY, KEY, VALUE[:, :, :12]), ("one length", "(5, 3, 12, 19)")),
    "batch": ((QUERY, KEY[:1], VALUE[:1]), ("same batch", "(1, 3, 13, 23)")),
    "no heads": ((QUERY[0, 0], KEY[0, 0], VALUE[0, 0]), ("(*batch, heads, query_len, head_dim)", "(11, 23)")),
    "ranks": ((QUERY, KEY[0], VALUE[0]), ("(*batch, kv_heads, key_len, head_dim)", "(3, 13, 23)")),
    "dtypes": ((QUERY.double(), KEY, VALUE), ("one floating dtype", "float64", "float32")),
    "integers": ((QUERY.long(), KEY.long(), VALUE.long()), ("floating dtype", "int64")),
    "devices": ((QUERY.to("meta"), KEY, VALUE), ("key is on cpu", "query on meta", "one device")),
}


def assert_says(error: pytest.ExceptionInfo[ValueError], words: tuple[str, ...]) -> None:
    missing = [word for word in words if word not in str(error.value)]
    assert not missing, f"{missing} not in {error.value}"


@pytest.mark.parametrize("backend", [None, *hw.backends])
@pytest.mark.parametrize("wrong", OPTIONS)
def test_wrong_option(wrong: str, backend: str | None) -> None:
    options, words = OPTIONS[wrong]
    with pytest.raises(ValueError, match=r".") as error:
        options() if callable(options) else hw.attend(QUERY, KEY, VALUE, **{"backend": backend, **options})
    assert_says(error, words)


@pytest.mark.parametrize("function", [hw.attend, hw.attend_with_lse, hw.which_backend], ids=lambda f: f.__name__)
@pytest.mark.parametrize("wrong", TENSORS)
def test_tensors_that_do_not_fit(wrong: str, function: Callable[..., Any]) -> None:
    tensors, words = TENSORS[wrong]
    with pytest.raises(ValueError, match=r".") as error:
        function(*tensors)
    assert_says(error, words)


@pytest.mark.parametrize("backend", [None, *hw.backends])
def test_documents_need_a_position_for_every_query(backend: str | None) -> None:
    mask = hw.masks.documents(torch.zeros(5, 13).long())
    with pytest.raises(ValueError, match=r"13 ids for 13 keys and 17 queries.* at most as many queries as keys"):
        hw.attend(torch.randn(5, 6, 17, 23), KEY, VALUE, mask=mask, backend=backend)


def test_unknown_stage() -> None:
    with pytest.raises(ValueError, match="stage: expected 'product', 'capped', 'masked' or 'weights'; got 'scores'"):
        hw.attention_weights(QUERY, KEY, stage="scores")


MODULE = hw.MultiHeadAttention(24, 6)
BATCH_FIRST = torch.randn(3, 7, 24)
# What a user of torch.nn.MultiheadAttention writes, and what the message tells to write instead.
NEWCOMERS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "True = drop": (
        lambda: MODULE(BATCH_FIRST, mask=torch.ones(7, 7).triu(1).bool()),
        ("True = may attend", "True = drop", "hw.masks.causal()", "~mask"),
    ),
    "float mask of 0 and -inf": (
        lambda: MODULE(BATCH_FIRST, mask=nn.Transformer.generate_square_subsequent_mask(7)),
        ("bool tensor", "float32", "mask == 0"),
    ),
    "length first": (
        lambda: MODULE(torch.randn(5, 3, 24), torch.randn(7, 3, 24)),
        ("batch comes first", "x.transpose(0, 1)", "(5, 6, 3, 4)"),
    ),
    "length first, padding batch first": (
        lambda: MODULE(BATCH_FIRST.transpose(0, 1), mask=hw.masks.padding(torch.ones(3, 7).bool())),
        ("7 keys", "has 3", "batch first"),
    ),
    "heads after length": (
        lambda: hw.attend(torch.randn(3, 5, 6, 4), torch.randn(3, 7, 6, 4), torch.randn(3, 7, 6, 4)),
        ("(3, 5, 6, 4)", "x.transpose(-3, -2)"),
    ),
    "embed_dim not divisible": (
        lambda: hw.MultiHeadAttention(25, 6),
        ("embed_dim = 25", "num_heads = 6", "another number of heads", "head_dim"),
    ),
    "mask of the wrong rank": (
        lambda: MODULE(BATCH_FIRST, mask=torch.ones(3, 7, 7).bool()),
        ("(3, 6, 7, 7)", "(3, 7, 7)", "mask[:, None]"),
    ),
    "padding as a dense mask": (
        lambda: MODULE(BATCH_FIRST, mask=torch.ones(3, 7).bool()),
        ("query_len=7, key_len=7", "(3, 7)", "hw.masks.padding(keep)", "True = a real key"),
    ),
}


@pytest.mark.parametrize("call", NEWCOMERS)
def test_what_a_user_of_torchs_module_would_write(call: str) -> None:
    wrong, words = NEWCOMERS[call]
    with pytest.raises(ValueError, match=r".") as error:
        wrong()
    assert_says(error, words)


def test_only_the_strict_upper_triangle_is_taken_for_a_mistake() -> None:
    mask = torch.ones(7, 7).triu(1).bool()
    mask[-1, -1] = True
    for allowed in (mask, torch.ones(7, 7).triu().bool(), mask[:, :6], torch.zeros(7, 7).bool(), torch.ones(1, 1).bool()):
        hw.masks.dense(allowed)
