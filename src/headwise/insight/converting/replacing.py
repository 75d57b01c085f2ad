"""Putting headwise's attention into models made of torch's."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from headwise.insight.converting.compat import MultiheadAttention

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def replace_attention(module: AnyModule) -> AnyModule | MultiheadAttention:
    """Replaces every torch.nn.MultiheadAttention in a model by hw.compat.MultiheadAttention and returns the model, so that
    hw.observe, hw.statistics and hw.gates see its heads and rows that may attend to nothing are no longer nan.

    The model is changed in place; a module that is itself a torch.nn.MultiheadAttention is returned anew. The parameters are
    the very same tensors (an optimizer goes on), hooks and the output layer too; a module that is shared stays shared. A
    torch.nn.TransformerEncoder no longer packs padded sequences into nested tensors in eval, so that its outputs at padding are
    those of train, where torch gives zeros.

    Raises ValueError, and changes nothing, where there is none, or one of a class derived from it, whose forward pass may be
    another.
    """
    found = {name: part for name, part in module.named_modules() if isinstance(part, nn.MultiheadAttention)}
    if not found:
        raise ValueError(f"{type(module).__name__} has no torch.nn.MultiheadAttention in it")
    for name, part in found.items():
        if type(part) is not nn.MultiheadAttention:
            raise ValueError(f"{name!r}: expected a torch.nn.MultiheadAttention; got {type(part).__name__}, derived from it")
    replaced: dict[nn.Module | None, MultiheadAttention] = {part: _same(part) for part in found.values()}
    if module in replaced:
        return replaced[module]
    for parent in module.modules():
        for name, part in parent._modules.items():
            if part in replaced:
                setattr(parent, name, replaced[part])
        if isinstance(parent, nn.TransformerEncoder):
            parent.use_nested_tensor = False
    return module


def _same(theirs: nn.MultiheadAttention) -> MultiheadAttention:
    """The attention with the parameters, the output layer and the hooks of torch's."""
    ours = MultiheadAttention(
        theirs.embed_dim,
        theirs.num_heads,
        theirs.dropout,
        bias=theirs.in_proj_bias is not None,
        add_bias_kv=theirs.bias_k is not None,
        add_zero_attn=theirs.add_zero_attn,
        kdim=theirs.kdim,
        vdim=theirs.vdim,
        batch_first=theirs.batch_first,
        device="meta",
    )
    for name, parameter in theirs.named_parameters(recurse=False):
        ours.register_parameter(name, parameter)
    ours.out_proj = theirs.out_proj
    ours.__dict__.update({name: value for name, value in vars(theirs).items() if "_hook" in name})
    ours.training = theirs.training
    return ours
