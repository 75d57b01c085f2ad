"""Long work shows its progress on a terminal, and nowhere else."""

import io
import sys

import pytest
import torch
from heads import recorded

import headwise as hw
from headwise.insight import progress
from headwise.insight.measuring import statistics


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def call():
    query = torch.randn(2, 3, 7, 5)
    return recorded(query, query)


WORK = {
    "statistics": lambda record: hw.statistics(record),
    "rollout": lambda record: hw.rollout(record),
    "measuring": lambda record: hw.bootstrap(hw.statistics(record) for _ in range(2)),
}


@pytest.mark.parametrize("what", WORK)
def test_bars_are_for_long_work_on_terminals(monkeypatch, what):
    monkeypatch.setattr(progress, "LONG", 100)
    monkeypatch.setattr(statistics, "BLOCK", 1)
    for screen, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", screen)
        WORK[what]({"a": [call()]})
        assert (what in screen.getvalue()) == shown
        assert what == "statistics" or "statistics" not in screen.getvalue()  # work inside work shows the outer bar alone
    monkeypatch.setattr(progress, "LONG", 2 * 3 * 7 * 7)
    monkeypatch.setattr(sys, "stderr", Terminal())
    hw.statistics({"a": [call()]})
    assert not sys.stderr.getvalue()


def test_an_interrupt_goes_through_and_the_terminal_is_left_clean(monkeypatch):
    class Stop(hw.places.Line):
        def distance(self, queries, keys):
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "LONG", 100)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyboardInterrupt):
        hw.statistics({"a": [call()]}, places=Stop())
    assert sys.stderr.getvalue().count("\x1b[?25h") == 1  # the cursor is back
    hw.statistics({"a": [call()]})
