"""Multi-head attention as a module: project, split into heads, attend, concatenate, project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.attention import record
from headwise.attention.backends import choose
from headwise.attention.cache import Cross, Growing
from headwise.attention.formula import Call
from headwise.attention.functional import make_call
from headwise.attention.masks import Mask, as_rule
from headwise.attention.positions import AfterRotation, Bias, Rotary

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Scores:
    """How scores are formed: scale (None = 1 / sqrt(head_dim)), softcap * tanh(s / softcap), one learned sink per head."""

    scale: float | None = None
    softcap: float | None = None
    sinks: bool = False


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2).

        head_h = Attention(query W_h^Q, key W_h^K, value W_h^V)  Attention(Q, K, V) = softmax(scale Q K^T) V
        output = Concat(head_1, ..., head_H) W^O + b             = sum_h head_h W_h^O + b

    ``q_proj.weight`` stacks the W_h^Q, transposed, head after head (likewise k_proj, v_proj); head h reads columns
    h * value_dim ... (h + 1) * value_dim of ``out_proj.weight``. The paper's d_model, h, d_k and d_v are embed_dim, num_heads
    and the two parts of head_dim.

    embed_dim: width of query and output. num_heads: query heads. num_kv_heads: heads of key and value; query head h uses
    h // (num_heads // num_kv_heads) (grouped-query attention, Ainslie et al. 2023; 1 = multi-query, Shazeer 2019).
    head_dim: width of a head, or (key, value) widths; embed_dim // num_heads if not given. kdim, vdim: widths of the key and
    value inputs. bias: True, False, or the names of the projections that have one. position: a ``Rotary``, which turns queries
    and keys, or a rule that is added to the scores: ``Alibi``, ``T5Buckets``, ``Shaw``, ``TransformerXL``.
    qk_norm: makes the norm of queries and of keys from their width, e.g. nn.RMSNorm, applied before any rotation, or, as
    ``AfterRotation(nn.RMSNorm)``, after it. scores: ``Scores``. dropout: on the weights, in training.

    Raises ValueError where widths, heads or names do not fit. A query that may attend to nothing gets zero from every head, so
    the output there is b.

    What others do differently. torch.nn.MultiheadAttention: masks say True = drop, inputs are length first unless
    batch_first=True, the output comes in a tuple with the weights, an empty row is nan, projections are one fused parameter.
    x-transformers: query head h uses key-value head h % num_kv_heads, so that grouped weights need their heads reordered.
    flash-attn: tensors are (batch, length, heads, head_dim), a window (left, right) counts as ours. transformers: additive
    masks, and an empty row spreads its weight evenly over the padding.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear
    heads: Sequence[int]
    gate: Tensor | None
    edit: Callable[[Tensor], Tensor] | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | tuple[int, int] | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        bias: bool | Iterable[str] = True,
        position: Rotary | Bias | None = None,
        qk_norm: Callable[[int], nn.Module] | AfterRotation | None = None,
        scores: Scores | None = None,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(embed_dim, num_heads) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                "expected embed_dim and num_heads of at least 1 and dropout in [0, 1); "
                f"got {embed_dim}, {num_heads} and {dropout}"
            )
        if head_dim is None:
            if embed_dim % num_heads:
                raise ValueError(
                    f"embed_dim = {embed_dim} does not divide into num_heads = {num_heads}: choose another number of heads, "
                    "or say head_dim"
                )
            head_dim = embed_dim // num_heads
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(f"num_heads = {num_heads} must be a multiple of num_kv_heads = {num_kv_heads}")
        biased = set(PROJECTIONS if bias is True else () if bias is False else [bias] if isinstance(bias, str) else bias)
        if not biased <= set(PROJECTIONS):
            raise ValueError(f"bias: expected a bool or names out of {PROJECTIONS}; got {sorted(biased)}")
        if not isinstance(position, Rotary | Bias | None):
            raise ValueError(f"position: expected hw.positions.Rotary() or another rule of hw.positions; got {position!r}")
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, num_kv_heads
        self.heads = range(num_heads)  # which of these they are: fewer after hw.prune
        self.head_dim, self.value_dim = (head_dim, head_dim) if isinstance(head_dim, int) else head_dim
        self.kdim, self.vdim = (embed_dim if width is None else width for width in (kdim, vdim))
        self.position, self.scores, self.dropout = position, scores or Scores(), dropout
        widths = {
            "q_proj": (embed_dim, num_heads * self.head_dim),
            "k_proj": (self.kdim, num_kv_heads * self.head_dim),
            "v_proj": (self.vdim, num_kv_heads * self.value_dim),
            "out_proj": (num_heads * self.value_dim, embed_dim),
        }
        for name, (inputs, outputs) in widths.items():
            self.add_module(name, nn.Linear(inputs, outputs, name in biased, device=device, dtype=dtype))
        self.norm_after_rotation = isinstance(qk_norm, AfterRotation)
        norm = qk_norm.norm if isinstance(qk_norm, AfterRotation) else qk_norm
        self.q_norm, self.k_norm = (
            nn.Identity() if norm is None else norm(self.head_dim).to(device=device, dtype=dtype) for _ in range(2)
        )
        self.sinks = nn.Parameter(torch.empty(num_heads, device=device, dtype=dtype)) if self.scores.sinks else None
        self.gate, self.edit = None, None  # set by hw.gates and hw.ablate
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Projections: uniform after Glorot and Bengio 2010, biases and sinks zero, norms their own. After ``to_empty`` call it
        when the parts have reset themselves, as model.apply orders it: nn.Linear would undo what is done here."""
        for name in PROJECTIONS:
            projection = self.get_submodule(name)
            nn.init.xavier_uniform_(projection.weight)  # type: ignore[arg-type]
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
        for norm in (self.q_norm, self.k_norm):
            if not isinstance(norm, nn.Identity):
                norm.reset_parameters()  # type: ignore[operator]
        if self.sinks is not None:
            nn.init.zeros_(self.sinks)

    def forward(
        self,
        query: Float[Tensor, "*batch query_len embed_dim"],
        key: Float[Tensor, "*batch key_len kdim"] | None = None,
        value: Float[Tensor, "*batch key_len vdim"] | None = None,
        *,
        mask: Mask | Tensor | None = None,
        cache: Growing | None = None,
    ) -> Float[Tensor, "*batch query_len embed_dim"]:
        """Attends from query to key. key=None: self-attention; value=None: value = key.

        mask: a rule or a bool tensor, True = may attend. cache: ``Growing`` or ``Fixed`` in self-attention, ``Cross`` in
        cross-attention (which passes its key in every step; a filled cache does not project it again); changed in place.
        """
        call = self.split(query, key, value, mask, cache)
        heads = self.attend(call)
        if cache is not None:
            cache.hold(call.query, call.key, call.value)
        return self.out_proj(self.concatenate(heads))

    def split(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Mask | Tensor | None = None,
        cache: Growing | None = None,
    ) -> Call:
        """Projects the inputs, splits them into heads, turns them to their positions: all that attention then needs."""
        same_sequence = key is None
        if cache is not None and isinstance(cache, Cross) == same_sequence:
            raise ValueError(
                "cache: self-attention (no key given) takes hw.cache.Growing or Fixed, cross-attention hw.cache.Cross; "
                f"got {type(cache).__name__}"
            )
        if isinstance(cache, Cross) and self.position is not None:
            raise ValueError(
                "hw.cache.Cross: a step of cross-attention does not know where its query stands; leave position out"
            )
        mask = None if mask is None else as_rule(mask)
        key = query if key is None else key
        value = key if value is None else value
        for name, x, width in (("query", query, self.embed_dim), ("key", key, self.kdim), ("value", value, self.vdim)):
            if x.dim() < 2 or x.shape[-1] != width:
                raise ValueError(f"{name}: expected (*batch, length, {width}); got {tuple(x.shape)}")
        start = cache.length if same_sequence and cache is not None else 0
        k, v = self._keys_and_values(key, value, cache, start)
        if not same_sequence or cache is None:
            start, positions = k.shape[-2] - query.shape[-2], None
        else:
            mask, positions = cache.place(mask, query.shape[-2])
        q = self._place(self._heads(self.q_proj(query), self.head_dim), self.q_norm, start)
        bias = self.position if isinstance(self.position, Bias) else None
        dropout = self.dropout if self.training else 0.0
        how = self.scores
        return make_call(q, k, v, mask, bias, how.scale, how.softcap, self.sinks, dropout, same_sequence, positions)

    def attend(self, call: Call) -> Float[Tensor, "*batch num_heads query_len value_dim"]:
        """Every head's output, edited and scaled by its gate if such are set; observers see it here, as computed."""
        watched = record.observer is not None
        heads, lse = choose(call).attend(call, watched)
        if watched:
            record.emit(self, call, heads, lse)
        heads = heads if self.edit is None else self.edit(heads)
        return heads if self.gate is None else heads * self.gate.to(heads.dtype)[:, None, None]

    def concatenate(
        self, heads: Float[Tensor, "*batch num_heads query_len value_dim"]
    ) -> Float[Tensor, "*batch query_len width"]:
        """The heads side by side, head 0 first."""
        return heads.transpose(-3, -2).flatten(-2)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}"

    def _keys_and_values(self, key: Tensor, value: Tensor, cache: Growing | None, start: int | Tensor) -> tuple[Tensor, Tensor]:
        """Split into heads and placed; those that the cache holds are not projected again."""
        if isinstance(cache, Cross) and cache.key is not None and cache.value is not None:
            return cache.key, cache.value
        k = self._place(self._heads(self.k_proj(key), self.head_dim), self.k_norm, start)
        v = self._heads(self.v_proj(value), self.value_dim)
        return (k, v) if cache is None else cache.with_new(k, v)

    def _place(self, x: Tensor, norm: nn.Module, start: int | Tensor) -> Tensor:
        """Queries or keys, normalised and turned to their positions, the first at ``start``."""
        x = x if self.norm_after_rotation else norm(x)
        if isinstance(self.position, Rotary):
            x = self.position.rotate(x, start + torch.arange(x.shape[-2], device=x.device))
        return norm(x) if self.norm_after_rotation else x

    def _heads(self, x: Tensor, width: int) -> Tensor:
        # The count is read off the tensor, so that a process may hold some of the heads.
        return x.unflatten(-1, (-1, width)).transpose(-3, -2)
