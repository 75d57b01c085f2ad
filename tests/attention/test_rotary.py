"""Rotary positions: what turning does to scores, and every scaling of the frequencies against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headwise as hw

FLOAT = torch.finfo(torch.float32).eps  # angles are computed in float32
BATCH, HEADS, HEAD_DIM = 2, 3, 10

# Factor 1 changes nothing; over 64 positions YaRN keeps no pair, over a million nearly all.
SCALINGS: dict[str, Any] = {
    "none": None,
    **{f"linear {f}": hw.positions.Linear(f) for f in (1.0, 3.0, 64.0)},
    **{f"ntk {f}": hw.positions.NTK(f) for f in (1.0, 3.0, 64.0)},
    **{f"yarn {a}": hw.positions.YaRN(*a) for a in ((1.0, 2048), (4.0, 2048), (16.0, 64), (2.0, 10**6))},
    "yarn turns given": hw.positions.YaRN(40.0, 4096, 16.0, 2.0),
    "yarn factor given": hw.positions.YaRN(4.0, 2048, attention_factor=0.5),
    **{f"llama3 {a}": hw.positions.Llama3(*a) for a in ((1.0,), (8.0,), (32.0, 1.0, 4.0, 512), (4.0, 0.5, 60.0, 300))},
}


def frequencies_by_hand(scaling: Any, base: float, dim: int) -> list[float]:
    plain = [base ** (-2 * m / dim) for m in range(dim // 2)]
    match scaling:
        case hw.positions.Linear():
            return [f / scaling.factor for f in plain]
        case hw.positions.NTK():
            return [(base * scaling.factor ** (dim / (dim - 2))) ** (-2 * m / dim) for m in range(dim // 2)]
        case hw.positions.YaRN():
            turns = [scaling.original_max_position_embeddings * base ** (-2 * m / dim) / (2 * math.pi) for m in range(dim)]
            low = max((m for m in range(dim) if turns[m] >= scaling.beta_fast), default=0)
            high = min((m for m in range(dim) if turns[m] <= scaling.beta_slow), default=dim - 1)
            stretched = [min(max((m - low) / max(high - low, 0.001), 0.0), 1.0) for m in range(dim // 2)]
            return [f * (1 - s) + f / scaling.factor * s for f, s in zip(plain, stretched, strict=True)]
        case hw.positions.Llama3():
            longest = scaling.original_max_position_embeddings / scaling.low_freq_factor
            shortest = scaling.original_max_position_embeddings / scaling.high_freq_factor

            def scaled(f: float) -> float:
                wavelength = 2 * math.pi / f
                if wavelength < shortest:
                    return f
                if wavelength > longest:
                    return f / scaling.factor
                smooth = scaling.original_max_position_embeddings / wavelength - scaling.low_freq_factor
                smooth /= scaling.high_freq_factor - scaling.low_freq_factor
                return (1 - smooth) * f / scaling.factor + smooth * f

            return [scaled(f) for f in plain]
    return plain


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("base", "dim"), [(10000.0, 8), (10000.0, 64), (500000.0, 128)])
def test_frequencies_by_their_formulas(scaling: str, base: float, dim: int) -> None:
    """Read off the angle by which pair m of position 1 turned; the length of the pair is the attention factor."""
    how = SCALINGS[scaling]
    rotary = hw.positions.Rotary(base, interleaved=True, scaling=how)
    turned = rotary.rotate(torch.eye(2).repeat(1, dim // 2)[:1, None].double(), torch.tensor([1]))[0, 0].view(-1, 2)
    angle = torch.atan2(turned[:, 1], turned[:, 0])
    want = torch.tensor(frequencies_by_hand(how, base, dim), dtype=torch.float64)
    torch.testing.assert_close(angle, want, rtol=32 * FLOAT, atol=0.0)  # base ** x rounds x ln(base), up to 13
    factor = 1.0
    if isinstance(how, hw.positions.YaRN):
        factor = 0.5 if scaling == "yarn factor given" else 0.1 * math.log(how.factor) + 1
    torch.testing.assert_close(turned.norm(dim=-1), torch.full_like(want, factor), rtol=4 * FLOAT, atol=0.0)


def test_frequencies_a_human_can_check() -> None:
    frequencies = lambda scaling, dim=4: scaling.frequencies(10000.0, dim, torch.device("cpu")).tolist()
    assert frequencies(hw.positions.Linear(4.0)) == pytest.approx([0.25, 0.0025])
    assert frequencies(hw.positions.NTK(4.0)) == pytest.approx([1.0, 0.0025])  # the fastest stays, the slowest is a quarter
    # Over 1000 positions the pairs turn 159, 15.9, 1.59 and 0.159 times: kept above 4, divided below 1, mixed between.
    llama = hw.positions.Llama3(8.0, 1.0, 4.0, 1000)
    mixed = (1.5915 - 1) / 3
    assert frequencies(llama, 8) == pytest.approx([1.0, 0.1, 0.01 * (mixed + (1 - mixed) / 8), 0.001 / 8], rel=1e-4)
    # YaRN's ramp goes from the last pair that turns 32 times, 0, to the first that turns once at most, 3.
    third = [1.0, 0.1 * (2 / 3 + 1 / 24), 0.01 * (1 / 3 + 2 / 24), 0.001 / 8]
    assert frequencies(hw.positions.YaRN(8.0, 1000), 8) == pytest.approx(third)
    assert hw.positions.YaRN(math.e, 64).attention_factor == pytest.approx(1.1)


@settings(max_examples=60, deadline=None)
@given(
    i=st.integers(0, 500), j=st.integers(0, 500), shift=st.integers(0, 3000), pairs=st.integers(1, 5),
    interleaved=st.booleans(), scaling=st.sampled_from(["none", "linear 3.0", "yarn (4.0, 2048)", "llama3 (8.0,)"]),
)  # fmt: skip
def test_scores_depend_on_distance_alone(i: int, j: int, shift: int, pairs: int, interleaved: bool, scaling: str) -> None:
    rotary = hw.positions.Rotary(dim=2 * pairs, interleaved=interleaved, scaling=SCALINGS[scaling])
    q, k = torch.randn(2, 1, 1, HEAD_DIM, dtype=torch.float64)
    score = lambda a, b: (rotary.rotate(q, torch.tensor([a])) * rotary.rotate(k, torch.tensor([b]))).sum()
    rounding = 4 * FLOAT * (1 + i + j + shift) * (q.norm() * k.norm()).item()
    torch.testing.assert_close(score(i + shift, j + shift), score(i, j), rtol=0, atol=rounding)


def test_scores_do_depend_on_distance() -> None:
    x = torch.ones(1, 9, HEAD_DIM)
    turned = hw.positions.Rotary().rotate(x, torch.arange(9))
    scores = (turned @ turned.mT)[0]
    assert (scores[0, 1:] < scores[0, 0] - 0.1).all()
    torch.testing.assert_close(scores, scores.mT, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 6, 10])
def test_the_two_pairings_are_one_up_to_the_order_of_channels(dim: int) -> None:
    x, positions = torch.randn(BATCH, HEADS, 7, HEAD_DIM).double(), torch.tensor([5, 0, 1, 2, 900, 3, 4])
    order = [m + half * dim // 2 for m in range(dim // 2) for half in range(2)] + list(range(dim, HEAD_DIM))
    halves, pairs = (hw.positions.Rotary(dim=dim, interleaved=flag) for flag in (False, True))
    torch.testing.assert_close(pairs.rotate(x[..., order], positions), halves.rotate(x, positions)[..., order], rtol=0, atol=0)
    assert torch.equal(halves.rotate(x, positions)[..., dim:], x[..., dim:])
    alone = hw.positions.Rotary().rotate(x[..., :dim], positions)
    torch.testing.assert_close(halves.rotate(x, positions)[..., :dim], alone, rtol=0, atol=0)
