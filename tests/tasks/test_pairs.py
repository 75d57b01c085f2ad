"""Reading pairs, and batches whose order is a function of seed and epoch, resumed at any batch."""

import gzip
from collections import Counter

import pytest
import torch

from headwise.tasks.pairs import Batches, pad, read_pairs

TOKENS, PAD = 100, 0


def random_pairs(count: int = 401) -> list[tuple[list[int], list[int]]]:
    """Pairs all different, source and target of 2 to 30 tokens with lengths that have little to do with each other."""
    lengths = torch.randint(2, 31, (count, 2)).tolist()
    return [
        ([i + 10, *torch.randint(3, 9, (s - 1,)).tolist()], [i + 10, *torch.randint(3, 9, (t - 1,)).tolist()])
        for i, (s, t) in enumerate(lengths)
    ]


def pairs_in(batch: dict[str, torch.Tensor]) -> list[tuple[list[int], list[int]]]:
    sources = [row[keep].tolist() for row, keep in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    return list(zip(sources, [row[row != -100].tolist() for row in batch["labels"]], strict=True))


def contents(batches: Batches) -> list[list[tuple[list[int], list[int]]]]:
    return [pairs_in(batch) for batch in batches]


@pytest.mark.parametrize("name", ["train.tsv", "train.tsv.gz"])
def test_read_pairs(tmp_path, name):
    text = 'Hello.\t你好。\nTom\'s "café"\t“咖啡”\tCC-BY\t#17\r\n a \t b \n'
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert read_pairs(tmp_path, "train") == [("Hello.", "你好。"), ('Tom\'s "café"', "“咖啡”"), (" a ", " b ")]


def test_plain_comes_before_gz(tmp_path):
    (tmp_path / "valid.tsv").write_text("plain\tx\n")
    (tmp_path / "valid.tsv.gz").write_bytes(gzip.compress(b"gz\tx\n"))
    assert read_pairs(tmp_path, "valid") == [("plain", "x")]


@pytest.mark.parametrize("name", ["train.tsv", "train.tsv.gz"])
@pytest.mark.parametrize("line", ["no tab in here", "\tno source", "no target\t", "", "no target\t\tbut more"])
def test_a_line_that_is_no_pair(tmp_path, name, line):
    text = f"one\t一\ntwo\t二\n{line}\nfour\t四\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    with pytest.raises(ValueError, match="expected source and target separated by a tab") as error:
        read_pairs(tmp_path, "train")
    assert str(error.value).startswith(f"{tmp_path / name}, line 3: ")
    assert repr(line)[1:-1] in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.tsv", "one\t一\ncafé\tx\n".encode("latin-1", "replace")),
        ("train.tsv.gz", b"one\tx\n"),
        ("train.tsv.gz", gzip.compress(b"one\tx\n" * 99)[:-20]),
    ],
    ids=["not UTF-8", "not gzip", "truncated gzip"],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, OSError, EOFError)) as error:
        read_pairs(tmp_path, "train")
    assert str(tmp_path / name) in str(error.value)


def test_missing_files(tmp_path):
    (tmp_path / "valid.tsv").write_text("one\t一\n")
    with pytest.raises(FileNotFoundError, match=r"holds neither train\.tsv nor train\.tsv\.gz") as error:
        read_pairs(tmp_path, "train")
    assert str(error.value).startswith(str(tmp_path))


def test_pad():
    assert pad([[5, 6, 7], [8], [9, 9]], 4).tolist() == [[5, 6, 7], [8, 4, 4], [9, 9, 4]]


def test_every_pair_once_an_epoch():
    pairs = random_pairs()
    batches = Batches(pairs, TOKENS, PAD, seed=3)
    want = Counter(map(str, pairs))
    for _ in range(3):
        epoch = contents(batches)
        assert len(epoch) == len(batches)
        assert Counter(str(pair) for batch in epoch for pair in batch) == want


