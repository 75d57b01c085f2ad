"""The Transformer against torch's own layers, by what it may see, and step by step."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from headwise.attention.positions import sinusoids
from headwise.models.transformer import Transformer, TransformerConfig

BATCH, SOURCE, TARGET = 3, 7, 5
CONFIG = TransformerConfig(
    vocab_size=29, embed_dim=26, num_heads=2, num_encoder_layers=2, num_decoder_layers=2, feedforward_dim=17, max_positions=11
)
EXACT = {"rtol": 1e-9, "atol": 1e-9}
NORMS = pytest.mark.parametrize("norm", ["post", "pre"])


class Reference(nn.Module):
    """The same model out of torch's own layers, in float64. Train mode without dropout keeps them off their fast path."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        sizes = (config.embed_dim, config.num_heads, config.feedforward_dim, 0.0)
        how = {"activation": "relu", "layer_norm_eps": 1e-5, "batch_first": True, "norm_first": config.norm == "pre"}
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.embed_dim))
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(*sizes, **how) for _ in range(config.num_encoder_layers))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(*sizes, **how) for _ in range(config.num_decoder_layers))
        last = nn.LayerNorm if config.norm == "pre" else nn.Identity
        self.last = nn.ModuleDict({side: last(config.embed_dim) for side in ("encoder", "decoder")})
        for name, parameter in self.double().named_parameters():
            nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.25)
        for norm in self.last.values():
            for parameter, mean in zip(norm.parameters(), (1.0, 0.0), strict=False):
                nn.init.normal_(parameter, mean=mean, std=0.25)

    def forward(self, source: torch.Tensor, keep: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.embed(source), self.embed(target)
        for layer in self.encoder:
            x = layer(x, src_key_padding_mask=~keep)
        memory, late = self.last["encoder"](x), torch.ones(2 * target.shape[1:], dtype=torch.bool).triu(1)
        for layer in self.decoder:
            y = layer(y, memory, tgt_mask=late, memory_key_padding_mask=~keep)
        return self.last["decoder"](y) @ self.embedding.T, memory

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        dim = self.embedding.shape[1]
        return self.embedding[ids] * math.sqrt(dim) + sinusoids(torch.arange(ids.shape[1]), dim)

    def table(self, read=lambda parameter: parameter.detach()) -> dict[str, torch.Tensor]:
        """The parameters, or what ``read`` makes of them, by headwise's names."""
        table = {"embedding.weight": read(self.embedding)}
        for side, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            for kind, parameter in self.last[side].named_parameters():
                table[f"{side}.norm.{kind}"] = read(parameter)
            for i, layer in enumerate(layers):
                parts = {"feed_forward.expand": layer.linear1, "feed_forward.contract": layer.linear2}
                parts |= {f"residuals.{n}.norm": getattr(layer, f"norm{n + 1}") for n in range(3 if side == "decoder" else 2)}
                attentions = {"self_attention": layer.self_attn}
                if side == "decoder":
                    attentions["cross_attention"] = layer.multihead_attn
                for kind in ("weight", "bias"):
                    for name, attention in attentions.items():
                        parts[f"{name}.out_proj"] = attention.out_proj
                        fused = read(getattr(attention, f"in_proj_{kind}"))
                        for x, part in zip("qkv", fused.chunk(3), strict=True):
                            table[f"{side}.layers.{i}.{name}.{x}_proj.{kind}"] = part
                    for name, part in parts.items():
                        table[f"{side}.layers.{i}.{name}.{kind}"] = read(getattr(part, kind))
        return table


def pair(config: TransformerConfig) -> tuple[Transformer, Reference]:
    reference = Reference(config)
    model = Transformer(config).double().eval()
    model.load_state_dict(reference.table())
    return model, reference


def random_model(**changes) -> Transformer:
    return pair(replace(CONFIG, **changes))[0]


def random_batch() -> dict[str, torch.Tensor]:
    keep = torch.arange(SOURCE) < torch.tensor([[SOURCE], [4], [2]])
    labels = torch.randint(3, CONFIG.vocab_size, (BATCH, TARGET))
    labels[1, 3:] = labels[2, 1:] = -100
    return {
        "input_ids": torch.randint(3, CONFIG.vocab_size, (BATCH, SOURCE)).masked_fill(~keep, 0),
        "attention_mask": keep,
        "labels": labels,
    }


@NORMS
def test_parity_with_torch(norm):
    model, reference = pair(replace(CONFIG, norm=norm))
    batch = random_batch()
    target = torch.randint(3, CONFIG.vocab_size, (BATCH, TARGET))
    output = model(batch["input_ids"], batch["attention_mask"], target)
    logits, memory = reference(batch["input_ids"], batch["attention_mask"], target)
    torch.testing.assert_close(output.encoder_last_hidden_state, memory, **EXACT)
    torch.testing.assert_close(output.logits, logits, **EXACT)
    assert output.loss is None

    factor = torch.randn_like(logits)
    (factor * output.logits).sum().backward()
    (factor * logits).sum().backward()
    want = reference.table(lambda parameter: parameter.grad)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want.pop(name), **EXACT, msg=lambda text, name=name: f"{name}: {text}")
    assert not want


