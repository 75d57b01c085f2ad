"""How good a translation model is, sentence by sentence, so that two models can be compared on the same resampled sentences."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from torch.nn import functional

from headwise.models.checkpoint.folder import write_json
from headwise.tasks.pairs import collate
from headwise.tasks.scoring import score
from headwise.tasks.translate import Search, Translator

RESULTS = Path(__file__).parent.parent / "docs" / "results"
RESAMPLES, SEED = 1000, 0
Times = NDArray[np.int64]  # (resamples, sentences): how often a sentence was drawn


@dataclass(frozen=True)
class Quality:
    """nll: of every sentence's target, nats, without label smoothing. tokens: how many these are, the end token too. counts:
    (sentences, 10), what BLEU is made of: matches and n-grams of 1 to 4 characters, and both lengths. half_width: that of
    sacreBLEU's own interval."""

    nll: NDArray[np.float64]
    tokens: NDArray[np.int64]
    counts: NDArray[np.int64]
    half_width: float

    def loss(self, times: Times) -> NDArray[np.float64]:
        """Nats per target token of every resample."""
        return (times @ self.nll) / (times @ self.tokens)

    def bleu(self, times: Times) -> NDArray[np.float64]:
        """sacreBLEU of every resample, 0 to 100."""
        sums = (times @ self.counts).tolist()
        return np.array([BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9]).score for row in sums])

    def row(self) -> dict[str, Any]:
        """Loss with its interval and BLEU with the half width of its own, as results are kept."""
        loss = estimate(self.loss, len(self.nll))
        return {"loss": loss, "bleu": {"value": float(self.bleu(once(len(self.nll)))[0]), "half_width": self.half_width}}


def estimate(number: Callable[[Times], NDArray[np.float64]], sentences: int) -> dict[str, float]:
    """A number of all sentences, with its 95 % percentile interval over resampled ones: the same ones for every number."""
    drawn = np.random.default_rng(SEED).multinomial(sentences, np.full(sentences, 1 / sentences), RESAMPLES)
    low, high = np.quantile(number(drawn), (0.025, 0.975))
    return {"value": float(number(once(sentences))[0]), "low": float(low), "high": float(high)}


def once(sentences: int) -> Times:
    return np.ones((1, sentences), dtype=np.int64)


@torch.no_grad()
def measure(translator: Translator, pairs: Sequence[tuple[str, str]]) -> Quality:
    """Loss and greedy translations of all pairs."""
    nll, tokens = [], []
    for batch in batches(translator, pairs):
        labels = batch["labels"]
        logits = translator.model(**batch).logits
        nll.append(functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1))
        tokens.append((labels != -100).sum(1))
    sources, references = zip(*pairs, strict=True)
    translations = translator.translate(sources, Search(beams=1))
    metric, counts = BLEU(tokenize="zh", effective_order=True), []  # counts do not know of the order; a warning would
    for translation, reference in zip(translations, references, strict=True):
        found = metric.sentence_score(translation, [reference])
        counts.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    half_width = score(translations, references, RESAMPLES).interval
    return Quality(torch.cat(nll).double().numpy(), torch.cat(tokens).numpy(), np.array(counts), half_width)


def batches(translator: Translator, pairs: Sequence[tuple[str, str]], size: int = 50) -> list[dict[str, torch.Tensor]]:
    """What the model takes, pairs in their order."""
    ids, pad_token_id = translator.encode_pairs(pairs), translator.model.config.pad_token_id
    return [collate(ids[start : start + size], pad_token_id) for start in range(0, len(ids), size)]


def parameters(translator: Translator) -> int:
    return sum(parameter.numel() for parameter in translator.model.parameters())


def publish(name: str, found: dict[str, Any]) -> None:
    """Writes docs/results/NAME.json: what was found, and what it was found with."""
    RESULTS.mkdir(exist_ok=True)
    how = {"command": f"python benchmarks/{name}.py DATA", "date": date.today().isoformat(), "torch": torch.__version__}
    write_json(RESULTS / f"{name}.json", how | {"seed": SEED, "resamples": RESAMPLES} | found)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, from the file where an earlier run left it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))
