"""Sounds as models take them, by the settings of a checkpoint's preprocessor_config.json or by one's own.

    extractor = feature_extractor(folder)               Wav2Vec2(-Conformer), Parakeet, Speech2Text, Whisper, SpeechT5
    extractor = WhisperFeatures(feature_size=128)       or Waveforms, ParakeetFeatures, ...: published names
    model(**extractor(sounds))

A sound is one of
    a path (str or Path)          WAV, FLAC, OGG, MP3 and what else libsndfile reads; several channels are averaged
    (samples, rate)               one channel, at so many samples a second
    a 1-D array or tensor         one channel at the extractor's sampling_rate
of floats, full scale -1 to 1, or int16. Another rate is resampled (scipy.signal.resample_poly). No sound is ever cut.

The values are those of transformers 5's extractors to the rounding of its float32; here the spectra are reckoned in float64.
"""

from __future__ import annotations

import os
from typing import Any

from headwise.models.checkpoint.folder import CheckpointError
from headwise.models.inputs.extractors import (
    FeatureExtractor,
    ParakeetFeatures,
    Speech2TextFeatures,
    SpeechT5Features,
    Waveforms,
    WhisperFeatures,
)
from headwise.models.inputs.settings import read_settings

__all__ = [
    "FeatureExtractor",
    "ParakeetFeatures",
    "Speech2TextFeatures",
    "SpeechT5Features",
    "Waveforms",
    "WhisperFeatures",
    "feature_extractor",
]
KINDS: dict[str, type[FeatureExtractor]] = {
    kind.published: kind for kind in (Waveforms, ParakeetFeatures, Speech2TextFeatures, WhisperFeatures, SpeechT5Features)
}
# The model_type in config.json, for a file that does not say whose it is.
MODELS = {
    "wav2vec2": "Wav2Vec2FeatureExtractor",
    "wav2vec2-conformer": "Wav2Vec2FeatureExtractor",
    "parakeet_ctc": "ParakeetFeatureExtractor",
    "parakeet_encoder": "ParakeetFeatureExtractor",
    "speech_to_text": "Speech2TextFeatureExtractor",
    "whisper": "WhisperFeatureExtractor",
    "speecht5": "SpeechT5FeatureExtractor",
}
# Settings that change no value, whatever the kind.
SILENT = {"feature_extractor_type", "processor_class", "auto_map", "return_tensors", "model_input_names"}


def feature_extractor(folder: str | os.PathLike[str]) -> FeatureExtractor:
    """What turns sounds into a model's input, from ``folder`` or a model of that name on the Hub.

    Read are processor_config.json and preprocessor_config.json. Raises CheckpointError with a sentence where there is none, its
    kind is unknown, or a setting would change values in a way we do not know.
    """
    kind, entries, place = read_settings(
        folder,
        "a feature extractor",
        "sounds",
        parts={"feature_extractor": "preprocessor_config.json"},
        types=["feature_extractor_type"],
        models=MODELS,
    )
    if kind not in KINDS:
        raise CheckpointError(f"{place}: {kind} is not among what is read: {', '.join(KINDS)}")
    build = KINDS[kind]
    try:
        return build(**_known(entries, build))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{place}: {error}") from None


def _known(entries: dict[str, Any], build: type[FeatureExtractor]) -> dict[str, Any]:
    """The settings that ``build`` takes; ValueError for what would change values and is not among them."""
    found = dict[str, Any]()
    for name, entry in entries.items():
        if name == "preemphasis" and entry is None:
            found[name] = 0.0
        elif entry is None or name[:1] == "_" or name in SILENT | build.silent:
            continue
        elif name in build.supported:
            if entry != build.supported[name]:
                raise ValueError(f"{name} is {entry!r}; here it is always {build.supported[name]!r}")
        elif name in build.__dataclass_fields__:
            found[name] = entry
        elif entry is not False:
            raise ValueError(f"what {name} = {str(entry)[:80]} does to a sound is unknown")
    return found
