"""FastSpeech 2 (Ren et al. 2021), with Conformers: it says how long every token takes, and then all frames at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention import masks
from headwise.attention.tiles import has_values
from headwise.blocks.conformer import Conformer
from headwise.models.fastspeech2_conformer.config import FastSpeech2ConformerConfig
from headwise.models.fastspeech2_conformer.layers import Entrance, Predictor, begin, layer, repeated
from headwise.models.interface import described, exported, padding
from headwise.models.synthesis import Postnet, Synthesiser, masked_mean

LABELS = ("spectrogram_labels", "duration_labels", "pitch_labels", "energy_labels")


@exported
@dataclass
class FastSpeech2ConformerOutput:
    """spectrogram (batch, frames, mel_bins), log-mel, of every text as many frames as its durations sum up to; what was
    predicted of every token: duration_outputs (batch, length), numbers of frames, but log(1 + frames) where labels were given;
    pitch_outputs and energy_outputs (batch, length, 1); the encoder's last hidden state; loss where labels were given."""

    spectrogram: Tensor
    duration_outputs: Tensor
    pitch_outputs: Tensor
    energy_outputs: Tensor
    encoder_last_hidden_state: Tensor
    loss: Tensor | None = None


class FastSpeech2ConformerModel(Synthesiser):
    """tokens -> encoder -> x;  x_i, for as many frames as token i takes -> decoder -> W y + b -> postnet -> spectrogram.

    Both stacks are Conformers with relative positions. To x are added the voice and the language, where there are several, and
    then p w_p + b_p + e w_e + b_e with the pitch p and the energy e of every token. Durations, p and e are predicted from x, or
    given as labels: loss = |before - s| + |after - s| + (log(1 + d) - d')^2 + (p - p')^2 + (e - e')^2, means over what is real,
    with the spectrogram before and after the postnet.

    What is padding changes nothing: no convolution reads it, and the decoder attends to no frame past a text's end. In
    transformers' class both happen, so that a text there sounds different beside a longer one; for texts alone the two agree.
    Only the statistics of batch norm, in training, count it, as they do there.

    With labels it compiles to one graph. Without, the number of frames is read off the predictions: two graphs, or one where
    torch._dynamo.config.capture_scalar_outputs is set; torch.export wants strict=True.
    """

    def __init__(self, config: FastSpeech2ConformerConfig) -> None:
        super().__init__()
        self.config, size = config, config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, size, padding_idx=0)
        several = {name: count for name in ("speaker", "language") if (count := getattr(config, f"num_{name}s") or 1) > 1}
        self.speaker_embedding, self.language_embedding = (
            nn.Embedding(several[name], size) if name in several else None for name in ("speaker", "language")
        )
        self.voice = None if config.speaker_embed_dim is None else nn.Linear(size + config.speaker_embed_dim, size)
        self.encoder_entrance = Entrance(size, config.encoder_positional_dropout_rate)
        self.encoder = Conformer(layer(config, "encoder", self.encoder_entrance) for _ in range(config.encoder_layers))
        self.decoder_entrance = Entrance(size, config.decoder_positional_dropout_rate)
        self.decoder = Conformer(layer(config, "decoder", self.decoder_entrance) for _ in range(config.decoder_layers))
        self.duration_predictor, self.pitch_predictor, self.energy_predictor = (
            Predictor(config, *what)
            for what in (
                ("duration", config.duration_predictor_dropout_rate),
                ("pitch", config.pitch_predictor_dropout),
                ("energy", config.energy_predictor_dropout),
            )
        )
        self.pitch_embedding, self.energy_embedding = (
            nn.Conv1d(1, size, kernel, padding=kernel // 2)
            for kernel in (config.pitch_embed_kernel_size, config.energy_embed_kernel_size)
        )
        self.pitch_dropout, self.energy_dropout = (
            nn.Dropout(config.pitch_embed_dropout),
            nn.Dropout(config.energy_embed_dropout),
        )
        self.spectrogram = nn.Linear(size, config.num_mel_bins)
        self.postnet = Postnet(
            config.num_mel_bins,
            config.speech_decoder_postnet_units,
            config.speech_decoder_postnet_layers,
            config.speech_decoder_postnet_kernel,
            config.speech_decoder_postnet_dropout,
        )
        self.apply(begin)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        spectrogram_labels: Float[Tensor, "batch frames mel_bins"] | None = None,
        duration_labels: Int[Tensor, "batch length"] | None = None,
        pitch_labels: Float[Tensor, "batch length 1"] | None = None,
        energy_labels: Float[Tensor, "batch length 1"] | None = None,
        speaker_ids: Tensor | None = None,
        lang_ids: Tensor | None = None,
        speaker_embedding: Float[Tensor, "batch speaker_embed_dim"] | None = None,
    ) -> FastSpeech2ConformerOutput:
        """The spectrogram of every text, as predicted, or, where labels are given (all four, always in training), with their
        durations, pitches and energies, and the loss.

        attention_mask (batch, length): true or 1 = a real token. spectrogram_labels: -100 past a text's end. duration_labels:
        frames of every token, of each text together as many as its spectrogram has. speaker_ids, lang_ids (batch,): which of
        several voices and languages; speaker_embedding: any voice, as a vector. What is not given is left out.
        Raises ValueError where labels are missing or do not fit, or a voice is asked of a model that has one.
        """
        padding(attention_mask, input_ids)
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        labels = self._labels(real, spectrogram_labels, duration_labels, pitch_labels, energy_labels)
        memory = self.encoder(self.encoder_entrance(self.embedding(input_ids)), masks.padding(real), real)
        x = self._voiced(memory, speaker_ids, lang_ids, speaker_embedding)
        stops = self.config.stop_gradient_from_pitch_predictor, self.config.stop_gradient_from_energy_predictor
        pitches, energies = (
            predictor(x.detach() if stop else x, real)
            for predictor, stop in zip((self.pitch_predictor, self.energy_predictor), stops, strict=True)
        )
        durations = self.duration_predictor(x, real).squeeze(-1)
        if labels is None:
            durations = (durations.exp() - 1).round().clamp(min=0).long()
            times, pitch, energy = self._times(durations, real), pitches, energies
            length: Any = times.sum(dim=1).max().item()
            spoken = torch.arange(length, device=x.device) < times.sum(dim=1, keepdim=True)
        else:
            spectrogram, times, pitch, energy = labels
            length, spoken = spectrogram.shape[1], (spectrogram != -100).any(dim=-1)
        x = self._said(x, pitch, energy, real)
        y = self.decoder_entrance(repeated(x, times.masked_fill(~real, 0), length))
        y = self.decoder(y, masks.padding(spoken), spoken)
        before = self.spectrogram(y)
        after = self.postnet(before, spoken)
        found = FastSpeech2ConformerOutput(after, durations, pitches, energies, memory)
        return found if labels is None else replace(found, loss=self._loss(found, before, labels, real, spoken))

    def synthesise(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Tensor | None = None, **voice: Any
    ) -> list[Float[Tensor, "frames mel_bins"]]:
        """Log-mel spectrograms, of every text its own frames. voice: speaker_ids, lang_ids, speaker_embedding."""
        output = self(input_ids, attention_mask, **voice)
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        lengths = self._times(output.duration_outputs, real.bool()).sum(dim=1).tolist()
        return [spectrogram[:length] for spectrogram, length in zip(output.spectrogram, lengths, strict=True)]

    def _times(self, durations: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]) -> Tensor:
        """For how many frames every token is said; of a text that would be said in none, each token for one."""
        speed = self.config.speaking_speed
        times = durations if speed == 1 else (durations.float() * speed).round().long()
        return torch.where(times.sum(dim=1, keepdim=True) == 0, real.long(), times)

    def _voiced(self, x: Tensor, speakers: Tensor | None, languages: Tensor | None, voice: Tensor | None) -> Tensor:
        given = (speakers, self.speaker_embedding), (languages, self.language_embedding), (voice, self.voice)
        for name, (what, module) in zip(("speaker_ids", "lang_ids", "speaker_embedding"), given, strict=True):
            if what is not None and module is None:
                raise ValueError(f"{name}: this model has no choice of them; got {described(what)}")
        for ids, embedding in given[:2]:
            x = x if ids is None else x + embedding(ids.view(-1))[:, None]  # type: ignore[misc]
        if voice is None:
            return x
        vector = functional.normalize(voice.to(x.dtype))[:, None].expand(-1, x.shape[1], -1)
        return self.voice(torch.cat([x, vector], dim=-1))  # type: ignore[misc]

    def _said(self, x: Tensor, pitch: Tensor, energy: Tensor, real: Bool[Tensor, "batch length"]) -> Tensor:
        """At that pitch, and with that energy."""
        pitch, energy = (of_tokens.to(x.dtype).masked_fill(~real[..., None], 0.0).mT for of_tokens in (pitch, energy))
        at_pitch = self.pitch_dropout(self.pitch_embedding(pitch)).mT
        return x + self.energy_dropout(self.energy_embedding(energy)).mT + at_pitch

    def _loss(
        self,
        found: FastSpeech2ConformerOutput,
        before: Float[Tensor, "batch frames mel_bins"],
        labels: tuple[Tensor, ...],
        real: Bool[Tensor, "batch length"],
        spoken: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, ""]:
        spectrogram, times, pitch, energy = labels
        errors = (before - spectrogram).abs() + (found.spectrogram - spectrogram).abs()
        loss = self._mean(errors.mean(dim=-1), spoken) + self._mean(
            (found.duration_outputs - torch.log(1.0 + times)) ** 2, real
        )
        loss = loss + self._mean((found.pitch_outputs - pitch).squeeze(-1) ** 2, real)
        return loss + self._mean((found.energy_outputs - energy).squeeze(-1) ** 2, real)

    def _labels(self, real: Bool[Tensor, "batch length"], *labels: Any) -> Any:
        """All four, or None; ValueError where they cannot be."""
        missing = [name for name, x in zip(LABELS, labels, strict=True) if x is None]
        if len(missing) == 4 and not self.training:
            return None
        if missing:
            raise ValueError(f"labels: expected all of {', '.join(LABELS)}, in training always; {', '.join(missing)} missing")
        per_token = tuple(real.shape)
        shapes = (per_token[0], labels[0].shape[1], self.config.num_mel_bins), per_token, (*per_token, 1), (*per_token, 1)
        for name, x, shape in zip(LABELS, labels, shapes, strict=True):
            if x.shape != shape:
                raise ValueError(f"{name}: expected {shape}; got {described(x)}")
        if has_values(labels[0]) and real.device.type == "cpu":  # elsewhere looking means waiting
            frames, sums = (labels[0] != -100).any(dim=-1).sum(dim=1), labels[1].masked_fill(~real, 0).sum(dim=1)
            if not torch.equal(frames, sums):
                raise ValueError(
                    f"duration_labels: expected sums of {frames.tolist()}, frames of the labels; got {sums.tolist()}"
                )
        return labels

    def _mean(self, errors: Float[Tensor, "batch places"], real: Bool[Tensor, "batch places"]) -> Float[Tensor, ""]:
        """Over all that is real, or over the texts of what is real in each, or over padding too."""
        if self.config.use_weighted_masking:
            return (errors.where(real, 0.0).sum(dim=1) / real.sum(dim=1)).mean()
        return masked_mean(errors, real) if self.config.use_masking else errors.mean()
