"""hw.compat.MultiheadAttention: torch's attention where torch's is right, and right where it is not."""

import pickle
import sys
import types
import unittest
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import headwise as hw


def pair(*arguments, training: bool = True, **options) -> tuple[nn.MultiheadAttention, hw.compat.MultiheadAttention]:
    """torch's module with random weights, and ours with the same by way of the state dict."""
    options = {"dtype": torch.float64, **options}
    kinds = nn.MultiheadAttention, hw.compat.MultiheadAttention
    theirs, ours = (kind(*arguments, **options).train(training) for kind in kinds)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def assert_same(theirs: nn.Module, ours: nn.Module, inputs: tuple[torch.Tensor, ...], **options) -> None:
    """Outputs, weights and the gradients of everything."""
    found = []
    for module in (theirs, ours):
        leaves = {x: x.detach().clone().requires_grad_() for x in inputs}  # one tensor given twice stays one
        output, weights = module(*(leaves[x] for x in inputs), **options)
        total = (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum()
        if weights is not None:  # attention may be taught
            total = total + (weights * torch.linspace(-1, 1, weights.numel(), dtype=output.dtype).view_as(weights)).sum()
        total.backward()
        gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
        found.append((output, weights, gradients, [leaf.grad for leaf in leaves.values()]))
        module.zero_grad()
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_samples_of_torchs_own_module_database(training, monkeypatch):
    # torch's tests need expecttest, of which the database uses nothing but that it is there
    monkeypatch.setitem(sys.modules, "expecttest", types.SimpleNamespace(TestCase=unittest.TestCase))
    from torch.testing._internal.common_modules import module_db

    [info] = [info for info in module_db if info.module_cls is nn.MultiheadAttention]
    samples = info.module_inputs_func(info, "cpu", torch.float64, True, training)
    assert len(samples) >= 64
    for sample in samples:
        made, called = sample.constructor_input, sample.forward_input
        theirs, ours = pair(*made.args, training=training, **made.kwargs)
        assert_same(theirs, ours, called.args, **called.kwargs)
        expected = sample.reference_fn(ours, *called.args, **called.kwargs)
        torch.testing.assert_close(ours(*called.args, **called.kwargs), expected)


def self_inputs(shape):
    x = torch.randn(*shape, 12, dtype=torch.float64)
    return x, x, x


def cross_inputs(first, lengths=(7, 11), widths=(12, 12)):
    """Query, key and value, the batch (2) first or second."""
    shapes = [(lengths[0], 12), (lengths[1], widths[0]), (lengths[1], widths[1])]
    shapes = [(2, *shape) if first else (shape[0], 2, shape[1]) for shape in shapes]
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def random_mask(*shape):
    """True = drop; nobody drops the first key, so that no row is empty."""
    mask = torch.rand(shape) < 0.4
    mask[..., 0] = False
    return mask


MASKS = {
    "padding": lambda: {"key_padding_mask": random_mask(2, 11)},
    "float padding": lambda: {"key_padding_mask": torch.randn(2, 11).double().masked_fill(random_mask(2, 11), -torch.inf)},
    "one for all": lambda: {"attn_mask": random_mask(7, 11)},
    "one per head": lambda: {"attn_mask": random_mask(6, 7, 11)},
    "float, one per head": lambda: {"attn_mask": torch.randn(6, 7, 11).double().masked_fill(random_mask(6, 7, 11), -torch.inf)},
    "both": lambda: {"key_padding_mask": random_mask(2, 11), "attn_mask": random_mask(6, 7, 11)},
    "both float": lambda: {
        "key_padding_mask": torch.zeros(2, 11).double().masked_fill(random_mask(2, 11), -torch.inf),
        "attn_mask": torch.randn(7, 11).double(),
    },
}


@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True, "add_zero_attn": True}], ids=["", "extra keys"])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_mean_what_they_mean_to_torch(mask, extra):
    theirs, ours = pair(12, 3, batch_first=True, **extra)
    masks = MASKS[mask]()
    for need_weights in (True, False):
        assert_same(theirs, ours, cross_inputs(True), need_weights=need_weights, **masks)
    assert_same(theirs, ours, cross_inputs(True), average_attn_weights=False, **masks)


