"""SpeechT5 (Ao et al. 2022) that speaks: the Transformer TTS of Li et al. 2019 with relative keys, in somebody's voice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.attention import masks
from headwise.attention.cache import Growing
from headwise.attention.module import MultiHeadAttention
from headwise.attention.positions import Shaw
from headwise.blocks.feed_forward import FeedForward, activation
from headwise.blocks.layers import Layer, LayerCache, PostNorm, Stack, normal_
from headwise.models.interface import check_length, padding
from headwise.models.speecht5.config import SpeechT5Config
from headwise.models.speecht5.loss import Looks, guided_attention_loss, stop_loss
from headwise.models.speecht5.prenet import Drop, Prenet, ScaledPositions, dropout_alike
from headwise.models.synthesis import Postnet, SpectrogramOutput, Synthesiser, spectrogram_loss

Memory = Float[Tensor, "batch length embed_dim"]
Steps = Float[Tensor, "batch steps embed_dim"]
Read = Float[Tensor, "batch steps mel_bins"]
Frames = Float[Tensor, "batch frames mel_bins"]


class SpeechT5ForTextToSpeech(Synthesiser):
    """tokens -> encoder -> memory;  frames so far, a voice, memory -> decoder -> the next r frames, and whether they are last.

    x = E[token] + alpha sinusoid(position), dropout, norm, dropout; post-norm layers, the encoder's with relative keys (Shaw et
    al. 2018) from one table. The decoder reads every r-th frame (r = reduction_factor), one step late and after a zero frame,
    through a prenet; frames = W y + b, r at a time, then a postnet; p(end) = sigmoid(w y + b) for each of them.

    The prenet's dropout is off in eval, and in training every row has a mask of its own, as in the original program; the
    reference's is always on, has one mask for all rows, and keeps the share that should go (the same at 0.5 alone).
    """

    def __init__(self, config: SpeechT5Config) -> None:
        super().__init__()
        self.config, embed_dim, mel_bins = config, config.hidden_size, config.num_mel_bins
        self.embedding = nn.Embedding(config.vocab_size, embed_dim, config.pad_token_id)
        self.text_positions = ScaledPositions(config.positional_dropout)
        self.norm, self.dropout = nn.LayerNorm(embed_dim, config.layer_norm_eps), nn.Dropout(config.hidden_dropout)
        head_dim, farthest = embed_dim // config.encoder_attention_heads, config.encoder_max_relative_position
        self.relative_keys = Shaw(head_dim, before=farthest - 1, after=farthest)  # of every layer of the encoder
        self.encoder, self.prenet, self.decoder = self._encoder(), Prenet(config), self._decoder()
        self.feat_out = nn.Linear(embed_dim, mel_bins * config.reduction_factor)
        self.prob_out = nn.Linear(embed_dim, config.reduction_factor)
        self.postnet = Postnet(
            mel_bins,
            config.speech_decoder_postnet_units,
            config.speech_decoder_postnet_layers,
            config.speech_decoder_postnet_kernel,
            config.speech_decoder_postnet_dropout,
        )
        self.reset_parameters()

    def _encoder(self) -> Stack:
        config = self.config
        attention = partial(self._attention, config.encoder_attention_heads, self.relative_keys)
        layers = [self._layer(attention(), None, config.encoder_ffn_dim) for _ in range(config.encoder_layers)]
        return Stack(layers, layer_drop=config.encoder_layerdrop)

    def _decoder(self) -> Stack:
        config, attention = self.config, partial(self._attention, self.config.decoder_attention_heads)
        layers = [self._layer(attention(), attention(), config.decoder_ffn_dim) for _ in range(config.decoder_layers)]
        return Stack(layers, layer_drop=config.decoder_layerdrop)

    def _attention(self, heads: int, position: Shaw | None = None) -> MultiHeadAttention:
        config = self.config
        return MultiHeadAttention(config.hidden_size, heads, position=position, dropout=config.attention_dropout)

    def _layer(self, own: MultiHeadAttention, cross: MultiHeadAttention | None, hidden_dim: int) -> Layer:
        config, act = self.config, activation(self.config.hidden_act)
        return Layer(
            lambda: PostNorm(nn.LayerNorm(config.hidden_size, config.layer_norm_eps), config.hidden_dropout),
            self_attention=own,
            cross_attention=cross,
            feed_forward=FeedForward(config.hidden_size, hidden_dim, act, config.activation_dropout),
        )

    def reset_parameters(self) -> None:
        """As published: N(0, initializer_range^2), the postnet's convolutions after He et al. 2015."""
        normal_(self, self.config.initializer_range)
        nn.init.normal_(self.relative_keys.weight, std=self.config.initializer_range)
        for convolution in self.postnet.convolutions:
            nn.init.kaiming_normal_(convolution.weight)  # type: ignore[arg-type]

    def encode(self, input_ids: Int[Tensor, "batch length"], attention_mask: Tensor | None = None) -> Memory:
        """The text as the decoder reads it."""
        check_length(input_ids.shape[1], self.config.max_text_positions)
        x = self.text_positions(self.embedding(input_ids))
        return self.encoder(self.dropout(self.norm(x)), padding(attention_mask, input_ids))

    def decode(
        self,
        frames: Read,
        memory: Memory,
        memory_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        speaker_embeddings: Tensor | None = None,
        caches: Sequence[LayerCache] | None = None,
        drop: Drop | None = None,
    ) -> Steps:
        """Hidden states of the steps that read ``frames``; with caches, of those that follow the steps they hold. drop: in
        place of the prenet's dropout."""
        offset = 0 if caches is None else caches[0].own.length
        x = self.prenet(frames, speaker_embeddings, offset, drop)
        own = padding(decoder_attention_mask, frames)
        mask = masks.causal() if own is None else masks.causal() & own
        return self.decoder(x, mask, memory, padding(memory_mask, memory), caches)

    def frames(self, hidden: Steps) -> Frames:
        """What every step says, reduction_factor frames, before the postnet."""
        return self.feat_out(hidden).unflatten(-1, (self.config.reduction_factor, -1)).flatten(1, 2)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        decoder_input_values: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        speaker_embeddings: Tensor | None = None,
        labels: Tensor | None = None,
        stop_labels: Tensor | None = None,
    ) -> SpectrogramOutput:
        """One pass over whole sequences.

        decoder_input_values (batch, steps, mel_bins): the frames that the decoder reads; decoder_attention_mask (batch,
        steps): true or 1 = a real one. labels (batch, reduction_factor steps, mel_bins): the frames to say, log-mel, -100
        where there is none; without decoder_input_values the decoder reads them shifted, and its mask is about all of them.
        speaker_embeddings (batch or 1, speaker_embedding_dim): the voices. stop_labels (batch, frames): true or 1 = speech ends
        with this frame; None = before the padding of labels, or at their end. loss: the mean absolute errors before and after
        the postnet, of ends and, if use_guided_attention_loss, of the way through the text. Raises ValueError for what does
        not fit, or is longer than the model's positions.
        """
        if decoder_input_values is None:
            if labels is None:
                raise ValueError("give decoder_input_values or labels: the decoder needs something to read")
            decoder_input_values, every = self.shift_right(labels), self.config.reduction_factor
            decoder_attention_mask = None if decoder_attention_mask is None else decoder_attention_mask[:, every - 1 :: every]
        guided = labels is not None and self.config.use_guided_attention_loss
        looks = [Looks() for _ in self.decoder.layers if guided]
        caches = [LayerCache(Growing(), look) for look in looks] or None
        memory = self.encode(input_ids, attention_mask)
        hidden = self.decode(decoder_input_values, memory, attention_mask, decoder_attention_mask, speaker_embeddings, caches)
        before = self.frames(hidden)
        after = self.postnet(before)
        if labels is None:
            return SpectrogramOutput(after, memory)
        if labels.shape != after.shape:
            raise ValueError(f"labels: expected {tuple(after.shape)}; got {tuple(labels.shape)}")
        real = labels != -100
        spoken = real[..., 0]
        ends = ~functional.pad(spoken[:, 1:], (0, 1)) if stop_labels is None else stop_labels.bool()
        loss = spectrogram_loss(before, after, labels, real) + stop_loss(self.prob_out(hidden).flatten(1), ends, spoken)
        if guided:
            tokens = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
            steps = spoken[:, self.config.reduction_factor - 1 :: self.config.reduction_factor]
            loss = loss + guided_attention_loss(self.config, looks, tokens, steps)
        return SpectrogramOutput(after, memory, loss)

    def shift_right(self, labels: Tensor) -> Read:
        """What the decoder reads when it is to say ``labels``: the last frame of every step, one step late, zeros first."""
        if labels.dim() != 3 or labels.shape[1] % self.config.reduction_factor:
            every = self.config.reduction_factor
            wanted = f"(batch, frames, {self.config.num_mel_bins}), frames a multiple of {every}, the last filled up with -100"
            raise ValueError(f"labels: expected {wanted}; got {tuple(labels.shape)}")
        last = labels[:, self.config.reduction_factor - 1 :: self.config.reduction_factor]
        return functional.pad(last.masked_fill(last == -100, 0.0)[:, :-1], (0, 0, 1, 0))

    def synthesise(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Tensor | None = None,
        *,
        speaker_embeddings: Tensor | None = None,
        threshold: float = 0.5,
        min_ratio: float = 0.0,
        max_ratio: float = 20.0,
        prenet_dropout: float | None = None,
        seed: int | None = None,
    ) -> list[Float[Tensor, "frames mel_bins"]]:
        """What is said of every row, step by step, in the voice of speaker_embeddings (batch or 1, speaker_embedding_dim).

        It ends with the step whose probabilities of an end add up to ``threshold``, not before min_ratio and at the latest at
        max_ratio frames for each of the row's tokens, or with the model's positions. (The reference counts the tokens of the
        longest row, for every row.) prenet_dropout: the share of the prenet dropped in every step, as Shen et al. 2018
        (section 2.2) do for variety; None = as in training. seed: of its random numbers; None = torch's own. No row depends
        on the others. Raises ValueError without a voice, or for wishes that cannot be.
        """
        if speaker_embeddings is None:
            raise ValueError(
                f"speaker_embeddings: expected (batch or 1, {self.config.speaker_embedding_dim}), a voice; got None"
            )
        rate = self.config.speech_decoder_prenet_dropout if prenet_dropout is None else prenet_dropout
        if not 0 <= rate < 1 or not 0 <= min_ratio <= max_ratio < math.inf:
            got = f"{prenet_dropout}, {min_ratio} and {max_ratio}"
            raise ValueError(f"expected prenet_dropout in [0, 1) and 0 <= min_ratio <= max_ratio < inf; got {got}")
        keep = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        memory, caches, drop = self.encode(input_ids, keep), self.decoder.make_cache(), dropout_alike(rate, seed, keep.device)
        least, most = (self._steps(keep, ratio) for ratio in (min_ratio, max_ratio))
        frames, said, ended = memory.new_zeros(len(keep), 1, self.config.num_mel_bins), list[Tensor](), dict[int, int]()
        while len(ended) < len(keep):
            hidden = self.decode(frames[:, -1:], memory, keep, None, speaker_embeddings, caches, drop)
            frames = self.frames(hidden)
            said.append(frames)
            for row, end in enumerate((self.prob_out(hidden).sigmoid().sum((1, 2)) >= threshold).tolist()):
                if len(said) >= most[row] or (end and len(said) >= least[row]):
                    ended.setdefault(row, len(said) * self.config.reduction_factor)
        whole = torch.cat(said, dim=1)
        return [self.postnet(whole[row : row + 1, : ended[row]])[0] for row in range(len(keep))]

    def _steps(self, keep: Tensor, ratio: float) -> list[int]:
        """So many steps are ``ratio`` frames for each of a row's tokens."""
        steps = [int(count * ratio / self.config.reduction_factor) for count in keep.sum(-1).tolist()]
        return [min(count, self.config.max_speech_positions) for count in steps]
