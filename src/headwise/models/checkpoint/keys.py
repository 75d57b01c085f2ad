"""Key tables: where each tensor of a published file lies in our model. A table is read in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# An encoder's and a decoder's layers as fairseq named them, and many published models after it.
FAIRSEQ_LAYERS = {
    "model.encoder.layers.{i}.self_attn.{leaf}": "encoder.layers.{i}.self_attention.{leaf}",
    "model.encoder.layers.{i}.self_attn_layer_norm.{leaf}": "encoder.layers.{i}.residuals.0.norm.{leaf}",
    "model.encoder.layers.{i}.fc1.{leaf}": "encoder.layers.{i}.feed_forward.expand.{leaf}",
    "model.encoder.layers.{i}.fc2.{leaf}": "encoder.layers.{i}.feed_forward.contract.{leaf}",
    "model.encoder.layers.{i}.final_layer_norm.{leaf}": "encoder.layers.{i}.residuals.1.norm.{leaf}",
    "model.decoder.layers.{i}.self_attn.{leaf}": "decoder.layers.{i}.self_attention.{leaf}",
    "model.decoder.layers.{i}.self_attn_layer_norm.{leaf}": "decoder.layers.{i}.residuals.0.norm.{leaf}",
    "model.decoder.layers.{i}.encoder_attn.{leaf}": "decoder.layers.{i}.cross_attention.{leaf}",
    "model.decoder.layers.{i}.encoder_attn_layer_norm.{leaf}": "decoder.layers.{i}.residuals.1.norm.{leaf}",
    "model.decoder.layers.{i}.fc1.{leaf}": "decoder.layers.{i}.feed_forward.expand.{leaf}",
    "model.decoder.layers.{i}.fc2.{leaf}": "decoder.layers.{i}.feed_forward.contract.{leaf}",
    "model.decoder.layers.{i}.final_layer_norm.{leaf}": "decoder.layers.{i}.residuals.2.norm.{leaf}",
}


@dataclass(frozen=True)
class Stored:
    """How a published tensor holds ours: one as it is, or several side by side (q | k | v), or transposed ([in, out])."""

    ours: tuple[str, ...]
    transposed: bool = False

    def read(self, tensor: Tensor, rows: list[int]) -> tuple[Tensor, ...]:
        """Ours, of so many rows each."""
        tensor = tensor.mT if self.transposed and tensor.dim() > 1 else tensor
        return tensor.split(rows) if len(rows) > 1 else (tensor,)

    def write(self, tensors: list[Tensor]) -> Tensor:
        tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        return tensor.mT if self.transposed and tensor.dim() > 1 else tensor


@dataclass(frozen=True)
class Keys:
    """One system's table. In names, "{i}" is a number and "{leaf}" a dotted rest, the same on both sides.

    rows: published name -> ours, a name or ``Stored``. A row counts where the model has its tensors.
    tied: published name of a copy -> the names it may copy, of which a model has one; files may leave copies out, or hold one
    of them instead. An untied model's files hold all: what such a model computes with are the copies.
    ignored: regular expressions of names that old files hold and nobody needs.
    renamed: endings of old files -> today's. prefix: what files of the bare body leave out.
    head: regular expressions of the names above the body, which start afresh when a body is loaded under another head.
    """

    rows: Mapping[str, str | Stored] = field(default_factory=dict)
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    head: tuple[str, ...] = ()

    def places(self, model: nn.Module) -> dict[str, tuple[tuple[str, ...], Stored]]:
        """For each published name our names and how they are stored there; every tensor of the model exactly once."""
        names, places, taken = list(tensors(model)), {}, []
        for published, stored in (self.rows or {"{leaf}": "{leaf}"}).items():
            stored = Stored((stored,)) if isinstance(stored, str) else stored
            for match in filter(None, map(_pattern(stored.ours[0]).fullmatch, names)):
                ours = tuple(name.format(**match.groupdict()) for name in stored.ours)
                places[published.format(**match.groupdict())] = ours, stored
                taken += ours
        if sorted(taken) != sorted(names):
            raise TypeError(f"the key table of {type(model).__name__} does not fit it: {sorted(set(names) ^ set(taken))}")
        return places

    def today(self, name: str, wanted: Mapping[str, Any]) -> str:
        """A name of a file as the table has it: old endings renamed, the prefix put before where only so it is wanted."""
        for old, new in self.renamed.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        return self.prefix + name if name not in wanted and self.prefix + name in wanted else name

    def is_ignored(self, name: str) -> bool:
        return any(re.fullmatch(pattern, full) for pattern in self.ignored for full in (name, self.prefix + name))

    def copies(self, wanted: Mapping[str, Any]) -> dict[str, list[str]]:
        """For each wanted name the names of its copies that are not wanted for themselves."""
        found = dict[str, list[str]]()
        for copy, names in self.tied.items():
            name = next((name for name in names if name in wanted), None)
            if name is not None and copy not in wanted:
                found.setdefault(name, []).append(copy)
        return found

    def is_head(self, name: str) -> bool:
        return any(re.match(pattern, name) for pattern in self.head)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; one that stands in several places, once, under its first name."""
    first = dict[int, tuple[str, Tensor]]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def _pattern(name: str) -> re.Pattern[str]:
    """The regular expression of a name of ours."""
    kinds = {"i": r"\d+", "leaf": r".+"}
    parts = re.split(r"\{(\w+)\}", name)  # text, name, text, name, ..., text
    return re.compile("".join(f"(?P<{part}>{kinds[part]})" if i % 2 else re.escape(part) for i, part in enumerate(parts)))
