"""Text through a checkpoint's own tokenizer: tokenizer.json, or the older files that its system was published with.

Special tokens that stand in a text ("[MASK]", "</s>") are tokens where a tokenizer.json, vocab.txt, merges.txt or a vocab.json
alone has them. With a SentencePiece file they are text, as in the programs those models were trained with, but for T5's
"<extra_id_0>", SpeechT5's "<mask>", Speech2Text's "<lang:fr>" and Marian's language code in front (">>fr<<"). No text is ever
cut: a model says itself what is too long for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from headwise.models.checkpoint.folder import CheckpointError, find, read_json
from headwise.models.inputs.languages import CODES
from headwise.models.inputs.pieces import NOTHING, Letters, Library, Phonemes, Pieces, TextTokenizer

TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")  # Whisper's, in seconds


def tokenizer(folder: str | os.PathLike[str]) -> TextTokenizer:
    """The tokenizer in ``folder``, or of a model of that name on the Hub. Raises CheckpointError with a sentence where there is
    none that can be read."""
    path = find(folder)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a folder with a tokenizer")
    config = _json(path / "config.json")
    files, (read, names) = _kind(path, config.get("model_type"))
    stated = (_json(path / "tokenizer_config.json") | _json(path / "special_tokens_map.json")).items()
    plain = {name: entry.get("content", entry) if isinstance(entry, dict) else entry for name, entry in stated}
    settings = names | {name: entry for name, entry in plain.items() if entry is not None}
    try:
        found = read(path, settings)
    except Exception as error:  # tokenizers raises bare Exception, SentencePiece RuntimeError
        raise CheckpointError(f"{path}: cannot read {files}: {error}") from error
    found.pad_token_id = found.target.pad_token_id = _padding(found.vocabulary, settings, config)
    if config:  # without one, the pairs say it
        found.has_types = config.get("type_vocab_size") not in (None, 0, 1)
    return found


def _kind(path: Path, system: str | None) -> tuple[str, Kind]:
    """The first files in a folder that are this system's, and how they are read; without a system, the first in the table."""
    there = [files for files in KINDS if all((path / file).is_file() for file in files.split(" + "))]
    for files in there:
        systems = KINDS[files]
        own = next(iter(systems)) if system is None else system if system in systems else ANY
        if own in systems:
            return files, systems[own]
    if there and not any(system in systems for systems in KINDS.values()):
        other = next(iter(KINDS[there[0]]))
        raise CheckpointError(f"{path}: {system} needs a tokenizer.json; {there[0]} would be read as {other}'s")
    raise CheckpointError(f"{path} holds no tokenizer: copy it from where the model comes from; looked for {', '.join(KINDS)}")


