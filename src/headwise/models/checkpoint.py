"""Models to and from folders: config.json, model.safetensors and whatever lies beside them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from headwise.models.transformer import Transformer, TransformerConfig

# model_type in config.json -> how the model is made. A further system is a row here and a folder.
ARCHITECTURES: dict[str, tuple[type[nn.Module], type[Any]]] = {"transformer": (Transformer, TransformerConfig)}


class CheckpointError(Exception):
    """A folder that holds no model we can read; the message says what is missing or wrong."""


def load(folder: str | os.PathLike[str]) -> nn.Module:
    """The model in ``folder``, in float32 and eval mode. Raises CheckpointError with a sentence where that fails."""
    path = Path(folder)
    config = _read_config(path)
    model_type = config.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise CheckpointError(f"{path}: model_type is {model_type!r}; known are {', '.join(sorted(ARCHITECTURES))}")
    make, make_config = ARCHITECTURES[model_type]
    known, given = {field.name for field in fields(make_config)}, set(config) - {"architectures"}
    if given - known:
        raise CheckpointError(f"{path / 'config.json'}: unknown entries {', '.join(sorted(given - known))}")
    try:
        with torch.device("meta"):  # nothing is allocated before the file has shown the same shapes
            model = make(make_config(**{name: config[name] for name in given}))
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path / 'config.json'} makes no {model_type}: {error}") from error
    _fill(model, _read_weights(path), path / "model.safetensors")
    return model.eval()


def save(model: nn.Module, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Writes config.json and model.safetensors; dtype: that of the stored weights (None = as they are)."""
    path = Path(folder)
    model_type = {make: name for name, (make, _) in ARCHITECTURES.items()}.get(type(model))
    if model_type is None:
        raise TypeError(f"{type(model).__name__} has no format here; known are {', '.join(sorted(ARCHITECTURES))}")
    path.mkdir(parents=True, exist_ok=True)
    config = {"model_type": model_type, "architectures": [type(model).__name__], **asdict(model.config)}  # type: ignore[call-overload]
    weights = {name: x.detach().to(dtype or x.dtype).contiguous() for name, x in model.state_dict().items()}
    write(path / "config.json", lambda place: place.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8"))
    write(path / "model.safetensors", lambda place: save_file(weights, place, metadata={"format": "pt"}))


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """``fill`` writes a file beside ``path``, which is then moved in: nobody ever reads half a file."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        fill(Path(name))
        os.umask(umask := os.umask(0))
        os.chmod(name, 0o666 & ~umask)  # as an ordinary new file: mkstemp's are private
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder with a model (config.json, model.safetensors)")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} holds no config.json") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path / 'config.json'} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / 'config.json'} is not a JSON object")
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path / "model.safetensors")
    except FileNotFoundError:
        raise CheckpointError(f"{path} holds no model.safetensors") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path / 'model.safetensors'} is damaged or no safetensors file: {error}") from None


def _fill(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    for kind, names in (("misses", wanted.keys() - weights.keys()), ("has unexpected", weights.keys() - wanted.keys())):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise CheckpointError(f"{path} {kind} {len(names)} tensors: {some}")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(f"{path}: {name} is {tuple(tensor.shape)}, the model's is {tuple(wanted[name].shape)}")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds nan or infinity")
    model.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()}, assign=True)
