"""Folders with a published model: config.json, weights, and files moved in whole."""

from __future__ import annotations

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Files:
    """The names of the files with a model's weights; "name.index.json" lists those that come in several parts."""

    safe: str
    pickled: str

    def write(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Where a library reads both kinds of file, safetensors."""
        write(folder / self.safe, lambda place: save_file(weights, place, metadata={"format": "pt"}))


class Pickles(Files):
    """Of libraries that read pickles alone."""

    def write(self, folder: Path, weights: dict[str, Tensor]) -> None:
        write(folder / self.pickled, lambda place: torch.save(weights, place))
        (folder / self.safe).unlink(missing_ok=True)  # of another model that was here: it would be read first


TRANSFORMERS = Files("model.safetensors", "pytorch_model.bin")
DIFFUSERS = Files("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
PIPELINE, MODEL = "model_index.json", "transformer"  # a folder of diffusers with several models, and where ours is in it


class CheckpointError(ValueError):
    """A folder that holds no model we can read; the message says what is missing or wrong: one line, whatever names a hostile
    file has put into it."""

    def __init__(self, message: str) -> None:
        short = message if len(message) <= 1000 else f"{message[:500]} ... {message[-490:]}"
        super().__init__(printable(short))


def printable(text: str) -> str:
    """A text out of a file that may be hostile, with spaces where a terminal would obey or begin a line."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def first_line(error: Exception) -> str:
    """Of what an error says, or its kind where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def find(folder: str | os.PathLike[str]) -> Path:
    """The folder itself, or that of a model on the Hub ("owner/name"), fetched once and kept in the Hub's cache."""
    path = Path(folder)
    if os.path.exists(path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)):
        return path
    from huggingface_hub import snapshot_download  # which takes its time, and is needed here alone

    small = ["*.json", "*.txt", "*.model", "*.spm"]
    try:
        found = Path(snapshot_download(str(folder), allow_patterns=small))
        inner = model_folder(found).relative_to(found)  # of a pipeline, the weights of one model
        snapshot_download(str(folder), allow_patterns=[str(inner / "*.safetensors")])
        if not list((found / inner).glob("*.safetensors")):
            pickled = ("pytorch_model*.bin", "diffusion_pytorch_model*.bin")
            snapshot_download(str(folder), allow_patterns=[str(inner / name) for name in pickled])
    except Exception as error:  # of many kinds, those of the HTTP client among them
        raise CheckpointError(f"{folder} is no folder here, and could not be fetched from the Hub: {error}") from None
    return found


def model_folder(path: Path) -> Path:
    """Where the model is: in the folder itself, or, of a pipeline of several models, in its "transformer"."""
    single = os.path.exists(path / "config.json") or not os.path.isfile(path / PIPELINE)
    return path if single else path / MODEL


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; CheckpointError where the file is none."""
    if not os.path.isfile(path):
        raise CheckpointError(f"{path.parent} holds no {path.name}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return entries


def read_config(path: Path) -> dict[str, Any]:
    """The entries of a folder's config.json."""
    if not os.path.isdir(path):
        raise CheckpointError(f"{path} is not a folder with a model (config.json, model.safetensors)")
    return read_json(path / "config.json")


def read_weights(path: Path, names: Files = TRANSFORMERS) -> tuple[dict[str, Tensor], Path]:
    """A folder's tensors and the file that names them."""
    file = _weights_file(path, names)
    return (_read_shards(file) if file.suffix == ".json" else _read_file(file)), file


def weight_bytes(path: Path, names: Files = TRANSFORMERS) -> int:
    """The size of the files that ``read_weights`` reads."""
    file = _weights_file(path, names)
    shards = set(_places(file).values()) if file.suffix == ".json" else {file.name}
    return sum((path / name).stat().st_size for name in shards)


def _weights_file(path: Path, names: Files) -> Path:
    """The one with all tensors, or the index of several: safetensors before pickles."""
    for name in (names.safe, names.pickled):
        for file in (path / name, path / f"{name}.index.json"):
            if file.is_file():
                return file
    raise CheckpointError(f"{path} holds no {names.safe} (nor {names.pickled})")


def _places(index: Path) -> dict[str, str]:
    """The file of every tensor, as an index says."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f'{index}: expected an object "weight_map" of tensor names and file names')
    for name in sorted(set(places.values())):
        if Path(name).name != name or not os.path.isfile(index.parent / name):
            raise CheckpointError(f"{index}: {name!r} is not a file beside it")
    return places


def _read_shards(index: Path) -> dict[str, Tensor]:
    places, weights = _places(index), dict[str, Tensor]()
    for name in sorted(set(places.values())):
        found = _read_file(index.parent / name)
        if wrong := found.keys() ^ {tensor for tensor, file in places.items() if file == name}:
            raise CheckpointError(f"{index} and {name} differ in {', '.join(sorted(wrong)[:3])}")
        weights |= found
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except Exception as error:  # a damaged or hostile file can bring a reader to any of them
        raise CheckpointError(f"{path} is damaged or holds more than tensors: {first_line(error)}") from None
    if not isinstance(weights, dict) or not all(isinstance(name, str) and _is_plain(x) for name, x in weights.items()):
        raise CheckpointError(f"{path} is not a dictionary of plain tensors")
    if sum(x.nbytes for x in weights.values()) > 8 * path.stat().st_size:  # the same numbers under some names are usual
        raise CheckpointError(f"{path} claims more numbers than it holds")
    return weights


def _is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided and not x.is_nested and x.device.type == "cpu"


def _read_pickle(path: Path) -> Any:
    """What a pickle holds, if it is tensors and containers of them; anything else is refused."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("it would unpack to more than it is")
    return torch.load(path, map_location="cpu", weights_only=True)


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


def write_json(path: Path, entries: dict[str, Any]) -> None:
    """A JSON object, readable by people."""
    write(path, lambda place: place.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8"))
