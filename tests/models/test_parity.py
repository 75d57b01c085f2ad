"""Every system of ours is the published one: outputs, losses, gradients, attention weights, generated tokens, both ways."""

import pytest
import tiny
import torch
from parity import Pair, System

import headwise as hw

OF_DECODER = {"attentions": "decoder.layers.{}.self_attention"}
OF_BERT = {"attentions": "bert.encoder.layers.{}.self_attention"}
OF_STACKS = {f"{side}_attentions": f"{side}.layers.{{}}.self_attention" for side in ("encoder", "decoder")}
OF_BOTH = {
    "encoder_attentions": "encoder.layers.{}.self_attention",
    "decoder_attentions": "decoder.layers.{}.self_attention",
    "cross_attentions": "decoder.layers.{}.cross_attention",
}

SOURCE = torch.tensor([[5, 6, 7, 8, -100, 9, 10], [11, 12, 13, -100, 14, -100, -100], [15, -100, 16, *[-100] * 4]])
TARGET = torch.tensor([[21, 22, 23, 24, 25, 0], [26, -100, 27, 28, 0, -100], [29, 0, *[-100] * 4]])
ANSWER = {"start_positions": torch.tensor([3, 4, 0]), "end_positions": torch.tensor([5, 9, 2])}  # one past the end
OF_VISION = {"attentions": "encoder.layers.{}.self_attention"}
OF_SPACE = {"attentions": "encoder.layers.{}.spatial_attention"}
OF_SOUND = OF_VISION
TIME = {"timesformer.encoder.layer.{}.temporal_attention.attention.attn_drop.forward": "encoder.layers.{}.temporal_attention"}
SCORES = {"transformer_blocks.{}.attn1.get_attention_scores": "blocks.{}.self_attention"}


def noise_loss(model, hidden_states, timestep, class_labels):
    return hw.diffusion.loss(model, hidden_states.clamp(-1, 1), class_labels, timestep=timestep, label_dropout=0.0)


def per_label(model, labels, **inputs):
    """A sum over a batch, of the order of other losses: for such gradients the tolerance is meant."""
    return model(labels=labels, **inputs).loss / (labels >= 0).sum()


COLOURS = {"labels": SOURCE.clamp(max=15)}
LETTERS, SPECTRA = {"labels": SOURCE}, tiny.TINY["ParakeetForCTC"][1]["encoder_config"]
CLASSES, NUMBERS = {"labels": torch.tensor([4, 0, 3])}, {"labels": torch.tensor([0.5, -1.0, 2.0])}

OBJECTS = {
    "labels": [
        {"class_labels": torch.tensor([1, 0]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.5], [0.6, 0.5, 0.3, 0.1]])},
        {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)},
        {"class_labels": torch.tensor([0, 1, 0, 1, 0, 1, 0]), "boxes": torch.linspace(0.1, 0.9, 28).view(7, 4)},
    ]
}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12, 16, 20]}
BOTTLENECK = RESNET | {"layer_type": "bottleneck", "depths": [2, 1, 1, 2], "out_features": ["stage2", "stage4"]}
EARLY = RESNET | {"layer_type": "bottleneck", "depths": [1, 2, 1, 1], "out_indices": [4], "hidden_act": "silu"}
EARLY |= {"downsample_in_first_stage": True, "downsample_in_bottleneck": True}
COSTS = {"class_cost": 3, "bbox_cost": 1, "giou_cost": 4, "bbox_loss_coefficient": 2, "giou_loss_coefficient": 3}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 8}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def speech(frames):
    """So many frames a step, every text on a tone of its own; the second is cut off within a step."""
    real = tiny.keep(tuple(frames * steps - (steps == 4) for steps in tiny.TARGET_LENGTHS))[..., None]
    tones = 3 * torch.randn(3, 1, 16, generator=torch.Generator().manual_seed(2))
    return {"labels": tones.where(real, -100.0)}


