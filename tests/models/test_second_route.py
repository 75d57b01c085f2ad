"""The second route: our attention inside the reference library's own models, which isolates it from all that is around it.

The library calls any attention function that is registered with it. Ours has to give every model, from text to video, the
outputs and the weights of the model's own eager attention.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

import headwise as hw

NAME = "headwise"  # with "sdpa" in it DETR would refuse it

# The published class, changes of its configuration, and how many attention layers it has.
MODELS = [
    ("BertForQuestionAnswering", {}, 2),
    ("BertForMaskedLM", {}, 2),
    ("BertForSequenceClassification", {}, 2),
    ("GPT2LMHeadModel", {}, 2),
    ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, 2),
    ("LlamaForCausalLM", {}, 2),
    ("LlamaForCausalLM", {"num_key_value_heads": 1, "head_dim": 10}, 2),
    ("MarianMTModel", {}, 6),
    ("T5ForConditionalGeneration", {}, 6),
    ("ViTForImageClassification", {}, 2),
    ("YolosForObjectDetection", {}, 2),
    ("DetrForObjectDetection", {}, 6),
    ("Wav2Vec2ConformerForCTC", {"position_embeddings_type": "relative"}, 2),
    ("Wav2Vec2ConformerForCTC", {"position_embeddings_type": "rotary"}, 2),
    ("ParakeetForCTC", {}, 2),
    ("Speech2TextForConditionalGeneration", {}, 6),
    ("WhisperForConditionalGeneration", {}, 6),
    ("CLIPModel", {}, 4),
    ("VivitForVideoClassification", {}, 2),
    ("VideoMAEForVideoClassification", {}, 2),
]


class Adapter:
    """``hw.attend`` behind the signature by which the reference library calls attention; counts its calls."""

    def __init__(self) -> None:
        self.backends: list[str] = []
        self.rule: hw.masks.Mask | None = None  # instead of the float mask, for models without a relative term

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        position_bias: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        terms = [term for term in (position_bias, attention_mask if self.rule is None else None) if term is not None]
        how = {"bias": sum(terms) if terms else None, "mask": self.rule, "scale": scaling}
        self.backends.append(hw.which_backend(query, key, value, dropout=dropout, **how).backend)
        output = hw.attend(query, key, value, dropout=dropout, **how)
        return output.transpose(1, 2), hw.attention_weights(query, key, **how)


@pytest.fixture
def adapter() -> Iterator[Adapter]:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    adapter = Adapter()
    AttentionInterface.register(NAME, adapter)
    AttentionMaskInterface.register(NAME, eager_mask)  # without it causal models would get no mask at all
    yield adapter
    for interface in (AttentionInterface, AttentionMaskInterface):
        del interface._global_mapping[NAME]  # the library has no word for taking a registration back


@pytest.mark.parametrize(("name", "changes", "layers"), MODELS, ids=str)
def test_models_give_the_same_on_our_attention(adapter, name, changes, layers):
    model, batch = tiny.reference(name, **changes), tiny.inputs(name, **changes)
    theirs = run(model, batch)
    assert not adapter.backends
    model.set_attn_implementation(NAME)
    same(run(model, batch), theirs, tiny.rows(name, **changes))
    assert len(adapter.backends) == layers == sum("attentions" in key for key in theirs)


def run(model: torch.nn.Module, batch: tiny.Batch) -> dict[str, Tensor]:
    """Every tensor that the model puts out, by name."""
    with torch.no_grad():
        return dict(tensors("", model(**batch, output_attentions=True, output_hidden_states=True)))


def tensors(name: str, output: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield name, output
    elif isinstance(output, tuple | dict):  # the caches of decoders are neither
        for key, value in output.items() if isinstance(output, dict) else enumerate(output):
            yield from tensors(f"{name}.{key}", value)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], rows: dict[int, Tensor]) -> None:
    """Equal wherever a query is real. In float32 they differ by 5e-6 where outputs reach 16 (ViT), weights by 3e-6 (T5, which
    does not scale its scores); all else by less."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        a, b = (x.transpose(1, 2) if "attentions" in name else x for x in (ours[name], theirs[name]))
        if a.shape[1] in rows:
            a, b = (x[rows[x.shape[1]]] for x in (a, b))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("padded", ["left", "right", "nowhere"])
@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_causal_models_give_the_same_by_a_rule(adapter, name, padded):
    model, batch = tiny.reference(name), tiny.inputs(name)
    if padded == "left":
        batch = {key: value.flip(1) for key, value in batch.items()}
    real = batch["attention_mask"].bool()
    adapter.rule = hw.masks.causal() & hw.masks.padding(real)
    if padded == "nowhere":
        adapter.rule, batch["attention_mask"] = hw.masks.causal(), torch.ones_like(batch["attention_mask"])
        real = batch["attention_mask"].bool()
    theirs = run(model, batch)
    model.set_attn_implementation(NAME)
    ours = run(model, batch)
    same(ours, theirs, {7: real})
    assert adapter.backends == 2 * ["sdpa"]
