"""What each step of multi-head attention costs, by the formula: parameters, operations and bytes.

n queries, m keys, h heads of widths d_k (query and key) and d_v (value). One multiply-add counts once.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from headwise.attention.module import MultiHeadAttention


@dataclass(frozen=True)
class Cost:
    """step: its key. shape: of what it makes. parameters: that it reads. multiply_adds: of its matrix products. exponentials:
    of its softmax. bytes: of what it makes; 0 where it only looks at the same memory in another way."""

    step: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    exponentials: int
    bytes: int


def projection(module: nn.Module, name: str) -> nn.Linear:
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def costs(module: MultiHeadAttention, query_len: int, key_len: int | None = None) -> list[Cost]:
    """Of every step for one sequence, in order. key_len: None = self-attention. (Vaswani et al. 2017, section 3.2.)"""
    n, m = query_len, query_len if key_len is None else key_len
    h, d_k, d_v = module.num_heads, module.head_dim, module.value_dim
    size = module.out_proj.weight.element_size()

    def projected(step: str, name: str, rows: int) -> Cost:
        layer = projection(module, name)
        biases = 0 if layer.bias is None else layer.out_features
        made = rows * layer.out_features
        read = layer.weight.numel() + biases
        return Cost(step, (rows, layer.out_features), read, made * layer.in_features, 0, made * size)

    return [
        projected("project_q", "q_proj", n),
        projected("project_k", "k_proj", m),
        projected("project_v", "v_proj", m),
        Cost("split", (h, n, d_k), 0, 0, 0, 0),
        Cost("scores", (h, n, m), 0, h * n * m * d_k, 0, h * n * m * size),
        Cost("softmax", (h, n, m), 0, 0, h * n * m, h * n * m * size),
        Cost("context", (h, n, d_v), 0, h * n * m * d_v, 0, h * n * d_v * size),
        Cost("concatenate", (n, h * d_v), 0, 0, 0, n * h * d_v * size),
        projected("project_o", "out_proj", n),
    ]


def total(module: MultiHeadAttention, length: int) -> Cost:
    """All steps of self-attention together. With d = h d_k the number of heads cancels everywhere but in the h n^2 elements of
    scores and softmax. bytes: were everything kept."""
    found = costs(module, length)
    sums = (sum(getattr(step, name) for step in found) for name in ("parameters", "multiply_adds", "exponentials", "bytes"))
    return Cost("all", found[-1].shape, *sums)
