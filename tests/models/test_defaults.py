"""What a config.json of a speech model leaves out is what the reference takes it for."""

import json

import pytest

from headwise.models.fastspeech2_conformer import FastSpeech2ConformerConfig
from headwise.models.hifigan import FastSpeech2ConformerHifiGanConfig, SpeechT5HifiGanConfig
from headwise.models.parakeet import ParakeetCTCConfig, ParakeetEncoderConfig
from headwise.models.speech_to_text import Speech2TextConfig
from headwise.models.speecht5 import SpeechT5Config
from headwise.models.wav2vec2_conformer import Wav2Vec2ConformerConfig
from headwise.models.whisper import WhisperConfig

CONFIGS = [
    Wav2Vec2ConformerConfig,
    ParakeetEncoderConfig,
    ParakeetCTCConfig,
    Speech2TextConfig,
    WhisperConfig,
    SpeechT5Config,
    FastSpeech2ConformerConfig,
    SpeechT5HifiGanConfig,
    FastSpeech2ConformerHifiGanConfig,
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda x: x.__name__)
def test_defaults_are_the_references(config):
    import transformers

    theirs = json.loads(getattr(transformers, config.__name__)().to_json_string(use_diff=False))
    ours = json.loads(json.dumps(config().to_entries()))
    if config is Wav2Vec2ConformerConfig:  # the reference has no number of letters
        ours.pop("vocab_size")
    for part in {"encoder_config", "decoder_config"} & ours.keys() & theirs.keys():  # which hold more there
        theirs[part] = {name: theirs[part][name] for name in ours[part]}
    assert ours == {name: theirs[name] for name in ours}
