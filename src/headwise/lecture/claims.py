"""What the lecture claims, and whether it holds: one rule, applied to the raw results of an experiment.

The rules, their comparisons and their margins were committed before any of the runs that they judge, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from headwise.lecture.experiments.results import Interval, Results, conditions, differences, interval, key

Verdict = Literal["holds", "holds in part", "does not hold", "undecided"]
Comparisons = dict[str, Interval]  # what is compared, as ``key`` writes it -> the advantage, with its interval over seeds


def verdict(advantages: Sequence[Interval], margin: float) -> Verdict:
    """From the advantages that a claim says there are, each a mean over seeds with its 95 % interval.

    holds: every advantage is real (its interval lies above 0) and matters (its mean is above ``margin``);
    holds in part: some are;
    does not hold: none is, and every interval lies below ``margin``: whatever there is would not matter;
    undecided: anything else, an interval that is not known (one seed) too.
    """
    shown = [one.low > 0 and one.mean > margin for one in advantages]
    if shown and any(shown):
        return "holds" if all(shown) else "holds in part"
    return "does not hold" if advantages and all(one.high < margin for one in advantages) else "undecided"


@dataclass(frozen=True)
class Claim:
    """A sentence of the lecture, and the advantages that an experiment should show if it is true.

    advantages: from raw results, how far every comparison goes the claim's way (above 0 = for it). margin: from where on such
    a difference matters, in ``unit`` (a key of the words' terms).
    """

    key: str
    zh: str
    en: str
    experiment: str
    unit: str
    margin: float
    advantages: Callable[[Results], Comparisons]

    def verdict(self, results: Results) -> Verdict:
        if results.experiment != self.experiment:
            raise ValueError(f"{self.key}: expected results of {self.experiment!r}; got those of {results.experiment!r}")
        return verdict(list(self.advantages(results).values()), self.margin)


def more_with(name: str, many: Sequence[int], than: int) -> Callable[[Results], Comparisons]:
    """How much more of ``name`` each of the numbers of heads ``many`` has than ``than`` heads."""

    def compare(results: Results) -> Comparisons:
        base = results.values(name, heads=than)
        return {key("more", heads=heads, than=than): differences(results.values(name, heads=heads), base) for heads in many}

    return compare


def less_with(name: str, many: Sequence[int], than: int) -> Callable[[Results], Comparisons]:
    """How much less of ``name`` each of the numbers of heads ``many`` has than ``than`` heads."""

    def compare(results: Results) -> Comparisons:
        base = results.values(name, heads=than)
        return {key("less", heads=heads, than=than): differences(base, results.values(name, heads=heads)) for heads in many}

    return compare


def farther_reach(results: Results) -> Comparisons:
    """Eight heads against one: at the greatest distance, and how much more there than at the least one."""
    measured = (where for name, where in map(conditions, results.keys) if name == "accuracy" and where.get("heads") == "1")
    distances = sorted(int(where["distance"]) for where in measured if "distance" in where)
    if not distances:
        raise ValueError("the results of distance say no accuracy of one head")
    near, far = (
        [a - b for a, b in zip(*(results.values("accuracy", heads=n, distance=at) for n in (8, 1)), strict=True)]
        for at in (distances[0], distances[-1])
    )
    return {
        key("far", heads=8, than=1, distance=distances[-1]): interval(far),
        key("farther", heads=8, than=1, distance=distances[-1], near=distances[0]): differences(far, near),
    }


def unlike_untrained(results: Results) -> Comparisons:
    """How much less alike the heads of a layer are than before training: where they look, what they give."""
    return {
        key(f"unlike_{what}", kind=kind): differences(
            results.values(f"{what} alike untrained", kind=kind), results.values(f"{what} alike trained", kind=kind)
        )
        for what in ("weights", "outputs")
        for kind in ("encoder", "decoder", "cross")
    }


SPREAD = 5.0  # degrees


def as_far_as_random(results: Results) -> Comparisons:
    """The mean principal angle of two heads' row spaces, less that of random ones, plus 5 degrees of grace."""
    return {
        key("near_random", projection=name, degrees=SPREAD): interval(
            [
                trained - random + SPREAD
                for trained, random in zip(
                    results.values("angle trained", projection=name),
                    results.values("angle random", projection=name),
                    strict=True,
                )
            ]
        )
        for name in "QKV"
    }


def share_above(name: str, holds: float, in_part: float) -> Callable[[Results], Comparisons]:
    """A share against two thresholds: the claim holds above both, in part above the lower one alone."""

    def compare(results: Results) -> Comparisons:
        shares = results.values(name)
        return {
            key("above", share=name, limit=f"{limit:.0%}"): interval([share - limit for share in shares])
            for limit in (holds, in_part)
        }

    return compare


def sooner(name: str, lengths: Sequence[int]) -> Callable[[Results], Comparisons]:
    """1 - a ratio of times that were taken in turn in one run: how much sooner it is done than what it is compared with."""

    def compare(results: Results) -> Comparisons:
        return {
            key("sooner", heads=heads, length=length): interval(
                [1 - ratio for ratio in results.values(name, heads=heads, length=length)]
            )
            for length in lengths
            for heads in (4, 8, 16)
        }

    return compare


CLAIMS: Mapping[str, Claim] = {
    claim.key: claim
    for claim in (
        Claim(
            "different features",
            "多个注意力头捕捉不同的特征和模式",
            "Several heads capture different features and patterns",
            "features",
            "similarity",
            0.05,
            unlike_untrained,
        ),
        Claim(
            "different subspaces",
            "每个头在不同的子空间中计算注意力",
            "Every head attends within a subspace of its own",
            "features",
            "degrees",
            0.0,
            as_far_as_random,
        ),
        Claim(
            "one head averages",
            "单头分不清多头能分清的两处（单一注意力无法充分捕捉复杂特征）",
            "A single attention cannot keep apart what several heads fetch",
            "two_fetch",
            "accuracy",
            0.02,
            more_with("accuracy", (2, 4, 8), 1),
        ),
        Claim(
            "long-range dependencies",
            "多头能更好地捕捉序列中的长距离依赖关系",
            "Several heads capture long-range dependencies better",
            "distance",
            "accuracy",
            0.02,
            farther_reach,
        ),
        Claim(
            "better quality",
            "参数不变时，多头的翻译损失低于单头",
            "At constant parameters, several heads reach a lower loss than one in translation",
            "translation",
            "nats_per_token",
            0.02,
            less_with("loss", (4, 8, 16), 1),
        ),
        Claim(
            "too many heads",
            "头数过多，质量也会下降（Vaswani 等 2017，第 6.2 节）",
            "Quality also drops off with too many heads (Vaswani et al. 2017, section 6.2)",
            "translation",
            "nats_per_token",
            0.02,
            more_with("loss", (32,), 8),
        ),
        Claim(
            "every head counts",
            "每个训练好的头都不可缺少",
            "After training, the absence of any single head costs something",
            "ablation",
            "share_of_heads",
            0.0,
            share_above("share needed", 0.9, 0.5),
        ),
        Claim(
            "heads to spare",
            "训练之后，去掉一半的头，损失只增加一成（部分成立：去掉五分之一）",
            "After training, half of the heads can go for a tenth more loss (in part: a fifth of them)",
            "ablation",
            "share_of_heads",
            0.0,
            share_above("share spared", 0.5, 0.2),
        ),
        Claim(
            "more efficient",
            "同样宽度下，多头比单一注意力更省时间（更高效）",
            "Multi-head attention takes less time than single attention of the same size",
            "efficiency",
            "share_of_time",
            0.05,
            sooner("time", (256, 1024, 4096)),
        ),
        Claim(
            "parallel heads",
            "一次调用并行计算各头，比逐头计算更省时间",
            "Computing the heads in parallel, in one call, takes less time than one after another",
            "efficiency",
            "share_of_time",
            0.05,
            sooner("batched", (64, 256, 1024)),
        ),
    )
}
