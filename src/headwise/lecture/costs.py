"""What multi-head attention costs, counted from its formula: parameters, multiply-adds, softmax elements, bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step of one sequence's pass. multiply_adds: of matrix products. exponentials: of the softmax.
    bytes: of what the step makes, in float32."""

    name: str
    parameters: int
    multiply_adds: int
    exponentials: int
    bytes: int


def steps(embed_dim: int, num_heads: int, length: int, itemsize: int = 4) -> tuple[Step, ...]:
    """Self-attention with biases over ``length`` tokens, as the formula makes it (Vaswani et al. 2017, section 3.2).

    With E = embed_dim, h heads of E / h and n tokens: projections 3 n E^2, scores h n^2 (E / h) = n^2 E, weighted sums as many,
    output n E^2: h cancels everywhere but in the h n^2 elements of scores and softmax.
    """
    if embed_dim % num_heads:
        raise ValueError(f"expected num_heads that divide embed_dim = {embed_dim}; got {num_heads}")
    head_dim, weights = embed_dim // num_heads, num_heads * length**2
    projection, width = embed_dim * embed_dim + embed_dim, length * embed_dim * itemsize
    products = num_heads * length**2 * head_dim
    return (
        Step("project", 3 * projection, 3 * length * embed_dim**2, 0, 3 * width),
        Step("scores", 0, products, 0, weights * itemsize),
        Step("softmax", 0, 0, weights, weights * itemsize),
        Step("weighted sums", 0, products, 0, width),
        Step("output", projection, length * embed_dim**2, 0, width),
    )


def total(embed_dim: int, num_heads: int, length: int, itemsize: int = 4) -> Step:
    """All steps together; bytes: were everything kept."""
    found = steps(embed_dim, num_heads, length, itemsize)
    sums = (sum(getattr(step, name) for step in found) for name in ("parameters", "multiply_adds", "exponentials", "bytes"))
    return Step("all", *sums)
