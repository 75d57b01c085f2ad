"""Speech translation with a Conformer that hears (Gulati et al. 2020) and a Transformer that writes: Parakeet's encoder with
Speech2Text's decoder, trained with both losses (Kim et al. 2017). fairseq has the same pair as s2t_conformer."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor, nn

from headwise.blocks.layers import normal_
from headwise.models import ctc
from headwise.models.conformer_translation.config import ConformerTranslationConfig
from headwise.models.interface import Seq2SeqOutput, padding
from headwise.models.parakeet.model import FastConformer, ParakeetForCTC
from headwise.models.speech_to_text.model import Speech2TextDecoder, Speech2TextForConditionalGeneration

Spectra = Float[Tensor, "batch frames mels"]
WRITES = ("embedding.", "decoder.", "lm_head.")  # what a Speech2Text writes with


class ConformerForSpeechTranslation(Speech2TextDecoder):
    """spectra -> FastConformer -> memory;  target tokens so far, memory -> decoder -> logits of the next token.

    memory = P x + b where the halves differ in width, x where they do not. loss = (1 - w) L + w L_CTC with w = ctc_weight: L
    the mean of -log p(label), smoothed by label_smoothing, L_CTC that of logits C memory + c with the padding token as blank.
    """

    encoder: FastConformer

    def __init__(self, config: ConformerTranslationConfig) -> None:
        super().__init__(config.decoder)
        self.config, self.label_smoothing = config, config.label_smoothing
        given, wanted = config.encoder.hidden_size, config.decoder.d_model
        self.projection = nn.Identity() if given == wanted else nn.Linear(given, wanted)
        self.ctc_head = None if config.ctc_weight == 0 else nn.Linear(wanted, config.decoder.vocab_size)
        normal_(self, config.decoder.init_std)
        self.encoder = FastConformer(config.encoder)

    @classmethod
    def from_halves(
        cls, encoder: ParakeetForCTC, decoder: Speech2TextForConditionalGeneration, ctc_weight: float = 0.3
    ) -> ConformerForSpeechTranslation:
        """Hears as a published model does and writes as another, with copies of their weights; ``projection`` and ``ctc_head``
        start afresh. The one's memory is new to the other: it wants training before it translates.

            parakeet, s2t = hw.load("nvidia/parakeet-ctc-0.6b"), hw.load("facebook/s2t-small-mustc-en-de-st")
            model = ConformerForSpeechTranslation.from_halves(parakeet, s2t)

        Sounds go in by the encoder's feature extractor, text comes out by the decoder's tokenizer.
        """
        halves = {"encoder": encoder.config.encoder_config, "decoder": decoder.config.decoder}
        model = cls(ConformerTranslationConfig(**halves, ctc_weight=ctc_weight)).to(decoder.embedding.weight)
        model.encoder.load_state_dict(encoder.encoder.state_dict())
        written = {name: x for name, x in decoder.state_dict().items() if name.startswith(WRITES)}
        model.load_state_dict({**model.state_dict(), **written})
        return model

    def embed_source(
        self, input_features: Spectra, attention_mask: Tensor | None
    ) -> Float[Tensor, "batch memory_len hidden_size"]:
        return self.encoder.embed(input_features, attention_mask)

    def encode(self, source: Spectra, attention_mask: Tensor | None = None) -> Float[Tensor, "batch memory_len embed_dim"]:
        real = self.memory_mask(attention_mask)
        return self.projection(self.encoder(self.embed_source(source, attention_mask), padding(real, None), real))

    def memory_mask(self, attention_mask: Tensor | None) -> Tensor | None:
        return self.encoder.shorten(attention_mask)

    def forward(
        self,
        input_features: Spectra,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "batch target_len"] | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch target_len"] | None = None,
        ctc_labels: Int[Tensor, "batch most"] | None = None,
    ) -> Seq2SeqOutput:
        """One pass over whole sequences, as every encoder-decoder's.

        input_features: as Parakeet's feature extractor gives them. ctc_labels: what CTC is to find instead of the labels, where
        the words of the target stand in another order: the transcript, in tokens of the decoder's vocabulary, -100 where there
        is none. An input with fewer frames of memory than that takes counts as zero in L_CTC.
        """
        output = self.answer(input_features, attention_mask, decoder_input_ids, decoder_attention_mask, labels)
        if output.loss is None or self.ctc_head is None or labels is None:
            return output
        memory, found = output.encoder_last_hidden_state, labels if ctc_labels is None else ctc_labels
        lengths = None if attention_mask is None else self.encoder.lengths(attention_mask)
        aligned = ctc.loss(self.ctc_head(memory), found, lengths, blank=self.pad_token_id, zero_infinity=True)
        weight = self.config.ctc_weight
        return replace(output, loss=(1 - weight) * output.loss + weight * aligned)
