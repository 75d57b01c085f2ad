"""How good translations are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU


@dataclass(frozen=True)
class Score:
    """sacreBLEU, 0 to 100, with the half width of its 95 % bootstrap interval, over how many sentences, and its signature."""

    bleu: float
    interval: float
    sentences: int
    signature: str

    def __str__(self) -> str:
        return f"{self.bleu:.2f} ± {self.interval:.2f} sacreBLEU over {self.sentences} sentences ({self.signature})"


def bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of Chinese translations against one reference each, characters as tokens ("zh")."""
    return BLEU(tokenize="zh").corpus_score(list(translations), [list(references)]).score


def score(translations: Sequence[str], references: Sequence[str], resamples: int = 1000) -> Score:
    """As ``bleu``, with an interval from resampled sentences."""
    metric = BLEU(tokenize="zh")
    found = metric.corpus_score(list(translations), [list(references)], n_bootstrap=resamples)
    return Score(found.score, found._ci, len(translations), str(metric.get_signature()))
