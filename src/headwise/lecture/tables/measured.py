"""Tables 2, 8 and 9: what the experiments found, and what that says of the lecture's claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headwise.attention.module import MultiHeadAttention
from headwise.lecture.claims import CLAIMS, Claim
from headwise.lecture.costs import total
from headwise.lecture.experiments.results import Results, conditions, key
from headwise.lecture.material import Material
from headwise.lecture.tables.table import Cell, Table

COUNTED = ("parameters", "multiply_adds", "exponentials", "bytes")


def one_and_several(material: Material) -> Table:
    """Table 2: one attention counted by the formula, then what it learned with each number of heads."""
    fetched, translated = material.results("two_fetch"), material.results("translation")
    heads = sorted({*fetched.settings["heads"], *translated.settings["heads"]})
    rows = _counted(fetched.settings["embed_dim"], fetched.settings["length"], heads)
    averaged, better = _judged("one head averages", material), _judged("better quality", material)
    for tokens in fetched.settings["vocabularies"]:
        rows.append(["accuracy", f"|V| = {tokens}", *_cells(fetched, heads, "accuracy", tokens=tokens), *averaged])
    rows.append(["accuracy", "mean", *_cells(fetched, heads, "accuracy"), *averaged])
    many = max(fetched.settings["vocabularies"])  # so many that the mean of two does not tell which they are
    for name in ("better", "worse"):
        rows.append([name, f"|V| = {many}", *_cells(fetched, heads, name, tokens=many), None, None])
    rows.append(["loss", "nats_per_token", *_cells(translated, heads, "loss"), *better])
    rows.append(["bleu", "translation", *_cells(translated, heads, "bleu"), None, None])
    return _by_heads(heads, rows)


def advantages(material: Material) -> Table:
    """Table 8: every claim of what several heads are good for, with all comparisons that its verdict is made from."""
    rows = [row for claim in CLAIMS.values() if claim.experiment != "efficiency" for row in _comparisons(claim, material)]
    columns = ("claim", "unit", "counts_from", "comparison", "advantage", "verdict")
    return Table(columns, rows, grouped=("claim", "unit", "counts_from", "verdict"))


def efficiency(material: Material) -> Table:
    """Table 9: counted by the formula, then measured: most memory held at a time, and times by those of one head, or of a
    loop over heads."""
    results = material.results("efficiency")
    settings, heads = results.settings, results.settings["heads"]
    length = settings["written_out"][-1]
    rows = _counted(settings["embed_dim"], length, heads)
    for name in ("formula_bytes", "fused_bytes"):
        rows.append([name, f"n = {length}", *_cells(results, heads, name, length=length), None, None])
    for name, lengths, claim in (("time", "lengths", "more efficient"), ("batched", "looped", "parallel heads")):
        compared = {int(conditions(one)[1]["length"]) for one in CLAIMS[claim].advantages(results)}
        for n in settings[lengths]:
            judged = _judged(claim, material) if n in compared else (None, None)
            rows.append([name, f"n = {n}", *_cells(results, heads, name, length=n), *judged])
    return _by_heads(heads, rows)


def verdicts(material: Material) -> Table:
    """What became of the claims; without a number, for the summary."""
    return Table(("claim", "verdict"), [_judged(name, material) for name in CLAIMS])


TABLES: dict[int, Callable[[Material], Table]] = {2: one_and_several, 8: advantages, 9: efficiency}


def _by_heads(heads: Sequence[int], rows: list[list[Cell]]) -> Table:
    columns = ("measure", "condition", *(f"h = {n}" for n in heads), "claim", "verdict")
    return Table(columns, rows, grouped=("claim", "verdict"))


def _counted(embed_dim: int, length: int, heads: Sequence[int]) -> list[list[Cell]]:
    """By the formula, of self-attention over one sequence."""
    costs = [total(MultiHeadAttention(embed_dim, n, device="meta"), length) for n in heads]
    where = f"d = {embed_dim}, n = {length}"
    return [[name, where, *(getattr(cost, name) for cost in costs), None, None] for name in COUNTED]


def _cells(results: Results, heads: Sequence[int], name: str, **where: object) -> list[Cell]:
    """With every number of heads; nothing where that was not measured."""
    names = [key(name, heads=n, **where) for n in heads]
    return [results.interval(one) if one in results.keys else None for one in names]


def _judged(name: str, material: Material) -> tuple[str, str]:
    claim = CLAIMS[name]
    return getattr(claim, material.language), claim.verdict(material.results(claim.experiment))


def _comparisons(claim: Claim, material: Material) -> list[list[Cell]]:
    results, terms = material.results(claim.experiment), material.terms
    sentence, verdict = _judged(claim.key, material)
    rows = list[list[Cell]]()
    for written, advantage in claim.advantages(results).items():
        name, where = conditions(written)
        said = material.words["comparisons"][name].format(**{one: terms.get(value, value) for one, value in where.items()})
        rows.append([sentence, claim.unit, claim.margin, said, advantage, verdict])
    return rows
