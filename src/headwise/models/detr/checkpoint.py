"""DETR's published names, in two layouts: with the reference's own ResNet below, or with timm's."""

from torch import nn

from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import FAIRSEQ_LAYERS, Keys, Stored
from headwise.models.detr.config import DetrConfig
from headwise.models.detr.model import DetrForObjectDetection


class DetrKeys(Keys):
    """A table to which the model's configuration adds the rows of the backbone."""

    def places(self, model: nn.Module) -> dict[str, tuple[tuple[str, ...], Stored]]:
        config: DetrConfig = model.config  # type: ignore[assignment]
        return Keys({**self.rows, **backbone(config)}).places(model)


def backbone(config: DetrConfig) -> dict[str, str]:
    """The rows of the ResNet, in the layout that the configuration speaks of."""
    if config.timm:
        names = {"stem": ("conv1", "bn1")}
        for stage in range(len(config.resnet.depths)):
            block = f"layer{stage + 1}.{{i}}"
            names[f"stages.{stage}.{{i}}.shortcut"] = f"{block}.downsample.0", f"{block}.downsample.1"
            for j in range(3):
                names[f"stages.{stage}.{{i}}.convolutions.{j}"] = f"{block}.conv{j + 1}", f"{block}.bn{j + 1}"
    else:
        parts = {"stem": "embedder.embedder"}
        for stage in range(len(config.resnet.depths)):
            block = f"encoder.stages.{stage}.layers.{{i}}"
            parts[f"stages.{stage}.{{i}}.shortcut"] = f"{block}.shortcut"
            parts |= {f"stages.{stage}.{{i}}.convolutions.{j}": f"{block}.layer.{j}" for j in range(3)}
        names = {ours: (f"{part}.convolution", f"{part}.normalization") for ours, part in parts.items()}
    return {
        f"model.backbone.conv_encoder.model.{published}.{{leaf}}": f"backbone.{ours}.{kind}.{{leaf}}"
        for ours, both in names.items()
        for published, kind in zip(both, ("convolution", "norm"), strict=True)
    }


KEYS = DetrKeys(
    rows={
        "model.input_projection.{leaf}": "input_projection.{leaf}",
        "model.position_embedding.row_embeddings.weight": "position.row.weight",
        "model.position_embedding.column_embeddings.weight": "position.column.weight",
        "model.query_position_embeddings.weight": "query_position.weight",
        **FAIRSEQ_LAYERS,
        "model.decoder.layernorm.{leaf}": "decoder.norm.{leaf}",
        "class_labels_classifier.{leaf}": "class_labels_classifier.{leaf}",
        "bbox_predictor.{leaf}": "bbox_predictor.{leaf}",
    },
    prefix="model.",
    ignored=(r"model\.backbone\..+\.num_batches_tracked",),  # of batch norms that were not yet frozen
    head=(r"class_labels_classifier\.", r"bbox_predictor\."),
)

FORMAT = Format("detr", DetrConfig, {"DetrForObjectDetection": DetrForObjectDetection}, KEYS)
