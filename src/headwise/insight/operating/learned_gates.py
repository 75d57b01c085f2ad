"""Gates that learn to close: which heads a task can do without."""

from __future__ import annotations

from math import log

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.insight.observing.observe import attention_modules

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3  # gamma, zeta and beta, as recommended by Louizos et al. 2018, section 4


class LearnedGates(nn.Module):
    """A hard concrete gate for every head (Louizos et al. 2018, section 2.2; for heads: Voita et al. 2019, section 5).

        u ~ Uniform(0, 1)    s = sigmoid((log u - log(1 - u) + log alpha) / beta)    g = clip(s (zeta - gamma) + gamma, 0, 1)

    g is 0 or 1 with probabilities above 0, and differentiable in log alpha. In training a call draws g; in eval it gives
    clip(sigmoid(log alpha) (zeta - gamma) + gamma, 0, 1). Train a model and its gates together:

        learned = hw.LearnedGates(model)
        with hw.gates(model, learned()):
            loss = model(**batch).loss + weight * learned.expected_open()

    and then ``hw.prune(model, learned.eval().closed())``. open: the probability of a gate above 0, at first. Gates of heads
    that share a key-value head are apart: prune asks for whole groups.
    """

    def __init__(self, model: nn.Module, open: float = 0.95) -> None:
        super().__init__()
        if not 0 < open < 1:
            raise ValueError(f"open: expected a probability in (0, 1); got {open}")
        modules, device = attention_modules(model), next(model.parameters()).device
        self.addresses = tuple(modules)
        start = log(open / (1 - open)) + TEMPERATURE * log(-LOW / HIGH)
        self.log_alpha = nn.ParameterList(torch.full((module.num_heads,), start, device=device) for module in modules.values())

    def forward(self) -> dict[str, Float[Tensor, " heads"]]:
        """Gates by address, as ``hw.gates`` takes them: drawn in training, fixed in eval."""
        return dict(zip(self.addresses, map(self._gate, self.log_alpha), strict=True))

    def expected_open(self) -> Float[Tensor, ""]:
        """The penalty: how many gates are above 0 in the mean, the sum over heads of P(g > 0), which is
        sigmoid(log alpha - beta log(-gamma / zeta))."""
        shift = TEMPERATURE * log(-LOW / HIGH)
        return torch.stack([torch.sigmoid(log_alpha - shift).sum() for log_alpha in self.log_alpha]).sum()

    @torch.no_grad()
    def closed(self) -> dict[str, list[int]]:
        """The heads whose gates are 0 in eval, by address, as ``hw.prune`` takes them; of a module that would lose all of its
        heads, the one whose gate is likeliest to be open stays."""
        found = dict[str, list[int]]()
        for address, log_alpha in zip(self.addresses, self.log_alpha, strict=True):
            heads = (_stretched(torch.sigmoid(log_alpha)) == 0).nonzero()[:, 0].tolist()
            if len(heads) == len(log_alpha):
                heads.remove(int(log_alpha.argmax()))
            if heads:
                found[address] = heads
        return found

    def extra_repr(self) -> str:
        return f"{sum(map(len, self.log_alpha))} heads of {len(self.addresses)} modules"

    def _gate(self, log_alpha: Float[Tensor, " heads"]) -> Float[Tensor, " heads"]:
        if not self.training:
            return _stretched(torch.sigmoid(log_alpha))
        u = torch.rand_like(log_alpha).clamp(min=torch.finfo(log_alpha.dtype).tiny)
        return _stretched(torch.sigmoid((u.log() - torch.log1p(-u) + log_alpha) / TEMPERATURE))


def _stretched(s: Tensor) -> Tensor:
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)
