"""The tokenizers of models that listen and speak: ids and texts are the reference library's own, but where a test says why."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from speech_folders import (
    fastspeech2,
    parakeet,
    portuguese,
    speech_to_text,
    speecht5,
    translating,
    wav2vec2,
    wav2vec2_lower,
    wav2vec2_named,
    whisper,
    whisper_hindi,
    whisper_json,
    whisper_stated,
)
from texts import TEXTS, write
from transformers import (
    FastSpeech2ConformerTokenizer,
    Speech2TextTokenizer,
    SpeechT5Tokenizer,
    Wav2Vec2CTCTokenizer,
    WhisperTokenizer,
)
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE
from transformers.utils import import_utils

from headwise.models.inputs.languages import CODES
from headwise.models.inputs.text import tokenizer

SAID = [*TEXTS, "HELLO WORLD", "hello", "a b  ch c", "tt hello", "Straße ǅ İ"]

KINDS = {
    speech_to_text: Speech2TextTokenizer,
    translating: Speech2TextTokenizer,
    portuguese: Speech2TextTokenizer,
    whisper: WhisperTokenizer,
    whisper_hindi: WhisperTokenizer,
    whisper_stated: WhisperTokenizer,
    whisper_json: WhisperTokenizer,
    wav2vec2: Wav2Vec2CTCTokenizer,
    wav2vec2_lower: Wav2Vec2CTCTokenizer,
    wav2vec2_named: Wav2Vec2CTCTokenizer,
    parakeet: ParakeetTokenizer,
    speecht5: SpeechT5Tokenizer,
}
PIECES = (speech_to_text, translating, portuguese, speecht5)
WHISPER = (whisper, whisper_hindi, whisper_stated, whisper_json)
COLLAPSED = (wav2vec2, wav2vec2_lower, wav2vec2_named, parakeet)  # hw.ctc has merged what is equal
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
every_whisper = pytest.mark.parametrize("kind", WHISPER, ids=lambda kind: kind.__name__)


@pytest.fixture(scope="session")
def reference_of(folder_of):
    def reference(kind):
        folder = folder_of(kind)
        if kind is wav2vec2_named:  # from_pretrained loses the delimiter's name
            settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            return Wav2Vec2CTCTokenizer(folder / "vocab.json", **settings)
        return KINDS[kind].from_pretrained(folder)

    return reference


def read(kind, reference, ids: list[int]) -> str:
    ungrouped = {"group_tokens": False} if kind in COLLAPSED else {}
    return reference.decode(ids, skip_special_tokens=True, **ungrouped)


@every_kind
def test_ids_and_text_are_the_references(kind, folder_of, reference_of):
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    assert ours.vocab_size == len(reference)
    for text in SAID:
        ids = ours.encode(text)
        assert ids == reference(text)["input_ids"], text
        if kind not in PIECES or reference.unk_token_id not in ids:
            assert ours.decode(ids) == read(kind, reference, ids), text


@every_kind
def test_any_ids_have_the_references_text(kind, folder_of, reference_of):
    """But where it writes SpeechT5's blank, or a character's bytes with a mark between; it strips what SentencePiece leaves."""
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    left_out = {"<unk>", "<ctc_blank>", "<mask>"} if kind in PIECES else {"<|startofprev|>"} if kind in WHISPER else set()
    tokens = [token for token in ours.vocabulary if token not in left_out and (kind not in WHISPER or token.isascii())]
    for _ in range(50):
        ids = [ours.vocabulary[tokens[number]] for number in torch.randint(len(tokens), (12,))]
        text = ours.decode(ids)
        assert (text.strip() if kind in PIECES else text) == read(kind, reference, ids), ids
        assert ours.decode([*ids, ours.vocab_size, 10**6]) == text


@every_kind
@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_are_the_references(kind, side, folder_of, reference_of):
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    if reference.pad_token is None:
        reference.pad_token = reference.eos_token
    expected = reference(SAID, padding=True, padding_side=side, return_tensors="pt")
    batch = ours(SAID, side=side)
    assert batch.keys() == {"input_ids", "attention_mask"}
    for name, tensor in batch.items():
        assert torch.equal(tensor, expected[name]), name
    with pytest.raises(ValueError, match="does not join two texts"):
        ours(["a"], ["b"])


def test_double_letters_stay(folder_of):
    ours = tokenizer(folder_of(wav2vec2))
    numbers = [ours.vocabulary[letter] for letter in "HELLO||ALL"]
    assert ours.decode([0, *numbers, 0, 4]) == "HELLO  ALL"
    ours = tokenizer(folder_of(parakeet))
    ids = ours.encode("all")
    assert ours.decode([ids[0], ids[-1], ours.pad_token_id, ids[-1]]) == ours.decode([ids[0], ids[-1], ids[-1]])


@pytest.mark.parametrize("kind", [wav2vec2, wav2vec2_lower], ids=lambda kind: kind.__name__)
def test_tokens_of_several_letters_are_one(kind, folder_of, reference_of):
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    for text in ("tt hello<unk> <pad>\t a</s> b", "LUCH CH HATT |", "TTT", "CHCH"):
        ids = ours.encode(text)
        assert ids == reference(text)["input_ids"], text
        assert ours.decode(ids) == read(kind, reference, ids), text


def test_speech_to_text_in_lower_case(tmp_path, folder_of):
    """transformers 5 takes do_lower_case and leaves the letters as they are; 4 and fairseq's data were in lower case."""
    folder = Path(shutil.copytree(folder_of(speech_to_text), tmp_path / "lower"))
    write(folder, tokenizer_config={"do_lower_case": True})
    text = "A Rose, UPPER and Ää"
    reference = Speech2TextTokenizer.from_pretrained(folder)
    assert tokenizer(folder).encode(text) == reference(text.lower())["input_ids"] != reference(text)["input_ids"]


