"""Training is what the recipe says, and an interruption changes nothing."""

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import headwise as hw
from headwise.cli import app
from headwise.models.checkpoint.heads import attentions
from headwise.models.transformer import Transformer, TransformerConfig
from headwise.tasks.recipe import Recipe, sizes
from headwise.tasks.tokens import train_tokenizer
from headwise.tasks.training import Seq2SeqTraining, _same_run, model_config, train
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


HEADS = {
    "pruned": lambda model: hw.prune(
        model, {"encoder.layers.0.self_attention": [1], "decoder.layers.0.cross_attention": [0, 3]}
    ),
    "grouped": lambda model: hw.group_heads(model, 2),
}


@pytest.fixture
def trained(request, tmp_path) -> Path:
    """A model with other heads than its sizes say, in a folder of its own. Its tokenizer never saw the numbers' data."""
    torch.manual_seed(5)
    tokenizer = train_tokenizer(["zero one two three four five six seven eight nine", "零一二三四五六七八九", "more 多"], 70)
    model = Transformer(TransformerConfig(tokenizer.get_vocab_size(), 20, 4, 1, 1, 17, 0.5, max_positions=29))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    HEADS[getattr(request, "param", "pruned")](model)
    Translator(model, tokenizer, "LATIN").save(tmp_path / "start")
    return tmp_path / "start"


def go_on(data: Path, start: Path, out: Path, epochs: int = 1, **settings: object) -> Translator:
    """In this process, in steps so small that one sees where it began."""
    recipe = replace(Recipe(**sizes(Translator.load(start).model.config)), tokens=90, lr_scale=1e-3, **settings)
    return train(data, out, recipe, start=start, epochs=epochs, checkpoint_every=3)


def distance(one: Path, other: Path) -> float:
    a, b = (torch.nn.utils.parameters_to_vector(Translator.load(folder).model.parameters()) for folder in (one, other))
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("trained", HEADS, indirect=True)
def test_a_model_with_other_heads_is_trained_on(numbers, trained, tmp_path):
    before, after = Translator.load(trained), go_on(numbers, trained, tmp_path / "after", warmup_steps=5)
    heads = [[(a, list(m.heads), m.num_kv_heads) for a, m in attentions(x.model).items()] for x in (before, after)]
    assert heads[0] == heads[1]
    assert before.tokenizer.to_str() == after.tokenizer.to_str()
    assert 1e-4 < distance(trained, tmp_path / "after") < 1e-2
    card = (tmp_path / "after" / "README.md").read_text(encoding="utf-8")
    assert "--from start --epochs 1" in card
    assert "It began with the weights, the heads and the tokenizer of `start`" in card
    counted = [(module.num_heads, module.num_kv_heads) for module in attentions(before.model).values()]
    assert ("9 heads in 3 attention modules" if counted[0][0] == 3 else "4 heads (2 for keys and values)") in card
    assert "embed_dim" not in card  # not a setting: the model says it


class Stopped(Exception):
    pass


def test_trained_on_with_a_stop_between_is_unbroken(numbers, trained, tmp_path, monkeypatch):
    """In the middle of the second epoch, under dropout, which the recipe says, not the model."""
    go_on(numbers, trained, tmp_path / "whole", epochs=2, dropout=0.3)
    step, steps, seen = Seq2SeqTraining.training_step, int(state(tmp_path / "whole")["steps"][0]), set()

    def stop(self: Seq2SeqTraining, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        seen.add((self.model.training, self.model.dropout.p))
        if self.global_step == steps * 3 // 4:
            raise Stopped
        return step(self, batch, index)

    monkeypatch.setattr(Seq2SeqTraining, "training_step", stop)
    with pytest.raises(Stopped):
        go_on(numbers, trained, tmp_path / "broken", epochs=2, dropout=0.3)
    assert seen == {(True, 0.3)}
    monkeypatch.setattr(Seq2SeqTraining, "training_step", step)
    assert steps // 2 < int(state(tmp_path / "broken")["steps"][0]) < steps
    go_on(numbers, trained, tmp_path / "broken", epochs=2, dropout=0.3)
    whole, resumed = state(tmp_path / "whole"), state(tmp_path / "broken")
    assert whole.keys() == resumed.keys()
    assert not [name for name in whole if not torch.equal(whole[name], resumed[name])]
    assert Translator.load(tmp_path / "whole").model.config.dropout == 0.3


def test_another_beginning_is_not_mixed_in(numbers, trained, tmp_path):
    go_on(numbers, trained, tmp_path / "out")
    other = Translator.load(trained)
    with torch.no_grad():
        other.model.embedding.weight[7, 3] += 1
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match="begun with start='"):
        go_on(numbers, tmp_path / "other", tmp_path / "out")
    with pytest.raises(ValueError, match="is where training begins"):
        go_on(numbers, trained, trained)
    with pytest.raises(ValueError, match="holds a model with embed_dim=20, num_layers=1; the recipe says otherwise"):
        train(numbers, tmp_path / "new", replace(Recipe(), **sizes(other.model.config) | {"embed_dim": 24, "num_layers": 2}),
              start=trained)  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_the_command_takes_sizes_from_the_model(numbers, trained, tmp_path):
    out = ["--out", str(tmp_path / "out"), "--data", str(numbers)]
    options = [*out, "--from", str(trained), "--epochs", "1", "--set", "tokens=90", "--set", "average=1"]
    done = CliRunner().invoke(app, ["train", "translate", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert distance(trained, tmp_path / "out") < 1
    for settings, said in ((["--set", "num_heads=5"], "num_heads=4; the recipe"), (["--from", str(tmp_path)], "config.json")):
        refused = CliRunner().invoke(app, ["train", "translate", *options, *settings])
        assert refused.exit_code == 1
        assert said in refused.stderr


def test_a_recipe_counts_layers_once():
    with pytest.raises(ValueError, match="the model has 2 and 3"):
        sizes(TransformerConfig(29, 20, 4, 2, 3))
