"""Long-range dependencies: accuracy by distance, for one head and for several.

Position i holds a token and a distance d_i; it is to say the token d_i places before it. One layer with rotary positions
(Su et al. 2021) can: the query turns d_i into the rotation that brings its own place onto the wanted one. How sharply a head
can point far away depends on the frequencies it has, head_dim / 2 of them, so that more heads of the same total width see more
places at once, each less sharply.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from headwise.attention import masks
from headwise.attention.positions import Rotary
from headwise.lecture.experiments.experiment import Experiment, Workspace
from headwise.lecture.experiments.results import Numbers, key
from headwise.lecture.experiments.small import (
    Drawn,
    OneLayer,
    answers,
    check_equal,
    held_out,
    parameters,
    trained,
)


@dataclass(frozen=True)
class Size:
    """Every distance up to ``farthest`` is asked for alike; ``reported`` are those that the results name. lr: the same for all,
    the better for one head of 0.003 and 0.01 at a seed that is not reported."""

    heads: tuple[int, ...] = (1, 2, 4, 8, 16)
    farthest: int = 64
    reported: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 48, 64)
    length: int = 128
    tokens: int = 16
    embed_dim: int = 32
    steps: int = 600
    batch: int = 16
    lr: float = 1e-2
    held_out: int = 512


def draw(sequences: int, generator: torch.Generator, length: int, tokens: int, farthest: int) -> Drawn:
    """Inputs (token, distance), uniform; the target is the token so far back, -100 where the sequence had not begun."""
    token = torch.randint(tokens, (sequences, length), generator=generator)
    distance = torch.randint(1, farthest + 1, (sequences, length), generator=generator)
    source = torch.arange(length) - distance
    target = token.gather(1, source.clamp(min=0)).masked_fill(source < 0, -100)
    return Drawn(torch.stack([token, distance], dim=-1), target[..., None])


def run(seed: int, size: Size, workspace: Workspace) -> Numbers:
    """accuracy at every distance; loss: nats per answer over all of them."""
    found = Numbers()
    for heads in size.heads:
        found |= workspace.kept(f"distance/{heads} heads, seed {seed}", size, partial(_one, seed, heads, size))
    check_equal({heads: found[key("parameters", heads=heads)] for heads in size.heads})
    return found


def _one(seed: int, heads: int, size: Size) -> Numbers:
    draws = partial(draw, length=size.length, tokens=size.tokens, farthest=size.farthest)
    kinds = (size.tokens, size.farthest + 1)
    how = {"embed_dim": size.embed_dim, "num_heads": heads, "position": Rotary(), "mask": masks.causal()}
    model = trained(partial(OneLayer, kinds, 1, size.tokens, **how), draws, seed, size.steps, size.batch, size.lr)
    drawn = held_out(draws, seed, size.held_out)
    said, loss = answers(model, drawn)
    right, distance = (said == drawn.targets)[..., 0], drawn.inputs[..., 1].masked_fill(drawn.targets[..., 0] == -100, 0)
    by_distance = {
        key("accuracy", heads=heads, distance=at): float(right[distance == at].double().mean()) for at in size.reported
    }
    return by_distance | {key("loss", heads=heads): loss, key("parameters", heads=heads): parameters(model)}


EXPERIMENT = Experiment(
    name="distance",
    samples="512 held-out sequences of 128 positions for every model, a distance asked for at every position",
    run=run,
    full=Size(),
    quick=Size(heads=(1, 8)),
    seeds=(0, 1, 2, 3, 4),
)
