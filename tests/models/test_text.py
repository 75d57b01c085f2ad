"""Every kind of tokenizer file, trained here on a few lines: ids and texts are the reference library's own.

Where transformers 5 departs from the program that a checkpoint was trained with, that program is the reference: SentencePiece
itself for Marian, T5 and Llama. Each such place has a test with its reason.
"""

import json
import re
import shutil
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from texts import ENGLISH, OTHERS, TEXTS, train_byte_pairs, train_pieces, write
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer, LlamaTokenizer, MarianTokenizer, T5Tokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from headwise.models.inputs.text import tokenizer

SPECIAL = "[CLS] [SEP] [MASK] [PAD] [UNK] <s> </s> <pad> <unk> <|endoftext|> <|begin|> a</s>b"
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_word_pieces(lower: bool) -> Tokenizer:
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=lower)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=BERT_SPECIAL, show_progress=False)
    trained.train_from_iterator(ENGLISH + OTHERS, trainer)
    ends = [(token, trained.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    trained.post_processor = processors.BertProcessing(*ends)
    return trained


def bert(folder: Path, **settings) -> None:
    words = train_word_pieces(settings.get("do_lower_case", True)).get_vocab()
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(words, key=words.get)), encoding="utf-8")
    write(folder, tokenizer_config=settings, config={"model_type": "bert", "type_vocab_size": 2, "pad_token_id": 0})


def gpt2(folder: Path, **settings) -> None:
    train_byte_pairs().model.save(str(folder))
    write(folder, tokenizer_config=settings, config={"model_type": "gpt2", "eos_token_id": 0})


def marian(folder: Path) -> None:
    words = ["</s>", "<unk>", ">>fra<<", ">>deu<<"]
    for side, lines in (("source", ENGLISH), ("target", OTHERS)):
        spm = train_pieces(folder / f"{side}.spm", lines, vocab_size=110, model_type="unigram")
        words += [spm.id_to_piece(number) for number in range(3, len(spm))]
    words = [*dict.fromkeys(words), "<pad>"]
    settings = {"source_lang": "eng", "target_lang": "mul"}
    vocab = {word: number for number, word in enumerate(words)}
    write(folder, vocab=vocab, tokenizer_config=settings, config={"model_type": "marian"})


def t5(folder: Path) -> None:
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    train_pieces(folder / "spiece.model", ENGLISH + OTHERS, vocab_size=150, model_type="unigram", **ids)
    write(folder, tokenizer_config={"extra_ids": 100}, config={"model_type": "t5"})


def llama(folder: Path) -> None:
    exact = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True}
    train_pieces(
        folder / "tokenizer.model", ENGLISH + OTHERS, vocab_size=420, model_type="bpe", byte_fallback=True, pad_id=-1, **exact
    )
    settings = {"add_bos_token": True, "add_eos_token": False, "bos_token": {"content": "<s>", "__type": "AddedToken"}}
    write(folder, tokenizer_config=settings, config={"model_type": "llama"})


def bert_json(folder: Path) -> None:
    trained = train_word_pieces(lower=True)
    trained.enable_truncation(5)
    trained.enable_padding(length=9, pad_token="[MASK]", pad_id=4)
    trained.add_special_tokens(BERT_SPECIAL)
    trained.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), BERT_SPECIAL, strict=True))
    write(folder, tokenizer_config={"tokenizer_class": "BertTokenizer"}, special_tokens_map=names)
    write(folder, config={"model_type": "bert", "type_vocab_size": 2})


def llama_json(folder: Path) -> None:
    """As Llama 3 is published: byte pairs, and a template with the first token in front of each text of a pair."""
    trained = train_byte_pairs()
    trained.add_special_tokens(["<|begin|>", "<|end|>"])
    ids = [("<|begin|>", trained.token_to_id("<|begin|>"))]
    template = processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|>:1 $B:1", special_tokens=ids)
    trained.post_processor = template
    trained.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    config = {"model_type": "llama", "eos_token_id": [trained.token_to_id("<|end|>"), 0]}
    write(folder, tokenizer_config=settings, config=config)


