"""Every number that a look shows is the formula's; labels say which axis is what."""

import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from headwise.cli.common import SHIPPED
from headwise.explorer import picture, terminal
from headwise.explorer.look import Look, look
from headwise.models.transformer import Transformer, TransformerConfig
from headwise.tasks.pairs import read_pairs
from headwise.tasks.tokens import train_tokenizer
from headwise.tasks.translate import Search, Translator, search

SENTENCES = ["Tom likes the sea.", "We see the tree.", "The tree is tall, Tom."]


@pytest.fixture
def translator() -> Translator:
    tokenizer = train_tokenizer([*SENTENCES, "汤姆喜欢海。", "树很高。"], 90)
    model = Transformer(TransformerConfig(tokenizer.get_vocab_size(), 24, 3, 2, 2, 29, max_positions=37))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Translator(model.eval(), tokenizer, "LATIN")


def by_the_formula(model: Transformer, source: list[int], read: list[int]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(weights, output) of every attention of a post-norm Transformer, from its state dict alone, in float64."""
    state = {name: x.double() for name, x in model.state_dict().items()}
    heads, width = model.config.num_heads, model.config.embed_dim
    found = {}

    def embed(ids: list[int]) -> torch.Tensor:
        table = torch.zeros(len(ids), width).double()
        for p in range(len(ids)):
            for m in range(width):
                angle = p * 10000 ** (-(m - m % 2) / width)
                table[p, m] = math.cos(angle) if m % 2 else math.sin(angle)
        return state["embedding.weight"][ids] * width**0.5 + table

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def attention(name: str, x: torch.Tensor, y: torch.Tensor, causal: bool) -> torch.Tensor:
        q, k, v = (
            linear(f"{name}.{part}_proj", z).view(len(z), heads, -1).transpose(0, 1)
            for part, z in (("q", x), ("k", y), ("v", y))
        )
        s = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if causal:
            s = s + torch.full(s.shape[1:], -torch.inf).double().triu(1)
        e = (s - s.amax(-1, keepdim=True)).exp()
        p = e / e.sum(-1, keepdim=True)
        output = linear(f"{name}.out_proj", (p @ v).transpose(0, 1).flatten(1))
        found[name] = (p, output)
        return output

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * state[f"{name}.norm.weight"] + state[f"{name}.norm.bias"]

    def feed(name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(f"{name}.contract", linear(f"{name}.expand", x).clamp(min=0))

    x, y = embed(source), embed(read)
    for i in range(model.config.num_encoder_layers):
        at = f"encoder.layers.{i}"
        x = norm(f"{at}.residuals.0", x + attention(f"{at}.self_attention", x, x, causal=False))
        x = norm(f"{at}.residuals.1", x + feed(f"{at}.feed_forward", x))
    for i in range(model.config.num_decoder_layers):
        at = f"decoder.layers.{i}"
        y = norm(f"{at}.residuals.0", y + attention(f"{at}.self_attention", y, y, causal=True))
        y = norm(f"{at}.residuals.1", y + attention(f"{at}.cross_attention", y, x, causal=False))
        y = norm(f"{at}.residuals.2", y + feed(f"{at}.feed_forward", y))
    return found


def check(translator: Translator, sentence: str) -> Look:
    """Every number of the JSON against the formula."""
    seen = look(translator, sentence, Search())
    data = json.loads(json.dumps(asdict(seen), ensure_ascii=False))
    tokenizer, model = translator.tokenizer, translator.model
    source = tokenizer.encode(sentence).ids
    found = search(model, [source], Search())[0]
    read = [model.config.bos_token_id, *found.tokens][: model.config.max_positions]
    names = {
        side: [tokenizer.id_to_token(i).replace("▁", "") or "␣" for i in ids] for side, ids in (("s", source), ("t", read))
    }
    sides = {"encoder": ("s", "s"), "decoder": ("t", "t"), "cross": ("t", "s")}
    for layer in data["layers"]:
        assert [layer["query_tokens"], layer["key_tokens"]] == [names[side] for side in sides[layer["kind"]]]
    assert data["predicted"][:-1] == names["t"][1:]
    expected = by_the_formula(model, source, read)
    for layer in data["layers"]:
        p, _ = expected[layer["address"]]
        assert layer["output_difference"] < 1e-4
        queries, keys = p.shape[1:]
        assert (len(layer["query_tokens"]), len(layer["key_tokens"])) == (queries, keys)
        for h, head in enumerate(layer["heads"]):
            row = p[h]
            entropy = -(row * row.clamp(min=1e-300).log()).sum(-1).mean()
            mean = row.mean(0)
            distance = (row * (torch.arange(queries)[:, None] - torch.arange(keys)).abs()).sum(-1).mean()
            numbers = {
                "weights": row,
                "entropy": entropy,
                "alignment": -(mean * mean.clamp(min=1e-300).log()).sum() - entropy,
                "first": row[:, 0].mean(),
                "last": row[:, -1].mean(),
            }
            for name, number in numbers.items():
                torch.testing.assert_close(torch.tensor(head[name]).double(), number, rtol=1e-4, atol=2e-5, msg=name)
            if layer["kind"] == "cross":
                assert head["distance"] is None
            else:
                assert head["distance"] == pytest.approx(distance.item(), rel=1e-4, abs=2e-5)
    layer = data["layers"][data["best_layer"]]
    p, output = expected[layer["address"]]
    every = [(head["alignment"], i, h) for i, one in enumerate(data["layers"]) if one["kind"] == "cross"
             for h, head in enumerate(one["heads"])]  # fmt: skip
    assert max(every)[1:] == (data["best_layer"], data["best_head"])
    steps, row = {step["name"]: step for step in data["steps"]}, data["step_query"]
    torch.testing.assert_close(
        torch.tensor(steps["softmax"]["values"]).double(), p[data["best_head"], row], rtol=1e-4, atol=2e-5
    )
    torch.testing.assert_close(torch.tensor(steps["output"]["values"]).double(), output[row], rtol=1e-3, atol=1e-4)
    assert steps["softmax"]["shape"] == list(p.shape)
    return seen


@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_number_is_the_formulas(translator, sentence):
    check(translator, sentence)


def test_ten_sentences_of_valid_with_the_shipped_model(tatoeba):
    translator = Translator.load(SHIPPED)
    for sentence, _ in read_pairs(tatoeba, "valid")[:10]:
        check(translator, sentence)


def copying(translator: Translator, head: int) -> None:
    """Makes one cross-attention head look, from target position i, at source position i, whatever the tokens are."""
    model = translator.model
    module, width = model.decoder.layers[0].cross_attention, model.config.embed_dim
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    for residual in (*model.encoder.layers, *model.decoder.layers):
        for one in residual.residuals:
            torch.nn.init.ones_(one.norm.weight)
    size = width // model.config.num_heads
    rows = slice(head * size, (head + 1) * size)
    with torch.no_grad():  # the leading channels hold the fastest sinusoids of the position, on both sides
        module.q_proj.weight[rows, :size] = 9 * torch.eye(size)
        module.k_proj.weight[rows, :size] = 9 * torch.eye(size)


def test_rows_are_queries_for_a_head_built_to_copy(translator):
    """A hand-built head from target position i to source position i, the two of unequal length."""
    copying(translator, head=1)
    seen = look(translator, SENTENCES[2], Search(beams=1, extra_tokens=3))
    layer = next(layer for layer in seen.layers if layer.address == "decoder.layers.0.cross_attention")
    weights = torch.tensor(layer.heads[1].weights)
    queries, keys = weights.shape
    assert queries != keys
    assert (queries, keys) == (len(layer.query_tokens), len(layer.key_tokens))
    assert layer.query_tokens[0] == "<s>"
    assert layer.key_tokens[-1] == "</s>"
    both = min(queries, keys)
    assert torch.equal(weights[:both].argmax(1), torch.arange(both))
    assert weights[range(both), range(both)].min() > 0.5
    assert layer.heads[1].seems == "aligns"
    assert layer.heads[0].seems == "spreads"
    assert (seen.best_layer, seen.best_head) == (seen.layers.index(layer), 1)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_terminal_shows_all_heads_and_labels(translator, width):
    seen = look(translator, SENTENCES[2])
    console = Console(width=width, record=True, file=io.StringIO())
    terminal.show(seen, console)
    text = console.export_text()
    assert seen.translation in text.replace("\n", "")
    layer = seen.layers[seen.best_layer]
    for query, after in zip(layer.query_tokens, seen.predicted, strict=True):
        assert f"{query} → {after}" in text
    for token in layer.key_tokens:
        assert token in text
    assert "query \\ key" in text
    assert "largest difference" in text
    shown = text.partition("Means over queries")[0]
    assert sum(shown.count(seems) for seems in {head.seems for one in seen.layers for head in one.heads}) == 18


def test_an_empty_translation_and_odd_characters_are_shown(translator, tmp_path):
    end = translator.model.config.eos_token_id
    with torch.no_grad():
        translator.model.embedding.weight[:] = -1.0
        translator.model.embedding.weight[end] = 1.0
        translator.model.decoder.layers[-1].residuals[-1].norm.weight.zero_()
        translator.model.decoder.layers[-1].residuals[-1].norm.bias.fill_(1.0)
    seen = look(translator, "I paid $x_{ for\t$3.\r\n\x1b[31m")
    assert (seen.translation, seen.predicted) == ("", ["</s>"])
    assert seen.sentence == "I paid $x_{ for $3. [31m"
    picture.save(seen, tmp_path / "look.png")
    terminal.show(seen, Console(file=io.StringIO()))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture_has_one_scale_and_says_query_and_key(translator, tmp_path, suffix):
    seen = look(translator, SENTENCES[0])
    figure = picture.draw(seen)
    tiles = [image for ax in figure.axes for image in ax.images]
    assert len(tiles) == 18 + 1
    assert {image.get_clim() for image in tiles} == {(0.0, 1.0)}
    large = tiles[-1]
    layer = seen.layers[seen.best_layer]
    torch.testing.assert_close(
        torch.tensor(large.get_array()).double(), torch.tensor(layer.heads[seen.best_head].weights).double()
    )
    assert large.axes.get_xlabel().startswith("key")
    assert large.axes.get_ylabel().startswith("query")
    assert [label.get_text() for label in large.axes.get_xticklabels()] == layer.key_tokens
    path = tmp_path / f"look{suffix}"
    picture.save(seen, path)
    if suffix == ".png":
        with Image.open(path) as image:
            assert image.size == (1760, 990)
    else:
        assert path.read_text().lstrip().startswith("<?xml")


def test_chinese_glyphs_are_drawn_or_missed_in_words(translator, monkeypatch, tmp_path):
    seen = look(translator, SENTENCES[0])
    seen = Look(**{**{name: getattr(seen, name) for name in seen.__dataclass_fields__}, "translation": "汤姆喜欢海。"})
    picture.save(seen, tmp_path / "look.png")  # a missing glyph is an error
    monkeypatch.setattr(picture, "findSystemFonts", list)
    with pytest.raises(picture.NoFont, match="apt-get install"):
        picture.save(seen, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    assert [path.name for path in Path(tmp_path).iterdir()] == ["look.png"]
