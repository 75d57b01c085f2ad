"""How many heads can be ablated after training (after Michel et al. 2019, sections 3 and 4).

Over the translation models with 8 heads: 48 heads in 6 attentions. One at a time, on half of the sentences, which also ranks
them; then all together, the least important first, on the other half, until the loss is a tenth worse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from headwise.insight.operating.gates import gates
from headwise.insight.operating.importance import Importance, leave_one_out
from headwise.lecture.experiments import translation
from headwise.lecture.experiments.experiment import Experiment, Workspace
from headwise.lecture.experiments.results import Numbers, key
from headwise.models.transformer import Transformer
from headwise.tasks.pairs import read_pairs

WORSE = 1.10  # times the loss with all heads


@dataclass(frozen=True)
class Size:
    """sentences: for ranking, and as many others for removal; at_once: in a batch, over which intervals are drawn."""

    heads: int = 8
    sentences: int = 400
    at_once: int = 8
    trained: translation.Size = field(default_factory=translation.Size)


def run(seed: int, size: Size, workspace: Workspace) -> Numbers:
    """ "share needed": heads whose absence costs loss, its paired 95 % interval above 0. "share spared": heads that can go
    together before the loss is a tenth worse. "loss": by how many were removed. "cost": of the least and the dearest head."""
    return workspace.kept(f"ablation/seed {seed}", size, partial(_measure, seed, size, workspace))


def _measure(seed: int, size: Size, workspace: Workspace) -> Numbers:
    translator = translation.trained(seed, size.heads, size.trained, workspace)
    model, pairs = translator.model, read_pairs(workspace.data, "valid")
    model.label_smoothing = 0.0
    ranked, others = (
        [translation.batch_of(translator, pairs[at : at + size.at_once]) for at in range(start, end, size.at_once)]
        for start, end in ((0, size.sentences), (size.sentences, 2 * size.sentences))
    )
    costs = leave_one_out(model, ranked)
    low, value = (torch.cat(list(numbers.values())) for numbers in (costs.low, costs.value))
    losses = removed_in_turn(model, costs, others)
    spared = next((removed for removed, loss in enumerate(losses) if loss > WORSE * losses[0]), len(losses)) - 1
    found = {
        "share needed": float((low > 0).double().mean()),
        "share spared": spared / len(value),
        "cost of the least": float(value.min()),
        "cost of the dearest": float(value.max()),
    }
    return found | {key("loss", removed=removed): loss for removed, loss in enumerate(losses)}


@torch.no_grad()
def removed_in_turn(model: Transformer, costs: Importance, batches: list[dict[str, Tensor]]) -> list[float]:
    """The loss in nats per token with 0, 1, ... all heads closed, the least important first."""
    open_ones = {address: torch.ones(len(value)) for address, value in costs.value.items()}
    losses = [_loss(model, open_ones, batches)]
    for address, head in reversed(costs.ranking()):
        open_ones[address][head] = 0.0
        losses.append(_loss(model, open_ones, batches))
    return losses


def _loss(model: Transformer, open_ones: dict[str, Tensor], batches: list[dict[str, Tensor]]) -> float:
    nats, tokens = 0.0, 0
    with gates(model, open_ones):
        for batch in batches:
            count = int((batch["labels"] != -100).sum())
            nats, tokens = nats + float(model(**batch).loss) * count, tokens + count
    return nats / tokens


EXPERIMENT = Experiment(
    name="ablation",
    samples="400 sentences of valid for ranking, 400 others for removal",
    run=run,
    full=Size(),
    quick=Size(),
    reads=True,
)
