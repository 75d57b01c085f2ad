"""Models to and from folders: the registry of systems, ``load`` and ``save``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from headwise.models.bert.checkpoint import FORMAT as BERT
from headwise.models.config import Config
from headwise.models.folder import SAFE, CheckpointError, find, read_config, read_json, read_weights, write, write_json
from headwise.models.format import Format
from headwise.models.gpt2.checkpoint import FORMAT as GPT2
from headwise.models.keys import Keys, Stored, tensors
from headwise.models.llama.checkpoint import FORMAT as LLAMA
from headwise.models.marian.checkpoint import FORMAT as MARIAN
from headwise.models.t5.checkpoint import FORMAT as T5
from headwise.models.transformer.checkpoint import FORMAT as TRANSFORMER

# A further system is a folder and a row here.
FORMATS: tuple[Format, ...] = (TRANSFORMER, MARIAN, T5, BERT, GPT2, LLAMA)
ARCHITECTURES = {name: form for form in FORMATS for name in form.models}

log = logging.getLogger(__name__)
Places = Mapping[str, tuple[tuple[str, ...], Stored]]


def load(folder: str | os.PathLike[str], architecture: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model in ``folder``, or of that name on the Hub ("owner/name"), in eval mode.

    Reads what the reference library of each architecture publishes: config.json and model.safetensors (or several with an
    index; or pytorch_model.bin, tensors only). architecture: another head of the same system than config.json names, e.g.
    "BertForQuestionAnswering" for training from a masked language model; what such a head lacks starts afresh, and a warning
    is logged. Raises CheckpointError with a sentence: which tensor is missing, unexpected, of the wrong shape or not finite;
    which architecture or setting is unknown, and what is known; what is damaged.
    """
    path = find(folder)
    entries = read_config(path)
    form, name, own = _architecture(path, entries, architecture)
    weights, file = read_weights(path)
    model, config = _empty(form, name, entries, path)
    places = form.keys.places(model)
    weights = _by_todays_names(weights, form.keys, places, file)
    if _copies(weights, form.keys, places, equal=False) and getattr(config, "tie_word_embeddings", False):
        # Whatever the settings say, a file that holds the copy apart was trained apart.
        model, config = _empty(form, name, {**entries, "tie_word_embeddings": False}, path)
        places = form.keys.places(model)
    for copy in _copies(weights, form.keys, places, equal=True):
        del weights[copy]
    fresh = _check(weights, _wanted(model, places), form.keys, file, body_only=name != own)
    if fresh:
        log.warning("%s has no %s: they start afresh and want training", file, _some(fresh))
        model = form.models[name](config).to(dtype)
    _fill(model, weights, places, dtype)
    if (path / "generation_config.json").is_file():
        setattr(model, "generation_config", read_json(path / "generation_config.json"))  # noqa: B010 - no tensor
    return model.eval()


def save(model: nn.Module, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Writes config.json and model.safetensors as the model's reference library does; generation_config.json where the
    model came with one. dtype: that of the stored weights (None = as they are)."""
    path = Path(folder)
    found = [(form, name) for name, form in ARCHITECTURES.items() if form.models[name] is type(model)]
    if not found:
        raise TypeError(f"{type(model).__name__} has no format here; known are {', '.join(ARCHITECTURES)}")
    form, name = found[0]
    ours = {key: tensor.detach().to(dtype or tensor.dtype) for key, tensor in tensors(model).items()}
    places = form.keys.places(model)
    weights = {key: stored.write([ours[part] for part in parts]).contiguous() for key, (parts, stored) in places.items()}
    stored_as = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    path.mkdir(parents=True, exist_ok=True)
    config = {"model_type": form.model_type, "architectures": [name], "dtype": stored_as, **_config(model).to_entries()}
    write_json(path / "config.json", config)
    write(path / SAFE, lambda place: save_file(weights, place, metadata={"format": "pt"}))
    if getattr(model, "generation_config", None):
        write_json(path / "generation_config.json", dict(model.generation_config))  # type: ignore[arg-type]


def build(folder: str | os.PathLike[str]) -> nn.Module:
    """The model that a folder's config.json describes, on the meta device: every shape and not one number."""
    path = find(folder)
    entries = read_config(path)
    form, name, _ = _architecture(path, entries, None)
    return _empty(form, name, entries, path)[0]


def _config(model: nn.Module) -> Config:
    return model.config  # type: ignore[return-value]


def _architecture(path: Path, entries: Mapping[str, Any], wanted: str | None) -> tuple[Format, str, str | None]:
    """The format, the architecture to read, and the one the folder names."""
    named = entries.get("architectures") or []
    own = next((name for name in named if name in ARCHITECTURES), None) if isinstance(named, list) else None
    by_type = [form for form in FORMATS if form.model_type == entries.get("model_type") and len(set(form.models.values())) == 1]
    if own is None and not named and by_type:
        own = next(iter(by_type[0].models))
    name = own if wanted is None else wanted
    if name not in ARCHITECTURES:
        said = f"architectures is {named!r} and model_type {entries.get('model_type')!r}" if wanted is None else repr(wanted)
        raise CheckpointError(f"{path}: {said}; known are {', '.join(ARCHITECTURES)}")
    form = ARCHITECTURES[name]
    if entries.get("model_type", form.model_type) != form.model_type:
        raise CheckpointError(f"{path} holds a {entries['model_type']!r} model, not {name}'s {form.model_type!r}")
    return form, name, own


def _empty(form: Format, name: str, entries: Mapping[str, Any], path: Path) -> tuple[Any, Config]:
    """The model on the meta device: nothing is allocated before the file has shown the same shapes."""
    said = {key: value for key, value in entries.items() if key not in ("model_type", "architectures", "dtype", "torch_dtype")}
    try:
        config = form.config.from_entries(said)
        with torch.device("meta"):
            return form.models[name](config), config
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path / 'config.json'} makes no {name}: {error}") from error


