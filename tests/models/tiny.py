"""Tiny random models of the reference library, and inputs that fit them, for the parity tests of every system.

Every system has a published class that computes the same thing. A class is built here from its configuration alone, small and
offline, with all weights random: freshly initialised models have zero biases and unit norms, which a wrong program may pass.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Batch = dict[str, Tensor]

LENGTHS = (7, 5, 3)  # of the text that a model reads; its batch is 3 everywhere
TARGET_LENGTHS = (6, 4, 2)  # of the decoder's text: other lengths, so that no two axes can be swapped unnoticed
SAMPLES = (181, 120, 61)  # of sound
FRAMES = (61, 45, 23)  # of spectrograms
IMAGES = ((96, 128), (64, 128), (96, 64))  # height and width where a model takes images of several sizes

_STACKS = {
    f"{stack}_{size}": number
    for stack in ("encoder", "decoder")
    for size, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
}
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_BERT = _ENCODER | {"vocab_size": 99, "max_position_embeddings": 64}
_VISION = _ENCODER | {"image_size": 32, "patch_size": 8}
_CONFORMER = {"layers": 2, "num_attention_heads": 4, "linear_units": 64}
_LABELS = {"num_labels": 5}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}

# The published class: the class of its configuration, and sizes.
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "BertForQuestionAnswering": ("BertConfig", _BERT),
    "BertForMaskedLM": ("BertConfig", _BERT),
    "BertForSequenceClassification": ("BertConfig", _BERT | _LABELS),
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
    "ViTForImageClassification": ("ViTConfig", _VISION | _LABELS),
    "YolosForObjectDetection": (
        "YolosConfig",
        _VISION | {"image_size": [32, 48], "num_detection_tokens": 5, "use_mid_position_embeddings": True},
    ),
    "DetrForObjectDetection": (
        "DetrConfig",
        _STACKS
        | {"d_model": 32, "num_queries": 5, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
        | {"backbone_config": _RESNET | {"model_type": "resnet", "out_features": ["stage4"]}},
    ),
    # Of diffusers, where the class is its own configuration.
    "DiTTransformer2DModel": (
        "",
        {"num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 3, "out_channels": 6, "num_layers": 2}
        | {"sample_size": 10, "patch_size": 2, "num_embeds_ada_norm": 7, "dropout": 0.0},
    ),
    "ImageGPTForCausalImageModeling": (
        "ImageGPTConfig",
        {"vocab_size": 17, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "Wav2Vec2ConformerForCTC": (
        "Wav2Vec2ConformerConfig",
        _ENCODER
        | {"vocab_size": 32, "position_embeddings_type": "relative", "conv_depthwise_kernel_size": 7, "mask_time_prob": 0.0}
        | {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
        | {"num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 16},
    ),
    "ParakeetForCTC": (
        "ParakeetCTCConfig",
        {"vocab_size": 33, "pad_token_id": 32}
        | {
            "encoder_config": _ENCODER
            | {"num_mel_bins": 16, "subsampling_conv_channels": 8, "conv_kernel_size": 5, "subsampling_factor": 8}
        },
    ),
    "Speech2TextForConditionalGeneration": (
        "Speech2TextConfig",
        _STACKS
        | {"vocab_size": 99, "d_model": 32, "max_source_positions": 64, "max_target_positions": 32}
        | {"num_conv_layers": 2, "conv_kernel_sizes": (5, 5), "conv_channels": 32}
        | {"input_feat_per_channel": 16, "input_channels": 1},
    ),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        _STACKS
        | {"vocab_size": 99, "d_model": 32, "num_mel_bins": 16, "max_source_positions": 11, "max_target_positions": 32}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        | {"begin_suppress_tokens": None},
    ),
    "FastSpeech2ConformerModel": (
        "FastSpeech2ConformerConfig",
        {f"{side}_{name}": number for side in ("encoder", "decoder") for name, number in _CONFORMER.items()}
        | {f"{what}_predictor_channels": 16 for what in ("duration", "pitch", "energy")}
        | {"vocab_size": 40, "hidden_size": 32, "num_mel_bins": 12, "speech_decoder_postnet_units": 8},
    ),
    "SpeechT5ForTextToSpeech": (
        "SpeechT5Config",
        _STACKS
        | {"vocab_size": 81, "hidden_size": 32, "num_mel_bins": 16, "speaker_embedding_dim": 11}
        | {"speech_decoder_prenet_units": 24, "speech_decoder_postnet_units": 20}
        | {"max_text_positions": 64, "max_speech_positions": 64},
    ),
    "CLIPModel": (
        "CLIPConfig",
        {
            "projection_dim": 16,
            "text_config": _BERT | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 98},
            "vision_config": _VISION,
        },
    ),
    "TimesformerForVideoClassification": ("TimesformerConfig", _VISION | _LABELS | {"num_frames": 3}),
    "VivitForVideoClassification": ("VivitConfig", _VISION | _LABELS | {"num_frames": 4, "tubelet_size": [2, 8, 8]}),
    "VideoMAEForVideoClassification": ("VideoMAEConfig", _VISION | _LABELS | {"num_frames": 4, "tubelet_size": 2}),
}


_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "encoder_layers", "decoder_layers")


def shallow(name: str) -> dict[str, Any]:
    """Changes of a configuration that leave one layer in every stack."""

    def of(sizes: dict[str, Any]) -> dict[str, Any]:
        inner = {key: value | of(value) for key, value in sizes.items() if isinstance(value, dict)}
        return inner | {key: 1 for key in sizes if key in _DEPTHS}

    return of(TINY[name][1])


def of_diffusers(name: str) -> bool:
    return not TINY[name][0]


def configuration(name: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a tiny model; ``changes`` go over the table's sizes."""
    import transformers  # seconds to import: only where a test really needs it

    config_name, sizes = TINY[name]
    if of_diffusers(name):
        return SimpleNamespace(model_type=name, is_encoder_decoder=False, **sizes | changes)  # type: ignore[return-value]
    return getattr(transformers, config_name)(**sizes | changes)


