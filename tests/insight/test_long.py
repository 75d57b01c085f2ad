"""Long sequences: nothing (length, length) is ever built, and the numbers stay exact."""

import torch
from heads import recorded
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import headwise as hw
from headwise.insight.measuring import rollout, similarity, statistics

LENGTH, BLOCK = 1031, 2**16


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor made while this is on."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return result


def test_memory_is_that_of_a_block_of_rows(monkeypatch):
    for module in (rollout, similarity, statistics):
        monkeypatch.setattr(module, "BLOCK", BLOCK)
    call = recorded(torch.randn(1, 2, LENGTH, 3), torch.randn(1, 2, LENGTH, 3))
    tokens, half = torch.randint(LENGTH // 3, (1, LENGTH)), torch.arange(LENGTH)[None] < LENGTH // 2
    runs = {
        "statistics": lambda: hw.statistics({"a": [call]}, tokens=tokens, groups={"left": half, "right": ~half}),
        "rollout": lambda: hw.rollout({"a": [call], "b": [call]}, slice(-3, None)),
        "weights": lambda: hw.similarity.weights({"a": [call]}),
        "outputs": lambda: hw.similarity.outputs({"a": [call]}),
    }
    for name, run in runs.items():
        with Largest() as largest:
            run()
        assert largest.bytes < 1.1 * 4 * BLOCK, name  # one head's matrix has sixteen times as many


def test_rows_of_a_long_sequence_are_exact():
    query, key = 3 * torch.randn(1, 2, LENGTH, 7), torch.randn(1, 2, LENGTH, 7)
    call, tokens = recorded(query, key, mask=hw.masks.causal()), torch.randint(LENGTH // 3, (1, LENGTH))
    found = hw.statistics({"a": [call]}, tokens=tokens)["a"].by_query
    for row in (0, 1, LENGTH // 2, LENGTH - 1):
        seen = torch.arange(row + 1)
        log_p = torch.einsum("hd,hnd->hn", query[0, :, row], key[0, :, : row + 1]).double().div(7**0.5).log_softmax(-1)
        p, apart, same = log_p.exp(), (row - seen).double(), tokens[0, : row + 1] == tokens[0, row]
        mean = (p * apart).sum(-1)
        expected = {
            "entropy": -(p * log_p).sum(-1),
            "distance": mean,
            "spread": (p * (apart - mean[:, None]).square()).sum(-1).sqrt(),
            "duplicate": (p * (same & (seen < row))).sum(-1),
            "induction": (p * (same.roll(1) & (seen > 0))).sum(-1),
            "top_mass": p.topk(min(3, row + 1)).values.sum(-1),
        }
        for name, number in expected.items():
            torch.testing.assert_close(found[name][0, :, row].double(), number, rtol=1e-4, atol=1e-6, msg=name)
