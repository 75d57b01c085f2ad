"""Is a system of ours the published one? One helper for all of them; a system is a row of the table in test_parity.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import headwise as hw
from headwise.models.causal import CausalLM
from headwise.models.checkpoint.config import Config
from headwise.models.seq2seq import EncoderDecoder

CLOSE = {"atol": 1e-5, "rtol": 1e-4}  # float32, for numbers of order 5 (the worst found: 4e-6)


@dataclass(frozen=True)
class System:
    """A published class at a tiny size: changes of its configuration, what is asked of its loss, and where the attention
    weights that it returns are found in our model ("{}" = the layer).

    kept: methods of the reference that return weights which no output holds, and where those are found in ours. undrawn: rates
    of dropout that the reference's configuration cannot take. loss: of a model, if not what it says itself.
    """

    name: str
    asked: dict[str, Any]
    attentions: dict[str, str]
    changes: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    undrawn: tuple[str, ...] = ()
    loss: Callable[..., Tensor] = lambda model, **inputs: model(**inputs).loss

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{name}={value}" for name, value in self.changes.items())])

    @property
    def reads_text(self) -> bool:
        return "input_ids" in self.inputs()

    def inputs(self) -> dict[str, Tensor]:
        """A padded batch."""
        return tiny.inputs(self.name, **self.changes)

    def source(self) -> dict[str, Tensor]:
        """What is read before anything is said: the beginnings of texts, the whole of sounds."""
        given = {name: x for name, x in self.inputs().items() if name in ("input_features", "attention_mask")}
        ids = self.inputs()["input_ids"][:, :3] if self.reads_text else None
        return given if ids is None else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def wishes(self, *names: str) -> dict[str, bool]:
        """What the reference is asked to return besides, where it can be asked."""
        return {} if tiny.of_diffusers(self.name) else dict.fromkeys(names, True)

    def training_inputs(self) -> dict[str, Any]:
        """With what is asked; a decoder's input is left to the model, which shifts the labels."""
        given = {name: x for name, x in self.inputs().items() if not name.startswith("decoder_")}
        return given | self.asked


def outputs(output: Any) -> dict[str, Tensor]:
    """Every tensor of an output but the loss, by name."""
    found = {entry.name: getattr(output, entry.name) for entry in fields(output)}
    return {name: x for name, x in found.items() if isinstance(x, Tensor) and name != "loss"}


def dropping(config: Config, undrawn: tuple[str, ...]) -> dict[str, Any]:
    """Every kind of dropout at a rate of its own, in the configurations of parts too."""
    names = [entry.name for entry in fields(config) if "drop" in entry.name and entry.name not in undrawn]
    inner = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    rates = {name: 0.11 + 0.02 * number for number, name in enumerate(names)}
    parts = {name: part for name, part in inner.items() if isinstance(part, Config)}
    return rates | {name: part.to_entries() | dropping(part, undrawn) for name, part in parts.items()}


