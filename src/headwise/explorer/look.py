"""What every head of a translation model looked at on one sentence, as plain data that all views draw from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from headwise.attention.module import MultiHeadAttention
from headwise.attention.record import Recorded
from headwise.insight.measuring.statistics import MEANS, HeadStatistics, statistics
from headwise.insight.observing.observe import attention_modules, observe
from headwise.tasks.tokens import SPACE
from headwise.tasks.translate import Search, Translator, search

# The kinds of attention, in the order they are shown, and which side their queries and keys come from.
KINDS = {"encoder": ("source", "source"), "decoder": ("target", "target"), "cross": ("target", "source")}


@dataclass(frozen=True)
class Head:
    """One head on one sentence.

    weights: (queries, keys), row = query. The numbers are those of ``HeadStatistics``, and last, the share on the last key.
    seems: what the numbers suggest; a description of where the head looks, not an explanation of what it is for.
    """

    weights: list[list[float]]
    entropy: float
    alignment: float
    distance: float | None
    first: float
    last: float
    seems: str


@dataclass(frozen=True)
class Layer:
    """The heads of one attention module. output_difference: max abs(sum_h z_h W_O^h + b - output of the module)."""

    address: str
    kind: str
    query_tokens: list[str]
    key_tokens: list[str]
    heads: list[Head]
    output_difference: float


@dataclass(frozen=True)
class Step:
    """One step of the computation: what it makes, its shape (one sentence), and the values at one query of one head."""

    name: str
    formula: str
    shape: list[int]
    values: list[float]


@dataclass(frozen=True)
class Look:
    """A sentence, its translation, every head, and the steps of one.

    Decoder rows are the tokens that the decoder read; ``predicted`` is what it wrote after each. best_layer (an index into
    layers) and best_head: the cross-attention head of the largest alignment. steps: that head's, at the query step_query.
    """

    sentence: str
    translation: str
    predicted: list[str]
    layers: list[Layer]
    best_layer: int
    best_head: int
    step_query: int
    steps: list[Step]


@torch.no_grad()
def look(translator: Translator, sentence: str, how: Search | None = None) -> Look:
    """Translates a sentence, reads the translation once more in one observed pass, and describes every head.

    Raises ValueError for a sentence that the model cannot read."""
    translator.check(sentence)
    model, tokenizer = translator.model, translator.tokenizer
    source = translator.encode([sentence])[0]
    found = search(model, [source], how or Search())[0]
    read = [model.config.bos_token_id, *found.tokens][: model.config.max_positions]
    with observe(model) as record, _inputs_and_outputs(model) as passed:
        model(torch.tensor([source]), decoder_input_ids=torch.tensor([read]))
    numbers = statistics(record)
    tokens = {"source": names(tokenizer, source), "target": names(tokenizer, read)}
    layers = []
    for kind, (queries, keys) in KINDS.items():
        for address in record:
            if _kind(address) == kind:
                heads = _heads(record[address][0], numbers[address], tokens[keys])
                difference = _output_difference(_module(model, address), record[address][0], passed[address][-1])
                layers.append(Layer(address, kind, tokens[queries], tokens[keys], heads, difference))
    best_layer, best_head = _best_aligning(layers)
    layer = layers[best_layer]
    query = _sharpest(layer.heads[best_head].weights)
    address = layer.address
    steps = _steps(_module(model, address), record[address][0], passed[address], best_head, query)
    predicted = [*names(tokenizer, found.tokens), "</s>" if found.ended else "…"][: len(read)]
    return Look(_printable(sentence), tokenizer.decode(found.tokens), predicted, layers, best_layer, best_head, query, steps)


def _heads(call: Recorded, numbers: HeadStatistics, keys: list[str]) -> list[Head]:
    weights = call.weights(batch=0)
    uniform = call.allowed()[0].sum(-1).log().mean(-1)  # the entropy of looking at everything alike
    heads = []
    for h, p in enumerate(weights):
        at = {name: None if (number := getattr(numbers, name)) is None else number[h].item() for name in MEANS}
        last = p[:, -1].mean().item()
        seems = _seems(at, p, uniform[h].item(), keys)
        heads.append(
            Head(p.tolist(), at["entropy"], at["alignment"], at["distance"], at["first"], last, seems)  # type: ignore[arg-type]
        )
    return heads


def _seems(at: dict[str, float | None], p: Tensor, uniform: float, keys: list[str]) -> str:
    """The place where half of the weight goes; else, across two sequences, how well the head aligns them; else the place
    or key where a third of it goes ("partly"); else whether it spreads over nearly everything allowed, or is mixed."""
    places = {
        "previous token": at["previous"],
        "next token": at["next"],
        "itself": at["own"],
        "last token": p[:, -1].mean().item(),
        "first token": at["first"],
    }
    name, share = max(((name, share or 0.0) for name, share in places.items()), key=lambda place: place[1])
    received, key = p.mean(0).max(0)
    aligned = (at["alignment"] or 0.0) / log(max(2, len(keys)))
    if share >= 0.5:
        return name
    if at["distance"] is None and aligned >= 0.3:
        return "aligns" if aligned >= 0.5 else "aligns loosely"
    if share >= 1 / 3:
        return f"partly {name}"
    if received >= 1 / 3:
        return f"partly “{keys[int(key)]}”"
    return "spreads" if (at["entropy"] or 0.0) >= 0.8 * uniform else "mixed"


def _best_aligning(layers: list[Layer]) -> tuple[int, int]:
    places = [(i, h) for i, layer in enumerate(layers) if layer.kind == "cross" for h in range(len(layer.heads))]
    return max(places, key=lambda at: layers[at[0]].heads[at[1]].alignment)


def _sharpest(weights: list[list[float]]) -> int:
    return max(range(len(weights)), key=lambda row: max(weights[row]))


def _output_difference(module: MultiHeadAttention, call: Recorded, output: Tensor) -> float:
    """How far the heads, each through its own columns of W_O, are from the module's output when summed."""
    columns = module.out_proj.weight.unflatten(1, (call.num_heads, -1))  # embed_dim heads value_dim
    parts = torch.einsum("bhqv,ehv->hbqe", call.head_outputs, columns)
    return (parts.sum(0) + module.out_proj.bias - output).abs().max().item()


