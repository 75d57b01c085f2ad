"""Small folders as the tokenizers of models that listen and speak are published, trained on a few lines."""

import json
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from texts import ENGLISH, OTHERS, train_byte_pairs, train_pieces, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.models.whisper.tokenization_whisper import LANGUAGES

FAIRSEQ = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3}
BEGUN = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES)]
BEGUN += ["<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|notimestamps|>"]
TIMES = [f"<|{second / 50:.2f}|>" for second in range(1501)]
PHONEMES = ["<blank>", "<unk>", "HH", "AH0", "L", "OW1", "W", "ER1", "D", ",", ".", "...", "<sos/eos>"]


def speech_to_text(folder: Path, **settings) -> None:
    languages = [f"<lang:{code}>" for code in ("pt", "fr", "ru", "nl", "ro", "it", "es", "de")]
    options = {"vocab_size": 160, "model_type": "unigram", "user_defined_symbols": languages, **FAIRSEQ}
    spm = train_pieces(folder / "sentencepiece.bpe.model", ENGLISH + OTHERS, **options)
    vocab = {spm.id_to_piece(number): number for number in range(len(spm))}
    write(folder, vocab=vocab, tokenizer_config=settings, config={"model_type": "speech_to_text"})


def translating(folder: Path) -> None:
    speech_to_text(folder, lang_codes="mustc", tgt_lang="fr")


def portuguese(folder: Path) -> None:
    speech_to_text(folder, lang_codes="mustc", do_upper_case=True)


def whisper(folder: Path, **settings) -> None:
    train_byte_pairs().model.save(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    beside = [token for token in BEGUN if token not in vocab]
    added = {token: len(vocab) + number for number, token in enumerate(beside + TIMES)}
    settings |= {"pad_token": "<|endoftext|>", "extra_special_tokens": beside}
    write(folder, added_tokens=added, tokenizer_config=settings, special_tokens_map={}, normalizer={"colour": "color"})
    write(folder, config={"model_type": "whisper"})


def whisper_hindi(folder: Path) -> None:
    whisper(folder, language="Hindi", task="translate", predict_timestamps=True)


def whisper_stated(folder: Path) -> None:
    """As transformers 4 has written it since 2023: the added tokens in tokenizer_config.json."""
    whisper(folder)
    added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    stated = {number: {"content": token, "special": token not in TIMES, **plain} for token, number in added.items()}
    write(folder, tokenizer_config={"added_tokens_decoder": stated, "language": "fr", "task": "transcribe"})
    (folder / "added_tokens.json").unlink()


def whisper_json(folder: Path) -> None:
    program = train_byte_pairs()
    program.add_special_tokens(BEGUN)
    program.add_tokens(TIMES)
    front = ["<|startoftranscript|>", "<|notimestamps|>"]
    ids = [(token, program.token_to_id(token)) for token in [*front, "<|endoftext|>"]]
    single, pair = [*front, "$A", "<|endoftext|>"], [*front, "$A", "$B:1", "<|endoftext|>:1"]
    program.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    program.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "<|endoftext|>", "tokenizer_class": "WhisperTokenizer"}
    write(folder, tokenizer_config=settings, config={"model_type": "whisper"})


def wav2vec2(folder: Path, **settings) -> None:
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVKÉß'天", "CH", "TT"]
    vocab = {letter: number for number, letter in enumerate(letters)}
    write(folder, vocab=vocab, tokenizer_config=settings, config={"model_type": "wav2vec2-conformer", "pad_token_id": 0})


def wav2vec2_lower(folder: Path) -> None:
    wav2vec2(folder, do_lower_case=True)


def wav2vec2_named(folder: Path) -> None:
    """A language of several, other names, tokens beside the vocabulary."""
    letters = {letter: number for number, letter in enumerate(["[PAD]", "[UNK]", "_", *"abcdefhloßé你"])}
    settings = {"word_delimiter_token": "_", "replace_word_delimiter_char": "-", "target_lang": "deu"}
    settings |= {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    write(folder, vocab={"eng": {"x": 0}, "deu": letters}, tokenizer_config=settings)
    write(folder, added_tokens={"<s>": len(letters), "</s>": len(letters) + 1}, config={"model_type": "wav2vec2"})


def parakeet(folder: Path) -> None:
    program = Tokenizer(models.BPE(unk_token="<unk>"))
    program.pre_tokenizer, program.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False)
    program.train_from_iterator(ENGLISH + OTHERS, trainer)
    program.add_tokens(["<pad>"])
    program.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "ParakeetTokenizer"}
    config = {"model_type": "parakeet_ctc", "pad_token_id": program.token_to_id("<pad>")}
    write(folder, tokenizer_config=settings, config=config)


def speecht5(folder: Path) -> None:
    train_pieces(folder / "spm_char.model", ENGLISH + OTHERS, vocab_size=90, model_type="char", **FAIRSEQ)
    size = len(SentencePieceProcessor(model_file=str(folder / "spm_char.model")))
    write(folder, added_tokens={"<ctc_blank>": size + 1, "<mask>": size}, tokenizer_config={"normalize": False})
    write(folder, config={"model_type": "speecht5"})


def fastspeech2(folder: Path) -> None:
    vocab = {phoneme: number for number, phoneme in enumerate(PHONEMES)}
    write(folder, vocab=vocab, tokenizer_config={"should_strip_spaces": True}, config={"model_type": "fastspeech2_conformer"})