# A further system is a row here, beside its folder and its row in models/checkpoint.py.
SYSTEMS = [
    System("MarianMTModel", {"labels": TARGET}, OF_BOTH),
    System(
        "MarianMTModel",
        {"labels": TARGET},
        OF_BOTH,
        {"scale_embedding": True, "activation_function": "swish", "decoder_layers": 1},
    ),
    System(
        "MarianMTModel",
        {"labels": TARGET},
        OF_BOTH,
        {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "decoder_attention_heads": 2},
    ),
    System("T5ForConditionalGeneration", {"labels": TARGET}, OF_BOTH),
    System("T5ForConditionalGeneration", {"labels": TARGET}, OF_BOTH, {"feed_forward_proj": "gated-gelu"}),
    System(
        "T5ForConditionalGeneration",
        {"labels": TARGET},
        OF_BOTH,
        {"num_decoder_layers": 1, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 5, "d_kv": 6},
    ),
    System("BertForQuestionAnswering", ANSWER, OF_BERT),
    System("BertForMaskedLM", {"labels": SOURCE}, OF_BERT),
    System("BertForMaskedLM", {"labels": SOURCE}, OF_BERT, {"hidden_act": "gelu_new", "type_vocab_size": 3}),
    System("BertForSequenceClassification", {"labels": torch.tensor([4, 0, 3])}, OF_BERT),
    System("BertForSequenceClassification", {"labels": torch.tensor([0.5, -1.0, 2.0])}, OF_BERT, {"num_labels": 1}),
    System("BertForSequenceClassification", {"labels": (torch.arange(15).view(3, 5) % 2).float()}, OF_BERT),
    System("GPT2LMHeadModel", {"labels": SOURCE}, OF_DECODER),
    System("GPT2LMHeadModel", {"labels": SOURCE}, OF_DECODER, {"scale_attn_by_inverse_layer_idx": True, "n_inner": 50}),
    System("GPT2LMHeadModel", {"labels": SOURCE}, OF_DECODER, {"scale_attn_weights": False, "activation_function": "relu"}),
    System("LlamaForCausalLM", {"labels": SOURCE}, OF_DECODER),
    System("LlamaForCausalLM", {"labels": SOURCE}, OF_DECODER, {"num_key_value_heads": 1, "head_dim": 10}),
    System(
        "LlamaForCausalLM",
        {"labels": SOURCE},
        OF_DECODER,
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    System("LlamaForCausalLM", {"labels": SOURCE}, OF_DECODER, {"rope_parameters": YARN}),
    System(
        "LlamaForCausalLM",
        {"labels": SOURCE},
        OF_DECODER,
        {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 16}},
    ),
    System("ViTForImageClassification", CLASSES, OF_VISION),
    System(
        "ViTForImageClassification",
        NUMBERS,
        OF_VISION,
        {"image_size": [16, 48], "patch_size": [4, 8], "qkv_bias": False, "num_labels": 1, "hidden_act": "quick_gelu"},
    ),
    System("YolosForObjectDetection", OBJECTS, OF_VISION),
    System(
        "YolosForObjectDetection",
        OBJECTS,
        OF_VISION,
        {"use_mid_position_embeddings": False, "qkv_bias": False, "num_labels": 4, "image_size": [24, 40], **COSTS},
    ),
    System(
        "YolosForObjectDetection", OBJECTS, OF_VISION, {"num_hidden_layers": 3, "hidden_act": "relu", "eos_coefficient": 0.4}
    ),
    System("YolosForObjectDetection", OBJECTS, OF_VISION, {"num_hidden_layers": 1, "num_detection_tokens": 9}),
    System("DetrForObjectDetection", OBJECTS, OF_BOTH),
    System("DetrForObjectDetection", OBJECTS, OF_BOTH, {"backbone_config": BOTTLENECK, "num_labels": 4, **COSTS}),
    System("DetrForObjectDetection", OBJECTS, OF_BOTH, {"backbone_config": EARLY, "num_queries": 9, "decoder_layers": 1}),
    System("DetrForObjectDetection", OBJECTS, OF_BOTH, {"auxiliary_loss": True, "decoder_layers": 3}),
    System(
        "DetrForObjectDetection",
        OBJECTS,
        OF_BOTH,
        {"position_embedding_type": "learned", "activation_function": "gelu", "decoder_attention_heads": 2},
    ),
    System("VideoMAEForVideoClassification", CLASSES, OF_VISION),
    System("VideoMAEForVideoClassification", CLASSES, OF_VISION, {"use_mean_pooling": False, "qv_bias": False}),
    System(
        "VideoMAEForVideoClassification", CLASSES, OF_VISION, {"image_size": [16, 24], "tubelet_size": 1, "num_channels": 1}
    ),
    System("TimesformerForVideoClassification", CLASSES, OF_SPACE, kept=TIME, undrawn=("drop_path_rate",)),
    System("TimesformerForVideoClassification", CLASSES, OF_SPACE, {"qkv_bias": False}, TIME, ("drop_path_rate",)),
    System(
        "TimesformerForVideoClassification",
        CLASSES,
        OF_VISION,
        {"attention_type": "joint_space_time"},
        undrawn=("drop_path_rate",),
    ),
    System("ImageGPTForCausalImageModeling", COLOURS, OF_DECODER),
    System("DiTTransformer2DModel", {}, {}, {}, SCORES, loss=noise_loss),
    System("DiTTransformer2DModel", {}, {}, {"out_channels": None, "patch_size": 5, "num_layers": 1}, SCORES, loss=noise_loss),
    System("DiTTransformer2DModel", {}, {}, {"attention_bias": False, "norm_eps": 0.5}, SCORES, loss=noise_loss),
    System(
        "DiTTransformer2DModel",
        {},
        {},
        {"activation_fn": "gelu", "norm_elementwise_affine": True},
        SCORES,
        loss=noise_loss,
    ),
    System(
        "ImageGPTForCausalImageModeling",
        COLOURS,
        OF_DECODER,
        {"scale_attn_by_inverse_layer_idx": True, "n_inner": 50},
    ),
    System("Wav2Vec2ConformerForCTC", LETTERS, OF_SOUND, loss=per_label),
    System(
        "Wav2Vec2ConformerForCTC",
        LETTERS,
        OF_SOUND,
        {"position_embeddings_type": "rotary", "feat_extract_norm": "layer", "conv_bias": True, "hidden_act": "swish"}
        | {"rotary_embedding_base": 100},
        loss=per_label,
    ),
    System(
        "Wav2Vec2ConformerForCTC",
        LETTERS,
        OF_SOUND,
        {"position_embeddings_type": None, "feat_extract_activation": "relu", "layer_norm_eps": 0.5}
        | {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True, "pad_token_id": 31},
    ),
    System("ParakeetForCTC", LETTERS, OF_SOUND),
    System(
        "ParakeetForCTC",
        LETTERS,
        OF_SOUND,
        {"encoder_config": SPECTRA | {"attention_bias": False, "convolution_bias": False, "scale_input": False}},
    ),
    System(
        "ParakeetForCTC",
        LETTERS,
        OF_SOUND,
        {"encoder_config": SPECTRA | {"subsampling_factor": 4, "hidden_act": "relu", "num_mel_bins": 12}}
        | {"ctc_loss_reduction": "sum", "ctc_zero_infinity": False, "pad_token_id": 0},
        loss=per_label,
    ),
    System("Speech2TextForConditionalGeneration", {"labels": TARGET}, OF_BOTH),
    System(
        "Speech2TextForConditionalGeneration",
        {"labels": TARGET},
        OF_BOTH,
        {"scale_embedding": False, "input_channels": 2, "activation_function": "gelu", "decoder_layers": 1},
    ),
    System(
        "Speech2TextForConditionalGeneration",
        {"labels": TARGET},
        OF_BOTH,
        {"num_conv_layers": 3, "conv_kernel_sizes": (3, 5, 7), "conv_channels": 24, "tie_word_embeddings": False},
    ),
    System(
        "Speech2TextForConditionalGeneration", {"labels": TARGET}, OF_BOTH, {"num_conv_layers": 1, "conv_kernel_sizes": (3,)}
    ),
    System("WhisperForConditionalGeneration", {"labels": TARGET}, OF_BOTH),
    System(
        "WhisperForConditionalGeneration",
        {"labels": TARGET},
        OF_BOTH,
        {"decoder_layers": 1, "decoder_attention_heads": 2, "activation_function": "relu", "tie_word_embeddings": False},
    ),
    System("WhisperForConditionalGeneration", {"labels": TARGET}, OF_BOTH, {"max_source_positions": 17, "num_mel_bins": 9}),
    System("SpeechT5ForTextToSpeech", speech(2), OF_BOTH),
    System(
        "SpeechT5ForTextToSpeech",
        speech(3),
        OF_BOTH,
        {"reduction_factor": 3, "use_guided_attention_loss": False, "encoder_max_relative_position": 3, "hidden_act": "relu"},
    ),
    System(
        "SpeechT5ForTextToSpeech",
        speech(1),
        OF_BOTH,
        {"reduction_factor": 1, "decoder_layers": 1, "decoder_attention_heads": 2, "layer_norm_eps": 0.1}
        | {"guided_attention_loss_num_heads": 1, "guided_attention_loss_sigma": 0.3, "guided_attention_loss_scale": 5.0}
        | {"speech_decoder_prenet_layers": 3, "speech_decoder_postnet_layers": 2, "speech_decoder_postnet_kernel": 3},
    ),
    System("FastSpeech2ConformerModel", {}, OF_STACKS),
    System(
        "FastSpeech2ConformerModel",
        {},
        OF_STACKS,
        {"encoder_normalize_before": True, "use_macaron_style_in_conformer": False, "encoder_linear_units": 24}
        | {"num_speakers": 3, "num_languages": 5},
    ),
    System(
        "FastSpeech2ConformerModel",
        {},
        OF_STACKS,
        {"decoder_normalize_before": True, "use_masking": False, "use_weighted_masking": True, "speaker_embed_dim": 11},
    ),
    System(
        "FastSpeech2ConformerModel",
        {},
        OF_STACKS,
        {"use_masking": False, "convolution_bias": False, "decoder_layers": 1, "encoder_kernel_size": 3}
        | {"stop_gradient_from_pitch_predictor": False, "stop_gradient_from_energy_predictor": True},
    ),
    System(
        "FastSpeech2ConformerModel",
        {},
        OF_STACKS,
        {"pitch_embed_kernel_size": 3, "energy_embed_kernel_size": 5, "positionwise_conv_kernel_size": 1}
        | {"pitch_predictor_layers": 1, "speech_decoder_postnet_layers": 2, "speech_decoder_postnet_kernel": 3},
    ),
]


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_parity(system, tmp_path):
    pair = Pair(system, tmp_path)
    pair.outputs_are_equal()
    pair.weights_are_equal()
    pair.generated_tokens_are_equal()
    pair.training_is_equal()
    pair.goes_back()
    pair.gradients_are_equal()
