"""CTC against all paths there are."""

from collections import Counter
from itertools import groupby, product
from types import SimpleNamespace

import pytest
import torch
from parity import CLOSE
from torch import nn
from torch.nn import functional

from headwise.models import ctc

NONE = -100


def collapsed(path, blank):
    return [label for label, _ in groupby(path) if label != blank]


def labellings(log_p, blank):
    """P of every labelling: the sum over its paths, each of them looked at."""
    found = Counter()
    for path in product(range(log_p.shape[1]), repeat=len(log_p)):
        found[tuple(collapsed(path, blank))] += log_p[range(len(path)), list(path)].sum().exp().item()
    return found


class Says(ctc.CTCModel):
    """A model that says these logits, whatever it hears."""

    def __init__(self, logits, blank):
        super().__init__()
        self.logits, self.config = logits, SimpleNamespace(pad_token_id=blank)

    def forward(self, attention_mask=None):
        return ctc.CTCOutput(self.logits)

    def frame_lengths(self, attention_mask):
        return attention_mask.sum(-1)


@pytest.mark.parametrize("blank", [0, 2])
def test_the_loss_is_minus_the_logarithm_of_the_sum_over_all_paths(blank):
    logits, lengths = 2 * torch.randn(3, 5, 3), torch.tensor([5, 4, 2])
    other = 2 - blank
    labels = torch.tensor([[NONE, 1, 1, other], [1, blank, other, NONE], [NONE, NONE, NONE, blank]])
    said = [(1, 1, other), (1, other), ()]
    log_p = logits.double().log_softmax(-1)
    wanted = -torch.tensor([labellings(x[:n], blank)[s] for x, n, s in zip(log_p, lengths, said, strict=True)]).log()
    got = ctc.loss(logits, labels, lengths, blank=blank, reduction="sum")
    torch.testing.assert_close(got, wanted.sum(), **CLOSE)
    mean = (wanted / torch.tensor([3, 2, 1])).mean()
    torch.testing.assert_close(ctc.loss(logits, labels, lengths, blank=blank), mean, **CLOSE)


def test_its_gradient_is_that_of_torch():
    labels, counts = torch.tensor([[3, 1, 1], [2, 0, 0]]), torch.tensor([3, 1])
    for reduction in ("mean", "sum"):
        mine, theirs = (torch.linspace(-3, 3, 2 * 7 * 5).sin().view(2, 7, 5).requires_grad_() for _ in range(2))
        ctc.loss(mine, labels, torch.tensor([7, 5]), reduction=reduction).mul(3).backward()
        log_p = theirs.log_softmax(-1).transpose(0, 1)
        functional.ctc_loss(log_p, labels, torch.tensor([7, 5]), counts, reduction=reduction).mul(3).backward()
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_what_cannot_be_said_in_so_few_frames():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    labels = torch.tensor([[1, 1, 2], [1, 2, NONE]])  # 1, blank, 1, 2: four frames
    assert ctc.loss(logits, labels).isinf()
    alone = ctc.loss(logits[1:], labels[1:], reduction="sum")
    some = ctc.loss(logits, labels, reduction="sum", zero_infinity=True)
    torch.testing.assert_close(some, alone)
    some.backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[0].any()
    assert logits.grad[1].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_is_reckoned_in_full_where_the_logits_are_of_half_precision(dtype):
    logits, labels = torch.randn(2, 9, 5).to(dtype).requires_grad_(), torch.tensor([[3, 1, 1], [2, 4, NONE]])
    loss = ctc.loss(logits, labels)
    assert torch.equal(loss, ctc.loss(logits.float(), labels))
    loss.backward()
    assert logits.grad.dtype == dtype
    assert logits.grad.any()


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_most_probable_labelling_of_all(seed):
    torch.manual_seed(seed)
    logits, blank, lengths = 1.5 * torch.randn(3, 6, 4), seed % 4, torch.tensor([6, 4, 0])
    keep = torch.arange(6) < lengths[:, None]
    found = ctc.decode(Says(logits, blank).eval(), width=1000, attention_mask=keep)
    for x, length, hypothesis in zip(logits.double().log_softmax(-1), lengths, found, strict=True):
        p = labellings(x[:length], blank)
        assert tuple(hypothesis.tokens) == max(p, key=p.get)
        assert hypothesis.score == pytest.approx(torch.tensor(p[tuple(hypothesis.tokens)]).log().item(), abs=1e-6)


def test_a_beam_adds_up_paths_where_the_best_path_is_not_the_best_labelling():
    p = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]])  # blank, blank: 0.36; what says 1: 0.64
    model = Says(p.log(), 0).eval()
    (best,), (sum_,) = ctc.decode(model), ctc.decode(model, width=2)
    assert (best.tokens, sum_.tokens) == ([], [1])
    assert best.score == pytest.approx(torch.tensor(0.36).log().item())
    assert sum_.score == pytest.approx(torch.tensor(0.64).log().item())


@pytest.mark.nohook
def test_labels_that_are_none_are_refused():
    logits = torch.randn(2, 7, 5)
    for labels in (torch.ones(2, 3), torch.ones(3, 3).long(), torch.ones(2).long(), torch.ones(2, 0).long(), [[1], [2]]):
        with pytest.raises(ValueError, match=r"labels: expected integers \(2, at least 1\), -100 where there is none; got"):
            ctc.loss(logits, labels)
    for wrong in (5, -1, -101, 400_000):
        with pytest.raises(ValueError, match=rf"labels: expected tokens from 0 to 4, or -100; got \[\[1, {wrong}\]"):
            ctc.loss(logits, torch.tensor([[1, wrong], [2, 3]]))
    with pytest.raises(ValueError, match='reduction: expected "mean" or "sum"; got \'none\''):
        ctc.loss(logits, torch.ones(2, 3).long(), reduction="none")


@pytest.mark.nohook
def test_decoding_asks_for_a_model_that_can_and_a_width():
    model = Says(torch.randn(2, 7, 5), 0).eval()
    for wrong, width, message in (
        (nn.Linear(2, 2), 1, "expected one that says labels at frames, such as ParakeetForCTC; got Linear"),
        (model, 0, "width: expected an integer of at least 1; got 0"),
        (model, 2.5, "width: expected an integer of at least 1; got 2.5"),
        (Says(torch.randn(2, 7, 5), 0), 1, "expected in eval mode"),
        (Says(torch.full((2, 7, 5), torch.nan), 0).eval(), 3, "logits are NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            ctc.decode(wrong, width=width)
