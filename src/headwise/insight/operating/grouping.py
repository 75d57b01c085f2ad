"""From multi-head to grouped-query attention."""

from __future__ import annotations

from torch import nn

from headwise.attention.heads import check_pooling, pool_key_heads
from headwise.insight.operating.pruning import cuttable
from headwise.models.checkpoint.heads import settle, uncompiled


def group_heads(model: nn.Module, num_kv_heads: int) -> nn.Module:
    """Gives every attention ``num_kv_heads`` key-value heads, changes the model and returns it, ready to be trained on.

    Key and value projections of the heads that will share one become their mean (Ainslie et al. 2023, section 2.1), which is
    exact where they are equal, and else a start: the paper goes on with 5 % of the steps of pretraining. Grouped heads can be
    grouped further; 1 is multi-query attention (Shazeer 2019). The parameters are new ones: make an optimizer afterwards.

    A Llama's config says num_key_value_heads, and others read the model. No other published format can say it: ``hw.save``
    writes an entry "headwise" into config.json, which ``hw.load`` alone understands.

    Raises ValueError, before anything is changed, where num_kv_heads does not divide the key-value heads that a module has,
    and for projections that are not nn.Linear.
    """
    inner = uncompiled(model)
    modules = cuttable(inner)
    for address, module in modules.items():
        try:
            check_pooling(module, num_kv_heads)
        except ValueError as error:
            raise ValueError(f"{address!r}: {error}") from None
    for module in modules.values():
        pool_key_heads(module, num_kv_heads)
    settle(inner)
    return model
