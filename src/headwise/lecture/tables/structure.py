"""Tables 1 and 3 to 7: what was measured on a recorded run, and what the formula says of it."""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from statistics import mean, median

import torch
from torch import Tensor

from headwise.attention.record import Recorded
from headwise.insight.measuring import similarity
from headwise.insight.observing.observe import observe
from headwise.lecture.costs import Cost, costs, projection
from headwise.lecture.recording import Recording
from headwise.lecture.subspaces import bases, mean_angle, mean_of_pairs, subspaces
from headwise.lecture.tables.table import Table

DRAWS, ROUNDS, SEED = 20, 200, 0  # of random subspaces; of measuring time


def characteristics(run: Recording) -> Table:
    """Table 1."""
    module, n, steps = run.module, len(run.tokens), costs(run.module, len(run.tokens))
    sums = run.weights.sum(-1)
    return Table(
        ("characteristic", "value"),
        [
            ("embed_dim", module.embed_dim),
            ("num_heads", module.num_heads),
            ("head_dim", module.head_dim),
            ("tokens", n),
            ("parameters", sum(step.parameters for step in steps)),
            ("parameters_counted", sum(parameter.numel() for parameter in module.parameters())),
            ("multiply_adds", sum(step.multiply_adds for step in steps)),
            ("bytes", sum(step.bytes for step in steps)),
            ("weights_formed", run.weights.numel()),
            ("row_sums_least", float(sums.min())),
            ("row_sums_most", float(sums.max())),
            ("sum_of_heads", run.difference),
        ],
    )


def principles(run: Recording) -> Table:
    """Table 3: how far apart the heads' subspaces are, how alike heads are on this sentence, and that they add up."""
    rows: list[tuple[str, float, float | None]] = []
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        parts = subspaces(run.module, name)
        rows.append((f"angle_{name}", mean_angle(parts), random_angle(parts)))
    drawn = _drawn_anew(run)
    for name, measure in (("weights_alike", similarity.weights), ("outputs_alike", similarity.outputs)):
        found, *others = (mean_of_pairs(measure({run.address: [call]}).matrix) for call in (run.call, *drawn))
        rows.append((name, found, mean(others)))
    return Table(("measure", "measured", "random"), [*rows, ("sum_of_heads", run.difference, None)])


def projections(run: Recording) -> Table:
    """Table 4."""
    rows = []
    for name, heads in (("q_proj", run.query), ("k_proj", run.key), ("v_proj", run.value)):
        layer = projection(run.module, name)
        whole, part = layer.weight.mT.shape, (layer.in_features, heads.shape[-1])
        parameters = sum(parameter.numel() for parameter in layer.parameters())
        parts = subspaces(run.module, name)
        size = float(heads.square().mean().sqrt())
        rows.append((name, _shape(whole), len(heads), _shape(part), parameters, size, mean_angle(parts), random_angle(parts)))
    columns = ("projection", "matrix", "heads", "matrix_of_a_head", "parameters", "root_mean_square", "angle", "random_angle")
    return Table(columns, rows)


def flow(run: Recording) -> Table:
    """Table 5: all steps."""
    return _steps(run, costs(run.module, len(run.tokens)))


def projection_and_split(run: Recording) -> Table:
    """Table 6."""
    names = ("project_q", "project_k", "project_v", "split")
    return _steps(run, [step for step in costs(run.module, len(run.tokens)) if step.step in names])


def concatenation(run: Recording) -> Table:
    """Table 7, and whether the sum of the heads is the output."""
    steps = [step for step in costs(run.module, len(run.tokens)) if step.step in ("concatenate", "project_o")]
    made = _steps(run, steps)
    check = ("sum_of_heads", _shape(run.output.shape), None, None, None, None, run.difference)
    return Table((*made.columns, "difference"), [*((*row, None) for row in made.rows), check])


TABLES: dict[int, Callable[[Recording], Table]] = {
    1: characteristics,
    3: principles,
    4: projections,
    5: flow,
    6: projection_and_split,
    7: concatenation,
}


def random_angle(heads: Tensor) -> float:
    """The same of random subspaces of the same sizes: what heads are that know nothing of each other. nan of a single head."""
    if len(heads) == 1:
        return math.nan
    generator = torch.Generator().manual_seed(SEED)
    return mean_angle(bases(torch.randn(DRAWS, *heads.mT.shape[1:], generator=generator)))


def _drawn_anew(run: Recording) -> list[Recorded]:
    """The same input through modules of the same shape that were never trained."""
    module = deepcopy(run.module)
    with torch.random.fork_rng(), torch.no_grad(), observe(module) as record:
        torch.manual_seed(SEED)
        for _ in range(DRAWS):
            module.reset_parameters()
            module(run.x[None])
    return list(record[""])


def _steps(run: Recording, steps: list[Cost]) -> Table:
    seconds = _seconds(run)
    rows = [
        (step.step, _shape(step.shape), step.parameters, step.multiply_adds, step.bytes, 1e6 * seconds[step.step])
        for step in steps
    ]
    return Table(("step", "shape", "parameters", "multiply_adds", "bytes", "microseconds"), rows)


@cache  # the tables of a recording say the same
@torch.no_grad()
def _seconds(run: Recording) -> dict[str, float]:
    """The median time of every step, done alone, on one thread of this machine."""
    module, h = run.module, len(run.query)
    key, value = (part.repeat_interleave(h // len(part), 0) for part in (run.key, run.value))
    joined = run.query.transpose(0, 1).flatten(1)
    work: dict[str, Callable[[], object]] = {
        "project_q": lambda: module.q_proj(run.x),
        "project_k": lambda: module.k_proj(run.x),
        "project_v": lambda: module.v_proj(run.x),
        "split": lambda: joined.unflatten(-1, (h, -1)).transpose(0, 1),
        "scores": lambda: run.query @ key.mT / module.head_dim**0.5,
        "softmax": lambda: (run.scores - run.scores.logsumexp(-1, keepdim=True)).exp(),
        "context": lambda: run.weights @ value,
        "concatenate": lambda: module.concatenate(run.context),
        "project_o": lambda: module.out_proj(run.joined),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {step: median(timeit.repeat(do, number=1, repeat=ROUNDS)) for step, do in work.items()}
    finally:
        torch.set_num_threads(threads)


def _shape(shape: tuple[int, ...] | torch.Size) -> str:
    return " × ".join(map(str, shape))
