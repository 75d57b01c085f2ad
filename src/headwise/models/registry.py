"""Models to and from folders: ``load`` and ``save``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headwise.models.checkpoint.config import Config, Labelled
from headwise.models.checkpoint.folder import (
    CheckpointError,
    find,
    model_folder,
    read_config,
    read_json,
    read_weights,
    write_json,
)
from headwise.models.checkpoint.format import SIGNATURE, Format, architectures
from headwise.models.checkpoint.heads import OWN, arrange, own_entry
from headwise.models.checkpoint.keys import Keys, Stored, tensors
from headwise.models.systems import ARCHITECTURES, FORMATS

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

log = logging.getLogger(__name__)
Places = Mapping[str, tuple[tuple[str, ...], Stored]]


def load(
    folder: str | os.PathLike[str],
    architecture: str | None = None,
    dtype: torch.dtype = torch.float32,
    labels: Sequence[str] | None = None,
) -> nn.Module:
    """The model in ``folder``, or of that name on the Hub ("owner/name"), in eval mode.

    Reads what the reference library of each architecture publishes: config.json and model.safetensors (or several with an
    index; or pytorch_model.bin, tensors only), diffusion_pytorch_model.safetensors beside a config.json of diffusers, whose
    pipelines hold it in their folder "transformer". architecture: another head of the same system than config.json names, e.g.
    "BertForQuestionAnswering" for training from a masked language model, or its own where you gave that file another
    vocab_size. labels: the names of your own classes, for training a classifier or a detector further. What such a head lacks,
    or has for another number of classes, starts afresh, and a warning is logged. Raises CheckpointError with a sentence: which
    tensor is missing, unexpected, of the wrong shape or not finite; which architecture or setting is unknown, and what is
    known; what is damaged.
    """
    _check_dtype(dtype)
    path = model_folder(find(folder))
    entries = read_config(path)
    form, name, own = _architecture(path, entries, architecture)
    config = _labelled(_settings(form, name, entries, path), labels, name)
    weights, file = read_weights(path, form.files)
    if config.depth > len(weights):  # seconds to build, for nothing
        raise CheckpointError(f"{file} holds {len(weights)} tensors, too few for {config.depth} layers")
    heads = entries.get(OWN)
    model = _empty(form, name, config, path, heads)
    found = _found(weights, form.keys, model, file)
    if _says_tied(config) and found.keys() & form.keys.tied.keys() - form.keys.places(model).keys():
        # Whatever the settings say, a file that holds the copy apart was trained apart.
        config = replace(config, tie_word_embeddings=False)
        model = _empty(form, name, config, path, heads)
        found = _found(weights, form.keys, model, file)
    del weights  # so that what is filled in below is freed one by one
    fresh = _check(found, model, form.keys, file, body_only=name != own, resized=labels is not None or architecture is not None)
    found = {key: tensor for key, tensor in found.items() if key not in fresh}
    if fresh:
        log.warning("%s has no %s: they start afresh and want training", file, _some(fresh))
        model = form.models[name](config)
        arrange(model, heads)
        model = model.to(dtype)
    _fill(model, found, form.keys.places(model), dtype, file)
    if (path / "generation_config.json").is_file():
        setattr(model, "generation_config", read_json(path / "generation_config.json"))  # noqa: B010 - no tensor
    return model.eval()


def save(model: nn.Module, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Writes config.json and the weights as the model's reference library does; generation_config.json where the
    model came with one. What that library's settings cannot say, heads that were pruned or grouped, stands in an entry
    "headwise" of config.json, which hw.load alone understands. dtype: that of the stored weights (None = as they are). The
    files of a tokenizer and of a processor or feature extractor are for you to copy."""
    _check_dtype(dtype)
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is a file: a model is saved to a folder")
    found = [(form, name) for name, form in ARCHITECTURES.items() if form.models[name] is type(model)]
    if not found:
        raise TypeError(f"{type(model).__name__} has no format here; known are {', '.join(ARCHITECTURES)}")
    (form, name), config = found[0], _config(model)
    path = model_folder(path) if form.model_type is None else path  # a pipeline's model goes back to its place
    own = own_entry(model, _empty(form, name, config, path))
    _check_against_config(model, _empty(form, name, config, path, own))
    ours = {key: tensor.detach().to(_dtype(tensor, dtype)) for key, tensor in tensors(model).items()}
    places = form.keys.places(model)
    weights = {key: stored.write([ours[part] for part in parts]).contiguous() for key, (parts, stored) in places.items()}
    if form.holds_copies(places, _is_untied(config, form.keys, places)):
        weights |= {copy: weights[key].clone() for key, copies in form.keys.copies(places).items() for copy in copies}
    stored_as = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    entries = {**form.signature(name, stored_as), **config.to_entries(), **({OWN: own} if own else {})}
    path.mkdir(parents=True, exist_ok=True)
    # First: where a disk gets full.
    form.files.write(path, weights)
    write_json(path / "config.json", entries)
    (path / "generation_config.json").unlink(missing_ok=True)  # of another model that was here
    if getattr(model, "generation_config", None):
        write_json(path / "generation_config.json", dict(model.generation_config))  # type: ignore[arg-type]


