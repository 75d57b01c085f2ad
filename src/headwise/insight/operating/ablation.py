"""What stands in a head's place: nothing, its mean, its output for another input, its output in another run.

All act on the output z_h of a head before concatenation, as gates do: what the other heads add to W_O stays as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.attention.record import Recorded
from headwise.insight.measuring.measures import real_queries
from headwise.insight.observing.observe import attention_modules
from headwise.insight.operating.gates import gates

Runs = Mapping[str, Sequence[Recorded]]
Heads = Float[Tensor, "*batch heads query_len value_dim"]


class Ablation(ABC):
    """What heads give instead; one object serves several modules, and further runs."""

    @abstractmethod
    def outputs(self, address: str, heads: Heads, number: int) -> Tensor:
        """In the place of ``heads``, broadcastable to them; number: how often the module was called before in the context."""


@dataclass(frozen=True)
class Zero(Ablation):
    """Nothing, as a gate of 0."""

    def outputs(self, address: str, heads: Heads, number: int) -> Tensor:
        return torch.zeros_like(heads)


@dataclass(frozen=True, eq=False)
class Mean(Ablation):
    """The head's mean over all queries of a record but padding (in self-attention, where masks tell it), whatever the input.

    Zero is an output that a head may never give; its mean keeps what it always says and takes away what it says about the
    input (mean-ablation). Record a data set, the larger the better: lengths and batch sizes may differ.
    """

    record: Runs

    def outputs(self, address: str, heads: Heads, number: int) -> Tensor:
        total, queries = torch.zeros(heads.shape[-3], 1, heads.shape[-1], dtype=torch.float64, device=heads.device), 0
        for call in _calls(self.record, address):
            if call.head_outputs.shape[-3] != heads.shape[-3] or call.head_outputs.shape[-1] != heads.shape[-1]:
                raise ValueError(f"{address!r}: recorded are {_shape(call)}, and the module makes {tuple(heads.shape)}")
            real = torch.ones_like(call.lse[..., 0, :], dtype=torch.bool) & real_queries(call)[..., 0, :]
            outputs = call.head_outputs.movedim(-3, 0).reshape(len(total), -1, heads.shape[-1])[:, real.flatten()]
            total += outputs.double().sum(1, keepdim=True)
            queries += outputs.shape[1]
        return total / max(queries, 1)


@dataclass(frozen=True, eq=False)
class Resample(Ablation):
    """The head's output for another input (resample-ablation): for every row of the batch, that of a row of the record drawn at
    random, the same for all heads of all modules, so that they agree about what they saw. Record other inputs than those that
    run, or a row may draw itself.

    The k-th call of a module draws from its k-th recorded one, which must be as long. seed: of the draw.
    """

    record: Runs
    seed: int = 0

    def outputs(self, address: str, heads: Heads, number: int) -> Tensor:
        call = _call(self.record, address, number)
        if heads.dim() < 4 or call.head_outputs.shape[1:] != heads.shape[1:]:
            raise ValueError(f"{address!r}: call {number} is {tuple(heads.shape)}; recorded is {_shape(call)}: rows do not fit")
        generator = torch.Generator().manual_seed(self.seed)
        rows = torch.randint(len(call.head_outputs), (len(heads),), generator=generator)
        return call.head_outputs[rows.to(call.head_outputs.device)]


@dataclass(frozen=True, eq=False)
class Patch(Ablation):
    """The head's output in another run (activation patching): the k-th call of a module gets that of its k-th recorded one."""

    record: Runs

    def outputs(self, address: str, heads: Heads, number: int) -> Tensor:
        call = _call(self.record, address, number)
        if call.head_outputs.shape != heads.shape:
            raise ValueError(f"{address!r}: call {number} is {tuple(heads.shape)}; recorded is {_shape(call)}")
        return call.head_outputs


@contextmanager
def ablate(model: nn.Module, heads: Mapping[str, Iterable[int]], how: Ablation | None = None) -> Iterator[None]:
    """Puts something else in the place of heads' outputs, before concatenation.

    heads: for each address (as in ``observe``) the heads. how: ``hw.ablation.Zero()`` (the default), ``Mean(record)``,
    ``Resample(record, seed)``, ``Patch(record)``, each of a record of ``hw.observe``. Gradients flow through what is left, none
    through what was recorded. Contexts can be nested: the inner one acts on what the outer leaves, gates scale last. What
    ``observe`` records is what the heads computed, not what was put in their place.

    Raises KeyError for an unknown address, ValueError for heads that are not there; and, when the model runs, KeyError or
    ValueError where the record has no call that fits.
    """
    modules = attention_modules(model)
    edits = dict[str, _Edit]()
    for address, chosen in heads.items():
        if address not in modules:
            raise KeyError(f"no attention at {address!r}; there is {', '.join(map(repr, modules))}")
        module, chosen = modules[address], sorted(set(chosen))
        if not set(chosen) <= set(range(module.num_heads)):
            raise ValueError(f"{address!r} has heads 0 to {module.num_heads - 1}; got {chosen}")
        edits[address] = _Edit(address, chosen, how or Zero(), module.edit)
    try:
        for address, edit in edits.items():
            modules[address].edit = edit
        with gates(model, {}):
            yield
    finally:
        for address, edit in edits.items():
            modules[address].edit = edit.before


class _Edit:
    """What happens to the heads of one module."""

    def __init__(self, address: str, chosen: Sequence[int], how: Ablation, before: Callable[[Tensor], Tensor] | None) -> None:
        self.address, self.chosen, self.how, self.before, self.number = address, chosen, how, before, 0

    def __call__(self, heads: Heads) -> Heads:
        heads = heads if self.before is None else self.before(heads)
        new = self.how.outputs(self.address, heads, self.number).to(heads)
        self.number += 1
        replaced = torch.zeros(heads.shape[-3], 1, 1, dtype=torch.bool, device=heads.device)
        replaced[list(self.chosen)] = True
        return torch.where(replaced, new, heads)


def _calls(record: Runs, address: str) -> Sequence[Recorded]:
    if address not in record:
        raise KeyError(f"no call recorded at {address!r}; recorded are {', '.join(map(repr, record)) or 'none'}")
    return record[address]


def _call(record: Runs, address: str, number: int) -> Recorded:
    calls = _calls(record, address)
    if number >= len(calls):
        raise ValueError(f"{address!r}: call {number} of the run has none in the record, which holds {len(calls)}")
    return calls[number]


def _shape(call: Recorded) -> tuple[int, ...]:
    return tuple(call.head_outputs.shape)
