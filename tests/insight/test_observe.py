"""What is recorded is what the model computed; looking costs nothing when off."""

import pytest
import torch

import headwise as hw
from headwise.models.transformer import Transformer, TransformerConfig

SELF, CROSS = "decoder.layers.1.self_attention", "decoder.layers.1.cross_attention"
SHALLOW = {"num_encoder_layers": 1, "num_decoder_layers": 1}


def make_model(**options) -> Transformer:
    config = TransformerConfig(**{"vocab_size": 53, "embed_dim": 24, "num_heads": 3, "num_encoder_layers": 2,
                                  "num_decoder_layers": 2, "feedforward_dim": 29, "dropout": 0.0, **options})  # fmt: skip
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch() -> dict[str, torch.Tensor]:
    keep = torch.ones(2, 7, dtype=torch.bool)
    keep[1, 4:] = False
    return {
        "input_ids": torch.randint(3, 53, (2, 7)),
        "attention_mask": keep,
        "labels": torch.randint(3, 53, (2, 5)),
    }


def test_addresses_are_named_modules_in_the_order_of_the_calls():
    model = make_model()
    with hw.observe(model) as record:
        model(**batch())
    kinds = ("encoder.layers.0.self_attention", "encoder.layers.1.self_attention", "decoder.layers.0.self_attention")
    assert list(record) == [*kinds, "decoder.layers.0.cross_attention", SELF, CROSS]
    assert set(record) <= dict(model.named_modules()).keys()
    with pytest.raises(KeyError, match=r"encoder\.layers\.0"):
        record["encoder.layers.9.self_attention"]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_weights_are_the_models_and_make_its_outputs(mode):
    model, inputs = make_model(), batch()
    getattr(model, mode)()
    outputs = {}
    for name, module in model.named_modules():
        if isinstance(module, hw.MultiHeadAttention):
            module.register_forward_hook(lambda module, _, output, name=name: outputs.update({name: output}))
    with hw.observe(model) as record:
        model(**inputs)
    for address, call in record.items():
        module = model.get_submodule(address)
        weights = call.weights()
        torch.testing.assert_close(weights @ call.value, call.head_outputs)
        parts = torch.einsum("bhqv,ehv->bqe", call.head_outputs, module.out_proj.weight.unflatten(1, (3, 8)))
        torch.testing.assert_close(parts + module.out_proj.bias, outputs[address])
        scores = (call.query @ call.key.mT / 8**0.5).masked_fill(~call.allowed(), -torch.inf)
        torch.testing.assert_close(weights, scores.softmax(-1))
        torch.testing.assert_close(call.lse, scores.logsumexp(-1))
        torch.testing.assert_close(
            call.weights(batch=1, head=2, rows=slice(1, 4), columns=torch.tensor([3, 0])), weights[1, 2, 1:4][:, [3, 0]]
        )
        assert not call.query.requires_grad
        assert not call.lse.requires_grad


def test_dropout_is_not_in_the_weights_and_gradients_still_flow():
    module = hw.MultiHeadAttention(12, 3, dropout=0.5)
    x = torch.randn(2, 5, 12, requires_grad=True)
    with hw.observe(module) as record:
        module(x).sum().backward()
    torch.testing.assert_close(record[""].weights().sum(-1), torch.ones(2, 3, 5))
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_steps_of_decoding_joined_are_the_one_pass():
    model, inputs = make_model(), batch()
    targets = model.shift_right(inputs["labels"])
    with hw.observe(model) as whole:
        memory = model.encode(inputs["input_ids"], inputs["attention_mask"])
        model.decode(targets, memory, inputs["attention_mask"])
    with hw.observe(model) as steps:
        model.encode(inputs["input_ids"], inputs["attention_mask"])
        cache = model.make_cache()
        for token in targets.split(1, dim=1):
            model.decode(token, memory, inputs["attention_mask"], cache=cache)
    for address in (SELF, CROSS):
        assert len(steps[address]) == 5
        joined = steps[address].joined()
        torch.testing.assert_close(joined.weights(), whole[address].weights())
        torch.testing.assert_close(joined.lse, whole[address].lse)
        torch.testing.assert_close(joined.head_outputs, whole[address].head_outputs)
        with pytest.raises(AttributeError, match=r"5 times.*joined"):
            _ = steps[address].query


