"""Training a translation model: recipe, loop, checkpoints that lose nothing, and the folder that comes out."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from tokenizers import Tokenizer
from torch import Tensor

from headwise.models.checkpoint.folder import write, write_json
from headwise.models.checkpoint.heads import arrange, own_entry
from headwise.models.transformer import Transformer, TransformerConfig
from headwise.tasks.card import write_card
from headwise.tasks.pairs import Batches, read_pairs
from headwise.tasks.recipe import Recipe, sizes
from headwise.tasks.scoring import bleu
from headwise.tasks.tokens import SPECIAL, train_tokenizer
from headwise.tasks.translate import Search, Translator, main_script


class Seq2SeqTraining(lightning.LightningModule):
    """Label-smoothed cross-entropy, Adam and the inverse-square-root schedule of Vaswani et al. 2017 (section 5.3)."""

    def __init__(self, model: Transformer, recipe: Recipe, tokenizer: Tokenizer, valid: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.model, self.recipe, self.valid = model, recipe, valid
        self.translator = Translator(model, tokenizer)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss = self.model(**batch).loss
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.log("valid_loss", self.model(**batch).loss, batch_size=int((batch["labels"] != -100).sum()), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        sources, references = zip(*self.valid, strict=True)
        self.log("valid_bleu", bleu(self.translator.translate(sources, Search(beams=1)), references), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(
            self.parameters(), lr=self.recipe.lr_scale * self.recipe.embed_dim**-0.5, betas=(0.9, 0.98), eps=1e-9
        )
        warmup = self.recipe.warmup_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) ** -0.5, (step + 1) * warmup**-1.5))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Generators(Callback):
    """Keeps the random generator in the checkpoint, so that dropout goes on where it stopped."""

    state: Tensor | None = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["generator"] = torch.get_rng_state()

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.state = checkpoint["generator"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.state is not None:
            torch.set_rng_state(self.state)


class EpochLines(Callback):
    """A line per epoch that also a log file keeps."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in sorted(trainer.callback_metrics.items()))
        print(f"epoch {trainer.current_epoch + 1}  step {trainer.global_step}  {numbers}", flush=True)


Pairs = Sequence[tuple[str, str]]


def train(
    data: Path,
    out: Path,
    recipe: Recipe,
    *,
    start: Path | None = None,
    epochs: int = 16,
    patience: int = 5,
    checkpoint_every: int = 100,
) -> Translator:
    """Trains on data/train.tsv, tunes on data/valid.tsv, writes the model to ``out``; run again, goes on where it stopped.

    ``out`` gets checkpoints/last.ckpt every ``checkpoint_every`` steps, log/version_*/metrics.csv, and at the end what
    ``Translator.save`` writes and a card. patience: epochs without a better BLEU (greedy, valid)
    after which it stops early.

    start: a folder as ``Translator.save`` writes it; training begins with its weights, its tokenizer and its heads, pruned or
    grouped as they may be. Raises ValueError where the recipe's sizes are not that model's ``sizes``.
    """
    if start is not None and out.resolve() == start.resolve():
        raise ValueError(f"{out} is where training begins: choose another folder for what comes out")
    lightning.seed_everything(recipe.seed, verbose=False)
    train_pairs, valid_pairs = read_pairs(data, "train"), read_pairs(data, "valid")
    first = _new(recipe, train_pairs) if start is None else _trained(start, recipe)
    train_pairs, valid_pairs = (_fitting(pairs, first, recipe) for pairs in (train_pairs, valid_pairs))
    resume = out / "checkpoints" / "last.ckpt"
    begun = resume.exists()
    out.mkdir(parents=True, exist_ok=True)
    _same_run(out / "recipe.json", recipe, [*train_pairs, *valid_pairs], begun, None if start is None else first)
    trainer, best = _trainer(out, epochs, patience, checkpoint_every, recipe.average)
    training = Seq2SeqTraining(first.model, recipe, first.tokenizer, valid_pairs)
    batches, valid_batches = (_batches(pairs, first, recipe) for pairs in (train_pairs, valid_pairs))
    trainer.fit(training, batches, valid_batches, ckpt_path=resume if begun else None, weights_only=True)
    trainer.save_checkpoint(resume)
    first.model.load_state_dict(_average([Path(path) for path in best.best_k_models]))
    Translator(first.model, first.tokenizer, main_script(source for source, _ in train_pairs)).save(out)
    trained = Translator.load(out)  # as stored: what the card says is measured on what a user gets
    run = {"epochs": epochs, "patience": patience, "epochs_run": trainer.current_epoch, "averaged": len(best.best_k_models)}
    card = write_card(trained, data, recipe, start, pairs=len(train_pairs), **run)
    write(out / "README.md", lambda place: place.write_text(card, encoding="utf-8"))
    return trained


