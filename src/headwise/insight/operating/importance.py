"""How much a model's loss depends on each head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.insight.measuring.bootstrap import interval_of_mean
from headwise.insight.observing.observe import attention_modules
from headwise.insight.operating.gates import gates
from headwise.insight.progress import tracked

Loss = Callable[[nn.Module, Any], Tensor]
PerHead = Mapping[str, Float[Tensor, " heads"]]


@dataclass(frozen=True, eq=False, repr=False)
class Importance:
    """A number for every head of a model, in units of the loss, with an interval: means over batches.

    value, low, high: {address: (heads,)}; low to high is the 95 % interval of a bootstrap over batches (nan for a single
    batch). sharing: {address: how many query heads share a key-value head}. batches: how many were counted. complete: False
    where Ctrl-C came between.
    """

    value: PerHead
    low: PerHead
    high: PerHead
    sharing: Mapping[str, int]
    batches: int
    complete: bool = True

    def ranking(self) -> list[tuple[str, int]]:
        """Address and head of all heads, the most important first."""
        found = [(float(x), address, head) for address, value in self.value.items() for head, x in enumerate(value)]
        return [(address, head) for _, address, head in sorted(found, key=lambda one: -one[0])]

    def least(self, share: float) -> dict[str, list[int]]:
        """The least important heads, about this share of all, as ``hw.prune`` takes them.

        Heads that share a key-value head go together, by their mean; every module keeps something that attends.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected a number from 0 to 1; got {share}")
        groups = [
            (float(mean), address, group)
            for address, value in self.value.items()
            for group, mean in enumerate(value.unflatten(0, (-1, self.sharing[address])).mean(1))
        ]
        left = {address: len(value) for address, value in self.value.items()}
        wanted, chosen = round(share * sum(left.values())), dict[str, list[int]]()
        for _, address, group in sorted(groups, key=lambda one: one[0]):
            size = self.sharing[address]
            if size <= wanted and left[address] > size:
                chosen.setdefault(address, []).extend(range(group * size, (group + 1) * size))
                left[address], wanted = left[address] - size, wanted - size
        return {address: sorted(heads) for address, heads in chosen.items()}

    def normalised(self) -> Importance:
        """Every module's heads divided by their l2 norm, as Michel et al. 2019 (section 4.1) do after Molchanov et al. 2017,
        so that layers compare; a module whose heads are all 0 stays so."""
        norms = {address: float(value.norm()) or 1.0 for address, value in self.value.items()}
        value, low, high = (
            {address: x / norms[address] for address, x in numbers.items()} for numbers in (self.value, self.low, self.high)
        )
        return replace(self, value=value, low=low, high=high)

    def rows(self) -> list[dict[str, Any]]:
        """A row per head, for a table, CSV or JSON: address, head, importance, low, high (None where there is no interval)."""
        return [
            {"address": address, "head": head, "importance": float(x)}
            | {
                name: None if numbers[address][head].isnan() else float(numbers[address][head])
                for name, numbers in (("low", self.low), ("high", self.high))
            }
            for address, value in self.value.items()
            for head, x in enumerate(value)
        ]

    def __repr__(self) -> str:
        ranking = self.ranking()
        (most, least), part = (ranking[0], ranking[-1]), "" if self.complete else ", interrupted"
        ends = ", ".join(
            f"{name} {at} {head} ({self.value[at][head]:.3g})" for name, (at, head) in (("most", most), ("least", least))
        )
        return f"Importance({len(ranking)} heads, {self.batches} batches{part}: {ends})"


def importance(model: nn.Module, batches: Iterable[Any], loss: Loss | None = None) -> Importance:
    """I_h = E_x |dL(x) / d gate_h| at gates of 1, the expected sensitivity of the loss (Michel et al. 2019, section 4.1).

    batches: what ``loss`` takes, each an x of the mean: batches of one example give the paper's mean over examples, larger
    ones are faster and let the signs within a batch cancel. loss: (model, batch) -> a tensor of one number; None:
    model(**batch).loss. One forward and one backward pass a batch, in eval mode; nothing is left in any .grad.

    Raises ValueError where there is no batch, or where the loss is not one number or does not depend on the heads. After Ctrl-C
    it returns what was finished, marked complete=False, or raises KeyboardInterrupt where nothing was.
    """
    modules, loss = attention_modules(model), loss or _own_loss
    ones = {address: _open(model, module.num_heads).requires_grad_() for address, module in modules.items()}

    def measure(batch: Any) -> dict[str, Tensor]:
        with torch.enable_grad(), gates(model, ones):
            found = _one_number(loss(model, batch))
            if not found.requires_grad:
                raise ValueError("the loss does not depend on the heads: was it detached, or computed without gradients?")
            slopes = torch.autograd.grad(found, list(ones.values()), materialize_grads=True)
        return {address: slope.abs() for address, slope in zip(ones, slopes, strict=True)}

    return _over(model, batches, measure, "importance of heads")


def leave_one_out(model: nn.Module, batches: Iterable[Any], loss: Loss | None = None) -> Importance:
    """I_h = E_x [L(x) with gate 0 on head h - L(x)]: what one head's absence costs (Michel et al. 2019, section 3.2).

    Arguments, errors and Ctrl-C are those of ``importance``; one forward pass for every head and batch.
    """
    modules, loss = attention_modules(model), loss or _own_loss

    @torch.no_grad()
    def measure(batch: Any) -> dict[str, Tensor]:
        whole, found = _one_number(loss(model, batch)), {}
        for address, module in modules.items():
            found[address] = _open(model, module.num_heads)
            for head in range(module.num_heads):
                gate = _open(model, module.num_heads)
                gate[head] = 0
                with gates(model, {address: gate}):
                    found[address][head] = _one_number(loss(model, batch)) - whole
        return found

    return _over(model, batches, measure, "leaving out heads")


def _over(model: nn.Module, batches: Iterable[Any], measure: Callable[[Any], PerHead], what: str) -> Importance:
    found, complete = list[PerHead](), True
    with _evaluating(model):
        try:
            for batch in tracked(batches, what):
                found.append(measure(batch))
        except KeyboardInterrupt:
            if not found:
                raise
            complete = False
    if not found:
        raise ValueError("batches: expected at least one")
    samples = torch.cat([torch.stack([one[address] for one in found]).cpu().double() for address in found[0]], dim=1)
    means = interval_of_mean(samples)
    ends = (means.low, means.high) if len(found) > 1 else 2 * (torch.full_like(means.low, torch.nan),)
    sizes = [len(numbers) for numbers in found[0].values()]
    value, low, high = (dict(zip(found[0], numbers.split(sizes), strict=True)) for numbers in (means.mean, *ends))
    sharing = {
        address: module.num_heads // getattr(module, "num_kv_heads", module.num_heads)
        for address, module in attention_modules(model).items()
    }
    return Importance(value, low, high, sharing, len(found), complete)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode, and back to the modes that the parts were in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _open(model: nn.Module, num_heads: int) -> Float[Tensor, " heads"]:
    """Open gates, where a model's weights are, in at least float32."""
    weight = next(model.parameters())
    return torch.ones(num_heads, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    if not isinstance(batch, Mapping):
        raise ValueError(f"batches: expected the model's arguments by name, or a loss=; got a {type(batch).__name__}")
    return model(**batch).loss


def _one_number(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss: expected a tensor of one number; got {got}")
    return loss.squeeze()
