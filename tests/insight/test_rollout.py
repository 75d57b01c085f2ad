"""Rollout against the sum over paths, flow against linear programming and by hand."""

from itertools import product

import numpy as np
import pytest
import torch
from heads import pattern, recorded
from scipy.optimize import linprog

import headwise as hw
from headwise.insight.measuring import rollout as module


def stack(layers=3, length=7, batch=2, heads=2, **options) -> dict:
    make = lambda: 2 * torch.randn(batch, heads, length, 5)
    return {str(layer): [recorded(make(), make(), **options)] for layer in range(layers)}


def handed_on(record: dict) -> list[torch.Tensor]:
    """A_l of every layer, (batch, length, length)."""
    mixed = [0.5 * calls[0].weights().mean(1) + 0.5 * torch.eye(calls[0].key.shape[-2]) for calls in record.values()]
    return [a / a.sum(-1, keepdim=True) for a in mixed]


@pytest.mark.parametrize("sinks", [None, torch.randn(2)], ids=["", "sinks"])  # with which rows differ in their sums
def test_rollout_is_the_sum_over_paths(sinks):
    record = stack(layers=2, length=3, sinks=sinks)
    first, second = handed_on(record)
    expected = torch.zeros(2, 3, 3)
    for top, middle, bottom in product(range(3), repeat=3):
        expected[:, top, bottom] += second[:, top, middle] * first[:, middle, bottom]
    torch.testing.assert_close(hw.rollout(record), expected)


@pytest.mark.parametrize("block", [1, 60, 2**21], ids=["row by row", "some rows", "at once"])
@pytest.mark.parametrize(
    "options", [{}, {"mask": hw.masks.window(2, 1)}, {"sinks": torch.randn(2)}], ids=["", "window", "sinks"]
)
def test_chosen_rows_are_those_of_the_product_and_sum_to_1(monkeypatch, block, options):
    monkeypatch.setattr(module, "BLOCK", block)
    record = stack(**options)
    first, second, third = handed_on(record)
    expected = third @ second @ first
    got = hw.rollout(record, torch.tensor([6, 0]))
    torch.testing.assert_close(got, expected[:, [6, 0]])
    torch.testing.assert_close(got.sum(-1), torch.ones(2, 2))
    torch.testing.assert_close(hw.rollout(record, slice(2, None, 3)), expected[:, 2::3])


def test_a_query_that_sees_nothing_keeps_itself():
    record = stack(mask=hw.masks.dense(torch.arange(7)[:, None] > 2) & hw.masks.causal())
    assert torch.equal(hw.rollout(record, slice(3)), torch.eye(3, 7).expand(2, -1, -1))


def test_the_mixed_layers_of_a_model_are_rolled_out_in_their_order():
    layers = torch.nn.Sequential(*(hw.MultiHeadAttention(12, 3) for _ in range(3))).requires_grad_(False)
    with hw.observe(layers) as record:
        layers(3 * torch.randn(2, 5, 12))
    first, second, third = handed_on(record)
    torch.testing.assert_close(hw.rollout(record), third @ second @ first)


def test_flow_by_hand():
    """Two tokens, two layers. Above, token 0 gives 3/4 to 0, 1/4 to 1; below, 0 gives 5/8 and 3/8, and 1 gives 1/8 and 7/8."""
    lower, upper = torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    record = {"0": [pattern(lower)], "1": [pattern(upper)]}
    # to token 0: min(3/4, 5/8) + min(1/4, 1/8); to token 1: min(3/4, 3/8) + min(1/4, 7/8)
    torch.testing.assert_close(hw.flow(record, 0), torch.tensor([0.75, 0.625]))
    torch.testing.assert_close(hw.flow(record, 0, [1]), torch.tensor([0.625]))


def test_flow_is_the_optimum_of_its_linear_programme():
    record = stack(layers=3, length=4)
    for batch, row in ((0, 3), (1, -3)):
        capacities = [a[batch].double().numpy() for a in handed_on(record)]
        expected = torch.tensor([largest_flow(capacities, row % 4, column) for column in range(4)])
        torch.testing.assert_close(hw.flow(record, row, batch=batch), expected.float(), rtol=0, atol=1e-6)


def largest_flow(capacities: list[np.ndarray], row: int, column: int) -> float:
    """The most that leaves the row above, with as much in as out at every node between."""
    (layers, n), edges, bounds = (len(capacities), len(capacities[0])), [], []
    for layer, i, j in product(range(layers), range(n), range(n)):
        edges.append(((layer + 1, i), (layer, j)))
        bounds.append((0, capacities[layer][i, j]))
    between = [node for node in product(range(layers + 1), range(n)) if node not in ((layers, row), (0, column))]
    balance = [[(above == node) - (below == node) for above, below in edges] for node in between]
    leaving = [-(above == (layers, row)) for above, _ in edges]
    return -linprog(leaving, A_eq=np.array(balance, dtype=float), b_eq=np.zeros(len(between)), bounds=bounds).fun


def test_flow_is_never_less_than_rollout():
    record = stack(mask=hw.masks.causal())
    got = hw.flow(record, 5)
    assert (got >= hw.rollout(record)[0, 5] - 1e-6).all()
    assert got[6] == 0


def test_what_cannot_be_followed_is_said():
    across = {"a": [recorded(torch.randn(1, 2, 5, 3), torch.randn(1, 2, 5, 3), same_sequence=False)]}
    uneven = {"a": [recorded(torch.randn(1, 2, 5, 3), torch.randn(1, 2, 7, 3))]}
    frames = {"a": [recorded(*[torch.randn(2, 3, 2, 5, 3)] * 2)]}
    for run, message in (
        (lambda: hw.rollout(across), "5 keys of two sequences"),
        (lambda: hw.rollout(uneven), "'a': expected self-attention of all queries; got 5 queries and 7 keys"),
        (lambda: hw.rollout(stack() | uneven), "5 queries and 7 keys"),
        (lambda: hw.rollout(stack() | {"x": stack(length=5)["0"]}), "same batch and length"),
        (lambda: hw.flow(stack(), 7), r"row: expected positions out of 7; got \[7\]"),
        (lambda: hw.flow(stack(), 0, [9]), r"columns: .*got \[9\]"),
        (lambda: hw.flow(stack(layers=1, length=513, batch=1), 0), "at most 512 positions; got 513"),
        (lambda: hw.flow(frames, 0), "one batch dimension"),
    ):
        with pytest.raises(ValueError, match=message):
            run()