def test_float_masks_can_be_learned():
    modules, x = pair(12, 3), self_inputs((7, 2))
    masks = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 7), (7, 7))]
    gradients = []
    for module in modules:
        output, _ = module(*x, key_padding_mask=masks[0], attn_mask=masks[1], need_weights=False)
        gradients.append(torch.autograd.grad(output.square().sum(), masks))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_parameters_can_be_given_from_outside():
    modules, x = pair(12, 3), self_inputs((7, 2))
    other = {name: torch.randn_like(parameter) for name, parameter in modules[0].named_parameters()}
    theirs, ours = (torch.func.functional_call(module, other, x) for module in modules)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (self_inputs((7, 2)), {}),
        (self_inputs((2, 7)), {"batch_first": True}),
        (self_inputs((7,)), {"bias": False}),
        (cross_inputs(False), {"bias": False}),
        (cross_inputs(False, widths=(5, 17)), {"kdim": 5, "vdim": 17}),
        (cross_inputs(True, widths=(12, 5)), {"vdim": 5, "bias": False, "batch_first": True}),
        (cross_inputs(False, widths=(5, 17)), {"kdim": 5, "vdim": 17, "add_bias_kv": True}),
    ],
    ids=["length first", "batch first", "no batch", "cross", "widths", "one width", "widths and learned key"],
)
def test_every_layout_gives_the_same(inputs, options):
    theirs, ours = pair(12, 3, **options)
    assert_same(theirs, ours, inputs)
    theirs.load_state_dict(ours.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


@pytest.mark.parametrize("need_weights", [True, False])
def test_is_causal_is_a_causal_mask(need_weights):
    theirs, ours = pair(12, 3)
    x, _, _ = self_inputs((7, 2))
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    assert_same(theirs, ours, (x, x, x), attn_mask=mask, is_causal=True, need_weights=need_weights)
    torch.testing.assert_close(ours(x, x, x, is_causal=True), ours(x, x, x, attn_mask=mask))


def test_is_causal_leaves_keys_that_join_the_sequence_to_all():
    """torch's kernel, told so without weights, forbids them to all but the last; with weights it does not."""
    theirs, ours = pair(12, 3, add_bias_kv=True)
    x, _, _ = self_inputs((7, 2))
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    expected = theirs(x, x, x, attn_mask=mask)[0]
    torch.testing.assert_close(ours(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0], expected)


@pytest.mark.parametrize("options", [{}, {"kdim": 5}, {"bias": False, "add_bias_kv": True}], ids=str)
def test_the_same_seed_gives_the_same_weights(options):
    states = []
    for kind in (nn.MultiheadAttention, hw.compat.MultiheadAttention):
        torch.manual_seed(3)
        states.append(kind(12, 3, **options).state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    assert [*states[1]] == [*states[0]]


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_sequence_of_padding_alone_gives_the_bias_and_finite_gradients(training, need_weights):
    theirs, ours = pair(12, 3, dropout=0.3, training=training, batch_first=True)
    x = torch.randn(2, 7, 12, dtype=torch.float64, requires_grad=True)
    drop = torch.tensor([[False] * 7, [True] * 7])
    assert theirs(x, x, x, drop)[0].isnan().any()
    output, weights = ours(x, x, x, drop, need_weights=need_weights)
    torch.testing.assert_close(output[1], ours.out_proj.bias.expand(7, 12))
    assert not need_weights or (weights[1] == 0).all()
    output.sum().backward()
    assert (x.grad[1] == 0).all()
    assert all(y.isfinite().all() for y in (output, x.grad, *(parameter.grad for parameter in ours.parameters())))


def test_weights_come_without_dropout():
    _, ours = pair(12, 3, dropout=0.5)
    x, _, _ = self_inputs((7, 2))
    output, weights = ours(x, x, x)
    torch.testing.assert_close(weights, ours.eval()(x, x, x)[1])
    assert (output - ours(x, x, x)[0]).abs().max() > 1e-2


def test_hooks_and_adapters_on_projections_work():
    _, ours = pair(12, 3)
    x, _, _ = self_inputs((7, 2))
    called = []
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        ours.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    ours(x, x, x)
    assert sorted(called) == ["k_proj", "out_proj", "q_proj", "v_proj"]

    class LowRank(nn.Module):
        def __init__(self, base: nn.Linear):
            super().__init__()
            self.base = base
            self.down, self.up = nn.Linear(base.in_features, 2).double(), nn.Linear(2, base.out_features).double()

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    merged = deepcopy(ours)
    ours.v_proj = LowRank(ours.v_proj)
    with torch.no_grad():
        up, down = ours.v_proj.up, ours.v_proj.down
        merged.v_proj.weight.add_(up.weight @ down.weight)  # as adapters do: in place
        merged.v_proj.bias.add_(up.bias + up.weight @ down.bias)
    torch.testing.assert_close(ours(x, x, x), merged(x, x, x))
    ours(x, x, x)[0].sum().backward()
    assert ours.v_proj.down.weight.grad.abs().max() > 0


def test_copies_have_parts_of_their_own():
    _, ours = pair(12, 3)
    x, _, _ = self_inputs((7, 2))
    before = ours(x, x, x)
    for copied in (deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(copied(x, x, x), before)
        nn.init.zeros_(copied.in_proj_weight)
        assert (copied.q_proj.weight == 0).all()
        torch.testing.assert_close(ours(x, x, x), before)


def test_observers_statistics_and_gates_see_it():
    model = nn.ModuleDict({"attention": pair(12, 3, batch_first=True)[1]})
    x, _, _ = self_inputs((2, 7))
    drop = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    found = []
    for mask in (drop, torch.zeros(2, 7).double().masked_fill(drop, -torch.inf)):
        with hw.observe(model) as record:
            output, weights = model["attention"](x, x, x, mask, average_attn_weights=False)
        torch.testing.assert_close(record["attention"].weights(), weights)
        found.append(hw.statistics(record)["attention"])
    assert (found[0].queries == 11).all()  # not the three of padding
    torch.testing.assert_close(found[1].distance, found[0].distance)
    module, head = model["attention"], record["attention"].head_outputs[:, 1]
    with hw.gates(model, {"attention": torch.tensor([1.0, 0.0, 1.0])}):
        without = module(x, x, x, drop)[0]
    torch.testing.assert_close(without, output - head @ module.out_proj.weight[:, 4:8].T)


def test_positions_say_nothing_about_keys_that_join_the_sequence():
    _, ours = pair(12, 3, add_zero_attn=True)
    x, _, _ = self_inputs((7, 2))
    with hw.observe(ours) as record:
        ours(x, x, x)
    assert record[""].weights().shape == (2, 3, 7, 8)
    assert hw.statistics(record)[""].distance is None


def test_without_weights_nothing_grows_with_pairs():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
            result = operation(*arguments, **(keywords or {}))
            for x in result if isinstance(result, tuple) else (result,):
                self.size = max(self.size, x.untyped_storage().nbytes() if isinstance(x, torch.Tensor) else 0)
            return result

    ours = hw.compat.MultiheadAttention(12, 3, batch_first=True)
    x = torch.randn(1, 499, 12)
    for mask in (None, torch.arange(499)[None] > 400):
        with Largest() as largest:
            output, weights = ours(x, x, x, mask, need_weights=False, is_causal=mask is None)
            output.sum().backward()
        assert weights is None
        assert largest.size < 499 * 499


def test_weights_have_the_dtype_of_the_inputs():
    _, ours = pair(12, 3, dtype=torch.bfloat16)
    x = torch.randn(7, 2, 12, dtype=torch.bfloat16)
    output, weights = ours(x, x, x)
    assert output.dtype == weights.dtype == torch.bfloat16


def test_the_meta_device_and_reset_parameters():
    module = hw.compat.MultiheadAttention(12, 3, add_bias_kv=True, device="meta", dtype=torch.float64)
    assert all(parameter.is_meta and parameter.dtype == torch.float64 for parameter in module.parameters())
    module.to_empty(device="cpu").reset_parameters()
    torch.manual_seed(3)
    module.reset_parameters()
    torch.manual_seed(3)
    torch.testing.assert_close(
        module.state_dict(), nn.MultiheadAttention(12, 3, add_bias_kv=True, dtype=torch.float64).state_dict()
    )


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"key_padding_mask": torch.zeros(7, 2, dtype=torch.bool)}, r"key_padding_mask: expected .* \(2, 7\); got .*\(7, 2\)"),
        ({"key_padding_mask": torch.zeros(2, 7, dtype=torch.int64)}, r"expected bools .* got torch.int64"),
        ({"attn_mask": torch.zeros(2, 7, 7)}, r"attn_mask: .* \(7, 7\) or \(6, 7, 7\)"),
        ({"key": torch.randn(5, 2, 12), "value": torch.randn(5, 2, 12), "is_causal": True}, "is_causal"),
        ({"key": torch.randn(7, 12)}, "3 dimensions"),
        ({"key": torch.randn(7, 2, 5)}, "key: expected"),
        ({"value": torch.randn(7, 3, 12)}, "same batch"),
        ({"query": torch.nested.nested_tensor([torch.randn(3, 12)], layout=torch.jagged)}, "nested"),
    ],
    ids=["padding", "integers", "mask", "causal", "dimensions", "width", "batch", "nested"],
)
def test_wrong_calls_say_what_was_expected(wrong, message):
    module = hw.compat.MultiheadAttention(12, 3)
    x = torch.randn(7, 2, 12)
    with pytest.raises(ValueError, match=message):
        module(**{"query": x, "key": x, "value": x, **wrong})