def cased(folder: Path) -> None:
    bert(folder, do_lower_case=False)


def accents(folder: Path) -> None:
    bert(folder, do_lower_case=True, strip_accents=False, tokenize_chinese_chars=False)


def prefixed(folder: Path) -> None:
    gpt2(folder, add_prefix_space=True)


KINDS = {
    bert: BertTokenizer,
    cased: BertTokenizer,
    accents: BertTokenizer,
    bert_json: AutoTokenizer,
    gpt2: GPT2Tokenizer,
    prefixed: GPT2Tokenizer,
    llama_json: AutoTokenizer,
    marian: MarianTokenizer,
    t5: T5Tokenizer,
    llama: LlamaTokenizer,
}
PIECES = (marian, t5, llama)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture
def copy_of(folder_of, tmp_path) -> Callable[[Callable[..., None]], Path]:
    """A folder that a test may change."""
    return lambda kind: Path(shutil.copytree(folder_of(kind), tmp_path / kind.__name__))


@pytest.fixture(scope="session")
def reference_of(folder_of):
    made = {}

    def reference(kind):
        if kind not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Marian recommends a package that it does not use
                made[kind] = KINDS[kind].from_pretrained(folder_of(kind))
        return made[kind]

    return reference


@every_kind
def test_ids_and_text_are_the_references(kind, folder_of, reference_of):
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    assert ours.vocab_size == len(reference)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == reference(text, truncation=False, padding=False)["input_ids"], text
        if kind not in PIECES or reference.unk_token_id not in ids:
            assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True), text


@every_kind
@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_are_the_references(kind, side, folder_of, reference_of):
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    if reference.pad_token is None:
        assert ours.pad_token_id == reference.eos_token_id
        reference.pad_token = reference.eos_token
    expected = reference(TEXTS, padding=True, padding_side=side, truncation=False, return_tensors="pt")
    batch = ours(TEXTS, side=side)
    names = {"input_ids", "attention_mask"} | ({"token_type_ids"} if kind in (bert, cased, accents, bert_json) else set())
    assert batch.keys() == names
    for name, tensor in batch.items():
        assert tensor.dtype == torch.int64
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("kind", [bert, bert_json, llama_json], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_are_the_references(kind, side, folder_of, reference_of):
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    if reference.pad_token is None:
        reference.pad_token = reference.eos_token
    expected = reference(TEXTS, TEXTS[::-1], padding=True, padding_side=side, truncation=False, return_tensors="pt")
    for name, tensor in ours(TEXTS, TEXTS[::-1], side=side).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_pair_by_hand(folder_of):
    ours = tokenizer(folder_of(bert))
    words = {number: word for word, number in ours.vocabulary.items()}
    batch = ours(["What the fox?", "a"], ["A name", "the quick"])
    tokens = [[words[number] for number in row] for row in batch["input_ids"].tolist()]
    assert tokens[0] == ["[CLS]", "what", "the", "fox", "?", "[SEP]", "a", "name", "[SEP]"]
    assert tokens[1] == ["[CLS]", "a", "[SEP]", "the", "quick", "[SEP]", "[PAD]", "[PAD]", "[PAD]"]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 9, [1] * 6 + [0] * 3]
    assert {name: tensor.tolist() for name, tensor in ours("a", "the quick").items()} == {
        name: [tensor[1, :6].tolist()] for name, tensor in batch.items()
    }


@pytest.mark.parametrize("kind", [gpt2, *PIECES], ids=lambda kind: kind.__name__)
def test_what_has_no_pairs_says_so(kind, folder_of):
    with pytest.raises(ValueError, match="does not join two texts"):
        tokenizer(folder_of(kind))(["a"], ["b"])


