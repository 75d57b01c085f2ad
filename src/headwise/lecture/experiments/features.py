"""How different the heads of trained models are: where they look, what they give, which subspaces they read.

Over the translation models with 8 heads. Similarities are those of pairs of heads within a layer, 1 = the same, beside those of
the same model before training; angles are those between the row spaces of two heads' projections, beside random matrices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from headwise.attention.module import MultiHeadAttention
from headwise.insight.measuring import similarity
from headwise.insight.observing.observe import observe
from headwise.lecture.experiments import translation
from headwise.lecture.experiments.experiment import Experiment, Workspace
from headwise.lecture.experiments.results import Numbers, key
from headwise.lecture.subspaces import bases, mean_angle, mean_of_pairs, subspaces
from headwise.models.transformer import Transformer
from headwise.tasks.pairs import read_pairs

KINDS = {"encoder": "encoder", "cross_attention": "cross", "decoder": "decoder"}  # the first that an address contains


@dataclass(frozen=True)
class Size:
    heads: int = 8
    sentences: int = 128
    trained: translation.Size = field(default_factory=translation.Size)


def run(seed: int, size: Size, workspace: Workspace) -> Numbers:
    """ "weights alike", "outputs alike": mean over pairs of heads and layers of a kind, trained and untrained; "angle": mean
    principal angle in degrees, trained and random."""
    return workspace.kept(f"features/seed {seed}", size, partial(_measure, seed, size, workspace))


def _measure(seed: int, size: Size, workspace: Workspace) -> Numbers:
    translator = translation.trained(seed, size.heads, size.trained, workspace)
    batch = translation.batch_of(translator, read_pairs(workspace.data, "valid")[: size.sentences])
    torch.manual_seed(seed)
    models = {"trained": translator.model, "untrained": Transformer(translator.model.config).eval()}
    found = Numbers()
    for state, model in models.items():
        found |= alike(model, batch, state)
    attentions = [each for each in translator.model.modules() if isinstance(each, MultiHeadAttention)]
    for name, projection in (("Q", "q_proj"), ("K", "k_proj"), ("V", "v_proj")):
        read = [subspaces(each, projection) for each in attentions]
        found[key("angle trained", projection=name)] = _mean(map(mean_angle, read))
        found[key("angle random", projection=name)] = _mean(mean_angle(bases(torch.randn(part.mT.shape))) for part in read)
    return found


@torch.no_grad()
def alike(model: nn.Module, batch: dict[str, Tensor], state: str) -> Numbers:
    """Mean similarity of two heads of a layer, by kind of attention."""
    with observe(model) as record:
        model(**batch)
    pairs = dict[tuple[str, str], list[float]]()
    for address in record:
        kind = next(KINDS[part] for part in KINDS if part in address)
        for what, measure in (("weights", similarity.weights), ("outputs", similarity.outputs)):
            pairs.setdefault((what, kind), []).append(mean_of_pairs(measure({address: record[address]}).matrix))
    return {key(f"{what} alike {state}", kind=kind): _mean(each) for (what, kind), each in pairs.items()}


def _mean(numbers: Iterable[float]) -> float:
    return float(torch.tensor(list(numbers), dtype=torch.float64).mean())


EXPERIMENT = Experiment(
    name="features",
    samples="128 sentences of valid, all pairs of heads within each of the 6 attentions",
    run=run,
    full=Size(),
    quick=Size(),
    reads=True,
)
