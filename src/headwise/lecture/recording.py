"""One sentence through one attention module of a real model: every step of the computation, as it ran."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwise.attention.module import MultiHeadAttention
from headwise.attention.record import Recorded
from headwise.explorer.look import names
from headwise.insight.observing.observe import observe
from headwise.tasks.translate import Translator


@dataclass(frozen=True, eq=False)
class Recording:
    """The tensors of self-attention over n tokens, h heads, one sentence. (Vaswani et al. 2017, section 3.2.2.)

    call: what observing recorded. x (n, d): what goes in. query, key, value (h or fewer, n, width): x W + b of each projection,
    split into heads. scores (h, n, n): q . k / sqrt(width), weights (h, n, n): their softmax. context (h, n, width):
    z_i = p_i v_i of head i. joined (n, h width): the contexts side by side. contributions (h, n, d): z_i W_O^i. output (n, d):
    what the module gave.
    """

    sentence: str
    tokens: list[str]
    address: str
    module: MultiHeadAttention
    call: Recorded
    x: Float[Tensor, "tokens embed_dim"]
    query: Float[Tensor, "heads tokens head_dim"]
    key: Float[Tensor, "kv_heads tokens head_dim"]
    value: Float[Tensor, "kv_heads tokens value_dim"]
    scores: Float[Tensor, "heads tokens tokens"]
    weights: Float[Tensor, "heads tokens tokens"]
    context: Float[Tensor, "heads tokens value_dim"]
    joined: Float[Tensor, "tokens width"]
    contributions: Float[Tensor, "heads tokens embed_dim"]
    output: Float[Tensor, "tokens embed_dim"]

    @property
    def difference(self) -> float:
        """max |sum_i z_i W_O^i + b_O - output|: rounding, or a mistake."""
        bias = self.module.out_proj.bias
        total = self.contributions.sum(0) + (0 if bias is None else bias.detach())
        return float((total - self.output).abs().max())


@torch.no_grad()
def record(translator: Translator, sentence: str, layer: int = 0) -> Recording:
    """Self-attention of an encoder's layer while the encoder reads the sentence. Raises ValueError for a sentence that the
    model cannot read."""
    translator.check(sentence)
    address = f"encoder.layers.{layer}.self_attention"
    module, passed = translator.model.get_submodule(address), list[tuple[Tensor, Tensor]]()
    assert isinstance(module, MultiHeadAttention)
    handle = module.register_forward_hook(lambda _, inputs, output: passed.append((inputs[0][0], output[0])))
    ids = translator.encode([sentence])[0]
    try:
        with observe(translator.model) as seen:
            translator.model.encode(torch.tensor([ids]))
    finally:
        handle.remove()
    call, ((x, output),) = seen[address][0], passed
    context = call.head_outputs[0]
    columns = module.out_proj.weight.unflatten(1, (module.num_heads, -1))  # embed_dim heads value_dim
    return Recording(
        sentence=sentence,
        tokens=names(translator.tokenizer, ids),
        address=address,
        module=module,
        call=call,
        x=x,
        query=call.query[0],
        key=call.key[0],
        value=call.value[0],
        scores=call.weights(batch=0, stage="masked"),
        weights=call.weights(batch=0),
        context=context,
        joined=module.concatenate(context),
        contributions=torch.einsum("hnv,ehv->hne", context, columns),
        output=output,
    )