@pytest.mark.parametrize("kind", [bert, cased, accents], ids=lambda kind: kind.__name__)
def test_word_pieces_are_those_of_berts_python_program(kind, folder_of):
    """Written without the tokenizers library. Its one addition to the paper's program is NFC, which no text here needs."""
    reference = BertTokenizerLegacy.from_pretrained(folder_of(kind))
    ours = tokenizer(folder_of(kind))
    for text in [*TEXTS, SPECIAL]:
        text = unicodedata.normalize("NFC", text)
        assert ours.encode(text) == reference(text)["input_ids"], text


@pytest.mark.parametrize("kind", [bert, gpt2, bert_json, llama_json], ids=lambda kind: kind.__name__)
def test_special_tokens_in_a_text_are_tokens(kind, folder_of, reference_of):
    ours, reference = tokenizer(folder_of(kind)), reference_of(kind)
    ids = ours.encode(SPECIAL)
    assert ids == reference(SPECIAL, truncation=False, padding=False)["input_ids"]
    assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert set(reference.all_special_ids) & set(ids[1:-1])


# transformers turns "</s>" in a text into the end token. In SentencePiece, and so in the programs that Marian, T5 and Llama
# were trained with, control symbols are never found in text. Llama's spaces: SentencePiece puts one in front of every text;
# transformers 5 none where the text has one already.
PLAIN = [*TEXTS, SPECIAL, "</s>", "  two in front", "\u2581underline"]


@pytest.mark.parametrize("kind", PIECES, ids=lambda kind: kind.__name__)
def test_pieces_are_those_of_sentencepiece(kind, folder_of):
    ours = tokenizer(folder_of(kind))
    file = {marian: "source.spm", t5: "spiece.model", llama: "tokenizer.model"}[kind]
    spm = SentencePieceProcessor(model_file=str(folder_of(kind) / file))
    for text in PLAIN:
        ids = ours.encode(text)
        if kind is marian:
            vocabulary = json.loads((folder_of(kind) / "vocab.json").read_text(encoding="utf-8"))
            assert ids == [*(vocabulary.get(piece, 1) for piece in spm.encode(text, out_type=str)), 0], text
        else:
            assert ids == ([1, *spm.encode(text)] if kind is llama else [*spm.encode(text), 1]), text
            assert ours.decode(ids) == spm.decode(ids), text


@pytest.mark.parametrize(("kind", "text"), [(t5, "</s>"), (marian, "</s>"), (llama, "</s>"), (llama, "  two in front")])
def test_where_transformers_departs_from_sentencepiece(kind, text, folder_of, reference_of):
    """Once this fails the library agrees with us, and the text belongs into TEXTS."""
    assert tokenizer(folder_of(kind)).encode(text) != reference_of(kind)(text)["input_ids"]


@pytest.mark.parametrize("kind", PIECES, ids=lambda kind: kind.__name__)
def test_an_unknown_token_stays_visible(kind, folder_of, reference_of):
    """transformers leaves <unk> out as if it were a special token: a word would be missing without a trace."""
    ours = tokenizer(folder_of(kind))
    fox = ours.encode("fox")
    ids = [*fox[: len(fox) - (kind is not llama)], ours.vocabulary["<unk>"], *fox[1 if kind is llama else 0 :]]
    assert ours.decode(ids) == "fox \u2047  fox"
    assert reference_of(kind).decode(ids, skip_special_tokens=True).split() == ["fox", "fox"]


def test_t5_has_tokens_to_fill_in(folder_of, reference_of):
    ours, reference = tokenizer(folder_of(t5)), reference_of(t5)
    for text in (
        "The <extra_id_0> fox <extra_id_1> lazy dog.",
        "<extra_id_99>",
        "<extra_id_2><extra_id_3> <extra_id_4>",
        "a<extra_id_0>b  <extra_id_1>  c",
    ):
        ids = ours.encode(text)
        assert ids == reference(text)["input_ids"], text
        assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True), text
    assert ours.encode("<extra_id_0>") == [ours.vocab_size - 1, 1]
    assert ours.encode("<extra_id_99>") == [ours.vocab_size - 100, 1]


