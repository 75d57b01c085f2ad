"""What stands in a head's place acts before concatenation, on that head alone."""

import pytest
import torch

import headwise as hw
from headwise.models.transformer import Transformer, TransformerConfig

SELF, CROSS = "decoder.layers.1.self_attention", "decoder.layers.1.cross_attention"


def make_module(**options) -> hw.MultiHeadAttention:
    module = hw.MultiHeadAttention(20, 5, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def make_model() -> Transformer:
    config = TransformerConfig(
        vocab_size=23, embed_dim=12, num_heads=3, num_encoder_layers=1, num_decoder_layers=2, feedforward_dim=13
    )
    model = Transformer(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def batch(size: int = 2) -> dict[str, torch.Tensor]:
    keep = torch.arange(7) < torch.tensor([7, 4, 5, 6])[:size, None]
    return {
        "input_ids": torch.randint(3, 23, (size, 7)),
        "attention_mask": keep,
        "labels": torch.randint(3, 23, (size, 5)),
    }


def run(module: hw.MultiHeadAttention, x: torch.Tensor):
    with torch.no_grad(), hw.observe(module) as record:
        output = module(x)
    return output, record


@pytest.mark.parametrize("num_kv_heads", [5, 1])
def test_zero_is_a_gate_of_0_is_deleted_columns_is_the_output_less_the_heads_part(num_kv_heads):
    module, x = make_module(num_kv_heads=num_kv_heads), torch.randn(2, 7, 20).double()
    output, record = run(module, x)
    with hw.ablate(module, {"": [3]}):
        ablated = module(x)
    with hw.gates(module, {"": torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])}):
        gated = module(x)
    part = record[""].head_outputs[:, 3] @ module.out_proj.weight[:, 12:16].T
    torch.testing.assert_close(ablated, gated)
    torch.testing.assert_close(ablated, output - part)
    module.out_proj.weight.data[:, 12:16] = 0
    torch.testing.assert_close(ablated, module(x))
    assert module.edit is None


def test_all_heads_patched_from_another_run_give_its_output_one_head_its_part():
    module, a, b = make_module(), torch.randn(2, 7, 20).double(), torch.randn(2, 7, 20).double()
    (of_a, from_a), (of_b, from_b) = run(module, a), run(module, b)
    with hw.ablate(module, {"": range(5)}, hw.ablation.Patch(from_b)):
        torch.testing.assert_close(module(a), of_b)
    with hw.ablate(module, {"": [1]}, hw.ablation.Patch(from_b)), hw.observe(module) as seen:
        patched = module(a)
    change = (from_b[""].head_outputs - from_a[""].head_outputs)[:, 1] @ module.out_proj.weight[:, 4:8].T
    torch.testing.assert_close(patched - of_a, change)
    torch.testing.assert_close(seen[""].head_outputs, from_a[""].head_outputs)  # what heads computed


