"""Of a long run as much is kept as is wished, and what is kept is what was computed."""

from pathlib import Path

import pytest
import torch

import headwise as hw
from headwise.attention.positions import Added
from headwise.insight.observing.record import Record
from headwise.models.transformer import Transformer, TransformerConfig

KEEP = torch.tensor([[True] * 7, [True, True, False, True, True, True, False]])
RULES = {
    "causal and padding": (hw.masks.causal() & hw.masks.padding(KEEP), None),
    "documents": (hw.masks.documents(torch.tensor([[0, 0, 1, 1, 1, 2, 2]] * 2)), hw.positions.Alibi(4)),
    "window or prefix": (hw.masks.window(2, 1) | hw.masks.prefix(torch.tensor([1, 2])), hw.positions.T5Buckets(4)),
    "no diagonal": (~hw.masks.dense(torch.eye(7, dtype=torch.bool)), hw.positions.Shaw(6, before=2, after=3)),
    "all": (None, hw.positions.TransformerXL(24, 4)),
    "turned": (hw.masks.dense(torch.rand(2, 1, 7, 7) > 0.3), hw.positions.Rotary()),
    "each head its own": (hw.masks.dense(torch.rand(4, 7, 7) > 0.3), Added(torch.randn(4, 7, 7))),
}


def recorded(rule: str, keep: hw.Keep | None = None) -> Record:
    mask, position = RULES[rule]
    torch.manual_seed(0)
    module = hw.MultiHeadAttention(24, 4, num_kv_heads=2, position=position, scores=hw.Scores(sinks=True))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with hw.observe(torch.nn.ModuleDict({"a": module, "b": module}), keep) as record, torch.no_grad():
        module(torch.randn(2, 7, 24), mask=mask)
    return record


def same(got, want, **close) -> None:
    for name in ("query", "key", "value", "head_outputs", "lse"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), **close)
    torch.testing.assert_close(got.weights(), want.weights(), **close)
    torch.testing.assert_close(got.weights(columns=slice(1, 4)), want.weights(columns=slice(1, 4)), **close)
    assert torch.equal(got.allowed(), want.allowed())


@pytest.mark.parametrize("rule", RULES)
def test_what_lies_in_a_folder_is_what_was_in_memory(rule, tmp_path):
    want, got = recorded(rule), recorded(rule, hw.Keep(folder=tmp_path / "calls"))
    for record in (got, hw.open_record(tmp_path / "calls")):
        same(record["a"][0], want["a"][0], atol=0, rtol=0)
        assert str(tmp_path / "calls" / "000000.pt") in Path("/proc/self/maps").read_text()
        assert hw.statistics(record)["a"].entropy.equal(hw.statistics(want)["a"].entropy)


def test_of_a_view_the_view_alone_is_written(tmp_path):
    recorded("causal and padding", hw.Keep(folder=tmp_path / "all"))
    recorded("causal and padding", hw.Keep(folder=tmp_path / "one", last=1))
    long, short = ((tmp_path / name / "000000.pt").stat().st_size for name in ("all", "one"))
    assert long - short > 2 * 6 * 24 * 4  # at least the six other queries


@pytest.mark.parametrize("rule", RULES)
def test_the_last_queries_see_what_they_saw(rule):
    whole = recorded(rule)["a"][0]
    for count in (3, 7, 100):
        part, rows = recorded(rule, hw.Keep(last=count))["a"][0], slice(-min(count, 7), None)
        assert part.key.equal(whole.key)
        torch.testing.assert_close(part.weights(), whole.weights()[..., rows, :])
        torch.testing.assert_close(part.weights(rows=slice(1, 3)), whole.weights()[..., rows, :][..., 1:3, :])
        assert torch.equal(part.head_outputs, whole.head_outputs[..., rows, :])
        assert torch.equal(part.lse, whole.lse[..., rows])