def decoded(masks: list) -> tuple[torch.Tensor, torch.Tensor, hw.MultiHeadAttention]:
    """A self-attention fed in steps, one mask each: weights of the joined call, and of each call in its rows."""
    module, cache = hw.MultiHeadAttention(12, 3), hw.cache.Growing()
    x = torch.randn(2, 7, 12)
    sizes = [3] + [1] * (len(masks) - 1)
    with torch.no_grad(), hw.observe(module) as record:
        for piece, mask in zip(x[:, : sum(sizes)].split(sizes, dim=1), masks, strict=True):
            module(piece, mask=mask, cache=cache)
    calls = record[""]
    rows = [torch.nn.functional.pad(call.weights(), (0, sum(sizes) - call.key.shape[-2])) for call in calls]
    statistics = hw.statistics({"": [calls.joined()]})[""]
    assert (statistics.distance < sum(sizes)).all()
    return calls.joined().weights(), torch.cat(rows, dim=-2), module


@pytest.mark.parametrize(
    "masks",
    [
        [None] * 5,
        [hw.masks.causal()] + [None] * 4,
        [hw.masks.padding(torch.tensor([n, 2])) for n in (3, 4, 2, 6, 5)],
        [hw.masks.causal() & hw.masks.padding(torch.arange(n)[None] != torch.tensor([[0], [1]])) for n in (3, 4, 5, 6, 7)],
        [torch.rand(1, 1, m, n) > 0.3 for m, n in ((3, 3), (1, 4), (1, 5), (1, 6), (1, 7))],
    ],
    ids=["no mask", "causal, then none", "lengths", "causal and padding", "dense"],
)
def test_joined_rows_are_the_rows_of_the_steps(masks):
    joined, steps, _ = decoded(masks)
    torch.testing.assert_close(joined, steps)


def test_extreme_scores_keep_their_rows():
    module = hw.MultiHeadAttention(12, 3)
    x = 1e4 * torch.randn(2, 7, 12)
    with torch.no_grad(), hw.observe(module) as record:
        module(x)
    weights = record[""].weights()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7))
    assert record[""].weights(columns=slice(0, 3)).max() <= 1
    assert (hw.statistics(record)[""].entropy >= 0).all()


@pytest.mark.nohook
def test_an_unknown_stage_is_refused():
    module = hw.MultiHeadAttention(12, 3)
    with hw.observe(module) as record:
        module(torch.randn(2, 7, 12))
    with pytest.raises(ValueError, match="stage"):
        record[""].weights(stage="soft")


def test_joining_reordered_beams_is_refused():
    model, inputs = make_model(), batch()
    memory, cache = model.encode(inputs["input_ids"]), model.make_cache()
    with hw.observe(model) as record:
        for token in inputs["labels"].split(1, dim=1):
            model.decode(token, memory, cache=cache)
            cache[0].own.reorder(torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="do not go on"):
        record["decoder.layers.0.self_attention"].joined()


def test_nothing_is_recorded_outside_and_after_an_error():
    model = make_model()

    def fails() -> None:
        with hw.observe(model):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with hw.observe(model) as record:
        pass
    model(**batch())
    assert len(record) == 0


def test_only_the_observed_model_and_one_observation_at_a_time():
    model, other = make_model(), make_model()
    with hw.observe(model) as record:
        other(**batch())
        with pytest.raises(RuntimeError, match="leave it first"), hw.observe(other):
            pass
    assert len(record) == 0
    with pytest.raises(ValueError, match="MultiHeadAttention"), hw.observe(torch.nn.Linear(2, 2)):
        pass