def test_a_patched_layer_hands_on_the_other_runs_decoding_step_by_step():
    model, one, two = make_model(), batch(), batch()
    memory = model.encode(two["input_ids"], two["attention_mask"])

    def decode(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        cache = model.make_cache()
        steps = [model.decode(token, memory, two["attention_mask"], cache=cache) for token in inputs["labels"].split(1, dim=1)]
        return torch.cat(steps, dim=1)

    with torch.no_grad(), hw.observe(model) as record:
        decode(one)
    assert len(record[SELF]) == 5
    every = {address: range(3) for address in record}
    with torch.no_grad(), hw.ablate(model, every, hw.ablation.Patch(record)), hw.observe(model) as seen:
        decode(one)
    for call, before in zip(seen[CROSS], record[CROSS], strict=True):
        torch.testing.assert_close(call.head_outputs, before.head_outputs)


def test_the_mean_of_identical_rows_changes_nothing_and_any_mean_forgets_the_input():
    module, x = make_module(), torch.randn(1, 1, 20).double().expand(3, 7, 20)
    output, record = run(module, x)
    with hw.ablate(module, {"": [0, 4]}, hw.ablation.Mean(record)):
        torch.testing.assert_close(module(x), output)
    _, record = run(module, torch.randn(3, 7, 20).double())
    with hw.ablate(module, {"": range(5)}, hw.ablation.Mean(record)):
        outputs = module(torch.randn(2, 11, 20).double())
    mean = record[""].head_outputs.mean((0, 2)).flatten()
    torch.testing.assert_close(outputs, (mean @ module.out_proj.weight.T + module.out_proj.bias).expand(2, 11, 20))


def test_the_mean_is_over_all_calls_and_leaves_padding_out():
    module, lengths = make_module(), torch.tensor([7, 3])
    with torch.no_grad(), hw.observe(module) as record:
        module(torch.randn(2, 7, 20).double(), mask=hw.masks.padding(lengths))
        module(torch.randn(5, 20).double())  # without a batch
    heads = [record[""][0].head_outputs[0], record[""][0].head_outputs[1, :, :3], record[""][1].head_outputs]
    mean = torch.cat(heads, dim=1).mean(1)
    found = hw.ablation.Mean(record).outputs("", torch.zeros(2, 5, 4, 4).double(), 0)
    torch.testing.assert_close(found[:, 0], mean)


def test_resampling_takes_rows_of_other_inputs_the_same_for_all_heads():
    model, others = make_model(), batch(4)
    with torch.no_grad(), hw.observe(model) as record:
        model(**others)
    inputs = batch()
    every, drawn = {address: range(3) for address in record}, set()
    for seed in range(6):
        with torch.no_grad(), hw.ablate(model, every, hw.ablation.Resample(record, seed)):
            model(**inputs)
            outputs = [hw.ablation.Resample(record, seed).outputs(address, torch.zeros(2, 3, n, 4).double(), 0)
                       for address, n in ((SELF, 5), (CROSS, 5), ("encoder.layers.0.self_attention", 7))]  # fmt: skip
        for row in range(2):
            donors = [
                [torch.equal(found[row], record[address].head_outputs[i]) for i in range(4)].index(True)
                for found, address in zip(outputs, (SELF, CROSS, "encoder.layers.0.self_attention"), strict=True)
            ]
            assert len(set(donors)) == 1
            drawn.add(donors[0])
    assert drawn == {0, 1, 2, 3}


def test_gradients_flow_through_the_heads_that_are_left_alone():
    module, x = make_module(), torch.randn(2, 7, 20).double()
    _, record = run(module, torch.randn(2, 7, 20).double())
    with hw.ablate(module, {"": [1, 2]}, hw.ablation.Mean(record)):
        module(x).sum().backward()
    touched = module.v_proj.weight.grad.unflatten(0, (5, 4)).abs().amax((1, 2)) > 0
    assert touched.tolist() == [True, False, False, True, True]


def test_inner_contexts_act_on_outer_ones_and_all_are_left():
    module, x = make_module(), torch.randn(2, 7, 20).double()
    _, record = run(module, torch.randn(2, 7, 20).double())
    patch = {"": [0, 1]}, hw.ablation.Patch(record)
    with hw.ablate(module, *patch):
        patched = module(x)
    with hw.ablate(module, *patch), hw.ablate(module, {"": [0]}):
        inner = module(x)
    with hw.ablate(module, *patch), hw.gates(module, {"": torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])}):
        gated = module(x)
    heads = record[""].head_outputs
    torch.testing.assert_close(inner, patched - heads[:, 0] @ module.out_proj.weight[:, :4].T)
    torch.testing.assert_close(gated, patched - heads[:, 1] @ module.out_proj.weight[:, 4:8].T)
    assert module.edit is None


def test_heads_of_a_model_of_transformers_are_replaced_too():
    import transformers

    sizes = {"vocab_size": 53, "hidden_size": 30, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 37}
    model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).double().eval()
    a, b, address = *torch.randint(3, 53, (2, 2, 7)), "bert.encoder.layer.1.attention.self"
    with torch.no_grad(), hw.observe(model) as record:
        model(b)
    seen = []
    hook = model.get_submodule(address).register_forward_hook(lambda module, _, output: seen.append(output[0]))
    with torch.no_grad(), hw.ablate(model, {address: [1, 4]}, hw.ablation.Patch(record)):
        model(a)
    with torch.no_grad(), hw.observe(model) as own:
        model(a)
    hook.remove()
    patched, before = (x.unflatten(-1, (5, 6)).transpose(1, 2) for x in seen)
    torch.testing.assert_close(patched[:, [1, 4]], record[address].head_outputs[:, [1, 4]])
    torch.testing.assert_close(patched[:, [0, 2, 3]], before[:, [0, 2, 3]])
    torch.testing.assert_close(before, own[address].head_outputs)


@pytest.mark.nohook
def test_what_does_not_fit_is_refused_and_leaves_no_trace():
    module, x = make_module(), torch.randn(2, 7, 20).double()
    _, record = run(module, x)

    def ablated(how: hw.ablation.Ablation, x: torch.Tensor) -> None:
        with hw.ablate(module, {"": [0]}, how):
            module(x)
            module(x)

    for how, length, said in (
        (hw.ablation.Patch(record), 7, "holds 1"),
        (hw.ablation.Patch(record), 5, r"is \(2, 5, 5, 4\); recorded is \(2, 5, 7, 4\)"),
        (hw.ablation.Resample(record), 5, "rows do not fit"),
        (hw.ablation.Mean(run(hw.MultiHeadAttention(20, 4), torch.randn(2, 7, 20))[1]), 7, "recorded are"),
    ):
        with pytest.raises(ValueError, match=said):
            ablated(how, x[:, :length])
    with pytest.raises(KeyError, match="no call recorded"):
        ablated(hw.ablation.Mean({}), x)
    with pytest.raises(KeyError, match="no attention at"), hw.ablate(module, {"x": [0]}):
        pass
    with pytest.raises(ValueError, match=r"0 to 4; got \[5\]"), hw.ablate(module, {"": [5]}):
        pass
    assert module.edit is None