def build(folder: str | os.PathLike[str]) -> nn.Module:
    """The model that a folder's config.json describes, on the meta device: every shape and not one number."""
    path = model_folder(find(folder))
    entries = read_config(path)
    form, name, _ = _architecture(path, entries, None)
    return _empty(form, name, _settings(form, name, entries, path), path, entries.get(OWN))


def _check_dtype(dtype: torch.dtype | None) -> None:
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype: expected one of {', '.join(map(str, FLOATS))}; got {dtype}")


def _dtype(ours: Tensor, asked: torch.dtype | None) -> torch.dtype:
    """A model's counters, of a batch norm's batches, are integers at any precision."""
    return asked if asked is not None and ours.is_floating_point() else ours.dtype


def _check_against_config(model: nn.Module, wanted: nn.Module) -> None:
    """Raises ValueError where a part was exchanged for one that the configuration does not tell of: nobody could read that."""
    held = model.state_dict()
    for name, tensor in tensors(wanted).items():
        if name not in held or held[name].shape != tensor.shape:
            got = tuple(held[name].shape) if name in held else "missing"
            raise ValueError(f"{name} is {got}, but model.config says {tuple(tensor.shape)}")


def _config(model: nn.Module) -> Config:
    return model.config  # type: ignore[return-value]


def _architecture(path: Path, entries: Mapping[str, Any], wanted: str | None) -> tuple[Format, str, str | None]:
    """The format, the architecture to read, and the one the folder names."""
    named = architectures(entries)
    listed = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    own = next((name for name in listed if name in ARCHITECTURES), None)
    system = entries.get("model_type")
    alike = [form for form in FORMATS if system is not None and form.model_type == system]
    if own is None and not named:
        own = next(filter(None, (form.recognise(entries, path) for form in FORMATS)), None)
    name = own if wanted is None else wanted
    if name not in ARCHITECTURES:
        said = f"architectures is {named!r} and model_type {system!r}" if wanted is None else f"no architecture {wanted!r}"
        heads = [head for form in alike for head in form.models]
        if heads and wanted is None:
            raise CheckpointError(f"{path}: {said}; read it with architecture= one of {', '.join(heads)}")
        raise CheckpointError(f"{path}: {said}; known are {', '.join(ARCHITECTURES)}")
    form = ARCHITECTURES[name]
    if entries.get("model_type", form.model_type) != form.model_type:
        raise CheckpointError(f"{path} holds a {entries['model_type']!r} model, not {name}'s {form.model_type!r}")
    return form, name, own


def _settings(form: Format, name: str, entries: Mapping[str, Any], path: Path) -> Config:
    said = {key: value for key, value in entries.items() if key not in (*SIGNATURE, OWN)}
    try:
        return form.config.from_entries(said)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path / 'config.json'} makes no {name}: {error}") from error


def _labelled(config: Config, labels: Sequence[str] | None, name: str) -> Config:
    """With the classes that are asked for, if any are."""
    if labels is None:
        return config
    if not isinstance(config, Labelled):
        raise ValueError(f"labels: {name} does not tell classes apart")
    if isinstance(labels, str) or not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"labels: expected the names of the classes; got {labels!r}")
    return replace(config, id2label=dict(enumerate(labels)))


def _empty(form: Format, name: str, config: Config, path: Path, heads: Any = None) -> nn.Module:
    """The model on the meta device: nothing is allocated before the file has shown the same shapes."""
    try:
        with torch.device("meta"):
            model = form.models[name](config)
            arrange(model, heads)
        return model
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise CheckpointError(f"{path / 'config.json'} makes no {name}: {error}") from error


