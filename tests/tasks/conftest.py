"""Made-up sentences in two languages, and a tokenizer that learned from them."""

from itertools import product

import pytest
from tokenizers import Tokenizer

from headwise.tasks.tokens import train_tokenizer


@pytest.fixture(scope="session")
def sentences() -> list[tuple[str, str]]:
    who = [("I", "我"), ("My brother", "我弟弟"), ("The old teacher", "老教师"), ("Tom", "汤姆"), ("Nobody", "没有人")]
    does = [("reads", "读"), ("didn't like", "不喜欢"), ("wrote", "写了"), ("has lost", "丢了")]
    what = [
        ("3 books", "3本书"),
        ("a café menu", "café的菜单"),
        ("the red-brown letter", "红棕色的信"),
        ("an iPhone", "iPhone 手机"),
    ]
    ends = [(".", "。"), ('!" he said, "again?"', "！”他说，“又来了？”")]
    pairs = []
    for (a, x), (b, y), (c, z), (d, e) in product(who, does, what, ends):
        quote = ('"', "“") if len(d) > 1 else ("", "")
        pairs.append((f"{quote[0]}{a} {b} {c}{d}", f"{quote[1]}{x}{y}{z}{e}"))
    return pairs[:100]


@pytest.fixture(scope="session")
def tokenizer(sentences: list[tuple[str, str]]) -> Tokenizer:
    return train_tokenizer((side for pair in sentences for side in pair), 1000)
