"""Multi-head attention you can train with, look into and teach from."""

from headwise.attention import cache, masks, positions
from headwise.attention.backends import backends
from headwise.attention.functional import attend, attend_with_lse, attention_weights, which_backend
from headwise.attention.module import MultiHeadAttention, Scores
from headwise.insight.gates import gates
from headwise.insight.observe import observe
from headwise.insight.statistics import statistics
from headwise.models.checkpoint import load, save

__all__ = [
    "MultiHeadAttention",
    "Scores",
    "attend",
    "attend_with_lse",
    "attention_weights",
    "backends",
    "cache",
    "gates",
    "load",
    "masks",
    "observe",
    "positions",
    "save",
    "statistics",
    "which_backend",
]
