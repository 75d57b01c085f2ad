"""What tests share: real data by path, and the rule that a skip needs a known reason."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
KNOWN_SKIPS = ("no data set",)


def pytest_configure() -> None:
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tatoeba() -> Path:
    """English-Chinese pairs, under HEADWISE_DATA or beside the checkout."""
    for folder in (os.environ.get("HEADWISE_DATA", ""), ROOT.parent / "shared" / "data"):
        path = Path(folder) / "tatoeba_en_zh"
        if (path / "valid.tsv.gz").exists():
            return path
    pytest.skip("no data set: set HEADWISE_DATA to the folder that holds tatoeba_en_zh")


_unknown: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(KNOWN_SKIPS):
            _unknown.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unknown and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter) -> None:
    for line in _unknown:
        terminalreporter.write_line(f"skipped without a known reason: {line}", red=True)
