"""Scaling and silencing single heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from headwise.insight.observing import transformers
from headwise.insight.observing.observe import attention_modules


@contextmanager
def gates(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Scales each head's output before concatenation: z_h becomes gate_h z_h, so 0 ablates head h exactly.

    values: for each address (as in ``observe``) a tensor of one number per head; gradients flow into it. Silencing a head
    after the output projection, where heads are already summed, would be something else. Raises KeyError for an unknown
    address and ValueError for a wrong number of heads.
    """
    modules = attention_modules(model)
    for address, gate in values.items():
        if address not in modules:
            raise KeyError(f"no attention at {address!r}; there is {', '.join(map(repr, modules))}")
        heads = modules[address].num_heads
        if not isinstance(gate, Tensor) or gate.shape != (heads,):
            got = getattr(gate, "shape", gate)
            raise ValueError(f"{address!r}: expected {heads} gates, one per head, as a tensor; got {got}")
    before = {address: modules[address].gate for address in values}
    try:
        for address, gate in values.items():
            object.__setattr__(modules[address], "gate", gate)  # a plain attribute, also where the gate is a Parameter
        with transformers.adapted(model):
            yield
    finally:
        for address, gate in before.items():
            object.__setattr__(modules[address], "gate", gate)
