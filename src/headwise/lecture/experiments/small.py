"""One layer of attention that learns a made-up task: what the experiments on drawn sequences share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention.masks import Mask
from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import Rotary
from headwise.blocks.feed_forward import FeedForward
from headwise.blocks.layers import Layer, PreNorm

HELD_OUT = 2**31  # added to the seed of what a model is scored on; generators read 32 bits of a seed, so no larger number


class Drawn(NamedTuple):
    """Sequences of a task. inputs: several tokens at every position, whose embeddings are added. targets: what is to be said
    there, in one or several answers; -100 = nothing."""

    inputs: Int[Tensor, "batch length kinds"]
    targets: Int[Tensor, "batch length answers"]


Draw = Callable[[int, torch.Generator], Drawn]  # (how many sequences, generator)


class OneLayer(nn.Module):
    """Sum of embeddings -> self-attention -> feed-forward -> logits of every answer.

    vocabularies: how many tokens each kind of input has. answers, choices: how many things are said at every position, out
    of how many each. The number of heads splits the same projections: parameters are equal for all of them.
    """

    def __init__(
        self,
        vocabularies: Sequence[int],
        answers: int,
        choices: int,
        *,
        embed_dim: int,
        num_heads: int,
        position: Rotary | None = None,
        mask: Mask | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(tokens, embed_dim) for tokens in vocabularies)
        self.layer = Layer(
            lambda: PreNorm(nn.LayerNorm(embed_dim)),
            self_attention=MultiHeadAttention(embed_dim, num_heads, position=position),
            feed_forward=FeedForward(embed_dim, 4 * embed_dim),
        )
        self.norm, self.out = nn.LayerNorm(embed_dim), nn.Linear(embed_dim, answers * choices)
        self.choices, self.mask = choices, mask

    def forward(self, inputs: Int[Tensor, "batch length kinds"]) -> Float[Tensor, "batch length answers choices"]:
        x = torch.stack([embed(inputs[..., kind]) for kind, embed in enumerate(self.embeddings)]).sum(0)
        return self.out(self.norm(self.layer(x, self.mask))).unflatten(-1, (-1, self.choices))


def trained(make: Callable[[], OneLayer], draw: Draw, seed: int, steps: int, batch: int, lr: float) -> OneLayer:
    """Adam on fresh sequences in every step; the rate falls to 0 along a cosine. Equal seeds draw equal sequences,
    whatever the model."""
    torch.manual_seed(seed)
    model, generator = make(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        inputs, targets = draw(batch, generator)
        loss = functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def answers(model: OneLayer, drawn: Drawn) -> tuple[Int[Tensor, "batch length answers"], float]:
    """What the model says, and the cross-entropy of what it should say, in nats per answer."""
    logits = model(drawn.inputs)
    loss = functional.cross_entropy(logits.flatten(0, -2), drawn.targets.flatten(), ignore_index=-100)
    return logits.argmax(-1), float(loss)


def held_out(draw: Draw, seed: int, sequences: int) -> Drawn:
    """Sequences that no model of this seed was trained on."""
    return draw(sequences, torch.Generator().manual_seed(seed + HELD_OUT))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def check_equal(by_heads: Mapping[int, float | int]) -> None:
    """Raises ValueError where the numbers of heads that are compared do not have the same parameters."""
    if len(set(by_heads.values())) != 1:
        raise ValueError(f"expected equal parameters for every number of heads; got {by_heads}")
