"""What tests share: real data by path, and the rule that a skip needs a known reason."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from headwise.models.transformer import Transformer, TransformerConfig

ROOT = Path(__file__).parent.parent
KNOWN_SKIPS = ("no data set", "no browser")


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


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Transformer]:
    """Makes models, in float64, with peaked outputs that change from step to step and do end now and then."""

    def make(seed: int, vocab_size: int = 11, max_positions: int = 17) -> Transformer:
        torch.manual_seed(seed)
        config = TransformerConfig(
            vocab_size=vocab_size,
            embed_dim=12,
            num_heads=2,
            num_encoder_layers=1,
            num_decoder_layers=2,
            feedforward_dim=17,
            norm="pre",
            max_positions=max_positions,
        )
        model = Transformer(config).double().eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.8)
        torch.nn.init.normal_(model.embedding.weight, std=0.3)
        torch.nn.init.normal_(model.decoder.norm.weight, std=4.0)
        with torch.no_grad():
            model.embedding.weight[config.eos_token_id] *= 1.5
        return model

    return make


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