def _steps(module: MultiHeadAttention, call: Recorded, passed: tuple[Tensor, ...], head: int, row: int) -> list[Step]:
    """Head ``head`` at query ``row``, from the module's inputs to its output."""
    query, key, output = passed
    projected = module.q_proj(query)
    joined = module.concatenate(call.head_outputs)
    at = {"batch": 0, "head": head, "rows": slice(row, row + 1)}
    steps = [
        ("query input", "x", query, query[0, row]),
        ("key input", "y (its first position)", key, key[0, 0]),
        ("project", "x W_Q + b_Q", projected, projected[0, row]),
        ("split", "q = this head's part", call.query, call.query[0, head, row]),
        ("scores", "s = q . k / sqrt(head_dim)", call.weights(stage="product"), call.weights(**at, stage="product")[0]),
        ("mask", "s, -inf where forbidden", call.weights(stage="masked"), call.weights(**at, stage="masked")[0]),
        ("softmax", "p = softmax(s), sums to 1", call.weights(), call.weights(**at)[0]),
        ("context", "z = sum_j p_j v_j", call.head_outputs, call.head_outputs[0, head, row]),
        ("concatenate", "all heads side by side", joined, joined[0, row]),
        ("output", "sum_h z_h W_O^h + b_O", output, output[0, row]),
    ]
    return [Step(name, formula, list(whole.shape[1:]), values.tolist()) for name, formula, whole, values in steps]


@contextmanager
def _inputs_and_outputs(model: nn.Module) -> Iterator[dict[str, tuple[Tensor, ...]]]:
    """Query input, key input and output of every attention module, by address, while the model runs."""
    passed: dict[str, tuple[Tensor, ...]] = {}

    def hook(address: str):
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            passed[address] = (inputs[0], inputs[-1], output)

        return keep

    handles = [model.get_submodule(address).register_forward_hook(hook(address)) for address in attention_modules(model)]
    try:
        yield passed
    finally:
        for handle in handles:
            handle.remove()


def _module(model: nn.Module, address: str) -> MultiHeadAttention:
    module = model.get_submodule(address)
    assert isinstance(module, MultiHeadAttention)
    return module


def _kind(address: str) -> str:
    return "cross" if address.endswith("cross_attention") else address.split(".")[0]


def _printable(text: str) -> str:
    """Text for a title: one line, nothing that a terminal or a picture would obey."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def names(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Tokens as a reader knows them: the mark of a word's beginning is dropped unless it is all there is."""
    return [(tokenizer.id_to_token(i) or "").removeprefix(SPACE) or "␣" for i in ids]
