"""How good translations are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU

from headwise.tasks.translate import main_script


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
    """Corpus BLEU against one reference each; characters are the tokens of Chinese ("zh"), words those of others ("13a")."""
    return _metric(references).corpus_score(list(translations), [list(references)]).score


def score(translations: Sequence[str], references: Sequence[str], resamples: int = 1000) -> Score:
    """As ``bleu``, with an interval from resampled sentences."""
    metric = _metric(references)
    found = metric.corpus_score(list(translations), [list(references)], n_bootstrap=resamples)
    return Score(found.score, found._ci, len(translations), str(metric.get_signature()))


def _metric(references: Sequence[str]) -> BLEU:
    return BLEU(tokenize="zh" if main_script(references) == "CJK" else "13a")
