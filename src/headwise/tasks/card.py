"""The card beside a trained model: what it is, what it was trained on, how, and how good it is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from headwise.models.checkpoint.heads import attentions
from headwise.models.transformer import Transformer
from headwise.tasks.pairs import read_pairs
from headwise.tasks.recipe import Recipe, sizes
from headwise.tasks.scoring import score
from headwise.tasks.translate import Search, Translator

CARD = """\
# Translation model

A Transformer encoder-decoder ("Attention is all you need", Vaswani et al. 2017; {norm}-norm) of {parameters:,} parameters:
{embed_dim} wide, {num_layers} + {num_layers} layers, {heads}, a vocabulary of {vocab_size:,} shared by both sides.
Weights are stored in float16 and computed with in float32.

## Scores on valid ({sentences} sentences, one reference each, never trained on; chosen epochs were tuned on it)

| search | sacreBLEU, 95 % interval | command |
| --- | --- | --- |
| beam 4, length penalty 0.6 | {beam:.2f} ± {beam_interval:.2f} | `headwise evaluate translate --data {data} --model HERE` |
| greedy | {greedy:.2f} ± {greedy_interval:.2f} | `headwise evaluate translate --data {data} --model HERE --beams 1` |

sacreBLEU signature: `{signature}`

## How it was trained

`headwise train translate --data {data}{begun} --epochs {epochs} --patience {patience}{settings}`

{pairs:,} pairs, epochs: {epochs_run}, seed {seed}, batches of about {tokens} tokens, dropout {dropout}, label smoothing
{label_smoothing}, Adam (0.9, 0.98), inverse-square-root schedule with {warmup_steps} warm-up steps; the weights are the mean
of those after the best epochs on valid (greedy): {averaged} of them.{start}

## What it cannot do

It knows short sentences of the kind it was trained on, and its vocabulary. It gives no measure of doubt, and repeats what its
data hold, the errors too.

## The data, in the words of their own README

{about}
"""


START = """

It began with the weights, the heads and the tokenizer of `{name}`; how those came about, that model's own card says."""


def write_card(translator: Translator, data: Path, recipe: Recipe, start: Path | None = None, **run: int) -> str:
    """The card as Markdown, with scores measured now. start: the model's folder that training began with. run: pairs, epochs,
    patience, epochs_run, averaged."""
    sources, references = zip(*read_pairs(data, "valid"), strict=True)
    beam, greedy = (score(translator.translate(sources, how), references) for how in (Search(), Search(beams=1)))
    defaults = asdict(Recipe()) | ({} if start is None else sizes(translator.model.config))
    settings = "".join(f" --set {name}={value}" for name, value in asdict(recipe).items() if value != defaults[name])
    readme = data / "README.md"
    return CARD.format(
        **asdict(recipe) | {"vocab_size": translator.tokenizer.get_vocab_size()},
        label_smoothing=translator.model.config.label_smoothing,
        heads=_heads(translator.model),
        begun="" if start is None else f" --from {start.name}",
        start="" if start is None else START.format(name=start.name),
        parameters=sum(parameter.numel() for parameter in translator.model.parameters()),
        sentences=beam.sentences,
        beam=beam.bleu,
        beam_interval=beam.interval,
        greedy=greedy.bleu,
        greedy_interval=greedy.interval,
        signature=beam.signature,
        data=data.name,
        **run,
        settings=settings,
        about=readme.read_text(encoding="utf-8").replace("\n#", "\n###").lstrip("# ")
        if readme.is_file()
        else f"{data.name}: none given.",
    )


def _heads(model: Transformer) -> str:
    """How many a layer has, or all layers together where they differ."""
    counts = [(module.num_heads, module.num_kv_heads) for module in attentions(model).values()]
    heads, kv_heads = counts[0] if len(set(counts)) == 1 else map(sum, zip(*counts, strict=True))
    where = "" if len(set(counts)) == 1 else f" in {len(counts)} attention modules"
    return f"{heads} heads{where}" + ("" if heads == kv_heads else f" ({kv_heads} for keys and values)")
