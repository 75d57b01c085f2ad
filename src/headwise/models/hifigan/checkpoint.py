"""HiFi-GAN's published names: those of a model whose weight norm was taken off, as all published ones are."""

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys
from headwise.models.hifigan.config import FastSpeech2ConformerHifiGanConfig, SpeechT5HifiGanConfig
from headwise.models.hifigan.model import FastSpeech2ConformerHifiGan, SpeechT5HifiGan

KEYS = Keys(
    rows={
        "mean": "mean",
        "scale": "scale",
        "conv_pre.{leaf}": "enter.{leaf}",
        "upsampler.{i}.{leaf}": "upsamplers.{i}.{leaf}",
        "resblocks.{i}.convs1.{leaf}": "blocks.{i}.dilated.{leaf}",
        "resblocks.{i}.convs2.{leaf}": "blocks.{i}.plain.{leaf}",
        "conv_post.{leaf}": "leave.{leaf}",
    }
)

FORMATS = (
    Format("speecht5_hifigan", SpeechT5HifiGanConfig, {"SpeechT5HifiGan": SpeechT5HifiGan}, KEYS),
    Format(
        "fastspeech2_conformer_hifigan",
        FastSpeech2ConformerHifiGanConfig,
        {"FastSpeech2ConformerHifiGan": FastSpeech2ConformerHifiGan},
        KEYS,
    ),
)