def test_loss():
    model, reference = pair(replace(CONFIG, label_smoothing=0.2))
    batch = random_batch()
    output = model(**batch)
    labels = batch["labels"]
    target = torch.cat([torch.ones(BATCH, 1, dtype=torch.long), labels[:, :-1].clamp(min=0)], dim=1)
    log_p = reference(batch["input_ids"], batch["attention_mask"], target)[0].log_softmax(-1)[labels != -100]
    said = log_p.gather(1, labels[labels != -100, None]).squeeze(1)
    want = -(0.8 * said + 0.2 * log_p.mean(1)).mean()
    torch.testing.assert_close(output.loss, want, **EXACT)
    output.loss.backward()
    want.backward()
    torch.testing.assert_close(model.embedding.weight.grad, reference.embedding.grad, **EXACT)


def test_sinusoids():
    table = sinusoids(torch.tensor([0, 1]), 4)
    torch.testing.assert_close(table, torch.tensor([[0, 1, 0, 1], [0.841471, 0.540302, 0.01, 0.99995]]), rtol=0, atol=1e-6)
    for dim in (26, 7):
        for p, row in zip((3, 10, 511), sinusoids(torch.tensor([3, 10, 511]), dim).tolist(), strict=True):
            want = [(math.sin, math.cos)[c % 2](p / 10000 ** ((c - c % 2) / dim)) for c in range(dim)]
            assert row == pytest.approx(want, abs=1e-7 * (p + 1))


def test_one_embedding_scaled_going_in_and_tied_going_out():
    model, ids, hidden = random_model(), torch.randint(29, (BATCH, SOURCE)), torch.randn(BATCH, TARGET, 26).double()
    table = model.embedding.weight
    torch.testing.assert_close(model.embed_source(ids), table[ids] * 26**0.5 + sinusoids(torch.arange(SOURCE), 26))
    torch.testing.assert_close(model.embed_target(ids, 4), table[ids] * 26**0.5 + sinusoids(torch.arange(4, 4 + SOURCE), 26))
    torch.testing.assert_close(model.logits(hidden), hidden @ table.T)
    assert [name for name, tensor in model.state_dict().items() if 29 in tensor.shape] == ["embedding.weight"]


def test_initial_embedding_has_unit_scale_after_scaling():
    weight = Transformer(replace(CONFIG, vocab_size=1009, embed_dim=64)).embedding.weight
    assert weight.std().item() == pytest.approx(64**-0.5, rel=0.02)


def test_dropout_in_training_alone():
    torch.manual_seed(1)
    model, batch = random_model(dropout=0.5), random_batch()
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    model.train()
    assert not torch.allclose(model(**batch).logits, model(**batch).logits)


@NORMS
def test_later_target_tokens_are_not_seen(norm):
    model, batch = random_model(norm=norm), random_batch()
    target = torch.randint(3, 29, (BATCH, TARGET))
    logits = model(batch["input_ids"], batch["attention_mask"], target).logits
    for t in range(TARGET - 1):
        other = target.clone()
        other[:, t + 1 :] = (target[:, t + 1 :] + 1) % 29
        changed = model(batch["input_ids"], batch["attention_mask"], other).logits
        torch.testing.assert_close(changed[:, : t + 1], logits[:, : t + 1], **EXACT)
        assert ((changed - logits)[:, t + 1 :].abs().amax(-1) > 1e-6).all()


@NORMS
def test_padded_source_tokens_are_not_seen(norm):
    model, batch = random_model(norm=norm), random_batch()
    ids, keep = batch["input_ids"], batch["attention_mask"]
    want = model(**batch)
    other = torch.where(keep, ids, torch.randint(3, 29, ids.shape))
    longer = [torch.cat([x, x.new_zeros(BATCH, 4)], dim=1) for x in (other, keep)]
    for input_ids, attention_mask in ((other, keep), (ids, keep.long()), longer):
        got = model(input_ids, attention_mask, labels=batch["labels"])
        torch.testing.assert_close(got.logits, want.logits, **EXACT)
        memory = got.encoder_last_hidden_state[:, :SOURCE]
        torch.testing.assert_close(memory[keep], want.encoder_last_hidden_state[keep], **EXACT)
    assert not torch.allclose(model(other, labels=batch["labels"]).logits, want.logits)


def test_padded_target_tokens_are_not_seen():
    model, batch = random_model(), random_batch()
    source, target = (batch["input_ids"], batch["attention_mask"]), torch.randint(3, 29, (BATCH, TARGET))
    keep = torch.ones(BATCH, TARGET, dtype=torch.long)
    keep[0, 1] = keep[1, 0] = keep[2, 3] = 0
    other = torch.where(keep == 1, target, (target + 1) % 29)
    got, want = (model(*source, ids, keep).logits[keep == 1] for ids in (other, target))
    torch.testing.assert_close(got, want, **EXACT)
    assert not torch.allclose(model(*source, target).logits[keep == 1], want)