def _program(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    return Library(Tokenizer.from_file(str(path / "tokenizer.json")))


def _program_with_blank(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    program = Tokenizer.from_file(str(path / "tokenizer.json"))
    if program.token_to_id(settings["pad_token"]) is not None:  # the blank, which is no text; without one it has no name
        program.add_special_tokens([settings["pad_token"]])
    return Library(program)


def _program_with_times(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    program = Tokenizer.from_file(str(path / "tokenizer.json"))
    program.add_special_tokens(list(filter(TIMESTAMP.fullmatch, program.get_vocab())))  # the file has them as text
    return Library(program)


def _word_pieces(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    with (path / "vocab.txt").open(encoding="utf-8") as lines:
        vocabulary = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    program = Tokenizer(models.WordPiece(vocabulary, unk_token=settings["unk_token"]))
    lowercase, accents = settings.get("do_lower_case", True), settings.get("strip_accents")
    chinese = settings.get("tokenize_chinese_chars", True)
    program.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents, handle_chinese_chars=chinese)
    program.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    program.decoder = decoders.WordPiece()
    _add_special(program, [settings[name] for name in BERT])
    ends = [(settings[name], vocabulary[settings[name]]) for name in ("sep_token", "cls_token")]
    program.post_processor = processors.BertProcessing(*ends)
    return Library(program)


def _gpt2(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    program = _byte_pairs(path, settings)
    _add_special(program, [settings["eos_token"]])
    return Library(program)


def _whisper(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    program, language, task = _byte_pairs(path, settings), settings.get("language"), settings.get("task")
    _add(program, _beside(path, settings))
    front, end = ["<|startoftranscript|>"], settings["eos_token"]
    front += [f"<|{CODES.get(language.lower(), language.lower())}|>"] if language else []
    front += [f"<|{task}|>"] if task else []
    front += [] if settings.get("predict_timestamps", False) else ["<|notimestamps|>"]
    _add_special(program, [*front, end])
    numbers = [(token, program.token_to_id(token)) for token in [*front, end]]
    program.post_processor = processors.TemplateProcessing(single=[*front, "$A", end], special_tokens=numbers)
    return Library(program)


def _byte_pairs(path: Path, settings: dict[str, Any]) -> Tokenizer:
    program = Tokenizer(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    program.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
    program.decoder = decoders.ByteLevel()
    return program


def _beside(path: Path, settings: dict[str, Any]) -> dict[str, int]:
    """The tokens that stand beside a vocabulary's own file, in the order of their ids."""
    stated = {entry["content"]: int(number) for number, entry in settings.get("added_tokens_decoder", {}).items()}
    return dict(sorted((_json(path / "added_tokens.json") | stated).items(), key=lambda token: token[1]))


def _add(program: Tokenizer, tokens: dict[str, int]) -> None:
    program.add_special_tokens(list(tokens))
    for token, number in tokens.items():  # the library counts on from its vocabulary
        if program.token_to_id(token) != number:
            raise ValueError(f"token {token!r} has the id {number}, and would get {program.token_to_id(token)}")


def _add_special(program: Tokenizer, tokens: list[str]) -> None:
    for token in tokens:
        if program.token_to_id(token) is None:  # the library would give it an id that no model has a weight for
            raise ValueError(f"there is no token {token!r}")
    program.add_special_tokens(tokens)


def _two_languages(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    numbers, back = _json(path / "vocab.json"), [settings["eos_token"]]
    code = r"^>>[^\s<>]+<<" if any(token.startswith(">>") for token in numbers) else NOTHING
    found = Pieces(path / "source.spm", numbers, [], back, code)
    found.target = Pieces(path / "target.spm", _json(path / "target_vocab.json") or numbers, [], back, code)
    return found


def _t5(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    fill = [f"<extra_id_{number}>" for number in reversed(range(settings.get("extra_ids", 100)))]
    return Pieces(path / "spiece.model", fill, [], [settings["eos_token"]], "|".join(fill) or NOTHING)


def _llama(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    front = [settings["bos_token"]] if settings.get("add_bos_token", True) else []
    back = [settings["eos_token"]] if settings.get("add_eos_token", False) else []
    return Pieces(path / "tokenizer.model", [], front, back)


def _speech_to_text(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    """As fairseq trained them: the language that is written stands in front of a text."""
    codes, front = settings.get("lang_codes"), []
    if codes not in (None, "mustc"):
        raise ValueError(f"lang_codes is {codes!r}; 'mustc' is known")
    if codes is not None:
        front = [f"<lang:{settings.get('tgt_lang', 'pt')}>"]  # Portuguese is MuST-C's first
    file, numbers = path / "sentencepiece.bpe.model", _json(path / "vocab.json")
    reads = str.lower if settings.get("do_lower_case", False) else str
    writes = str.upper if settings.get("do_upper_case", False) else str
    languages = NOTHING if codes is None else "<lang:[a-z]+>"
    return Pieces(file, numbers, front, [settings["eos_token"]], languages, reads, writes)


def _speecht5(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    if settings.get("normalize", False):
        raise ValueError("normalize is true: numbers would be spelt out, which nothing here does")
    found = Pieces(path / "spm_char.model", [], [], [settings["eos_token"]])
    beside = [token for token in _beside(path, settings) if token not in found.vocabulary]
    return Pieces(path / "spm_char.model", beside, [], [settings["eos_token"]], "|".join(map(re.escape, beside)) or NOTHING)


def _wav2vec2(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    """Letters; with a target_lang, those of that language."""
    numbers, lower = _json(path / "vocab.json"), settings.get("do_lower_case", False)  # the vocabulary is in capitals then
    if "target_lang" in settings:
        numbers = numbers[settings["target_lang"]]
    if not all(isinstance(number, int) for number in numbers.values()):
        raise ValueError("a vocabulary for each language: target_lang in tokenizer_config.json says which")
    unsaid = [settings[role] for role in ("pad_token", "bos_token", "eos_token", "unk_token")]
    space, case = settings.get("replace_word_delimiter_char", " "), (str.upper, str.lower) if lower else (str, str)
    delimiter = settings.get("word_delimiter_token", "|")
    return Letters(numbers | _beside(path, settings), settings["unk_token"], unsaid, delimiter, space, *case)


def _phonemes(path: Path, settings: dict[str, Any]) -> TextTokenizer:
    unsaid, end = [settings[role] for role in ("pad_token", "unk_token")], [settings["eos_token"]]
    return Phonemes(_json(path / "vocab.json"), settings["unk_token"], [], end, silent=unsaid)


def _padding(vocabulary: dict[str, int], settings: dict[str, Any], config: dict[str, Any]) -> int:
    for role in ("pad", "eos"):
        number = vocabulary.get(settings.get(f"{role}_token", ""), config.get(f"{role}_token_id"))
        number = number[0] if isinstance(number, list) and number else number  # Llama 3 has several ends
        if isinstance(number, int) and number >= 0:
            return number
    return 0  # any will do: attention_mask hides it


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file."""
    return read_json(path) if path.exists() else {}


Kind = tuple[Callable[[Path, dict[str, Any]], TextTokenizer], dict[str, str]]
ANY = ""  # a system that no other entry names
BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
PIECES = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BYTES = {"eos_token": "<|endoftext|>"}
SPOKEN = {"pad_token": "<blank>", "eos_token": "<sos/eos>", "unk_token": "<unk>"}
# Files, for the model_type in config.json: how they are read, and special tokens' names where the checkpoint has none.
KINDS: dict[str, dict[str, Kind]] = {
    "tokenizer.json": {
        ANY: (_program, {}),
        "whisper": (_program_with_times, {}),
        "parakeet_ctc": (_program_with_blank, {"pad_token": "<pad>"}),
    },
    "vocab.txt": {ANY: (_word_pieces, BERT)},
    "vocab.json + merges.txt": {"gpt2": (_gpt2, BYTES), "whisper": (_whisper, BYTES)},
    "source.spm + target.spm + vocab.json": {"marian": (_two_languages, PIECES)},
    "vocab.json + sentencepiece.bpe.model": {
        "speech_to_text": (_speech_to_text, PIECES),
        "conformer_translation": (_speech_to_text, PIECES),
    },
    "spiece.model": {"t5": (_t5, PIECES)},
    "tokenizer.model": {"llama": (_llama, PIECES), "mistral": (_llama, PIECES)},
    "spm_char.model": {"speecht5": (_speecht5, PIECES)},
    "vocab.json": {
        "wav2vec2-conformer": (_wav2vec2, PIECES),
        "wav2vec2": (_wav2vec2, PIECES),
        "fastspeech2_conformer": (_phonemes, SPOKEN),
        "fastspeech2_conformer_with_hifigan": (_phonemes, SPOKEN),
    },
}
