"""Tiny random models of the reference library, and inputs that fit them, for the parity tests of every system.

Every system has a published class that computes the same thing. A class is built here from its configuration alone, small and
offline, with all weights random: freshly initialised models have zero biases and unit norms, which a wrong program may pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

BATCH = 3
LENGTHS = (7, 5, 3)  # of the first input: tokens
TARGET_LENGTHS = (6, 4, 2)  # of the decoder's input: unequal to the source's, so that no two axes can be swapped unnoticed

_STACKS = {
    f"{stack}_{size}": number
    for stack in ("encoder", "decoder")
    for size, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
}
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_BERT = _ENCODER | {"vocab_size": 99, "max_position_embeddings": 64}

# The published class: the class of its configuration, and sizes.
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "BertForQuestionAnswering": ("BertConfig", _BERT),
    "BertForMaskedLM": ("BertConfig", _BERT),
    "BertForSequenceClassification": ("BertConfig", _BERT | {"num_labels": 5}),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 99, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "LlamaForCausalLM": ("LlamaConfig", _BERT | {"num_key_value_heads": 2}),
    "MarianMTModel": (
        "MarianConfig",
        _STACKS
        | {"vocab_size": 99, "d_model": 32, "max_position_embeddings": 64}
        | {"pad_token_id": 98, "decoder_start_token_id": 98, "eos_token_id": 0, "forced_eos_token_id": 0},
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    ),
}


def configuration(name: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a tiny model; ``changes`` go over the table's sizes."""
    import transformers  # seconds to import: only where a test really needs it

    config_name, sizes = TINY[name]
    return getattr(transformers, config_name)(**sizes | changes)


def reference(name: str, attn_implementation: str = "eager", **changes: Any) -> PreTrainedModel:
    """The published class at a tiny size, in eval mode, with the same random weights at every call."""
    import transformers

    config = configuration(name, **changes)
    model = getattr(transformers, name)._from_config(config, attn_implementation=attn_implementation)
    randomise(model)
    return model.eval()


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Every tensor that a checkpoint holds becomes 0.25 N(0, 1), norms' weights 1 + that, statistics what they could be.

    What is computed and not stored (sinusoids, frequencies of rotations) stays as it is, and so do integers.
    """
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()  # a tied parameter is met twice
    for module in model.modules():
        if "Sinusoid" in type(module).__name__:
            continue
        stored = dict(module.named_parameters(recurse=False))
        stored |= {k: v for k, v in module.named_buffers(recurse=False) if k not in module._non_persistent_buffers_set}
        for name, tensor in stored.items():
            if tensor.is_floating_point() and id(tensor) not in done:
                done.add(id(tensor))
                tensor.copy_(_values(type(module).__name__, name, tensor.shape, generator))


def _values(module: str, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if name == "running_var":
        return 0.5 + torch.rand(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    if name == "running_mean":
        return 0.3 * noise
    return float("Norm" in module and name == "weight") + 0.25 * noise


def inputs(name: str, **changes: Any) -> dict[str, Tensor]:
    """A padded batch of the model's own inputs, the same at every call; ``changes`` as for ``reference``."""
    config, generator = configuration(name, **changes), torch.Generator().manual_seed(1)
    batch = _text(config, LENGTHS, generator)
    if name.startswith("Bert"):
        batch["token_type_ids"] = torch.randint(2, batch["input_ids"].shape, generator=generator)
    if config.is_encoder_decoder:
        batch |= {f"decoder_{key}": value for key, value in _text(config, TARGET_LENGTHS, generator).items()}
    return batch


def keep(lengths: tuple[int, ...]) -> Tensor:
    """Which places of a batch padded on the right are real: (batch, longest), True = real."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def _text(config: PreTrainedConfig, lengths: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    real = keep(lengths)
    ids = torch.randint(3, config.vocab_size - 1, real.shape, generator=generator)  # clear of the special tokens
    return {"input_ids": ids.where(real, config.pad_token_id or 0), "attention_mask": real.long()}
