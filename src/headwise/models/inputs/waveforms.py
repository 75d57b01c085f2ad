"""What people hand in as a sound, as one channel of samples at the rate a model wants."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

Samples: TypeAlias = np.ndarray | Tensor
Sound: TypeAlias = str | os.PathLike[str] | Samples | tuple[Samples, int | np.integer]
RATES = range(1000, 1_000_000)  # in hertz; a hostile file can claim any, and resampling it would take the memory
LONGEST = 2**30  # samples of all channels: three hours of stereo at 48 kHz


def listed(sounds: Any) -> list[Any]:
    """The sounds of a batch, or the one that stands for a batch of one."""
    if isinstance(sounds, str | os.PathLike) or _is_pair(sounds):
        return [sounds]
    if isinstance(sounds, np.ndarray | Tensor):
        if sounds.ndim == 1:
            return [sounds]
        raise ValueError(f"{_shape(sounds)} could be sounds or the channels of one: expected a list of sounds, each (samples,)")
    if isinstance(sounds, bytes) or hasattr(sounds, "read") or not isinstance(sounds, Iterable):
        raise ValueError(f"expected sounds (paths, (samples, rate) or arrays), got {type(sounds).__name__}")
    return list(sounds)


def as_waveform(sound: Sound, rate: int, name: str) -> Float32[Tensor, " samples"]:
    """One channel, full scale -1 to 1, at ``rate`` samples a second; ``name`` is what an error calls it."""
    if isinstance(sound, str | os.PathLike):
        samples, own = _from_file(sound, name)
    elif _is_pair(sound):
        samples, own = _from_array(sound[0], name), int(sound[1])
    else:
        samples, own = _from_array(sound, name), rate
    if not len(samples):
        raise ValueError(f"{name} is empty")
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds nan or infinity")
    if own not in RATES:
        raise ValueError(f"{name} has {own} samples a second; expected {RATES[0]} to {RATES[-1]}")
    if own != rate:
        from scipy.signal import resample_poly  # imported where it is needed: it takes its time

        common = math.gcd(own, rate)
        samples = resample_poly(samples.astype(np.float64), rate // common, own // common)
    return torch.tensor(samples.astype(np.float32))  # torch takes no other order of bytes, nor steps backwards: numpy does


def _is_pair(sound: Any) -> bool:
    """(samples, rate), and not two sounds."""
    return isinstance(sound, tuple) and len(sound) == 2 and isinstance(sound[1], int | np.integer)


def _from_file(path: str | os.PathLike[str], name: str) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        with open(path, "rb"), soundfile.SoundFile(os.fspath(path)) as file:  # open says better what is wrong with a path
            if file.frames * file.channels > LONGEST:
                raise ValueError(f"{file.frames} samples of {file.channels} channels are too many to hold")
            return file.read(dtype="float32", always_2d=True).mean(axis=1), file.samplerate
    except Exception as error:  # a damaged or hostile file can bring its readers to any of them
        said = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error) or type(error).__name__
        raise ValueError(f"{name} cannot be read as a sound: {said}") from None


def _from_array(samples: Any, name: str) -> np.ndarray:
    if not isinstance(samples, np.ndarray | Tensor):
        raise ValueError(f"{name} is a {type(samples).__name__}; expected a path, an array of samples, or (samples, rate)")
    array = _as_array(samples) if isinstance(samples, Tensor) else samples
    if array.ndim != 1:
        raise ValueError(f"{name} is {_shape(samples)}; expected (samples,): which axis holds its channels is not to be known")
    if array.dtype == np.int16:
        return array.astype(np.float32) / 2**15
    if array.dtype.kind != "f":
        raise ValueError(f"{name} has dtype {array.dtype}; expected floats, -1 to 1, or int16")
    return array


def _as_array(samples: Tensor) -> np.ndarray:
    there = samples.detach().cpu()
    return (there.float() if there.dtype == torch.bfloat16 else there).numpy()  # numpy has no bfloat16


def _shape(samples: Samples) -> str:
    return " x ".join(map(str, samples.shape)) or "a single number"
