"""The systems that there are."""

from __future__ import annotations

from headwise.models.bert.checkpoint import FORMAT as BERT
from headwise.models.checkpoint.format import Format
from headwise.models.conformer_translation.checkpoint import FORMAT as CONFORMER_TRANSLATION
from headwise.models.detr.checkpoint import FORMAT as DETR
from headwise.models.dit.checkpoint import FORMAT as DIT
from headwise.models.fastspeech2_conformer.checkpoint import FORMAT as FASTSPEECH2
from headwise.models.fastspeech2_conformer.with_hifigan import FORMAT as FASTSPEECH2_WITH_HIFIGAN
from headwise.models.gpt2.checkpoint import FORMAT as GPT2
from headwise.models.hifigan.checkpoint import FORMATS as HIFIGANS
from headwise.models.imagegpt.checkpoint import FORMAT as IMAGEGPT
from headwise.models.llama.checkpoint import FORMAT as LLAMA
from headwise.models.marian.checkpoint import FORMAT as MARIAN
from headwise.models.oscar.checkpoint import FORMAT as OSCAR
from headwise.models.parakeet.checkpoint import FORMAT as PARAKEET
from headwise.models.speech_to_text.checkpoint import FORMAT as SPEECH_TO_TEXT
from headwise.models.speecht5.checkpoint import FORMAT as SPEECHT5
from headwise.models.t5.checkpoint import FORMAT as T5
from headwise.models.timesformer.checkpoint import FORMAT as TIMESFORMER
from headwise.models.transformer.checkpoint import FORMAT as TRANSFORMER
from headwise.models.videomae.checkpoint import FORMAT as VIDEOMAE
from headwise.models.vit.checkpoint import FORMAT as VIT
from headwise.models.wav2vec2_conformer.checkpoint import FORMAT as WAV2VEC2_CONFORMER
from headwise.models.whisper.checkpoint import FORMAT as WHISPER
from headwise.models.yolos.checkpoint import FORMAT as YOLOS

# A further system is a folder and a row here.
FORMATS: tuple[Format, ...] = (
    TRANSFORMER,
    MARIAN,
    T5,
    BERT,
    OSCAR,
    GPT2,
    LLAMA,
    VIT,
    IMAGEGPT,
    TIMESFORMER,
    VIDEOMAE,
    YOLOS,
    DETR,
    DIT,
    SPEECH_TO_TEXT,
    WHISPER,
    CONFORMER_TRANSLATION,
    SPEECHT5,
    WAV2VEC2_CONFORMER,
    PARAKEET,
    FASTSPEECH2,
    FASTSPEECH2_WITH_HIFIGAN,
    *HIFIGANS,
)
ARCHITECTURES = {name: form for form in FORMATS for name in form.models}
