"""Lines to train small tokenizers on, texts to try them with."""

import io
import json
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ENGLISH = [
    "The quick brown fox jumps over the lazy dog.",
    "What's in a name? That which we call a rose by any other name would smell as sweet.",
    "A naïve café in Zürich serves crème brûlée for 12 or 375 francs.",
    "Hello world, it's me! Don't stop.",
]
OTHERS = ["Le renard brun saute; où est la forêt?", "Der große Fuchs läuft über die Straße.", "今天天气很好。", "你好，世界！"]
TEXTS = [
    "The lazy fox.",
    "a naïve café, UPPER Case and CRÈME",
    "crème with combining accents: cre\u0300me",
    "今天 天气很好。Hello世界",
    "two  spaces,   three, one at the end ",
    "don't stop , now ! it 's 12375",
    "emoji 🦊 and 🇫🇷 flags",
    "tab\there, line\nthere, no\u00a0break, zero\u200bwidth",
    "ﬁne Ⅷ ㍿ full－width ＡＢＣ",
    "x" * 120,
    "<extra_id_x> [MASKED] >> << <|end| ##ing",
    "",
]


def write(folder: Path, **files: dict) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def train_byte_pairs() -> Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(ENGLISH + OTHERS, trainer)
    return trained


def train_pieces(file: Path, lines: list[str], **options) -> SentencePieceProcessor:
    model = io.BytesIO()
    options |= {"hard_vocab_limit": False, "minloglevel": 2}
    SentencePieceTrainer.train(sentence_iterator=iter(lines * 4), model_writer=model, **options)
    file.write_bytes(model.getvalue())
    return SentencePieceProcessor(model_file=str(file))
