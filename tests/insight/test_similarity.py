"""Every head with every head: weights by total variation, outputs by centred kernel alignment."""

import pytest
import torch
from heads import pattern, recorded

import headwise as hw
from headwise.insight.measuring import similarity as module


def random_call(heads=3, query_len=7, key_len=11, **options):
    return recorded(2 * torch.randn(2, heads, query_len, 5), torch.randn(2, heads, key_len, 5), **options)


@pytest.mark.parametrize("block", [1, 2**21], ids=["row by row", "at once"])
@pytest.mark.parametrize("sinks", [None, torch.randn(3)], ids=["no sinks", "sinks"])
def test_weights_are_compared_by_total_variation_within_and_across_modules(monkeypatch, block, sinks):
    monkeypatch.setattr(module, "BLOCK", block)
    calls = {"a": random_call(sinks=sinks), "b": random_call(heads=2, mask=hw.masks.causal())}
    found = hw.similarity.weights({address: [call] for address, call in calls.items()})
    assert found.heads == (("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1))
    p = torch.cat([call.weights() for call in calls.values()], dim=1)
    p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], dim=-1)  # a sink is a key
    expected = 1 - 0.5 * (p[:, :, None] - p[:, None]).abs().sum(-1).mean((0, -1))
    torch.testing.assert_close(found.matrix, expected)


def test_weights_of_known_heads_share_what_they_share():
    eye, uniform = torch.eye(4), torch.full((4, 4), 0.25)
    heads = torch.stack([eye, eye, eye.roll(1, 1), uniform])[None]
    found = hw.similarity.weights({"a": [pattern(heads)]}).matrix
    expected = [[1, 1, 0, 0.25], [1, 1, 0, 0.25], [0, 0, 1, 0.25], [0.25, 0.25, 0.25, 1]]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("compare", [hw.similarity.weights, hw.similarity.outputs])
def test_padded_and_empty_queries_are_left_out(compare):
    query, keep = torch.randn(1, 3, 7, 5), torch.arange(7)[None] < 5
    padded = recorded(query, query, hw.masks.padding(keep), sinks=torch.randn(3))
    alone = recorded(query[:, :, :5], query[:, :, :5], sinks=padded.call.sinks)
    torch.testing.assert_close(compare({"a": [padded]}).matrix, compare({"a": [alone]}).matrix)
    empty = torch.ones(7, 7, dtype=torch.bool)
    empty[5:] = False
    rows = recorded(query, query, hw.masks.dense(empty), sinks=padded.call.sinks)
    cut = recorded(query[:, :, :5], query, sinks=padded.call.sinks)
    torch.testing.assert_close(compare({"a": [rows]}).matrix, compare({"a": [cut]}).matrix)


def test_outputs_are_compared_by_the_hsic_of_their_kernels():
    calls = {"a": random_call(), "b": random_call(heads=2, key_len=13)}
    found = hw.similarity.outputs({address: [call] for address, call in calls.items()}).matrix
    outputs = torch.cat([call.head_outputs for call in calls.values()], dim=1).transpose(0, 1).flatten(1, 2).double()
    centre = torch.eye(14).double() - 1 / 14
    kernels = [centre @ (x @ x.mT) @ centre for x in outputs]
    hsic = torch.stack([torch.stack([(a * b).sum() for b in kernels]) for a in kernels])
    norm = hsic.diagonal().sqrt()
    torch.testing.assert_close(found.double(), hsic / norm / norm[:, None], rtol=1e-5, atol=1e-6)


def test_outputs_turned_and_scaled_are_the_same():
    x = torch.randn(2, 3, 17, 5)
    turn = torch.linalg.qr(torch.randn(5, 5)).Q
    x[:, 1] = 3 * x[:, 0] @ turn + 2
    call = recorded(x, x)
    found = hw.similarity.outputs({"a": [module.Recorded(call.call, x, call.lse)]}).matrix
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] < 0.5


def test_what_cannot_be_compared_is_said():
    one, longer, wider = random_call(), random_call(query_len=5), random_call(key_len=13)
    hw.similarity.outputs({"a": [one], "b": [wider]})
    for compare, record, message in (
        (hw.similarity.weights, {"a": [one], "b": [wider]}, r"same queries and keys; got .*13.*part of the record"),
        (hw.similarity.outputs, {"a": [one], "b": [longer]}, r"same queries; got .*5"),
        (hw.similarity.outputs, {"a": [one, one]}, r"'a': expected one call; got 2.*joined"),
        (hw.similarity.weights, {}, "at least one recorded module"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(record)
