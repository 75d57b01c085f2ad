"""Hard concrete gates: their penalty is what it says, and heads that do nothing close."""

import pytest
import torch

import headwise as hw


def test_the_penalty_is_the_mean_number_of_open_gates():
    learned = hw.LearnedGates(hw.MultiHeadAttention(20, 5))
    learned.log_alpha[0].data = torch.tensor([-4.0, -1.0, 0.0, 1.0, 5.0])
    draws = torch.stack([learned()[""].detach() for _ in range(4000)])
    share = (draws > 0).double().mean(0)
    for head in range(5):
        learned.log_alpha[0].data = torch.tensor([-4.0, -1.0, 0.0, 1.0, 5.0])
        others = learned.expected_open().item()
        learned.log_alpha[0].data[head] = -1e9
        alone = others - learned.expected_open().item()
        assert share[head] == pytest.approx(alone, abs=4 * (alone * (1 - alone) / 4000) ** 0.5)
    assert ((draws == 0).any(0) & (draws == 1).any(0))[1:4].all()
    assert draws.min() >= 0
    assert draws.max() <= 1


def test_gates_begin_as_open_as_asked_and_are_fixed_in_eval():
    module = hw.MultiHeadAttention(20, 5)
    for share in (0.2, 0.95):
        assert hw.LearnedGates(module, share).expected_open().item() == pytest.approx(5 * share)
    learned = hw.LearnedGates(module).eval()
    learned.log_alpha[0].data = torch.tensor([-9.0, -2.0, 0.0, 2.0, 9.0])
    want = (1.2 * torch.tensor([-9.0, -2.0, 0.0, 2.0, 9.0]).sigmoid() - 0.1).clamp(0, 1)
    torch.testing.assert_close(learned()[""], want)
    assert learned.closed() == {"": [0]}
    learned.log_alpha[0].data -= 20
    assert learned.closed() == {"": [0, 1, 2, 3]}


def test_gradients_reach_every_gate_and_the_penalty_closes():
    learned, x = hw.LearnedGates(module := hw.MultiHeadAttention(20, 5), 0.5), torch.randn(2, 7, 20)
    with hw.gates(module, learned()):
        module(x).square().sum().backward()
    assert learned.log_alpha[0].grad.isfinite().all()
    assert learned.log_alpha[0].grad.any()
    learned.zero_grad()
    learned.expected_open().backward()
    assert (learned.log_alpha[0].grad > 0).all()
    assert sorted(learned.state_dict()) == ["log_alpha.0"]


def test_training_closes_the_heads_that_the_task_does_not_need():
    module, x = hw.MultiHeadAttention(20, 5).requires_grad_(False), torch.randn(16, 7, 20)
    torch.nn.init.normal_(module.out_proj.weight)
    module.out_proj.weight.unflatten(1, (5, 4))[:, [1, 3]] *= 0.01
    target, learned = module(x), hw.LearnedGates(module)
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.2)
    for _ in range(150):
        with hw.gates(module, learned()):
            loss = (module(x) - target).square().mean() + 0.02 * learned.expected_open()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert learned.eval().closed() == {"": [1, 3]}
    with hw.gates(module, learned()):
        want = module(x)
    torch.testing.assert_close(hw.prune(module, learned.closed())(x), want, atol=0.1, rtol=0.1)


@pytest.mark.nohook
def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match="probability"):
        hw.LearnedGates(hw.MultiHeadAttention(20, 5), 1.0)
