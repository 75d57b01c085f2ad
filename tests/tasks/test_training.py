"""Training is what the recipe says, and an interruption changes nothing."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from headwise.cli import app
from headwise.models.transformer import Transformer
from headwise.tasks.recipe import Recipe
from headwise.tasks.tokens import train_tokenizer
from headwise.tasks.training import Seq2SeqTraining, _same_run, model_config
from headwise.tasks.translate import Translator

DIGITS = "zero one two three four five six seven eight nine".split()
HAN = "零一二三四五六七八九"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> Path:
    """A language of digits: "four two" is 四二."""
    folder, chosen = tmp_path_factory.mktemp("numbers"), random.Random(0)
    for split, count in (("train", 400), ("valid", 20)):
        lines = []
        for _ in range(count):
            digits = [chosen.randrange(10) for _ in range(chosen.randint(1, 6))]
            lines.append(f"{' '.join(DIGITS[d] for d in digits)}\t{''.join(HAN[d] for d in digits)}\n")
        (folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


def command(data: Path, out: Path, epochs: int = 3, **settings: object) -> list[str]:
    recipe = {"vocab_size": 80, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "feedforward_dim": 32, "tokens": 60,
              "warmup_steps": 40, "average": 2, **settings}  # fmt: skip
    chosen = [word for name, value in recipe.items() for word in ("--set", f"{name}={value}")]
    executable = str(Path(sys.executable).parent / "headwise")
    paths = ["--data", str(data), "--out", str(out)]
    return [executable, "train", "translate", *paths, "--epochs", str(epochs), "--checkpoint-every", "5", *chosen]


def state(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint: weights, optimizer, generator."""
    tensors: dict[str, torch.Tensor] = {}

    def walk(x: object, path: str) -> None:
        if isinstance(x, torch.Tensor):
            tensors[path] = x
        elif isinstance(x, dict | list | tuple):
            for name, value in x.items() if isinstance(x, dict) else enumerate(x):
                walk(value, f"{path}.{name}")

    saved = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    for part in ("state_dict", "optimizer_states", "generator"):
        walk(saved[part], part)
    tensors["steps"] = torch.tensor([saved["global_step"], saved["epoch"]])
    return tensors


@pytest.mark.slow
def test_stopped_and_resumed_is_unbroken(numbers, tmp_path):
    """kill -9 and, when that was resumed, SIGTERM, at random steps, in the middle of an epoch; then every tensor equals the
    unbroken run's. SIGINT takes SIGTERM's way, but a test run in the background would hand its children a deaf ear."""
    subprocess.run(command(numbers, tmp_path / "whole"), check=True, capture_output=True)
    broken, moment = tmp_path / "broken", random.Random()
    steps_per_epoch = int(state(tmp_path / "whole")["steps"][0]) // 3
    last, stops = broken / "checkpoints" / "last.ckpt", []
    for first, stop, code in ((1, signal.SIGKILL, -signal.SIGKILL), (steps_per_epoch + 1, signal.SIGTERM, 1)):
        process = subprocess.Popen(command(numbers, broken), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not last.exists() or torch.load(last, weights_only=True)["global_step"] < first:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(moment.random() * 0.2)
        process.send_signal(stop)
        said = process.communicate()[1]
        assert process.returncode == code
        assert ("the same command goes on" in said) == (stop == signal.SIGTERM)
        stops.append(int(state(broken)["steps"][0]))
    assert any(step % steps_per_epoch for step in stops), "never in the middle of an epoch"
    subprocess.run(command(numbers, broken), check=True, capture_output=True)
    whole, resumed = state(tmp_path / "whole"), state(broken)
    assert whole.keys() == resumed.keys()
    assert any("exp_avg_sq" in name for name in whole)
    different = [name for name in whole if not torch.equal(whole[name], resumed[name])]
    assert not different, f"stopped at steps {stops}: {different}"
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (broken / name).read_bytes()


@pytest.mark.slow
def test_it_learns_and_another_recipe_is_not_mixed_in(numbers, tmp_path):
    larger = {"embed_dim": 32, "dropout": 0.0}
    trained = subprocess.run(command(numbers, tmp_path, epochs=8, **larger), check=True, capture_output=True, text=True)
    lines = [line.split() for line in trained.stdout.splitlines() if line.startswith("epoch ")]
    losses = [float(line[line.index("valid_loss") + 1]) for line in lines]
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.5
    assert (tmp_path / "log" / "version_0" / "metrics.csv").read_text().count("\n") > 3
    assert Translator.load(tmp_path).script == "LATIN"
    other = CliRunner().invoke(app, command(numbers, tmp_path, **larger | {"seed": 1})[1:])
    assert other.exit_code == 1
    assert "begun with seed=0" in other.stderr


def test_other_data_are_not_mixed_in(tmp_path):
    pairs = [("one", "一")]
    _same_run(tmp_path / "recipe.json", Recipe(), pairs, begun=False)
    _same_run(tmp_path / "recipe.json", Recipe(), pairs, begun=True)
    with pytest.raises(ValueError, match="begun with data="):
        _same_run(tmp_path / "recipe.json", Recipe(), [("one", "二")], begun=True)
    _same_run(tmp_path / "recipe.json", Recipe(embed_dim=12), pairs, begun=False)  # nothing is trained yet: start anew


@pytest.mark.parametrize(
    "wrong", [{"num_heads": 0}, {"warmup_steps": -1}, {"tokens": 0}, {"average": 0}, {"lr_scale": float("nan")}]
)
def test_impossible_recipes_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Recipe(**wrong)


def test_the_schedule_is_the_published_one():
    recipe = Recipe(embed_dim=64, num_heads=2, num_layers=1, feedforward_dim=8, warmup_steps=10, lr_scale=2.0)
    tokenizer = train_tokenizer(["one two 一二"], 70)
    optimizers = Seq2SeqTraining(Transformer(model_config(recipe, tokenizer)), recipe, tokenizer, []).configure_optimizers()
    optimizer, schedule = optimizers["optimizer"], optimizers["lr_scheduler"]["scheduler"]
    assert optimizer.defaults["betas"] == (0.9, 0.98)
    assert optimizer.defaults["eps"] == 1e-9
    for step in range(1, 31):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0 * 64**-0.5 * min(step**-0.5, step * 10**-1.5))
        optimizer.step()
        schedule.step()