@pytest.mark.nohook
class TestCompiled:
    def graphs(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], watch: bool, **options) -> tuple[list[str], int]:
        """The graphs compiled for two calls of a model, and how many calls were recorded between them."""
        torch._dynamo.reset()
        codes: list[str] = []

        def keep(graph, example):
            codes.append(graph.code)
            return graph

        compiled = torch.compile(model, backend=keep, **options)
        compiled(**inputs)
        recorded = 0
        if watch:
            with hw.observe(compiled) as record:
                compiled(**inputs)
            recorded = len(record)
        compiled(**inputs)
        return codes, recorded

    def test_the_graph_is_the_same_with_or_without_a_past_observation(self):
        model, inputs = make_model(), batch()
        never, _ = self.graphs(model, inputs, watch=False, fullgraph=True)
        assert len(never) == 1
        with hw.observe(model):
            model(**inputs)
        after, _ = self.graphs(model, inputs, watch=False, fullgraph=True)
        assert after == never
        assert "logsumexp" not in never[0]
        assert "flash" not in never[0]  # the public function: nothing is asked of the kernel but its output

    @torch.no_grad()
    def test_a_compiled_model_records_or_raises(self):
        model, inputs = make_model(**SHALLOW), batch()
        _, recorded = self.graphs(model, inputs, watch=True)
        assert recorded == 3
        with pytest.raises(torch._dynamo.exc.Unsupported):
            self.graphs(model, inputs, watch=True, fullgraph=True)

    def test_inductor_equals_eager(self):
        torch._dynamo.reset()
        model, inputs = make_model(**SHALLOW), batch()
        compiled = torch.compile(model, fullgraph=True)(**inputs)
        torch.testing.assert_close(compiled.logits, model(**inputs).logits)

    def test_gates_reach_a_compiled_model(self):
        torch._dynamo.reset()
        model, inputs = make_model(), batch()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        before = compiled(**inputs).logits
        gate = {CROSS: torch.tensor([1.0, 0.0, 1.0])}
        with hw.gates(model, gate):
            torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)
            assert (compiled(**inputs).logits - before).abs().max() > 1e-3
        torch.testing.assert_close(compiled(**inputs).logits, before)


def test_observing_adds_no_operation_per_token_pair():
    """On or off, the same attention kernel runs as often, and nothing (query_len, key_len) is made or kept."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.kernels, self.largest = 0, 0

        def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
            result = operation(*arguments, **(keywords or {}))
            self.kernels += "flash_attention" in str(operation)
            for x in result if isinstance(result, tuple) else (result,):
                self.largest = max(self.largest, x.numel() if isinstance(x, torch.Tensor) else 0)
            return result

    model = make_model(max_positions=512, num_encoder_layers=1)
    ids = torch.randint(3, 53, (1, 499))
    with torch.no_grad(), Counting() as off:
        model.encode(ids)
    with torch.no_grad(), hw.observe(model), Counting() as on:
        model.encode(ids)
    assert (on.kernels, on.largest) == (off.kernels, off.largest)
    assert off.kernels == 1
    assert off.largest < 499 * 499


def test_gates_are_differentiable_and_leave_no_trace():
    model, inputs = make_model(), batch()
    gate = torch.nn.Parameter(torch.ones(3))
    before = [name for name, _ in model.named_parameters()]
    with hw.gates(model, {CROSS: gate}):
        assert [name for name, _ in model.named_parameters()] == before
        model(**inputs).loss.backward()
    step = torch.tensor([0.0, 1e-3, 0.0])
    losses = []
    for sign in (1, -1):
        with torch.no_grad(), hw.gates(model, {CROSS: gate + sign * step}):
            losses.append(model(**inputs).loss)
    torch.testing.assert_close(gate.grad[1], (losses[0] - losses[1]) / 2e-3, rtol=2e-2, atol=1e-3)
    with pytest.raises(KeyError, match="no attention at"), hw.gates(model, {"encoder": gate}):
        pass
    with pytest.raises(ValueError, match="one per head"), hw.gates(model, {CROSS: torch.ones(4)}):
        pass
    assert model.get_submodule(CROSS).gate is None
