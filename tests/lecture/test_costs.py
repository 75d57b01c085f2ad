"""Costs from the formula are those of a real module."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import headwise as hw
from headwise.lecture.costs import steps, total
from headwise.lecture.experiments.efficiency import peak_bytes

EMBED_DIM, LENGTH = 30, 7


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_parameters_are_those_of_a_module(heads):
    module = hw.MultiHeadAttention(EMBED_DIM, heads)
    assert total(EMBED_DIM, heads, LENGTH).parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_multiply_adds_are_counted_on_a_module(heads):
    module, x = hw.MultiHeadAttention(EMBED_DIM, heads, bias=False), torch.randn(1, LENGTH, EMBED_DIM)

    def written_out():
        call = module.split(x)
        z = hw.attend(call.query, call.key, call.value, backend="formula")
        return module.out_proj(module.concatenate(z))

    with FlopCounterMode(display=False) as counter:
        assert torch.allclose(written_out(), module(x), atol=1e-5)
        counter.flop_counts.clear()
        written_out()
    assert counter.get_total_flops() == 2 * total(EMBED_DIM, heads, LENGTH).multiply_adds


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_softmax_elements_and_bytes_are_those_of_the_tensors(heads):
    module, x = hw.MultiHeadAttention(EMBED_DIM, heads), torch.randn(1, LENGTH, EMBED_DIM)
    with hw.observe(module) as record:
        y = module(x)
    call, found = record[""][0], {step.name: step for step in steps(EMBED_DIM, heads, LENGTH)}
    assert found["softmax"].exponentials == call.weights().numel()
    made = {
        "project": (call.query, call.key, call.value),
        "scores": (call.weights(stage="product"),),
        "softmax": (call.weights(),),
        "weighted sums": (call.head_outputs,),
        "output": (y,),
    }
    for name, tensors in made.items():
        assert found[name].bytes == sum(x.numel() * x.element_size() for x in tensors), name


def test_only_softmax_work_and_its_bytes_grow_with_heads():
    one, five = total(EMBED_DIM, 1, LENGTH), total(EMBED_DIM, 5, LENGTH)
    assert (one.parameters, one.multiply_adds) == (five.parameters, five.multiply_adds)
    assert five.exponentials == 5 * one.exponentials
    assert five.bytes - one.bytes == 2 * 4 * (five.exponentials - one.exponentials)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="num_heads that divide embed_dim = 30; got 7"):
        total(30, 7, LENGTH)


def test_the_peak_counts_what_is_held_at_a_time():
    n = 1024

    def at_most_three():
        x = torch.ones(n)
        y = x + 1
        del x
        z = y + 1
        return z + 1

    assert peak_bytes(at_most_three) == pytest.approx(3 * 4 * n, abs=16)  # and the ones, tensors of a number
