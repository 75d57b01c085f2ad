"""Made-up sentences in two languages, a tokenizer that learned from them, and models that learned nothing."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from tokenizers import Tokenizer

from headwise.models.transformer import Transformer, TransformerConfig
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


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Transformer]:
    """Makes models, in float64, with peaked outputs that change from step to step and do end now and then."""

    def make(seed: int, vocab_size: int = 11, max_positions: int = 17) -> Transformer:
        torch.manual_seed(seed)
        config = TransformerConfig(
            vocab_size=vocab_size,
            embed_dim=12,
            num_heads=2,
            num_encoder_layers=1,
            num_decoder_layers=2,
            feedforward_dim=17,
            norm="pre",
            max_positions=max_positions,
        )
        model = Transformer(config).double().eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.8)
        torch.nn.init.normal_(model.embedding.weight, std=0.3)
        torch.nn.init.normal_(model.decoder.norm.weight, std=4.0)
        with torch.no_grad():
            model.embedding.weight[config.eos_token_id] *= 1.5
        return model

    return make