def test_t5_without_tokens_to_fill_in(copy_of):
    folder = write(copy_of(t5), tokenizer_config={"extra_ids": 0})
    spm = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    ours = tokenizer(folder)
    assert ours.vocab_size == len(spm)
    assert ours.encode("<extra_id_0>") == [*spm.encode("<extra_id_0>"), 1]


def test_marian_language_codes(folder_of, reference_of):
    ours, reference = tokenizer(folder_of(marian)), reference_of(marian)
    for text in (">>fra<< The fox.", ">>deu<<The fox.", ">>deu<<", "The >>fra<< fox."):
        assert ours.encode(text) == reference(text)["input_ids"], text
    assert ours.encode(">>deu<< The fox.") == [3, *ours.encode("The fox.")]
    assert ours.decode(ours.encode(">>deu<< The fox.")) == "The fox."
    with pytest.raises(ValueError, match="there is no token '>>spa<<'"):
        ours([">>spa<< The fox."])


def test_marian_without_languages_has_no_codes(copy_of):
    folder = copy_of(marian)
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    write(folder, vocab={word: number for word, number in vocab.items() if not word.startswith(">>")})
    spm = SentencePieceProcessor(model_file=str(folder / "source.spm"))
    ids = [vocab.get(piece, 1) for piece in spm.encode(">>fra<< The fox.", out_type=str)]
    assert tokenizer(folder).encode(">>fra<< The fox.") == [*ids, 0]


def test_marian_target(folder_of, reference_of):
    ours, reference = tokenizer(folder_of(marian)), reference_of(marian)
    for text in [*TEXTS, *OTHERS]:
        assert ours.target.encode(text) == reference(text_target=text)["input_ids"], text
    assert ours.encode(OTHERS[1]) != ours.target.encode(OTHERS[1])
    assert ours.decode(ours.target.encode(OTHERS[1])) == ours.target.decode(ours.target.encode(OTHERS[1])) == OTHERS[1]
    expected = reference(text_target=OTHERS, padding=True, return_tensors="pt")
    assert torch.equal(ours.target(OTHERS)["input_ids"], expected["input_ids"])


def test_marian_with_two_vocabularies(copy_of, folder_of):
    folder = copy_of(marian)
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    special = ("</s>", "<unk>", "<pad>")
    others = [word for word in vocab if word not in special]
    backwards = {word: vocab[word] for word in special} | dict(zip(others, [vocab[word] for word in others[::-1]], strict=True))
    write(folder, target_vocab=backwards, tokenizer_config={"separate_vocabs": True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = MarianTokenizer.from_pretrained(folder)
    ours = tokenizer(folder)
    ids = ours.target.encode(OTHERS[1])
    assert ids == reference(text_target=OTHERS[1])["input_ids"]
    assert ids != tokenizer(folder_of(marian)).target.encode(OTHERS[1])
    assert ours.decode(ids) == OTHERS[1]
    assert ours.encode("The fox.") == tokenizer(folder_of(marian)).encode("The fox.")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not marian], ids=lambda kind: kind.__name__)
def test_elsewhere_the_target_is_the_tokenizer_itself(kind, folder_of):
    ours = tokenizer(folder_of(kind))
    assert ours.target is ours


def test_llama_with_an_end_and_no_beginning(copy_of):
    folder = write(copy_of(llama), tokenizer_config={"add_bos_token": False, "add_eos_token": True})
    spm = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert tokenizer(folder).encode("The fox.") == [*spm.encode("The fox."), 2]


@pytest.mark.parametrize("kind", [gpt2, llama], ids=lambda kind: kind.__name__)
def test_bytes_lose_nothing(kind, folder_of):
    ours = tokenizer(folder_of(kind))

    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
    @example("  two  ")
    @example("\0\n")
    def check(text):
        assert ours.decode(ours.encode(text)) == text

    check()


