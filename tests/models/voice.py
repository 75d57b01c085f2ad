"""A made-up voice, for tests of what hears and what speaks."""

import numpy as np


def make(samples: int, rate: int = 16000) -> np.ndarray:
    """Harmonics of a gliding pitch, in syllables, over a little noise; from a seed of its own for every length."""
    random = np.random.default_rng(samples)
    time = np.arange(samples) / rate
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(5 * time)) / rate
    voiced = sum(np.sin(k * phase) / k for k in range(1, 25)) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * time))
    return (0.1 * voiced + 0.01 * random.normal(size=samples)).astype(np.float32)