@pytest.mark.nohook
@pytest.mark.parametrize("wrong", [(12, 5), (0, 1), (12, 3, 1.5)], ids=str)
def test_wrong_widths_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected|divide"):
        hw.compat.MultiheadAttention(*wrong)


@pytest.mark.nohook
def test_it_compiles_whole():
    _, ours = pair(12, 3, batch_first=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x, _, _ = self_inputs((2, 7))
    drop = torch.tensor([[False] * 7, [True] * 7])
    torch.testing.assert_close(compiled(x, x, x, drop), ours(x, x, x, drop))
    gradients = []
    for module in (ours, compiled):
        module.zero_grad()
        module(x, x, x, drop)[0].square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in ours.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.nohook
def test_it_exports_with_any_length():
    _, ours = pair(12, 3, batch_first=True)
    x, y = torch.randn(2, 7, 12, dtype=torch.float64), torch.randn(3, 13, 12, dtype=torch.float64)
    free = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    exported = torch.export.export(ours, (x, x, x), dynamic_shapes={"query": free, "key": free, "value": free})
    torch.testing.assert_close(exported.module()(y, y, y), ours(y, y, y))
    assert [*exported.state_dict] == [*ours.state_dict()]


WAYS = {
    "fused": {},
    "no biases": {"bias": False},
    "three widths": {"kdim": 5, "vdim": 11},
    "keys that join": {"add_bias_kv": True, "add_zero_attn": True},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_a_pruned_one_is_the_one_with_gates_of_0(options):
    module = hw.compat.MultiheadAttention(12, 4, batch_first=True, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    fresh = deepcopy(module)
    inputs = [torch.randn(2, length, width).double() for length, width in ((5, 12), (7, module.kdim), (7, module.vdim))]
    with hw.gates(module, {"": torch.tensor([1.0, 0.0, 1.0, 0.0])}):
        want, whole = module(*inputs)[0], module(*inputs, average_attn_weights=False)[1]
    before = sum(parameter.numel() for parameter in module.parameters())
    assert hw.prune(module, {"": [1, 3]}) is module
    got, weights = module(*inputs, average_attn_weights=False)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(weights, whole[:, [0, 2]])
    assert before - sum(parameter.numel() for parameter in module.parameters()) > 0.45 * before
    module(*inputs)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    hw.prune(fresh, {"": [1, 3]}).load_state_dict(module.state_dict())
    torch.testing.assert_close(deepcopy(fresh)(*inputs)[0], want)


def test_a_pruned_encoder_of_torchs():
    layer = torch.nn.TransformerEncoderLayer(12, 4, 17, batch_first=True)
    encoder = hw.replace_attention(torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval()
    x, address = torch.randn(2, 5, 12), "layers.1.self_attn"
    drop = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        with hw.gates(encoder, {address: torch.tensor([0.0, 1.0, 1.0, 1.0])}):
            want = encoder(x, src_key_padding_mask=drop)
        torch.testing.assert_close(hw.prune(encoder, {address: [0]})(x, src_key_padding_mask=drop), want)
    assert hw.weights.read(encoder.get_submodule(address), "torch").num_heads == 3


@pytest.mark.nohook
def test_what_cannot_be_cut_or_grouped_is_told():
    module = hw.compat.MultiheadAttention(12, 4)
    with pytest.raises(ValueError, match=r'no place.*hw.weights.read\(layer, "torch"\)'):
        hw.group_heads(module, 2)
    assert hw.group_heads(hw.weights.read(module, "torch"), 2).num_kv_heads == 2
    module.q_proj = torch.nn.Linear(12, 12)
    with pytest.raises(ValueError, match="q_proj is a Linear: heads are cut"):
        hw.prune(module, {"": [0]})