def test_padding():
    for batch in Batches(random_pairs(), TOKENS, PAD, seed=0):
        ids, keep, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        assert len(ids) == len(keep) == len(labels)
        assert keep.dtype == torch.bool
        for real, rows, filler in ((keep, ids, PAD), (labels != -100, labels, -100)):
            assert torch.equal(real, torch.arange(rows.shape[1]) < real.sum(1, keepdim=True))  # on the right
            assert (rows[~real] == filler).all()
            assert real.all(0).any()
            assert real.any(0).all()  # and no longer than the longest


def test_batch_sizes():
    """n pairs in a batch: n (source + target) <= tokens + 2 n for the longest pair, as the noise lifts a length by less than 3.

    Padded tokens, n (longest source + longest target), may be more, as these two need not be in one pair: each is at least 1
    shorter than its pair, so below 2 (tokens + n). A pair longer than ``tokens`` is a batch of its own.
    """
    pairs = random_pairs()
    pairs[7] = ([17, *[5] * 90], [17, *[5] * 60])
    batches = Batches(pairs, TOKENS, PAD, seed=0)
    for _ in range(5):
        fill = []
        for batch in batches:
            n = len(batch["input_ids"])
            longest = max(len(source) + len(target) for source, target in pairs_in(batch))
            assert n * longest <= TOKENS + 2 * n or (n == 1 and longest == 152)
            assert n * (batch["input_ids"].shape[1] + batch["labels"].shape[1]) <= 2 * (TOKENS + n) or n == 1
            fill.append(n * longest)
        assert sum(fill) / len(fill) > 0.7 * TOKENS


def test_similar_lengths_share_a_batch():
    for epoch in contents(batches := Batches(random_pairs(), TOKENS, PAD, seed=0)), contents(batches):
        spread = [max(lengths) - min(lengths) for batch in epoch if (lengths := [len(s) + len(t) for s, t in batch])]
        assert sum(spread) / len(spread) < 5
        assert max(spread[1:]) < 20


def test_order_is_a_function_of_seed_and_epoch():
    pairs = random_pairs()
    first, again, other = (Batches(pairs, TOKENS, PAD, seed) for seed in (5, 5, 6))
    epochs = [contents(first) for _ in range(3)]
    assert [contents(again) for _ in range(3)] == epochs
    different = [*epochs, contents(other)]
    for i, one in enumerate(different):
        for two in different[:i]:
            assert one != two
            assert {str(sorted(batch)) for batch in one} != {str(sorted(batch)) for batch in two}  # not only reordered
    lengths = torch.tensor([sum(len(s) + len(t) for s, t in batch) / len(batch) for batch in epochs[0]])
    order = torch.arange(len(lengths), dtype=torch.float32)
    assert torch.corrcoef(torch.stack([order, lengths]))[0, 1].abs() < 0.4  # short and long ones mixed


def test_length_is_constant():
    batches = Batches(random_pairs(), TOKENS, PAD, seed=0)
    length = len(batches)
    for _ in range(3):
        assert len(contents(batches)) == len(batches) == length
    assert len(Batches(random_pairs(2), 10_000, PAD, seed=0)) == 1


def test_goes_on_with_the_very_next_batch():
    pairs = random_pairs()
    unbroken = Batches(pairs, TOKENS, PAD, seed=2)
    length, stream = len(unbroken), [batch for _ in range(4) for batch in contents(unbroken)]
    for seen in (0, 1, 7, length - 1, length, length + 1, 2 * length - 1, 2 * length):
        first, batches = Batches(pairs, TOKENS, PAD, seed=2), []
        state = first.state_dict()
        while len(batches) < seen:
            for batch in first:
                batches.append(pairs_in(batch))
                state = first.state_dict()
                if len(batches) == seen:
                    break
        second = Batches(pairs, TOKENS, PAD, seed=2)
        second.load_state_dict(state)
        end = length * (seen // length + 1)
        assert batches == stream[:seen]
        assert contents(second) == stream[seen:end]
        assert contents(second) == stream[end : end + length]
