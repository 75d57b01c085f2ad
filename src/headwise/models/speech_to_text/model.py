"""Speech2Text (Wang et al. 2020): the Transformer on filter banks, for speech recognition and speech translation."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.blocks.layers import normal_
from headwise.models import fairseq
from headwise.models.interface import check_spectra
from headwise.models.seq2seq import SpeechToText
from headwise.models.speech_to_text.config import Speech2TextConfig, Speech2TextDecoderConfig

Spectra = Float[Tensor, "batch frames mels"]


class Subsampling(nn.Module):
    """x <- a * sigmoid(b) with (a, b) = W * x + c, a convolution of stride 2, num_conv_layers times: fewer, wider frames.

    What the convolutions see beyond a sequence's end is what the batch holds there, zeros from the feature extractor, and after
    the first of them c: as published, so that padding changes the last frames a little.
    """

    def __init__(self, config: Speech2TextConfig) -> None:
        super().__init__()
        self.kernel_sizes = config.conv_kernel_sizes
        between = [config.conv_channels] * (config.num_conv_layers - 1)
        widths = zip([config.frame_size, *(width // 2 for width in between)], [*between, 2 * config.d_model], strict=True)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(taken, given, size, stride=2, padding=size // 2)
            for (taken, given), size in zip(widths, self.kernel_sizes, strict=True)
        )

    def forward(self, frames: Spectra) -> Float[Tensor, "batch length embed_dim"]:
        x = frames.mT
        for convolution in self.convolutions:
            x = functional.glu(convolution(x), dim=1)
        return x.mT.contiguous()  # random numbers are drawn in the order of memory

    def shorten(self, attention_mask: Tensor) -> Bool[Tensor, "batch length"]:
        """What is real of a sequence after the convolutions, where ``attention_mask`` is of the frames before them."""
        longest, lengths = attention_mask.shape[1], attention_mask.bool().sum(-1)
        for size in self.kernel_sizes:
            longest, lengths = (longest + 2 * (size // 2) - size) // 2 + 1, (lengths - 1) // 2 + 1
        return torch.arange(longest, device=lengths.device) < lengths[:, None]


class Speech2TextDecoder(SpeechToText):
    """All of a Speech2Text but what it hears with: any encoder's output of width d_model is memory to it.

    x = E[token] (times sqrt(d_model) if scale_embedding) + sinusoid(pad_token_id + n) for the nth token that is no padding, and
    nothing for padding; dropout; pre-norm layers, a norm at the end; logits = y E^T, or, if not tie_word_embeddings, a matrix
    of their own.
    """

    def __init__(self, config: Speech2TextDecoderConfig) -> None:
        super().__init__()
        self.max_positions, self.pad_token_id = config.max_target_positions, config.pad_token_id
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.embedding = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.dropout)
        self.decoder = fairseq.pre_norm_stack(config, "decoder")
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)

    def embed_target(
        self, input_ids: Int[Tensor, "batch target_len"], offset: int | Tensor
    ) -> Float[Tensor, "batch target_len embed_dim"]:
        tokens, pad = self.embedding(input_ids) * self.scale, self.pad_token_id
        real = input_ids != pad
        positions = fairseq.sinusoids(offset + real.cumsum(1) + pad, tokens.shape[-1])
        return self.dropout(tokens + (positions * real[..., None]).to(tokens.dtype))

    def logits(self, hidden: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab_size"]:
        return functional.linear(hidden, self.embedding.weight if self.lm_head is None else self.lm_head.weight)


class Speech2TextForConditionalGeneration(Speech2TextDecoder):
    """spectra -> convolutions, encoder -> memory;  target tokens so far, memory -> decoder -> logits of the next token.

    x = convolutions(spectra) (times sqrt(d_model) if scale_embedding) + sinusoid(2), sinusoid(3), ..., nothing for padding;
    dropout; pre-norm layers, a norm at the end. Frames that are padding are no keys, neither of the encoder nor of the decoder.

    A multilingual model is told the target's language by a token, its forced_bos_token_id, behind the start token:

        begun = torch.tensor([[model.start_token_id, tokenizer.vocabulary["<lang:de>"]]] * batch)
        hw.generate(model, **feature_extractor(sounds), decoder_input_ids=begun)

    Raises ValueError for another pad_token_id than 1: the published computation has no positions then.
    """

    def __init__(self, config: Speech2TextConfig) -> None:
        if config.pad_token_id != 1:  # the reference takes its mask of 0 and 1 for tokens, and 1 for padding among them
            raise ValueError(f"pad_token_id: expected 1, without which frames get no positions; got {config.pad_token_id}")
        super().__init__(config)
        self.config = config
        self.subsampling = Subsampling(config)
        self.encoder = fairseq.pre_norm_stack(config, "encoder")
        normal_(self, config.init_std)

    def embed_source(
        self, input_features: Spectra, attention_mask: Tensor | None
    ) -> Float[Tensor, "batch memory_len embed_dim"]:
        check_spectra(input_features, self.config.frame_size, attention_mask, self.config.max_source_positions)
        x = self.subsampling(input_features.to(self.embedding.weight.dtype)) * self.scale
        positions = fairseq.sinusoids(torch.arange(2, x.shape[1] + 2, device=x.device), x.shape[-1])
        real = self.memory_mask(attention_mask)
        return self.dropout(x + (positions if real is None else positions * real[..., None]).to(x.dtype))

    def memory_mask(self, attention_mask: Tensor | None) -> Tensor | None:
        return None if attention_mask is None else self.subsampling.shorten(attention_mask)