def _new(recipe: Recipe, pairs: Pairs) -> Translator:
    tokenizer = train_tokenizer((side for pair in pairs for side in pair), recipe.vocab_size)
    return Translator(Transformer(model_config(recipe, tokenizer)), tokenizer)


def _trained(folder: Path, recipe: Recipe) -> Translator:
    """The model of a folder, with the recipe's dropout."""
    found = Translator.load(folder)
    others = [f"{name}={size}" for name, size in sizes(found.model.config).items() if getattr(recipe, name) != size]
    if others:
        raise ValueError(f"{folder} holds a model with {', '.join(others)}; the recipe says otherwise")
    model = Transformer(replace(found.model.config, dropout=recipe.dropout))
    arrange(model, own_entry(found.model, model))
    model.load_state_dict(found.model.state_dict())
    return Translator(model, found.tokenizer)


def model_config(recipe: Recipe, tokenizer: Tokenizer) -> TransformerConfig:
    """The model of a recipe over a tokenizer's vocabulary."""
    return TransformerConfig(
        vocab_size=tokenizer.get_vocab_size(),
        embed_dim=recipe.embed_dim,
        num_heads=recipe.num_heads,
        num_encoder_layers=recipe.num_layers,
        num_decoder_layers=recipe.num_layers,
        feedforward_dim=recipe.feedforward_dim,
        dropout=recipe.dropout,
        norm=recipe.norm,
        max_positions=recipe.max_positions,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
    )


def _fitting(pairs: Pairs, translator: Translator, recipe: Recipe) -> Pairs:
    """The pairs that fit the model's positions; says how many do not."""
    lengths = [max(map(len, ids)) for ids in translator.encode_pairs(pairs)]
    fitting = [pair for pair, length in zip(pairs, lengths, strict=True) if length <= recipe.max_positions]
    if not fitting:
        raise ValueError(f"every pair is longer than max_positions = {recipe.max_positions} tokens")
    if len(fitting) < len(pairs):
        print(f"left out {len(pairs) - len(fitting)} of {len(pairs)} pairs: longer than {recipe.max_positions} tokens")
    return fitting


def _batches(pairs: Pairs, translator: Translator, recipe: Recipe) -> Batches:
    return Batches(translator.encode_pairs(pairs), recipe.tokens, SPECIAL.index("<pad>"), recipe.seed)


def _trainer(
    out: Path, epochs: int, patience: int, checkpoint_every: int, average: int
) -> tuple[lightning.Trainer, ModelCheckpoint]:
    """The trainer, and the callback that keeps the weights of the best epochs, to average."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")  # lightning 2.6 with torch 2.13
    warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")  # a run that goes on
    files = {"dirpath": out / "checkpoints", "enable_version_counter": False}
    last = ModelCheckpoint(
        filename="last", every_n_train_steps=checkpoint_every, save_top_k=1, save_on_train_epoch_end=False, **files
    )
    best = ModelCheckpoint(
        filename="{epoch}", monitor="valid_bleu", mode="max", save_top_k=average, save_weights_only=True, **files
    )
    stop = EarlyStopping("valid_bleu", mode="max", patience=patience)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[last, best, stop, Generators(), EpochLines(), RichProgressBar()],
        logger=CSVLogger(out, name="log"),
        log_every_n_steps=20,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    return trainer, best


def _same_run(path: Path, recipe: Recipe, pairs: Pairs, begun: bool, start: Translator | None = None) -> None:
    """Keeps what the run is made of, recipe, data and the model it began with; refuses to go on with something else."""
    data = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
    now = asdict(recipe) | {"data": data, "start": None if start is None else _hash(start)}
    if begun and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"{name}={before.get(name)!r}" for name, value in now.items() if before.get(name) != value]
        if changed:
            raise ValueError(f"{path.parent} was begun with {', '.join(changed)}; go on with that or choose another folder")
    write_json(path, now)


def _hash(start: Translator) -> str:
    """Of the weights, with their names and shapes, and of the tokenizer."""
    found = hashlib.sha256(start.tokenizer.to_str().encode())
    for name, weight in start.model.state_dict().items():
        found.update(f"{name} {list(weight.shape)}".encode() + weight.numpy().tobytes())
    return found.hexdigest()


def _average(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the model's weights over checkpoints (Vaswani et al. 2017, section 6.1)."""
    states = [torch.load(path, weights_only=True)["state_dict"] for path in sorted(paths)]
    names = [name for name in states[0] if name.startswith("model.")]
    return {name.removeprefix("model."): torch.stack([state[name] for state in states]).mean(0) for name in names}