def test_no_text_is_cut(folder_of):
    ours = tokenizer(folder_of(bert_json))  # its file says: cut at 5, pad to 9
    assert len(ours.encode("the fox " * 300)) == 602
    assert ours(["the"])["input_ids"].shape == (1, 3)


def test_tokenizer_json_comes_first(copy_of, folder_of):
    folder = copy_of(bert_json)
    (folder / "vocab.txt").write_text("damaged")
    assert tokenizer(str(folder)).encode("the fox") == tokenizer(folder_of(bert_json)).encode("the fox")


PADDING = {
    "the map": ({}, {"pad_token": "fox"}, {}, "fox"),
    "the map, with details": ({"eos_token": "dog"}, {"pad_token": {"content": "fox", "lstrip": False}}, {}, "fox"),
    "the settings": ({"pad_token": "fox"}, {}, {"pad_token_id": 3}, "fox"),
    "config.json": ({"eos_token": "fox"}, {}, {"pad_token_id": 3}, "[SEP]"),
    "not in the vocabulary": ({"pad_token": "<nowhere>"}, {}, {"pad_token_id": 3}, "[SEP]"),
    "none": ({"pad_token": None, "eos_token": "fox"}, {}, {"pad_token_id": None}, "fox"),
    "negative": ({}, {"eos_token": "fox"}, {"pad_token_id": -1}, "fox"),
    "the end's number": ({}, {}, {"eos_token_id": 2}, "[CLS]"),
    "several ends": ({}, {}, {"eos_token_id": [3, 4]}, "[SEP]"),
    "nothing": ({}, {}, {}, "[PAD]"),
}


@pytest.mark.parametrize("case", PADDING)
def test_where_the_padding_token_is_from(case, copy_of):
    settings, names, config, token = PADDING[case]
    folder = write(copy_of(bert_json), tokenizer_config=settings, special_tokens_map=names, config=config)
    ours = tokenizer(folder)
    assert ours.pad_token_id == ours.vocabulary[token]
    assert ours(["fox", "the fox"], side="left")["input_ids"][0, 0] == ours.vocabulary[token]


@pytest.mark.parametrize(("kind", "pad"), [(bert, 0), (marian, "<pad>"), (t5, 0), (gpt2, 0), (llama, 2)])
def test_padding_of_a_folder_with_nothing_but_the_files(kind, pad, copy_of):
    folder = copy_of(kind)
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).unlink()
    ours = tokenizer(folder)
    assert ours.pad_token_id == ours.target.pad_token_id == ours.vocabulary.get(pad, pad)
    assert ("token_type_ids" in ours(["a"])) == (kind is bert)


@pytest.mark.parametrize(("config", "given"), [({"type_vocab_size": 2}, 1), ({"type_vocab_size": 1}, 0), ({"dim": 3}, 0)])
def test_types_are_for_models_that_have_them(config, given, copy_of):
    """BERT's vocabulary serves DistilBERT, BLIP and GIT, which take no token_type_ids."""
    ours = tokenizer(write(copy_of(bert), config=config))
    assert ("token_type_ids" in ours(["a"], ["b"])) == given


def test_decode_takes_a_row_of_a_tensor(folder_of):
    ours = tokenizer(folder_of(bert))
    batch = ours(["The quick fox!", "a name"])
    assert [ours.decode(row) for row in batch["input_ids"]] == ["the quick fox!", "a name"]
    assert ours.decode([]) == ""
    for wrong in (batch["input_ids"], torch.tensor(3), [-100, 3]):
        with pytest.raises(ValueError, match="decode takes one row of ids, none below 0"):
            ours.decode(wrong)


@every_kind
def test_ids_without_a_token_have_no_text(kind, folder_of):
    """A model's vocabulary can be larger than its tokenizer's: T5 has 32128 rows for 32100 tokens."""
    ours = tokenizer(folder_of(kind))
    ids = ours.target.encode("le fox")
    assert ours.decode([*ids, ours.vocab_size, 10**6]) == ours.decode(ids)


