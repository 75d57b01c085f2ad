"""From multi-head to grouped-query attention: exact where nothing is lost, and kept by folders."""

import json

import pytest
import torch

import headwise as hw
from headwise.models.llama import LlamaConfig, LlamaForCausalLM
from headwise.models.speecht5 import SpeechT5Config
from headwise.models.speecht5.loss import Looks, guided_attention_loss
from headwise.models.transformer import Transformer, TransformerConfig

IDS = {"input_ids": torch.arange(14).reshape(2, 7) + 3}
BOTH = IDS | {"labels": torch.arange(10).reshape(2, 5) + 3}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def transformer() -> Transformer:
    config = TransformerConfig(
        vocab_size=53, embed_dim=24, num_heads=4, num_encoder_layers=1, num_decoder_layers=2, feedforward_dim=29
    )
    return randomised(Transformer(config))


@pytest.mark.parametrize(
    "position", [None, hw.positions.Rotary(), hw.positions.TransformerXL(36, 6)], ids=lambda x: type(x).__name__
)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 3])
def test_it_is_exact_where_the_heads_of_a_group_are_equal(num_kv_heads, position):
    module = randomised(hw.MultiHeadAttention(36, 6, head_dim=(6, 11), position=position))
    with torch.no_grad():
        for projection, width in ((module.k_proj, 6), (module.v_proj, 11)):
            for parameter in projection.parameters():
                groups = parameter.unflatten(0, (num_kv_heads, -1, width))
                groups.copy_(groups[:, :1].clone())
    x = torch.randn(2, 7, 36)
    want = module(x)
    assert hw.group_heads(module, num_kv_heads) is module
    assert module.k_proj.weight.shape == (num_kv_heads * 6, 36)
    assert module.v_proj.out_features == num_kv_heads * 11
    torch.testing.assert_close(module(x), want)


def test_heads_of_a_group_become_their_mean_and_can_be_grouped_further():
    module = randomised(hw.MultiHeadAttention(20, 4))
    weight, bias = module.k_proj.weight.clone(), module.v_proj.bias.clone()
    hw.group_heads(module, 2)
    torch.testing.assert_close(module.k_proj.weight[:5], (weight[:5] + weight[5:10]) / 2)
    torch.testing.assert_close(module.v_proj.bias[5:], (bias[10:15] + bias[15:]) / 2)
    hw.group_heads(module, 1)
    torch.testing.assert_close(module.k_proj.weight, weight.unflatten(0, (4, 5)).mean(0))


def test_a_grouped_model_learns_and_comes_back_pruned_too(tmp_path):
    model = hw.group_heads(transformer(), 2)
    model(**BOTH).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    for removed in ({}, {"decoder.layers.0.self_attention": [0, 1], "encoder.layers.0.self_attention": [1, 2]}):
        hw.save(hw.prune(model, removed), tmp_path)
        assert torch.equal(hw.load(tmp_path)(**BOTH).logits, model(**BOTH).logits)


def test_a_llamas_config_says_it(tmp_path):
    config = LlamaConfig(
        vocab_size=53, hidden_size=24, intermediate_size=29, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4
    )
    model = hw.group_heads(randomised(LlamaForCausalLM(config)), 2)
    assert model.config.num_key_value_heads == 2
    hw.save(model, tmp_path)
    assert "headwise" not in json.loads((tmp_path / "config.json").read_text())
    assert torch.equal(hw.load(tmp_path)(**IDS).logits, model(**IDS).logits)


def test_speecht5_guides_the_heads_of_a_group_by_the_key_that_they_share():
    query, key = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 7, 6)
    real = torch.ones(2, 7, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    losses = []
    for keys in (key, key.repeat_interleave(2, dim=1)):
        look = Looks()
        look.hold(query, keys, keys)
        look.key = keys
        losses.append(guided_attention_loss(SpeechT5Config(guided_attention_loss_num_heads=3), [look], *real))
    torch.testing.assert_close(*losses)


@pytest.mark.nohook
def test_a_number_that_does_not_divide_changes_nothing():
    model = transformer()
    hw.prune(model, {"decoder.layers.1.cross_attention": [3]})
    for number in (0, 2, 8):
        with pytest.raises(ValueError, match=r"must divide the \d that there are"):
            hw.group_heads(model, number)
    assert model.encoder.layers[0].self_attention.num_kv_heads == 4
    hw.group_heads(model, 1)