def stored(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder, however its library calls the file."""
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


class Pair:
    """The reference's model, and ours read from what the reference wrote."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system, self.folder = system, folder
        self.reference = tiny.reference(system.name, **system.changes)
        self.reference.save_pretrained(folder / "theirs")
        self.ours = hw.load(folder / "theirs")

    def outputs_are_equal(self, reference: nn.Module | None = None) -> None:
        """Everything that ours returns, the loss too, on real rows."""
        inputs, losses = self.system.inputs() | self.system.asked, []
        with torch.no_grad():
            want = (reference or self.reference)(**inputs, **self.system.wishes("output_hidden_states"))
            got = self.ours(**inputs)
            for model in (reference or self.reference, self.ours):
                torch.manual_seed(0)  # where the loss draws
                losses.append(self.system.loss(model, **inputs))
        torch.testing.assert_close(*losses, **CLOSE)
        assert outputs(got)
        for name, ours in outputs(got).items():
            theirs = want.hidden_states[-1] if name == "last_hidden_state" and name not in want else want[name]
            torch.testing.assert_close(
                self.real(ours), self.real(theirs), **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
            )
        torch.testing.assert_close(getattr(got, "loss_dict", None), getattr(want, "loss_dict", None), **CLOSE)

    def gradients_are_equal(self) -> None:
        """Those of every parameter, written and compared as if they were weights."""
        for model in (self.reference, self.ours):
            model.requires_grad_(True)  # a frozen backbone too
            torch.manual_seed(0)
            self.system.loss(model, **self.system.training_inputs()).backward()
            for parameter in model.parameters():
                parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.reference.save_pretrained(self.folder / "their gradients")
        hw.save(self.ours, self.folder / "our gradients")
        want, got = (stored(self.folder / f"{whose} gradients") for whose in ("their", "our"))
        assert want.keys() == got.keys()
        for name in want:
            torch.testing.assert_close(got[name], want[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
        assert sum(bool(gradient.any()) for gradient in got.values()) > 0.9 * len(got)

    def training_is_equal(self) -> None:
        """The loss under dropout, every kind of it at a rate of its own: drawn at the same places, in the same order, from the
        same random numbers."""
        rates = dropping(self.ours.config, self.system.undrawn)
        pair = Pair(replace(self.system, changes=self.system.changes | rates), self.folder / "training")
        losses, states = [], []
        for model, train in ((pair.reference, True), (pair.ours, True), (pair.ours, False)):
            torch.manual_seed(0)
            losses.append(self.system.loss(model.train(train), **self.system.training_inputs()).detach())
            states.append(torch.get_rng_state())
        torch.testing.assert_close(losses[1], losses[0], **CLOSE)
        assert torch.equal(*states[:2])
        assert losses[0] != losses[2]

    def weights_are_equal(self) -> None:
        """The attention weights of every layer, recomputed by us from queries, keys and rules."""
        inputs, theirs = self.system.inputs(), dict[str, Tensor]()
        for path, address in self.system.kept.items():
            self._keep(path, address, theirs)
        with torch.no_grad(), hw.observe(self.ours) as record:
            self.ours(**inputs)
            returned = self.reference(**inputs, **self.system.wishes("output_attentions"))
        for output, address in self.system.attentions.items():
            theirs |= {address.format(layer): weights for layer, weights in enumerate(returned[output])}
        assert sorted(theirs) == sorted(record)
        for address, want in theirs.items():
            ours = record[address].weights()
            ours = ours if want.dim() < 4 else ours.flatten(0, -4)  # the reference has one batch axis, or it and heads as one
            want = want.view_as(ours)
            torch.testing.assert_close(self.real(ours.transpose(1, 2)), self.real(want.transpose(1, 2)), **CLOSE)

    def _keep(self, path: str, address: str, kept: dict[str, Tensor]) -> None:
        """From now on what a method of every layer returns is kept, under our address."""
        owners, method = path.rpartition(".")[::2]
        modules = dict(self.reference.named_modules())
        for layer in takewhile(lambda layer: owners.format(layer) in modules, count()):
            module, at = modules[owners.format(layer)], address.format(layer)

            def keeping(original: Any, at: str, *given: Any) -> Tensor:
                kept[at] = original(*given)
                return kept[at]

            setattr(module, method, partial(keeping, getattr(module, method), at))

    def generated_tokens_are_equal(self) -> None:
        """The most probable ones, ours by steps with a cache."""
        if not isinstance(self.ours, CausalLM | EncoderDecoder):
            return  # it says no tokens, or, by CTC, all at once
        from transformers import GenerationMixin  # Whisper's own generate is another program

        self.reference.generation_config.forced_eos_token_id = None  # a wish about the limit, which we leave out
        ends, source = self.reference.generation_config.eos_token_id, self.system.source()
        theirs = GenerationMixin.generate(self.reference, **source, max_new_tokens=11, do_sample=False)
        first = 1 if self.reference.config.is_encoder_decoder else source["input_ids"].shape[1]
        for row, found in zip(theirs[:, first:].tolist(), hw.generate(self.ours, **source, max_new_tokens=11), strict=True):
            assert found.tokens == (row[: row.index(ends)] if ends in row else row)

    def goes_back(self) -> None:
        """What we write, the reference reads without a word, and gives the same."""
        hw.save(self.ours, self.folder / "ours")
        wrote, read = (stored(self.folder / whose) for whose in ("ours", "theirs"))
        assert wrote.keys() == read.keys()
        assert all(torch.equal(wrote[name], read[name]) for name in read)
        said, kept = (json.loads((self.folder / whose / "config.json").read_text("utf-8")) for whose in ("theirs", "ours"))
        assert {name: kept[name] for name in said} == said
        assert all(type(kept[name]) is type(said[name]) for name in said)  # 5 is not 5.0 to the reference
        self.outputs_are_equal(self.read_by_reference(self.folder / "ours"))

    def read_by_reference(self, folder: Path) -> nn.Module:
        """Without a word: nothing missing, nothing too many."""
        how = {"low_cpu_mem_usage": False} if tiny.of_diffusers(self.system.name) else {"attn_implementation": "eager"}
        model, info = type(self.reference).from_pretrained(folder, output_loading_info=True, **how)
        assert not any(info.values()), info
        return tiny.ready(model)

    def real(self, x: Tensor) -> Tensor:
        """The rows of x (batch, length, ...) that are no padding."""
        rows = tiny.rows(self.system.name, **self.system.changes)
        return x[rows[x.shape[1]]] if x.dim() > 1 and x.shape[1] in rows else x
