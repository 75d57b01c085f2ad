"""One tokenizer for two languages."""

import re

from tokenizers import Tokenizer

from headwise.tasks.tokens import SPACE, SPECIAL, train_tokenizer

HAN = re.compile("[\u4e00-\u9fff]")


def test_special_tokens_come_first(tokenizer):
    assert SPECIAL == ("<pad>", "<s>", "</s>", "<unk>")
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3]


def test_vocabulary_size(tokenizer, sentences):
    few = train_tokenizer((side for pair in sentences for side in pair), 130)
    assert few.get_vocab_size() == 130 < tokenizer.get_vocab_size()  # which holds every word whole
    assert len(few.encode(sentences[9][0]).ids) > len(tokenizer.encode(sentences[9][0]).ids)


def test_the_end_token_is_appended_and_nothing_else(tokenizer, sentences):
    for encoding in tokenizer.encode_batch([side for pair in sentences for side in pair]):
        assert encoding.ids[-1] == 2
        assert min(encoding.ids[:-1]) > 3
    assert tokenizer.encode("").ids == [2]
    assert tokenizer.encode("I 龘").ids[-2:] == [3, 2]  # never seen


def test_every_han_character_and_punctuation_mark_is_a_token(tokenizer, sentences):
    pieces = set()
    for _, chinese in sentences:
        tokens = tokenizer.encode(chinese).tokens
        assert [token for token in tokens if HAN.search(token)] == HAN.findall(chinese)
        pieces.update(tokens)
    assert {"，", "。", "？", "”"} <= pieces
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and (HAN.search(token) or "." in token)]
    assert tokenizer.encode("我读3本书。").tokens == ["我", "读", "3", "本", "书", "。", "</s>"]


def test_words_carry_the_space_before_them_the_first_too(tokenizer):
    assert tokenizer.encode("The old teacher wrote 3 books.").tokens == [
        *(SPACE + word for word in ("The", "old", "teacher", "wrote", "3", "books")),
        ".",
        "</s>",
    ]
    assert tokenizer.encode("the  red-brown\tletter ").tokens[:-1] == [
        SPACE + "the",
        SPACE + "red",
        "-",
        "brown",
        SPACE + "letter",
    ]
    whole = tokenizer.encode("teacher, teacher").ids
    assert whole[0] == whole[2]


def test_decoding_gives_the_text_back(tokenizer, sentences):
    for side in (side for pair in sentences for side in pair):
        assert tokenizer.decode(tokenizer.encode(side).ids) == side


def test_text_is_normalised(tokenizer):
    for messy, clean in [("  I\u3000 wrote\n3 books.\t", "I wrote 3 books."), ("a cafe\u0301 menu", "a café menu")]:
        assert tokenizer.encode(messy).ids == tokenizer.encode(clean).ids
        assert tokenizer.decode(tokenizer.encode(messy).ids) == clean


def test_saved_and_loaded(tokenizer, sentences, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    lines = [side for pair in sentences for side in pair] + ["never seen: 龘 ñandú"]
    assert [x.ids for x in loaded.encode_batch(lines)] == [x.ids for x in tokenizer.encode_batch(lines)]
    assert loaded.decode(loaded.encode(lines[0]).ids) == lines[0]


def test_training_is_a_function_of_its_lines(tokenizer, sentences):
    again = train_tokenizer((side for pair in sentences for side in pair), 1000)
    assert again.to_str() == tokenizer.to_str()
