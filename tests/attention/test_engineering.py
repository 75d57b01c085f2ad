"""torch.compile, torch.export, the meta device, autocast and derivatives: what a training or serving stack does to a module."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, ShapesCollection, export
from torch.fx import GraphModule

import headwise as hw

EMBED_DIM, HEADS, KV_HEADS, WIDTHS = 24, 6, 2, (4, 5)
SHAPES = ((3, 7), (5, 11), (2, 13))
positions = hw.positions
OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "rotary": lambda: {
        "position": positions.Rotary(interleaved=True, scaling=positions.Llama3()),
        "qk_norm": positions.AfterRotation(nn.RMSNorm),
    },
    "yarn": lambda: {"position": positions.Rotary(dim=2, scaling=positions.YaRN(4.0, 64)), "scores": hw.Scores(softcap=3.0)},
    "alibi": lambda: {"position": positions.Alibi(HEADS)},
    "t5": lambda: {"position": positions.T5Buckets(HEADS, num_buckets=8, max_distance=9)},
    "shaw": lambda: {"position": positions.Shaw(WIDTHS[0], before=3, after=2)},
    "transformer-xl": lambda: {"position": positions.TransformerXL(EMBED_DIM, HEADS, WIDTHS[0])},
    "sinks": lambda: {"scores": hw.Scores(sinks=True)},
}
RULES: dict[str, Callable[[Tensor], hw.masks.Mask]] = {
    "causal & padding": lambda keep: hw.masks.causal() & hw.masks.padding(keep),
    "window": lambda keep: hw.masks.window(3, 1),
    "lengths or prefix": lambda keep: (hw.masks.causal() & hw.masks.padding(keep.sum(-1))) | hw.masks.prefix(keep.sum(-1) // 2),
    "documents & not dense": lambda keep: (
        hw.masks.documents(keep.long().cumsum(-1) // 3) & ~hw.masks.dense(~keep[:, None, None])
    ),
}


# Rules and options know nothing of each other: every one of them, the options that go together in one module.
PAIRS = [(options, "causal & padding") for options in OPTIONS]
PAIRS += [("plain", rule) for rule in RULES if rule != "causal & padding"]


@pytest.fixture(autouse=True)
def forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def attention(options: str) -> nn.Module:
    module = hw.MultiHeadAttention(EMBED_DIM, HEADS, num_kv_heads=KV_HEADS, head_dim=WIDTHS, **OPTIONS[options]())
    return randomised(module)


def inputs(batch: int, length: int) -> tuple[Tensor, Tensor]:
    keep = torch.rand(batch, length) > 0.3
    keep[0, 0] = False  # an empty row under a causal mask
    return torch.randn(batch, length, EMBED_DIM), keep


def with_gradients(run: Callable[..., Tensor], module: nn.Module, *args: Any, **options: Any) -> list[Tensor]:
    output = run(*args, **options)
    weight = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    return [output, *torch.autograd.grad((output * weight).sum(), list(module.parameters()))]


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.nohook
@pytest.mark.parametrize(("options", "rule"), PAIRS)
def test_compiles_whole_for_any_length(options: str, rule: str) -> None:
    """One graph without a break, forward and backward, for all batches and lengths."""
    module, counter = attention(options), CompileCounterWithBackend("aot_eager_default_partitioner")
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for batch, length in SHAPES:
        x, keep = inputs(batch, length)
        mask = RULES[rule](keep)
        assert_same(with_gradients(compiled, module, x, mask=mask), with_gradients(module, module, x, mask=mask))
    assert sum(len(graph.graph.nodes) > 0 for graph in counter.graphs) == 1  # dynamo also hands over empty ones


@pytest.mark.nohook
@pytest.mark.slow
@pytest.mark.parametrize("options", ["rotary", "t5", "sinks"])
def test_inductor(options: str) -> None:
    module = attention(options)
    compiled = torch.compile(module, fullgraph=True)
    x, keep = inputs(3, 7)
    mask = hw.masks.causal() & hw.masks.padding(keep)
    assert_same(with_gradients(compiled, module, x, mask=mask), with_gradients(module, module, x, mask=mask))


@pytest.mark.nohook
@pytest.mark.parametrize(("options", "rule"), PAIRS)
def test_exports_with_any_batch_and_length(options: str, rule: str) -> None:
    """Rules are inputs of the exported program; it runs on other batches and lengths, and survives its file."""
    module = attention(options)
    x, keep = inputs(*SHAPES[0])
    mask, shapes = RULES[rule](keep), ShapesCollection()
    for tensor in (x, *(leaf for leaf in torch.utils._pytree.tree_leaves(mask) if isinstance(leaf, Tensor))):
        dynamic = [size in SHAPES[0] for size in tensor.shape]
        shapes[tensor] = tuple(Dim.DYNAMIC if moves else None for moves in dynamic)
    program = export(module, (x,), {"mask": mask}, dynamic_shapes=shapes)
    for batch, length in SHAPES:
        x, keep = inputs(batch, length)
        assert_same([program.module()(x, mask=RULES[rule](keep))], [module(x, mask=RULES[rule](keep))])


@pytest.mark.nohook
def test_an_exported_program_survives_its_file(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    module = attention("rotary").requires_grad_(False)
    x, keep = inputs(3, 7)
    mask, file = hw.masks.causal() & hw.masks.padding(keep), io.BytesIO()
    torch.export.save(export(module, (x,), {"mask": mask}), file)
    file.seek(0)
    assert_same([torch.export.load(file).module()(x, mask=mask)], [module(x, mask=mask)])


@pytest.mark.nohook
def test_attend_exports_as_the_kernel_that_torch_knows() -> None:
    class Attend(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return hw.attend(query, key, value, mask=hw.masks.causal())

    tensors = tuple(torch.randn(2, 3, length, 8) for length in (5, 7, 7))
    graph = "".join(part.code for part in export(Attend(), tensors).graph_module.modules() if isinstance(part, GraphModule))
    assert "scaled_dot_product_attention" in graph
    assert "for_cpu" not in graph  # which would bind the program to one device


@pytest.mark.parametrize("options", OPTIONS)
def test_from_the_meta_device(options: str) -> None:
    """Built without memory, given memory, reset: as if built at once."""
    made = {"num_kv_heads": KV_HEADS, "head_dim": WIDTHS, **OPTIONS[options]()}
    torch.manual_seed(3)
    want = hw.MultiHeadAttention(EMBED_DIM, HEADS, **made)
    with torch.device("meta"):
        module = hw.MultiHeadAttention(EMBED_DIM, HEADS, **{**made, **OPTIONS[options]()})
    assert all(parameter.is_meta for parameter in module.parameters())
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        nn.init.constant_(parameter, torch.nan)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            continue  # what a projection starts from is the attention's matter
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    for (name, got), expected in zip(module.named_parameters(), want.parameters(), strict=True):
        assert got.isfinite().all(), name
        assert got.shape == expected.shape
        assert (got == 0).all() == (expected == 0).all(), name
        assert got.detach().std(correction=0).item() == pytest.approx(expected.std(correction=0).item(), rel=0.3, abs=1e-6), (
            name
        )


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's RMSNorm under its autocast
@pytest.mark.parametrize("options", OPTIONS)
def test_autocast_keeps_scores_wide(options: str) -> None:
    """Under autocast the projections are bfloat16, and attention on them is as on bfloat16 tensors without autocast."""
    module = attention(options)
    x, keep = inputs(3, 7)
    mask = hw.masks.causal() & hw.masks.padding(keep)
    with torch.autocast("cpu", torch.bfloat16), hw.observe(module) as record:
        output = module(x, mask=mask)
    call = record[""][0].call
    bias = {} if call.bias is None else {"bias": call.bias}
    how = {"mask": call.mask, "scale": call.scale, "softcap": call.softcap, "sinks": call.sinks, **bias}
    assert output.dtype == torch.bfloat16
    assert call.query.dtype == torch.bfloat16
    wide = hw.attend(*(t.double() for t in (call.query, call.key, call.value)), **how, backend="formula")
    got = record[""].head_outputs.double()
    assert (got - wide).abs().max() <= 8 * torch.finfo(torch.bfloat16).eps * wide.abs().max()


def tensors_for_derivatives() -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    shapes = (1, 2, 3, 2), (1, 1, 5, 2), (1, 1, 5, 3), (2, 3, 5), (2,)  # two heads share one: every number costs a pass
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


def formula_of(mask: hw.masks.Mask | None, softcap: float | None, backend: str = "formula") -> Callable[..., Any]:
    def run(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"bias": bias, "sinks": sinks, "mask": mask, "softcap": softcap, "backend": backend}
        return hw.attend_with_lse(query, key, value, **options)

    return run


EMPTY_ROWS = hw.masks.dense(torch.tensor([[True] * 5, [False] * 5, [True, False, True, False, True]]))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # inside torch's gradcheck
@pytest.mark.parametrize("softcap", [None, 1.3])
@pytest.mark.parametrize("mask", [None, hw.masks.causal(), EMPTY_ROWS], ids=["none", "causal", "empty rows"])
def test_gradcheck_of_the_formula(mask: hw.masks.Mask | None, softcap: float | None) -> None:
    """First and second derivatives, and forward mode, against finite differences."""
    run, tensors = formula_of(mask, softcap), tensors_for_derivatives()
    assert torch.autograd.gradcheck(run, tensors, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(run, tensors, check_fwd_over_rev=True)


@pytest.mark.parametrize("backend", ["sdpa", "blocks"])
@pytest.mark.parametrize("mask", [None, hw.masks.causal(), EMPTY_ROWS], ids=["none", "causal", "empty rows"])
def test_gradcheck_of_the_other_backends(mask: hw.masks.Mask | None, backend: str) -> None:
    assert torch.autograd.gradcheck(formula_of(mask, None, backend), tensors_for_derivatives())


TRANSFORMED: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "sinks": lambda: {"sinks": torch.linspace(-1, 1, 4, dtype=torch.float64)},
    "learned bias": lambda: {"bias": torch.randn(4, 7, 7, dtype=torch.float64, requires_grad=True)},
    "t5": lambda: {"bias": randomised(positions.T5Buckets(4).double())},
    "window": lambda: {"mask": hw.masks.window(2, 1)},
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's vmap over a kernel without a rule of its own
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # inside torch's forward mode
@pytest.mark.parametrize("options", TRANSFORMED)
def test_transforms_of_torch_func(options: str) -> None:
    """Gradients per sample, forward mode and second derivatives of what is chosen unasked are those of the formula."""
    how, query = TRANSFORMED[options](), torch.randn(3, 4, 7, 5, dtype=torch.float64)

    def loss(backend: str | None) -> Callable[[Tensor], Tensor]:
        return lambda q: hw.attend(q, q, q, **how, backend=backend).pow(2).sum()

    for transform in (
        lambda f: torch.func.vmap(torch.func.grad(f)),
        torch.func.grad,
        lambda f: lambda q: torch.func.jvp(f, (q,), (torch.ones_like(q),))[1],
        lambda f: lambda q: torch.func.hessian(f)(q[:1, :, :2]) if options == "plain" else q,
    ):
        torch.testing.assert_close(transform(loss(None))(query), transform(loss("formula"))(query), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", [None, "formula", "sdpa", "blocks"])
def test_shapes_on_the_meta_device(backend: str | None) -> None:
    query = torch.empty(2, 4, 400, 8, device="meta")
    assert hw.attend(query, query, query, mask=hw.masks.window(9, 0), backend=backend).shape == query.shape
    module = hw.MultiHeadAttention(24, 6, position=positions.T5Buckets(6), device="meta")
    module.position = module.position.to("meta")
    assert module(torch.empty(2, 5, 24, device="meta"), mask=hw.masks.causal()).shape == (2, 5, 24)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_documents_whose_ids_cannot_be_looked_at() -> None:
    """Blocks depend on the ids: without their values, or without any, the call runs whole."""
    query, ids = torch.randn(3, 2, 400, 8), torch.arange(400).expand(3, 400) // 90
    whole = hw.attend(query, query, query, mask=hw.masks.documents(ids), backend="formula")
    each = torch.func.vmap(lambda q, i: hw.attend(q, q, q, mask=hw.masks.documents(i)))(query, ids)
    torch.testing.assert_close(each, whole, rtol=1e-4, atol=1e-5)
    nothing = torch.zeros(0, 2, 400, 8)
    assert hw.attend(nothing, nothing, nothing, mask=hw.masks.documents(ids[:0])).shape == nothing.shape


def test_a_fixed_cache_leaves_inference_mode() -> None:
    module, x = attention("rotary"), torch.randn(2, 5, EMBED_DIM)
    with torch.inference_mode():
        cache = hw.cache.Fixed(9)
        want = module(x, mask=hw.masks.causal(), cache=cache)
    cache.reset()
    with torch.no_grad():
        torch.testing.assert_close(module(x, mask=hw.masks.causal(), cache=cache), want.clone())


@pytest.mark.nohook
def test_numbers_that_would_lose_their_gradient() -> None:
    query = torch.randn(2, 4, 7, 5)
    with pytest.raises(ValueError, match=r"scale: expected a number; got torch\.float32"):
        hw.attend(query, query, query, scale=torch.ones((), requires_grad=True))
    with pytest.raises(ValueError, match="Cross: a step of cross-attention does not know where its query stands"):
        attention("rotary")(torch.randn(2, 1, 24), torch.randn(2, 5, 24), cache=hw.cache.Cross())


def test_calls_that_are_no_steps_are_not_joined() -> None:
    module, x = attention("plain"), torch.randn(2, 5, EMBED_DIM)
    with hw.observe(module) as record:
        module(x)
        module(x)
    with pytest.raises(ValueError, match="the queries of one call do not go on in the next"):
        record[""].joined()