def test_wrong_calls(folder_of):
    ours = tokenizer(folder_of(bert))
    with pytest.raises(ValueError, match="there are no texts"):
        ours([])
    with pytest.raises(ValueError, match="as many second texts as first ones: 1 and 2"):
        ours(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="side is 'top'; padding goes to the 'left' or the 'right'"):
        ours(["a"], side="top")


def test_texts_without_tokens(folder_of):
    ours = tokenizer(folder_of(gpt2))
    assert {name: tensor.shape for name, tensor in ours(["", ""]).items()} == {"input_ids": (2, 0), "attention_mask": (2, 0)}
    assert ours(["", "a"])["attention_mask"].tolist() == [[0], [1]]


def put(name: str, content: bytes | None) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink() if content is None else (folder / name).write_bytes(content)


def halve(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:1000])


DAMAGES = {
    "no folder": (bert, shutil.rmtree, "bert is not a folder with a tokenizer"),
    "no files": (
        bert,
        put("vocab.txt", None),
        "bert holds no tokenizer: copy it from where the model comes from; looked for tokenizer.json, vocab.txt, vocab.json + ",
    ),
    "a file of two": (
        gpt2,
        put("merges.txt", None),
        "gpt2 holds no tokenizer: copy it from where the model comes ",
    ),
    "half a tokenizer.json": (bert_json, halve("tokenizer.json"), "cannot read tokenizer.json: "),
    "another tokenizer.json": (bert_json, put("tokenizer.json", b"{}"), "cannot read tokenizer.json: "),
    "empty tokenizer.json": (bert_json, put("tokenizer.json", b""), "cannot read tokenizer.json: "),
    "no special tokens": (
        bert,
        put("vocab.txt", b"[UNK]\n[PAD]\n[CLS]\n[MASK]\n"),
        "cannot read vocab.txt: there is no token '[SEP]'",
    ),
    "not UTF-8": (bert, put("vocab.txt", b"\xff\xfe"), "cannot read vocab.txt: 'utf-8' codec"),
    "vocab.json is a list": (gpt2, put("vocab.json", b"[]"), "cannot read vocab.json + merges.txt: "),
    "merges of unknown pieces": (gpt2, put("merges.txt", b"#version: 0.2\nabc def\n"), "cannot read vocab.json + merges.txt: "),
    "no end": (gpt2, put("special_tokens_map.json", b'{"eos_token": "END"}'), "+ merges.txt: there is no token 'END'"),
    "vocab.json is not JSON": (marian, put("vocab.json", b"{"), "vocab.json is not JSON: "),
    "vocab.json has no end": (marian, put("vocab.json", b'{"<unk>": 0}'), "vocab.json: there is no token '</s>'"),
    "half a SentencePiece": (marian, halve("target.spm"), "cannot read source.spm + target.spm + vocab.json: "),
    "empty SentencePiece": (t5, put("spiece.model", b""), "cannot read spiece.model: "),
    "text for SentencePiece": (llama, put("tokenizer.model", b"version https://"), "cannot read tokenizer.model: "),
    "settings no JSON": (bert, put("tokenizer_config.json", b"{'a': 1}"), "tokenizer_config.json is not JSON: "),
    "settings a list": (bert, put("special_tokens_map.json", b"[]"), "special_tokens_map.json is not a JSON object"),
    "config no JSON": (bert, put("config.json", b"\xff"), "config.json is not JSON: "),
    "another's byte pairs": (
        gpt2,
        put("config.json", b'{"model_type": "roberta"}'),
        "roberta needs a tokenizer.json; vocab.json + ",
    ),
    "another's pieces": (
        t5,
        put("config.json", b'{"model_type": "xlnet"}'),
        "xlnet needs a tokenizer.json; spiece.model would",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_said(damage, copy_of):
    kind, do, problem = DAMAGES[damage]
    folder = copy_of(kind)
    tokenizer(folder)
    do(folder)
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        tokenizer(folder)
    assert str(error.value).startswith(str(folder)), str(error.value)