def reference(name: str, attn_implementation: str | None = "eager", **changes: Any) -> PreTrainedModel:
    """The published class at a tiny size, in eval mode, with the same random weights at every call."""
    if of_diffusers(name):
        import diffusers
        from diffusers.models.attention_processor import AttnProcessor

        model = getattr(diffusers, name)(**TINY[name][1] | changes)
        for block in model.transformer_blocks:
            block.attn1.set_processor(AttnProcessor())  # the one that forms its weights
    else:
        import transformers

        model = getattr(transformers, name)._from_config(
            configuration(name, **changes), attn_implementation=attn_implementation
        )
    randomise(model)
    return ready(model)


def ready(model: nn.Module) -> nn.Module:
    """In eval mode. SpeechT5's prenet drops at all times, and parts of a batch together: ours as dropout does. FastSpeech 2
    reads labels in training alone, where all below is left to eval mode; its convolutions read padding, too, which ours never
    do: it is cut off in front of them, and batches can be compared."""
    model.eval()
    if type(model).__name__ == "SpeechT5ForTextToSpeech":
        prenet = model.speecht5.decoder.prenet
        prenet._consistent_dropout = lambda x, rate: nn.functional.dropout(x, rate, prenet.training)
    if type(model).__name__ == "FastSpeech2ConformerModel":
        real = dict[int, Tensor]()
        model.training = model.duration_predictor.training = True

        def look(module: nn.Module, given: tuple[Tensor, ...], named: Batch) -> None:
            masks = named["attention_mask"].bool(), (named["spectrogram_labels"] != -100).any(dim=-1)
            real.update({mask.shape[1]: mask for mask in masks})

        def cut(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (given[0].mT.masked_fill(~real[given[0].shape[-1]][..., None], 0.0).mT,)

        model.register_forward_pre_hook(look, with_kwargs=True)
        for module in model.modules():
            if isinstance(module, nn.Conv1d) and module.kernel_size != (1,):
                module.register_forward_pre_hook(cut)
    return model


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Every tensor that a checkpoint holds becomes 0.25 N(0, 1), norms' weights 1 + that, statistics what they could be.

    What is computed stays as it is, even where it is stored (the frequencies of a rotation), and so do integers.
    """
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()  # a tied parameter is met twice
    for module in model.modules():
        if "Sinusoid" in type(module).__name__:
            continue
        stored = dict(module.named_parameters(recurse=False))
        computed = module._non_persistent_buffers_set | {"inv_freq"}
        stored |= {key: buffer for key, buffer in module.named_buffers(recurse=False) if key not in computed}
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
    if module == "Conv2d":
        # Features of order 1: many convolutions one after the other would make them thousands, softmax a step, and its gradient
        # the rounding of the scores.
        return noise / shape[1:].numel() ** 0.5
    return float("Norm" in module and name == "weight") + 0.25 * noise


def inputs(name: str, **changes: Any) -> Batch:
    """A batch of the model's own inputs, the same at every call, padded on the right wherever the model takes a mask."""
    config, generator = configuration(name, **changes), torch.Generator().manual_seed(1)
    batch = _INPUTS.get(config.model_type, _tokens)(config, generator)
    if config.is_encoder_decoder and name not in (
        "DetrForObjectDetection",
        "FastSpeech2ConformerModel",
        "SpeechT5ForTextToSpeech",
    ):
        batch |= {f"decoder_{key}": value for key, value in _tokens(config, generator, TARGET_LENGTHS).items()}
    return batch


def rows(name: str, **changes: Any) -> dict[int, Tensor]:
    """Which rows of the outputs for ``inputs(name)`` are real, (batch, rows), under the number of rows, which tells the encoder
    from the decoder; where a number is missing, all are real. Only real rows are anybody's promise: implementations differ in
    what a query sees that may attend to nothing."""
    batch = inputs(name, **changes)
    masks = [batch[key].bool() for key in ("attention_mask", "decoder_attention_mask") if key in batch]
    if "decoder_input_values" in batch:
        masks.append(masks[1].repeat_interleave(configuration(name, **changes).reduction_factor, dim=1))
    if "spectrogram_labels" in batch:
        masks.append((batch["spectrogram_labels"] != -100).any(dim=-1))
    if name in _CONVOLUTIONS:
        convolutions = _CONVOLUTIONS[name](configuration(name, **changes))
        masks[0] = keep(tuple(_shortened(int(length), convolutions) for length in masks[0].sum(-1)))
    if "pixel_mask" in batch:
        side = 64 if configuration(name, **changes).backbone_config.downsample_in_first_stage else 32
        height, width = batch["pixel_mask"].shape[1:]
        down, right = (torch.arange(-(-size // side)) * size // -(-size // side) for size in (height, width))
        masks = [batch["pixel_mask"][:, down][:, :, right].flatten(1).bool()]  # one row for every side x side pixels
    return {mask.shape[1]: mask for mask in masks}


def _shortened(length: int, convolutions: list[tuple[int, int, int]]) -> int:
    for kernel, stride, padding in convolutions:
        length = (length + 2 * padding - kernel) // stride + 1
    return length


def keep(lengths: tuple[int, ...]) -> Tensor:
    """Which places of a batch padded on the right are real: (batch, longest), True = real."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def _tokens(config: PreTrainedConfig, generator: torch.Generator, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    real = keep(lengths)
    ids = torch.randint(3, config.vocab_size - 1, real.shape, generator=generator)  # clear of the special tokens
    return {"input_ids": ids.where(real, getattr(config, "pad_token_id", None) or 0), "attention_mask": real.long()}


def _typed_tokens(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    return _tokens(config, generator) | {"token_type_ids": torch.randint(2, (3, max(LENGTHS)), generator=generator)}


def _images(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {"pixel_values": torch.randn(3, config.num_channels, height, width, generator=generator)}


def _padded_images(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    heights, widths = zip(*IMAGES, strict=True)
    real = keep(heights)[:, :, None] & keep(widths)[:, None, :]
    return {"pixel_values": torch.randn(3, 3, *real.shape[1:], generator=generator) * real[:, None], "pixel_mask": real.long()}


def _videos(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    picture = _images(config, generator)["pixel_values"].shape[1:]
    return {"pixel_values": torch.randn(3, config.num_frames, *picture, generator=generator)}


def _noisy_images(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    noisy = torch.randn(3, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    null = config.num_embeds_ada_norm  # the class that stands for none of them
    return {"hidden_states": noisy, "timestep": torch.tensor([0, 481, 999]), "class_labels": torch.tensor([6, 0, null])}


def _images_with_texts(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    batch = _tokens(config.text_config, generator)
    batch["input_ids"][range(3), [length - 1 for length in LENGTHS]] = config.text_config.eos_token_id  # the pooled place
    return batch | _images(config.vision_config, generator)


def _sound(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    real = keep(SAMPLES)
    return {"input_values": torch.randn(real.shape, generator=generator) * real, "attention_mask": real.long()}


def _frames(width: int, generator: torch.Generator) -> Batch:
    real = keep(FRAMES)
    features = torch.randn(*real.shape, width, generator=generator) * real[..., None]
    return {"input_features": features, "attention_mask": real.long()}


def _fixed_frames(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    shape = (3, config.num_mel_bins, 2 * config.max_source_positions)  # thirty seconds, whatever was said
    return {"input_features": torch.randn(shape, generator=generator)}


def _durations(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    """Texts, and how they are said."""
    batch, real = _tokens(config, generator), keep(LENGTHS)
    times = torch.randint(6, real.shape, generator=generator) * real
    times[:, 1] = 0  # there are letters that nobody hears
    said = keep(tuple(times.sum(dim=1).tolist()))[..., None]
    spectrogram = torch.randn(*said.shape[:2], config.num_mel_bins, generator=generator)
    pitch, energy = torch.randn(2, *real.shape, 1, generator=generator)
    labels = {"duration_labels": times, "pitch_labels": pitch, "energy_labels": energy}
    return batch | labels | {"spectrogram_labels": spectrogram.where(said, -100.0)} | _voice(config, generator)


def _voice(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    """Which voice and language, where there are several."""
    counts = {"speaker_ids": config.num_speakers, "lang_ids": config.num_languages}
    voice = {name: torch.randint(count, (3, 1), generator=generator) for name, count in counts.items() if count}
    if config.speaker_embed_dim:
        voice["speaker_embedding"] = torch.randn(3, config.speaker_embed_dim, generator=generator)
    return voice


def _spoken(config: PreTrainedConfig, generator: torch.Generator) -> Batch:
    """Texts, voices, and what was said so far."""
    batch, real = _tokens(config, generator), keep(TARGET_LENGTHS)
    said = torch.randn(*real.shape, config.num_mel_bins, generator=generator) * real[..., None]
    voices = torch.randn(3, config.speaker_embedding_dim, generator=generator)
    return batch | {"decoder_input_values": said, "decoder_attention_mask": real.long(), "speaker_embeddings": voices}


_INPUTS = {
    "bert": _typed_tokens,
    "vit": _images,
    "yolos": _images,
    "detr": _padded_images,
    "clip": _images_with_texts,
    "DiTTransformer2DModel": _noisy_images,
    "timesformer": _videos,
    "vivit": _videos,
    "videomae": _videos,
    "wav2vec2-conformer": _sound,
    "parakeet_ctc": lambda config, generator: _frames(config.encoder_config.num_mel_bins, generator),
    "speech_to_text": lambda config, generator: _frames(config.input_feat_per_channel * config.input_channels, generator),
    "whisper": _fixed_frames,
    "speecht5": _spoken,
    "fastspeech2_conformer": _durations,
}

# Kernel, stride and padding of what shortens sound before the encoder.
_CONVOLUTIONS = {
    "Wav2Vec2ConformerForCTC": lambda config: [
        (kernel, stride, 0) for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True)
    ],
    "ParakeetForCTC": lambda config: [(3, 2, 1)] * (config.encoder_config.subsampling_factor.bit_length() - 1),
    "Speech2TextForConditionalGeneration": lambda config: [(kernel, 2, kernel // 2) for kernel in config.conv_kernel_sizes],
}
