"""Costs from the formula are those of a real module."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import headwise as hw
from headwise.lecture.costs import costs, total
from headwise.lecture.experiments.efficiency import peak_bytes

EMBED_DIM, LENGTH = 30, 7


def modules(heads: int, **options) -> hw.MultiHeadAttention:
    return hw.MultiHeadAttention(EMBED_DIM, heads, **options)


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_multiply_adds_and_parameters_are_counted_on_a_module(heads):
    module, x = modules(heads), torch.randn(1, LENGTH, EMBED_DIM)

    def written_out():
        call = module.split(x)
        z = hw.attend(call.query, call.key, call.value, backend="formula")
        return module.out_proj(module.concatenate(z))

    with FlopCounterMode(display=False) as counter:
        assert torch.allclose(written_out(), module(x), atol=1e-5)
        counter.flop_counts.clear()
        written_out()
    found = total(module, LENGTH)
    assert counter.get_total_flops() == 2 * found.multiply_adds
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("heads", "options"), [(1, {}), (5, {}), (10, {"num_kv_heads": 5}), (3, {"bias": "v_proj"})])
def test_shapes_bytes_and_exponentials_are_those_of_the_tensors(heads, options):
    module, x = modules(heads, **options), torch.randn(LENGTH, EMBED_DIM)
    with hw.observe(module) as record:
        y = module(x)
    call, found = record[""][0], {step.step: step for step in costs(module, LENGTH)}
    assert found["softmax"].exponentials == call.weights().numel()
    made = {
        "project_q": call.query,
        "project_k": call.key,
        "project_v": call.value,
        "scores": call.weights(stage="product"),
        "softmax": call.weights(),
        "context": call.head_outputs,
        "concatenate": module.concatenate(call.head_outputs),
        "project_o": y,
    }
    for name, tensor in made.items():
        assert found[name].bytes == tensor.numel() * tensor.element_size(), name
        assert torch.Size(found[name].shape).numel() == tensor.numel()
    assert sum(step.parameters for step in found.values()) == sum(parameter.numel() for parameter in module.parameters())


def test_only_softmax_work_and_its_bytes_grow_with_heads():
    one, five = (total(modules(heads), LENGTH) for heads in (1, 5))
    assert (one.parameters, one.multiply_adds) == (five.parameters, five.multiply_adds)
    assert five.exponentials == 5 * one.exponentials
    assert five.bytes - one.bytes == 2 * 4 * (five.exponentials - one.exponentials)


def test_the_peak_counts_what_is_held_at_a_time():
    n = 1024

    def at_most_three():
        x = torch.ones(n)
        y = x + 1
        del x
        z = y + 1
        return z + 1

    assert peak_bytes(at_most_three) == pytest.approx(3 * 4 * n, abs=16)  # and the ones, tensors of a number
