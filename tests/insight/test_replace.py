"""hw.replace_attention: any torch model, the same outputs, and its heads can be seen."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import headwise as hw

# torch's own encoder packs padded sequences in eval, and warns that this is a prototype, and where it cannot
pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
]


def randomised(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def make_encoder(heads: int = 2, **options) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(12, heads, 17, dropout=0.0, batch_first=True, dtype=torch.float64)
    return randomised(nn.TransformerEncoder(layer, 2, **options))


def ways(length: int) -> dict[str, dict[str, torch.Tensor]]:
    drop = torch.zeros(3, length, dtype=torch.bool)
    drop[1, 4:] = True
    after = torch.ones(length, length, dtype=torch.bool).triu(1)
    return {"no mask": {}, "padding": {"src_key_padding_mask": drop}, "causal": {"mask": after}}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("masks", ways(7).values(), ids=ways(7))
def test_an_encoder_gives_the_same_in_train_and_eval(masks, training):
    theirs = make_encoder().train(training)
    ours = hw.replace_attention(deepcopy(theirs))
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    real = ~masks.get("src_key_padding_mask", torch.zeros(3, 7, dtype=torch.bool))
    with torch.set_grad_enabled(training):  # without, torch takes its fast path
        expected, found = theirs(x, **masks), ours(x, **masks)
        torch.testing.assert_close(found[real], expected[real])
        with hw.observe(ours) as record:
            ours(x, **masks)
    assert list(record) == ["layers.0.self_attn", "layers.1.self_attn"]  # it did run, and not past us
    assert not training or all(part.training for part in ours.modules())


def test_an_encoder_is_finite_where_torch_gives_nan():
    theirs = make_encoder(enable_nested_tensor=False).eval()
    ours = hw.replace_attention(deepcopy(theirs))
    x, drop = torch.randn(3, 7, 12, dtype=torch.float64), torch.zeros(3, 7, dtype=torch.bool)
    drop[2] = True
    with torch.no_grad():
        expected, found = theirs(x, src_key_padding_mask=drop), ours(x, src_key_padding_mask=drop)
    assert expected[2].isnan().all()
    assert found.isfinite().all()
    torch.testing.assert_close(found[:2], expected[:2])
    ours.train()(x, src_key_padding_mask=drop).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in ours.parameters())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_a_whole_transformer_gives_the_same(norm_first, training):
    theirs = nn.Transformer(12, 3, 2, 2, 17, 0.0, norm_first=norm_first, dtype=torch.float64)
    theirs = randomised(theirs).train(training)
    ours = hw.replace_attention(deepcopy(theirs))
    source, target = torch.randn(11, 2, 12, dtype=torch.float64), torch.randn(7, 2, 12, dtype=torch.float64)
    drop = torch.tensor([[False] * 11, [False] * 5 + [True] * 6])
    masks = {"src_key_padding_mask": drop, "memory_key_padding_mask": drop, "tgt_mask": torch.ones(7, 7).triu(1) > 0}
    torch.testing.assert_close(ours(source, target, **masks), theirs(source, target, **masks))
    with hw.observe(ours) as record:
        ours(source, target, **masks)
    assert [name.split(".")[-1] for name in record] == ["self_attn"] * 2 + ["self_attn", "multihead_attn"] * 2


def test_parameters_are_the_same_tensors_and_an_optimizer_goes_on():
    theirs = make_encoder()
    theirs.layers[0].self_attn.in_proj_weight.requires_grad_(False)
    before, ours = dict(theirs.named_parameters()), deepcopy(theirs)
    assert hw.replace_attention(theirs) is theirs
    after = dict(theirs.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert not theirs.layers[0].self_attn.in_proj_weight.requires_grad

    replaced = hw.replace_attention(deepcopy(ours))
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    for model in (ours, replaced):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            if model is replaced:
                optimizer.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(replaced.state_dict(), ours.state_dict())


def test_a_module_that_is_one_and_its_hooks():
    theirs = randomised(nn.MultiheadAttention(12, 3, 0.3, kdim=5, vdim=17, add_bias_kv=True, add_zero_attn=True)).eval()
    seen = []
    handle = theirs.register_forward_hook(lambda module, *_: seen.append(type(module)))
    inputs = torch.randn(7, 2, 12), torch.randn(11, 2, 5), torch.randn(11, 2, 17)
    expected = theirs(*inputs)
    ours = hw.replace_attention(theirs)
    torch.testing.assert_close(ours(*inputs), expected)
    handle.remove()
    ours(*inputs)
    assert seen == [nn.MultiheadAttention, hw.compat.MultiheadAttention]
    assert (ours.dropout, ours.batch_first, ours.training) == (0.3, False, False)


def test_a_shared_module_stays_shared_in_any_container():
    shared, other = nn.MultiheadAttention(12, 3), nn.MultiheadAttention(12, 3)
    model = nn.ModuleDict({"a": nn.ModuleList([shared, nn.Linear(2, 2), shared]), "b": shared, "c": other})
    hw.replace_attention(model)
    assert model["a"][0] is model["a"][2] is model["b"]
    assert isinstance(model["b"], hw.compat.MultiheadAttention)
    assert isinstance(model["c"], hw.compat.MultiheadAttention)
    assert model["c"] is not model["b"]


@pytest.mark.nohook
def test_what_cannot_be_replaced_is_said_before_anything_changes():
    class Other(nn.MultiheadAttention):
        pass

    model = nn.ModuleDict({"first": nn.MultiheadAttention(12, 3), "second": Other(12, 3)})
    with pytest.raises(ValueError, match=r"'second': expected a torch.nn.MultiheadAttention; got Other"):
        hw.replace_attention(model)
    assert type(model["first"]) is nn.MultiheadAttention
    with pytest.raises(ValueError, match=r"Linear has no torch.nn.MultiheadAttention"):
        hw.replace_attention(nn.Linear(2, 2))


@pytest.mark.nohook
def test_a_converted_encoder_compiles_whole():
    ours = hw.replace_attention(make_encoder()).eval().requires_grad_(False)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x, masks = torch.randn(3, 7, 12, dtype=torch.float64), ways(7)["padding"]
    torch.testing.assert_close(compiled(x, **masks), ours(x, **masks))