def test_shift_right():
    model, batch = random_model(pad_token_id=4, bos_token_id=7), random_batch()
    labels = torch.tensor([[5, 6, 2, -100, -100], [8, -100, 9, 2, -100], [3, 3, 3, 3, 2]])
    shifted = torch.tensor([[7, 5, 6, 2, 4], [7, 8, 4, 9, 2], [7, 3, 3, 3, 3]])
    assert torch.equal(model.shift_right(labels), shifted)
    got = model(batch["input_ids"], batch["attention_mask"], labels=labels)
    assert torch.equal(got.logits, model(batch["input_ids"], batch["attention_mask"], shifted).logits)
    given = model(batch["input_ids"], batch["attention_mask"], shifted.flip(0), labels=labels)
    assert not torch.allclose(given.loss, got.loss)  # decoder_input_ids, where given, win


def test_nothing_to_decode():
    batch = random_batch()
    with pytest.raises(ValueError, match="decoder_input_ids or labels"):
        random_model()(batch["input_ids"], batch["attention_mask"])


def test_more_tokens_than_positions():
    model, short, longest, long = random_model(), *(torch.ones(2, n, dtype=torch.long) for n in (3, 11, 13))
    model(longest, decoder_input_ids=longest)
    for ids, target in ((long, short), (short, long)):
        with pytest.raises(ValueError, match=r"13 tokens .* 11 positions"):
            model(ids, decoder_input_ids=target)
    cache, memory = model.make_cache(), model.encode(short)
    model.decode(longest, memory, cache=cache)
    with pytest.raises(ValueError, match=r"12 tokens .* 11 positions"):
        model.decode(longest[:, :1], memory, cache=cache)


def test_pre_norm_ends_in_a_norm_and_post_norm_does_not():
    ids = torch.randint(3, 29, (BATCH, SOURCE))
    post, pre = (Transformer(replace(CONFIG, norm=norm)).eval() for norm in ("post", "pre"))
    assert set(pre.state_dict()) - set(post.state_dict()) == {
        f"{side}.norm.{kind}" for side in ("encoder", "decoder") for kind in ("weight", "bias")
    }
    pre.load_state_dict(post.state_dict(), strict=False)
    assert not torch.allclose(pre(ids, decoder_input_ids=ids).logits, post(ids, decoder_input_ids=ids).logits)
    with torch.no_grad():
        post.encoder.layers[-1].residuals[-1].norm.weight.fill_(2.0)
        pre.encoder.norm.weight.fill_(2.0)
    for model in (pre, post):
        torch.testing.assert_close(model.encode(ids).std(-1, correction=0), torch.full((BATCH, SOURCE), 2.0), rtol=1e-3, atol=0)


@NORMS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("steps", [[1] * TARGET, [2, 1, 2]])
def test_step_by_step_is_one_pass(norm, dtype, tolerance, steps):
    model, batch = random_model(norm=norm).to(dtype), random_batch()
    target = torch.randint(3, 29, (BATCH, TARGET))
    want = model(batch["input_ids"], batch["attention_mask"], target).logits
    memory, cache = model.encode(batch["input_ids"], batch["attention_mask"]), model.make_cache()
    parts = [model.decode(ids, memory, batch["attention_mask"], cache=cache) for ids in target.split(steps, dim=1)]
    assert [(layer.own.length, layer.cross.length) for layer in cache] == [(TARGET, SOURCE)] * 2
    torch.testing.assert_close(
        model.logits(torch.cat(parts, dim=1)), want, rtol=tolerance, atol=tolerance * want.abs().max().item()
    )


@pytest.mark.nohook
def test_compiles_into_one_graph():
    model, batch = random_model(), random_batch()
    got, want = torch.compile(model, fullgraph=True, backend="aot_eager")(**batch), model(**batch)
    torch.testing.assert_close(got.logits, want.logits, **EXACT)
    torch.testing.assert_close(got.loss, want.loss)
    gradients = [torch.autograd.grad(output.loss, list(model.parameters())) for output in (got, want)]
    torch.testing.assert_close(*gradients)


def test_parameter_count_on_the_meta_device():
    with torch.device("meta"):
        model = Transformer(TransformerConfig(vocab_size=37000))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    attention = 4 * (512 * 512 + 512)
    feed_forward = (512 * 2048 + 2048) + (2048 * 512 + 512)
    norm = 2 * 512
    encoder, decoder = attention + feed_forward + 2 * norm, 2 * attention + feed_forward + 3 * norm
    want = 37000 * 512 + 6 * encoder + 6 * decoder  # one embedding for three ends
    assert sum(parameter.numel() for parameter in model.parameters()) == want == 63_082_496
