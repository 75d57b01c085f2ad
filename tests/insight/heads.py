"""Recorded calls for tests: of given queries and keys, or of heads whose weights are given."""

import torch
from torch import Tensor

import headwise as hw
from headwise.attention.functional import make_call
from headwise.attention.record import Recorded


def recorded(query, key, mask=None, bias=None, same_sequence=True, sinks=None) -> Recorded:
    call = make_call(query, key, key, mask, bias, None, None, sinks, 0.0, same_sequence)
    output, lse = hw.attend_with_lse(query, key, key, mask=mask, bias=bias, sinks=sinks)
    return Recorded(call, output, lse)


def pattern(weights: Tensor, same_sequence: bool = True, mask=None) -> Recorded:
    """Heads with the weights given, (queries, keys) or (batch, heads, queries, keys): zero vectors, log weights as bias."""
    weights = weights if weights.dim() == 4 else weights[None, None]
    zeros = torch.zeros(*weights.shape[:2], max(weights.shape[2:]), 2)
    query, key = (zeros[:, :, :length] for length in weights.shape[2:])
    return recorded(query, key, mask, weights.log(), same_sequence)
