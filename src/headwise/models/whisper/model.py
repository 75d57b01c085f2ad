"""Whisper (Radford et al. 2023): one model for transcription and translation, which tokens at the beginning ask for."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.blocks.layers import normal_
from headwise.models import fairseq
from headwise.models.interface import described
from headwise.models.seq2seq import SpeechToText
from headwise.models.whisper.config import WhisperConfig

BIAS = ("q_proj", "v_proj", "out_proj")  # one of k_proj would add the same to all scores of a query


class WhisperForConditionalGeneration(SpeechToText):
    """spectra of 30 seconds -> encoder -> memory;  target tokens so far, memory -> decoder -> logits of the next token.

    Encoder: x = gelu(W_2 * gelu(W_1 * spectra)), the second convolution of stride 2, + P_source, which are sinusoids and stay
    so. Decoder: x = E[token] + P_target[position]. Both: dropout; pre-norm layers, a norm at the end; keys have no bias.
    logits = y E^T, or, if not tie_word_embeddings, a matrix of their own. Silence is heard, not masked: an attention_mask over
    the frames is taken and has no effect, as in the reference.

    What is wanted is said by the tokens that answers begin with, generation_config["lang_to_id"] and ["task_to_id"] (models of
    English alone have neither):

        says = model.generation_config
        german, english = says["lang_to_id"]["<|de|>"], says["task_to_id"]["translate"]  # or "transcribe"
        begun = torch.tensor([[model.start_token_id, german, english, says["no_timestamps_token_id"]]] * batch)
        hw.generate(model, **feature_extractor(sounds), decoder_input_ids=begun)

    begin_suppress_tokens and suppress_tokens are obeyed; longer sounds, timestamps and fallback temperatures, which the
    reference's generate has besides, are not here.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config, self.max_positions, width = config, config.max_target_positions, config.d_model
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(config.num_mel_bins, width, 3, padding=1), nn.Conv1d(width, width, 3, stride=2, padding=1)]
        )
        positions = fairseq.sinusoids(torch.arange(config.max_source_positions), width)
        self.source_positions = nn.Parameter(positions, requires_grad=False)
        self.embedding = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.target_positions = nn.Embedding(config.max_target_positions, width)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = fairseq.pre_norm_stack(config, "encoder", BIAS)
        self.decoder = fairseq.pre_norm_stack(config, "decoder", BIAS)
        self.proj_out = None if config.tie_word_embeddings else nn.Linear(width, config.vocab_size, bias=False)
        normal_(self, config.init_std)

    def embed_source(
        self, input_features: Float[Tensor, "batch mels frames"], attention_mask: Tensor | None
    ) -> Float[Tensor, "batch memory_len embed_dim"]:
        shape, floats = (self.config.num_mel_bins, 2 * self.config.max_source_positions), input_features.is_floating_point()
        if not floats or input_features.dim() != 3 or input_features.shape[1:] != shape:
            wanted = f"floats (batch, {shape[0]} mels, {shape[1]} frames), silence behind sound that is shorter"
            raise ValueError(f"input_features: expected {wanted}; got {described(input_features)}")
        x = input_features.to(self.embedding.weight.dtype)
        for convolution in self.convolutions:
            x = functional.gelu(convolution(x))
        return self.dropout(x.mT + self.source_positions)

    def memory_mask(self, attention_mask: Tensor | None) -> None:
        """Nothing is masked."""

    def embed_target(
        self, input_ids: Int[Tensor, "batch target_len"], offset: int | Tensor
    ) -> Float[Tensor, "batch target_len embed_dim"]:
        positions = offset + torch.arange(input_ids.shape[1], device=input_ids.device)
        return self.dropout(self.embedding(input_ids) + self.target_positions(positions))

    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        return functional.linear(hidden, self.embedding.weight if self.proj_out is None else self.proj_out.weight)