def test_speech_to_text_languages(folder_of, reference_of):
    ours, reference = tokenizer(folder_of(translating)), reference_of(translating)
    text = "<lang:de>The rose<lang:it> falls."
    ids = ours.encode(text)
    assert ids == reference(text)["input_ids"]
    assert ours.decode(ids) == read(translating, reference, ids)
    begun = ours.token_ids("</s>", "<lang:de>", batch=3)
    assert begun.tolist() == [[reference.eos_token_id, reference.lang_code_to_id["de"]]] * 3


@pytest.mark.parametrize("kind", PIECES, ids=lambda kind: kind.__name__)
def test_unknown_pieces_stay_visible_and_control_tokens_are_text(kind, folder_of):
    ours = tokenizer(folder_of(kind))
    fox = ours.encode("fox")
    assert "\u2047" in ours.decode([*fox[:-1], ours.vocabulary["<unk>"], fox[-1]])
    assert ours.vocabulary["</s>"] not in ours.encode("a</s>b")[:-1]


@every_whisper
def test_whisper_begins_with_language_and_task(kind, folder_of, reference_of):
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    begun = ours.token_ids("<|startoftranscript|>", "<|fr|>", "<|translate|>", "<|notimestamps|>")
    forced = reference.get_decoder_prompt_ids(language="french", task="translate")
    assert begun.tolist() == [[ours.vocabulary["<|startoftranscript|>"], *(number for _, number in forced)]]
    with pytest.raises(ValueError, match=re.escape("there is no token '<|french|>'")):
        ours.token_ids("<|french|>")


@every_whisper
def test_whisper_marks_are_tokens_and_no_text(kind, folder_of, reference_of):
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    text = "<|0.00|> Hello world<|2.40|><|2.40|> 你好<|30.00|><|endoftext|>"
    ids = ours.encode(text)
    assert ids == reference(text)["input_ids"]
    assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True) == " Hello world 你好"


def test_languages_have_whispers_codes():
    assert CODES == TO_LANGUAGE_CODE


def test_phonemes_are_the_references(folder_of, monkeypatch):
    """Its program from letters to phonemes gives them as they come: that step is not ours."""
    monkeypatch.setitem(sys.modules, "g2p_en", SimpleNamespace(G2p=lambda: str.split))
    monkeypatch.setitem(import_utils.BACKENDS_MAPPING, "g2p_en", (lambda: True, ""))
    ours, reference = tokenizer(folder_of(fastspeech2)), FastSpeech2ConformerTokenizer.from_pretrained(folder_of(fastspeech2))
    texts = ["HH AH0 L OW1 , W ER1 L D ...", "W  ER1\tD ."]
    assert ours.vocab_size == len(reference)
    for text in texts:
        assert ours.encode(text) == reference(text)["input_ids"], text
        assert ours.decode(ours.encode(text)) == " ".join(text.split())
    expected = reference(texts, padding=True, return_tensors="pt")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours(texts).items())


def test_words_are_no_phonemes(folder_of):
    with pytest.raises(ValueError, match=r"'Hello' is no phoneme of this checkpoint. .* such as 'HH AH0 L OW1'"):
        tokenizer(folder_of(fastspeech2))("HH Hello world")


BAD = {
    "another corpus": (
        speech_to_text,
        "tokenizer_config",
        {"lang_codes": "covost"},
        "lang_codes is 'covost'; 'mustc' is known",
    ),
    "no such language": (translating, "tokenizer_config", {"lang_codes": "mustc", "tgt_lang": "xx"}, "no token '<lang:xx>'"),
    "no such speech": (whisper, "tokenizer_config", {"language": "Klingon"}, "there is no token '<|klingon|>'"),
    "no such task": (whisper, "tokenizer_config", {"task": "sing"}, "there is no token '<|sing|>'"),
    "a gap": (
        whisper,
        "added_tokens",
        {"<|startoftranscript|>": 9999},
        "'<|startoftranscript|>' has the id 9999, and would get",
    ),
    "no delimiter": (wav2vec2, "tokenizer_config", {"word_delimiter_token": "/"}, "there is no token '/'"),
    "which language": (wav2vec2_named, "tokenizer_config", {}, "a vocabulary for each language: target_lang"),
    "no letters": (fastspeech2, "config", {}, "there is no token '|'"),
    "spelt numbers": (speecht5, "tokenizer_config", {"normalize": True}, "normalize is true: numbers would be spelt out"),
    "another system": (
        speecht5,
        "config",
        {"model_type": "xlnet"},
        "xlnet needs a tokenizer.json; spm_char.model",
    ),
    "not its files": (wav2vec2, "config", {"model_type": "whisper"}, "holds no tokenizer: copy it from where"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said(case, folder_of, tmp_path):
    kind, file, content, problem = BAD[case]
    folder = Path(shutil.copytree(folder_of(kind), tmp_path / "folder"))
    tokenizer(folder)
    write(folder, **{file: content})
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        tokenizer(folder)
    assert str(error.value).startswith(str(folder))
