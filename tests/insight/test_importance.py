"""Importance is what a gate does to the loss; its intervals are the bootstrap's."""

import json

import numpy
import pytest
import scipy.stats
import torch

import headwise as hw
from headwise.insight.operating.importance import Importance
from headwise.models.transformer import Transformer, TransformerConfig

CROSS = "decoder.layers.1.cross_attention"


def make_model() -> Transformer:
    config = TransformerConfig(
        vocab_size=23, embed_dim=12, num_heads=3, num_encoder_layers=1, num_decoder_layers=2, feedforward_dim=13, dropout=0.3
    )
    model = Transformer(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.train()


def make_batches(count: int = 5) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": torch.randint(3, 23, (2, 7)), "labels": torch.randint(3, 23, (2, 5))} for _ in range(count)]


def exact_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """In float64; the model's own is in float32."""
    return torch.nn.functional.cross_entropy(model(**batch).logits.mT, batch["labels"])


def loss_with(model: torch.nn.Module, batch: dict[str, torch.Tensor], address: str, gate: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad(), hw.gates(model, {address: gate}):
        return exact_loss(model, batch).item()


def gate(head: int, value: float) -> torch.Tensor:
    gates = torch.ones(3, dtype=torch.float64)
    gates[head] = value
    return gates


def test_the_gradients_importance_is_that_of_finite_differences_of_the_gates():
    model, batches, signs = make_model(), make_batches(3), []
    found = hw.importance(model, batches, exact_loss)
    assert len(found.value) == 5
    for address in found.value:
        for head in range(3):
            above, below = (
                [loss_with(model, batch, address, gate(head, 1 + step)) for batch in batches] for step in (1e-5, -1e-5)
            )
            slopes = (numpy.array(above) - numpy.array(below)) / 2e-5
            assert float(found.value[address][head]) == pytest.approx(numpy.mean(numpy.abs(slopes)), rel=1e-4)
            signs.append(set(numpy.sign(slopes)))
    assert {-1.0, 1.0} in signs  # so that a mean of slopes would be something else


def test_leaving_one_out_is_the_loss_without_it_less_the_loss():
    model, batches = make_model(), make_batches(3)
    found = hw.leave_one_out(model, iter(batches), lambda model, batch: 2 * exact_loss(model, batch))
    for head in range(3):
        costs = [
            2 * loss_with(model, batch, CROSS, gate(head, 0)) - 2 * loss_with(model, batch, CROSS, gate(head, 1))
            for batch in batches
        ]
        assert float(found.value[CROSS][head]) == pytest.approx(numpy.mean(costs))
    assert found.batches == 3


def test_the_one_head_that_is_heard_is_the_one_that_matters():
    module = hw.MultiHeadAttention(20, 5)
    module.out_proj.weight.data.unflatten(1, (5, 4))[:, [0, 1, 3, 4]] = 0
    batches = [torch.randn(2, 7, 20) for _ in range(4)]
    for measure in (hw.importance, hw.leave_one_out):
        found = measure(module, batches, lambda module, x: module(x).square().mean())
        assert (found.value[""][[0, 1, 3, 4]] == 0).all()
        assert found.value[""][2].abs() > 1e-3


def test_the_model_is_left_as_it_was():
    model, batches = make_model(), make_batches(2)
    model.encoder.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    with torch.no_grad():
        first = hw.importance(model, batches)
    assert hw.importance(model, batches).value[CROSS].equal(first.value[CROSS])  # no dropout
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.get_submodule(CROSS).gate is None


@pytest.mark.parametrize("measure", [hw.importance, hw.leave_one_out])
def test_what_was_finished_before_an_interrupt_counts(measure):
    model, batches = make_model(), make_batches()

    def until(count: int):
        for number, batch in enumerate(batches):
            if number == count:
                raise KeyboardInterrupt
            yield batch

    part = measure(model, until(3))
    assert (part.batches, part.complete) == (3, False)
    assert "interrupted" in repr(part)
    assert part.value[CROSS].equal(measure(model, batches[:3]).value[CROSS])
    with pytest.raises(KeyboardInterrupt):
        measure(model, until(0))
    assert model.training


def test_without_a_loss_it_is_the_models_own():
    model, batches = make_model(), make_batches(2)
    own = hw.importance(model, batches, lambda model, batch: model(**batch).loss)
    assert hw.importance(model, batches).value[CROSS].equal(own.value[CROSS])


def test_rows_rank_and_normalise():
    model = make_model()
    found = hw.importance(model, make_batches())
    rows = found.rows()
    assert [rows[i]["address"] for i in (0, 3, 6, 9, 12)] == list(found.value)
    values = {(row["address"], row["head"]): row["importance"] for row in rows}
    assert found.ranking() == sorted(values, key=values.__getitem__, reverse=True)
    assert all(row["low"] <= row["importance"] <= row["high"] and row["low"] < row["high"] for row in rows)
    scaled = found.normalised()
    for address, value in scaled.value.items():
        assert value.norm() == pytest.approx(1)
        torch.testing.assert_close(scaled.high[address] / value, found.high[address] / found.value[address])
    assert len(repr(found)) < 200
    assert "15 heads, 5 batches" in repr(found)
    alone = hw.importance(model, make_batches(1))
    assert alone.low[CROSS].isnan().all()
    assert json.loads(json.dumps(alone.rows()))[0]["high"] is None


def test_the_least_important_heads_go_in_groups_and_something_stays():
    numbers = {"a": torch.tensor([0.1, 0.2, 0.3]), "b": torch.tensor([4.0, 5.0, 0.05, 0.1]), "c": torch.tensor([9.0, 8.0, 7.0])}
    found = Importance(numbers, numbers, numbers, {"a": 1, "b": 2, "c": 1}, batches=1)
    assert found.least(0.0) == {}
    assert found.least(0.3) == {"a": [0], "b": [2, 3]}
    assert found.least(0.5) == {"a": [0, 1], "b": [2, 3], "c": [2]}
    assert found.least(1.0) == {"a": [0, 1], "b": [2, 3], "c": [1, 2]}


def test_intervals_are_the_bootstraps_over_batches():
    module, batches = hw.MultiHeadAttention(20, 5), [torch.randn(2, 7, 20) * torch.rand(()) for _ in range(23)]
    loss = lambda module, x: module(x).square().mean()
    found = hw.importance(module, batches, loss)
    samples = torch.stack([hw.importance(module, [x], loss).value[""] for x in batches]).numpy()
    want = scipy.stats.bootstrap((samples,), numpy.mean, method="percentile", rng=numpy.random.default_rng(1))
    error = samples.std(0) / len(batches) ** 0.5
    numpy.testing.assert_allclose(found.value[""], samples.mean(0))
    assert (abs(found.low[""].numpy() - want.confidence_interval.low) < 0.2 * error).all()
    assert (abs(found.high[""].numpy() - want.confidence_interval.high) < 0.2 * error).all()


@pytest.mark.nohook
@pytest.mark.parametrize("measure", [hw.importance, hw.leave_one_out])
def test_a_loss_that_cannot_be_used_is_refused(measure):
    model, batches = make_model(), make_batches(1)
    with pytest.raises(ValueError, match=r"one number; got \(2, 5, 23\)"):
        measure(model, batches, lambda model, batch: model(**batch).logits)
    with pytest.raises(ValueError, match="at least one"):
        measure(model, [])
    if measure is hw.importance:
        with pytest.raises(ValueError, match="does not depend on the heads"):
            measure(model, batches, lambda model, batch: model(**batch).loss.detach())
    with pytest.raises(ValueError, match="share"):
        measure(model, batches).least(50)