def _says_tied(config: Config) -> bool:
    return getattr(config, "tie_word_embeddings", False)


def _is_untied(config: Config, keys: Keys, places: Places) -> bool:
    """Whether the model has a head of its own, which others tie to the embedding."""
    return not _says_tied(config) and any(copy in places for copy in keys.tied)


def _found(weights: Mapping[str, Tensor], keys: Keys, model: nn.Module, file: Path) -> dict[str, Tensor]:
    """The tensors of a file that count, under the table's names, each once."""
    places = keys.places(model)
    known = {**places, **keys.tied}
    renamed = [(keys.today(name, known), tensor) for name, tensor in weights.items()]
    found = {name: tensor for name, tensor in renamed if name in known or not keys.is_ignored(name)}
    if len({name for name, _ in renamed}) < len(renamed):
        raise CheckpointError(f"{file} holds a tensor under an old and a new name")
    untied = _is_untied(_config(model), keys, places)
    for name, copies in keys.copies(places).items():
        held = [copy for copy in copies if copy in found]
        first = found[held[0]] if held else None
        if first is None or not all(_equal(found[copy], first) for copy in held):
            continue
        # In an untied model nothing is computed with what all its copies differ from.
        if name not in found or _equal(found[name], first) or (untied and held == copies):
            found = {key: tensor for key, tensor in found.items() if key not in held} | {name: first}
    return found


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a == b).all())


def _check(found: Mapping[str, Tensor], model: nn.Module, keys: Keys, file: Path, body_only: bool, resized: bool) -> set[str]:
    """Raises CheckpointError unless the file has what is wanted; returns what may start afresh, where another head is asked or
    the classes are others."""
    ours, wanted = tensors(model), {}
    for name, (parts, stored) in keys.places(model).items():
        try:
            wanted[name] = stored.write([ours[part] for part in parts])
        except RuntimeError as error:  # several tensors, each of a size that can just be said
            raise CheckpointError(f"{file}: no {name} can be as large as its config.json says: {error}") from None
    missing, unexpected = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    fresh = {name for name in missing if body_only and keys.is_head(name)}
    unexpected = {name for name in unexpected if not (body_only and keys.is_head(name))}
    for kind, names in (("misses", missing - fresh), ("has unexpected", unexpected)):
        if names:
            raise CheckpointError(f"{file} {kind} {len(names)} tensors: {_some(names)}")
    if resized:
        held = wanted.keys() & found.keys()
        fresh |= {name for name in held if keys.is_head(name) and found[name].shape != wanted[name].shape}
    for name in sorted(wanted.keys() & found.keys() - fresh):
        if found[name].shape != wanted[name].shape:
            raise CheckpointError(f"{file}: {name} is {tuple(found[name].shape)}, the model's is {tuple(wanted[name].shape)}")
        if found[name].dtype not in (*FLOATS, wanted[name].dtype):
            raise CheckpointError(f"{file}: {name} is {found[name].dtype}; known are {', '.join(map(str, FLOATS))}")
    return fresh


def _some(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    return ", ".join([first, *rest[:2]]) + (", ..." if len(rest) > 2 else "")


def _fill(model: nn.Module, found: dict[str, Tensor], places: Places, dtype: torch.dtype, file: Path) -> None:
    """Puts tensors in their places; one that stands in several of them, in all. Empties ``found`` on the way."""
    ours, everywhere = tensors(model), dict[int, list[str]]()
    for name, tensor in model.state_dict(keep_vars=True).items():
        everywhere.setdefault(id(tensor), []).append(name)
    for published, (parts, stored) in places.items():
        if published not in found:
            continue
        pieces = stored.read(found.pop(published), [ours[part].shape[:1].numel() for part in parts])
        for part, piece in zip(parts, pieces, strict=True):
            # A copy: what was read may be shared, and is the file itself, which somebody may yet write to.
            held = piece.detach().to(_dtype(ours[part], dtype), copy=True, memory_format=torch.contiguous_format)
            if not held.isfinite().all():
                raise CheckpointError(f"{file}: {published} holds nan or infinity")
            new = nn.Parameter(held, ours[part].requires_grad) if isinstance(ours[part], nn.Parameter) else held
            for name in everywhere[id(ours[part])]:
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, new)
