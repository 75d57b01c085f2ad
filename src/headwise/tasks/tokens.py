"""Text and token ids: one tokenizer for both sides of a translation, in the ``tokenizers`` library's tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPACE = "\u2581"  # stands for the space before a word, as in SentencePiece
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0 to 3


def train_tokenizer(lines: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair pieces for alphabetic scripts, single characters for Chinese ones, learned from ``lines``.

    Sennrich et al. 2016 for the pieces. Han characters, kana and punctuation stand alone, so that every Chinese character is
    a token; a word carries the space before it, the first word too.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Replace(Regex(r"^(?=[\p{Latin}\p{N}])| "), SPACE),
        ]
    )
    alone = Regex(r"\p{Han}|\p{Hiragana}|\p{Katakana}|\p{P}")
    word = Regex(SPACE + "?[^" + SPACE + "]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(alone, "isolated"), pre_tokenizers.Split(word, "isolated")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    tokenizer.encode_special_tokens = True
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """A saved tokenizer. "</s>" in a text is text, in this one as in a trained one. Raises ValueError for a bad file."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path} is no tokenizer: {error}") from None
    tokenizer.encode_special_tokens = True  # not part of the file
    return tokenizer