def _by_todays_names(weights: Mapping[str, Tensor], keys: Keys, wanted: Places, file: Path) -> dict[str, Tensor]:
    """The tensors of a file that count, under the table's names."""
    renamed = [(keys.today(name, {**wanted, **keys.tied}), tensor) for name, tensor in weights.items()]
    named = {name: tensor for name, tensor in renamed if name in wanted or name in keys.tied or not keys.is_ignored(name)}
    if len({name for name, _ in renamed}) < len(renamed):
        raise CheckpointError(f"{file} holds a tensor under an old and a new name")
    return named


def _copies(weights: Mapping[str, Tensor], keys: Keys, wanted: Places, equal: bool) -> list[str]:
    """The names, not wanted for themselves, of tensors that are copies of wanted ones, equal or not."""
    pairs = [(copy, next((name for name in names if name in wanted), "")) for copy, names in keys.tied.items()]
    both = [(copy, name) for copy, name in pairs if copy in weights and copy not in wanted and name in weights]
    return [copy for copy, name in both if torch.equal(weights[copy], weights[name]) == equal]


def _wanted(model: nn.Module, places: Places) -> dict[str, torch.Size]:
    """The shape of every published tensor."""
    ours = tensors(model)
    return {name: stored.write([ours[part] for part in parts]).shape for name, (parts, stored) in places.items()}


def _check(
    weights: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], keys: Keys, file: Path, body_only: bool
) -> set[str]:
    """Raises CheckpointError unless the file has what is wanted; returns what may start afresh, where another head is asked."""
    missing, unexpected = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    fresh = {name for name in missing if body_only and keys.is_head(name)}
    unexpected = {name for name in unexpected if not (body_only and keys.is_head(name))}
    for kind, names in (("misses", missing - fresh), ("has unexpected", unexpected)):
        if names:
            raise CheckpointError(f"{file} {kind} {len(names)} tensors: {_some(names)}")
    for name in wanted.keys() & weights.keys():
        if weights[name].shape != wanted[name]:
            raise CheckpointError(f"{file}: {name} is {tuple(weights[name].shape)}, the model's is {tuple(wanted[name])}")
        if not weights[name].isfinite().all():
            raise CheckpointError(f"{file}: {name} holds nan or infinity")
    return fresh


def _some(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    return ", ".join([first, *rest[:2]]) + (", ..." if len(rest) > 2 else "")


def _fill(model: nn.Module, weights: Mapping[str, Tensor], places: Places, dtype: torch.dtype) -> None:
    """Puts tensors in their places; one that stands in several of them, in all."""
    ours, everywhere = tensors(model), dict[int, list[str]]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        everywhere.setdefault(id(tensor), []).append(name)
    for published, (parts, stored) in places.items():
        if published not in weights:
            continue
        pieces = stored.read(weights[published], [len(ours[part]) for part in parts])
        for part, piece in zip(parts, pieces, strict=True):
            held = (
                piece.to(dtype).clone(memory_format=torch.contiguous_format) if len(parts) > 1 else piece.to(dtype).contiguous()
            )
            new = nn.Parameter(held) if isinstance(ours[part], nn.Parameter) else held
            for name in everywhere[id(ours[part])]:
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, new)