@pytest.mark.parametrize("rule", RULES)
def test_some_heads_see_what_they_saw(rule):
    whole, some = recorded(rule)["a"][0], [3, 0, 1]
    part = recorded(rule, hw.Keep(heads=(3, 0, 1), last=5))["a"][0]
    assert part.query.equal(whole.query[:, some, -5:])
    torch.testing.assert_close(part.weights(), whole.weights()[:, some, -5:])
    torch.testing.assert_close(part.weights() @ part.value, part.head_outputs)
    assert torch.equal(part.lse, whole.lse[:, some, -5:])
    with pytest.raises(ValueError, match="heads: expected some of 0 to 3; got \\(4,\\)"):
        recorded(rule, hw.Keep(heads=(4,)))


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-7), (torch.float64, 1e-6)])
def test_half_precision_is_as_exact_as_it_is(dtype, exact):
    whole, half = (recorded("causal and padding", keep)["a"][0] for keep in (None, hw.Keep(dtype=dtype)))
    assert {half.query.dtype, half.key.dtype, half.value.dtype, half.head_outputs.dtype} == {dtype}
    assert half.lse.dtype == torch.float32
    for name in ("query", "key", "value", "head_outputs"):
        assert torch.equal(getattr(half, name), getattr(whole, name).to(dtype))
    # A score of a head is a sum of 6 products, each off by two roundings.
    largest = (whole.query.abs() @ whole.key.abs().repeat_interleave(2, 1).mT).max() / 6**0.5
    assert (half.weights() - whole.weights()).abs().max() < 4 * exact * largest


def test_addresses_are_chosen_by_name_or_pattern():
    model = Transformer(TransformerConfig(53, 24, 3, 2, 2, 29, dropout=0.0)).eval()
    inputs = {"input_ids": torch.randint(3, 53, (2, 7)), "labels": torch.randint(3, 53, (2, 5))}
    for wish, count in (("decoder.layers.*.cross_attention", 2), ("encoder.layers.1.self_attention", 1), ("none", 0)):
        with hw.observe(model, hw.Keep(addresses=(wish,))) as record:
            model(**inputs)
        assert len(record) == count
    assert all(address.endswith("cross_attention") for address in record)


def test_steps_of_a_decoding_join_from_a_folder_too(tmp_path):
    model = Transformer(TransformerConfig(53, 24, 3, 1, 1, 29, dropout=0.0)).eval()
    with hw.observe(model, hw.Keep(folder=tmp_path)):
        hw.generate(model, torch.randint(3, 53, (2, 7)), max_new_tokens=12)
    record = hw.open_record(tmp_path)
    steps = record["decoder.layers.0.self_attention"]
    assert len(list(tmp_path.iterdir())) == sum(map(len, record.values()))
    joined = steps.joined()
    torch.testing.assert_close(joined.weights(rows=slice(-1, None)), steps[-1].weights())


@pytest.mark.nohook
def test_a_wish_that_cannot_be_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for wrong, said in (
        ({"addresses": "encoder"}, r"addresses: expected several, \('encoder',\)"),
        ({"heads": ()}, r"heads: expected numbers from 0, at least one; got \(\)"),
        ({"heads": (-1,)}, "heads: expected numbers from 0"),
        ({"last": 0}, "last: expected a number of queries, at least 1; got 0"),
        ({"last": 2.0}, "last: expected a number of queries"),
        ({"dtype": torch.int8}, "dtype: expected one of torch.float64, .*; got torch.int8"),
        ({"folder": tmp_path}, "holds something already"),
    ):
        with pytest.raises(ValueError, match=said):
            hw.Keep(**wrong)
    with pytest.raises(ValueError, match="holds no calls"):
        hw.open_record(tmp_path)


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    "content", [b"", b"not a call", Hostile(), {"a": 1}, ("a", torch.ones(2))], ids=lambda x: type(x).__name__
)
def test_what_is_no_call_is_refused_and_never_run(content, tmp_path, capsys):
    place = tmp_path / "000000.pt"
    place.write_bytes(content) if isinstance(content, bytes) else torch.save(content, place)
    with pytest.raises(ValueError, match=r"is no call that hw\.observe wrote"):
        hw.open_record(tmp_path)
    assert not capsys.readouterr().out


def test_what_is_kept_once():
    dense = recorded("turned")
    assert [tuple(x.shape) for x in dense.kept] == [(2, 1, 7, 7)]
    assert not recorded("causal and padding").kept
    assert [x.shape[-1] for x in recorded("no diagonal").kept] == [7]
