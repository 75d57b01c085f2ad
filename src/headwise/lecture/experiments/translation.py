"""Quality by number of heads at constant parameters, on English to Chinese: after Vaswani et al. 2017, table 3 (A).

Their base model with 1, 4, 8, 16 and 32 heads, d_k = d_v = d_model / heads: 24.9, 25.5, 25.8, 25.8 and 25.4 BLEU.
Ours is small and trained for minutes, by the recipe of ``headwise train translate``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch.nn import functional

from headwise.lecture.experiments.experiment import Experiment, Workspace
from headwise.lecture.experiments.results import Numbers, key
from headwise.lecture.experiments.small import check_equal, parameters
from headwise.tasks.pairs import collate, read_pairs
from headwise.tasks.recipe import Recipe
from headwise.tasks.scoring import bleu
from headwise.tasks.training import train
from headwise.tasks.translate import Search, Translator

AT_ONCE = 64  # sentences in a batch of measuring


@dataclass(frozen=True)
class Size:
    """What is trained: every number of heads with one recipe, so that only the split into heads differs."""

    heads: tuple[int, ...] = (1, 4, 8, 16, 32)
    epochs: int = 2
    vocab_size: int = 5000
    embed_dim: int = 128
    num_layers: int = 2
    feedforward_dim: int = 512
    max_positions: int = 64
    dropout: float = 0.1
    tokens: int = 1600
    warmup_steps: int = 500
    lr_scale: float = 1.0

    def recipe(self, heads: int, seed: int) -> Recipe:
        shared = {name: value for name, value in asdict(self).items() if name not in ("heads", "epochs")}
        return Recipe(seed=seed, num_heads=heads, average=1, **shared)


def run(seed: int, size: Size, workspace: Workspace) -> Numbers:
    """loss: nats per target token of valid, without label smoothing; bleu: greedy, valid (which chose the epoch, too)."""
    found = Numbers()
    for heads in size.heads:
        name = f"{folder(seed, heads)} scores"
        found |= workspace.kept(name, size, partial(_scores, seed, heads, size, workspace))
    check_equal({heads: found[key("parameters", heads=heads)] for heads in size.heads})
    return found


def folder(seed: int, heads: int) -> str:
    return f"translation/{heads} heads, seed {seed}"


def trained(seed: int, heads: int, size: Size, workspace: Workspace) -> Translator:
    """The model of one condition: trained here, or before; interrupted training goes on."""
    out = workspace.runs / folder(seed, heads)
    if not (out / "README.md").exists():  # the last that training writes
        train(workspace.data, out, size.recipe(heads, seed), epochs=size.epochs, patience=size.epochs)
    return Translator.load(out)


def _scores(seed: int, heads: int, size: Size, workspace: Workspace) -> Numbers:
    translator = trained(seed, heads, size, workspace)
    pairs = read_pairs(workspace.data, "valid")
    sources, references = zip(*pairs, strict=True)
    return {
        key("loss", heads=heads): held_out_loss(translator, pairs),
        key("bleu", heads=heads): bleu(translator.translate(sources, Search(beams=1)), references),
        key("parameters", heads=heads): parameters(translator.model),
    }


@torch.no_grad()
def held_out_loss(translator: Translator, pairs: list[tuple[str, str]]) -> float:
    """Nats per target token, the end token included."""
    nats, tokens, ordered = 0.0, 0, sorted(pairs, key=lambda pair: len(pair[0]))
    for start in range(0, len(ordered), AT_ONCE):
        batch = batch_of(translator, ordered[start : start + AT_ONCE])
        logits = translator.model(**batch).logits.transpose(1, 2)
        nats += float(functional.cross_entropy(logits, batch["labels"], reduction="sum"))
        tokens += int((batch["labels"] != -100).sum())
    return nats / tokens


def batch_of(translator: Translator, pairs: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    return collate(translator.encode_pairs(pairs), translator.model.config.pad_token_id)


EXPERIMENT = Experiment(
    name="translation",
    samples="valid: 1,500 held-out sentences for every model",
    run=run,
    full=Size(),
    quick=Size(heads=(8,)),
    reads=True,
)
