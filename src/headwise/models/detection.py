"""Detectors as those who predict a set (DETR, Carion et al. 2020): queries, each one box and one class or no object. The
matching of queries to objects, the loss of what is matched, and what is read off in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from headwise.models.checkpoint.config import Labelled
from headwise.models.interface import described, exported


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(Labelled):
    """What the config.json of every detector has.

    class_cost, bbox_cost, giou_cost: weights of the matching. bbox_loss_coefficient, giou_loss_coefficient: weights of the
    boxes' losses beside that of the classes, 1. eos_coefficient: how much a query without an object counts in the latter.
    """

    # int: the reference reads whole numbers alone here.
    class_cost: int | float = 1
    bbox_cost: int | float = 5
    giou_cost: int | float = 2
    bbox_loss_coefficient: int | float = 5
    giou_loss_coefficient: int | float = 2
    eos_coefficient: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_cost == self.bbox_cost == self.giou_cost == 0:
            raise ValueError("class_cost, bbox_cost, giou_cost: expected one that is not 0, or nothing can be matched")
        if self.eos_coefficient < 0:
            raise ValueError(f"eos_coefficient: expected a number from 0; got {self.eos_coefficient}")


@dataclass
class Detections:
    """What was found in one picture: scores (n,), labels (n,), boxes (n, 4), each x0, y0, x1, y1 in pixels."""

    scores: Tensor
    labels: Tensor
    boxes: Tensor


@exported
@dataclass
class DetectionOutput:
    """logits (batch, queries, classes + 1), the last of them for "no object"; pred_boxes (batch, queries, 4): centre x and y,
    width, height, as parts of the picture (of what it is without its padding, in DETR); the hidden states they are read from.

    loss, where labels were given; loss_dict: its parts, before they are weighted, and cardinality_error, by how many the
    queries with an object miss the number of objects (no part of the loss).
    """

    logits: Tensor
    pred_boxes: Tensor
    last_hidden_state: Tensor
    encoder_last_hidden_state: Tensor | None = None
    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None

    @torch.no_grad()
    def detections(self, sizes: Tensor | Sequence[Sequence[int]] | None = None, threshold: float = 0.5) -> list[Detections]:
        """What is in each picture: of every query the most probable object, p = softmax(logits), where p > threshold.

        sizes: (height, width) of every picture as it was before it was resized and padded (PIL's .size is turned round: width,
        height); None leaves boxes as parts of the picture. Boxes that reach beyond the picture are left as they are.
        """
        sizes = [(1, 1)] * len(self.logits) if sizes is None else sizes
        try:
            heights_widths = torch.as_tensor(sizes, device=self.logits.device)
        except (TypeError, ValueError, RuntimeError):
            heights_widths = torch.empty(0)
        if heights_widths.shape != (len(self.logits), 2):
            raise ValueError(f"sizes: expected (height, width) of each of the {len(self.logits)} pictures; got {sizes!r}")
        if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold: expected a number in [0, 1]; got {threshold!r}")
        scores, labels = _probabilities(self.logits)[..., :-1].max(-1)
        boxes = corners(_wide(self.pred_boxes)) * heights_widths.flip(-1).repeat(1, 2)[:, None]
        kept = scores > threshold
        return [Detections(*(x[i][kept[i]] for x in (scores, labels, boxes))) for i in range(len(kept))]


class MLP(nn.Module):
    """W_3 relu(W_2 relu(W_1 x + b_1) + b_2) + b_3: the head that reads boxes (and classes, in YOLOS) off hidden states."""

    def __init__(self, embed_dim: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(embed_dim, width) for width in (embed_dim, embed_dim, outputs))

    def forward(self, x: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch outputs"]:
        first, second, last = self.layers
        return last(second(first(x).relu()).relu())


def corners(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Centre x and y, width, height -> x0, y0, x1, y1."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def giou(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*batch"]:
    """Generalised intersection over union (Rezatofighi et al. 2019) of boxes given by their corners, which broadcast:

    |A n B| / |A u B| - (|C| - |A u B|) / |C|, C the smallest box around both: 1 for equal boxes, to -1 far apart.
    """
    overlap = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    around = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - overlap
    return overlap / union - (around - union) / around


@torch.no_grad()
def match(
    config: DetectionConfig,
    logits: Float[Tensor, "queries classes"],
    boxes: Float[Tensor, "queries 4"],
    classes: Int[Tensor, " objects"],
    wanted: Float[Tensor, "objects 4"],
) -> tuple[Int[Tensor, " matched"], Int[Tensor, " matched"]]:
    """Which query is to find which object of a picture: the assignment, one to one, of the smallest sum of

        cost(q, o) = -class_cost p_q(class of o) + bbox_cost |box_q - box_o|_1 - giou_cost giou(box_q, box_o)

    (Hungarian method). Returns queries, in order, and their objects; some queries find nothing, and where there are more
    objects than queries some objects are left out.
    """
    from scipy.optimize import linear_sum_assignment  # which takes its time to import, and is needed in training alone

    logits, boxes, wanted = _wide(logits), _wide(boxes), _wide(wanted)
    cost = -config.class_cost * _probabilities(logits)[:, classes]
    cost = cost + config.bbox_cost * (boxes[:, None] - wanted).abs().sum(-1)
    cost = cost - config.giou_cost * giou(corners(boxes)[:, None], corners(wanted))
    worst = torch.finfo(cost.dtype).max  # of a model that has diverged: its loss says so, better than an error from here
    queries, objects = linear_sum_assignment(cost.nan_to_num(worst, worst, worst).cpu().numpy())
    return torch.as_tensor(queries, device=logits.device), torch.as_tensor(objects, device=logits.device)


def set_loss(
    config: DetectionConfig,
    logits: Float[Tensor, "batch queries classes"],
    boxes: Float[Tensor, "batch queries 4"],
    labels: Sequence[Mapping[str, Tensor]],
    auxiliary: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a set that has been matched, and its parts by their published names:

        loss    = loss_ce + bbox_loss_coefficient loss_bbox + giou_loss_coefficient loss_giou
        loss_ce = the weighted mean over all queries of -log p(class), those without an object weighing eos_coefficient
        loss_bbox = sum |box_q - box_o|_1 / n,    loss_giou = sum (1 - giou(box_q, box_o)) / n,  over the matched pairs,

    n the number of objects in the batch, at least 1; in at least float32.

    labels: a mapping per picture: "class_labels" (n,) integers and "boxes" (n, 4), centre x and y, width, height, as parts of
    the picture; n may be 0. auxiliary: logits and boxes of earlier layers, which are matched for themselves and whose losses
    are added; their parts' names end in _0, _1, ... Raises ValueError where labels are wrong.
    """
    objects = _objects(labels, logits, boxes)
    loss, parts = _matched(config, logits, boxes, objects)
    for layer, predicted in enumerate(auxiliary):
        more, own = _matched(config, *predicted, objects)
        loss = loss + more
        parts |= {f"{name}_{layer}": part for name, part in own.items()}
    return loss, parts


def _matched(
    config: DetectionConfig, logits: Tensor, boxes: Tensor, objects: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one layer's predictions, and its parts."""
    logits, boxes, none = _wide(logits), _wide(boxes), logits.shape[-1] - 1
    target = torch.full(logits.shape[:2], none, device=logits.device)
    found, wanted = [], []
    for i, (classes, places) in enumerate(objects):
        queries, chosen = match(config, logits[i], boxes[i], classes, places)
        target[i, queries] = classes[chosen]
        found.append(boxes[i, queries])
        wanted.append(places[chosen])
    weight = logits.new_ones(none + 1)
    weight[none] = config.eos_coefficient
    ours, theirs = torch.cat(found), torch.cat(wanted).to(boxes.dtype)
    lengths = torch.tensor([len(classes) for classes, _ in objects], device=logits.device)
    count = max(1, int(lengths.sum()))
    parts = {
        "loss_ce": functional.cross_entropy(logits.flatten(0, 1), target.flatten(), weight),
        "loss_bbox": (ours - theirs).abs().sum() / count,
        "loss_giou": (1 - giou(corners(ours), corners(theirs))).sum() / count,
        "cardinality_error": ((logits.argmax(-1) != none).sum(1) - lengths).abs().to(logits.dtype).mean(),
    }
    loss = parts["loss_ce"] + config.bbox_loss_coefficient * parts["loss_bbox"]
    return loss + config.giou_loss_coefficient * parts["loss_giou"], parts


def _objects(labels: Sequence[Mapping[str, Tensor]], logits: Tensor, boxes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Classes and boxes of every picture, where the predictions lie; ValueError where labels are wrong."""
    several = isinstance(labels, list | tuple)
    if not several or len(labels) != len(logits):
        got = f"{len(labels)}" if several else type(labels).__name__
        raise ValueError(
            f'labels: expected a list of {len(logits)} mappings with "class_labels" and "boxes", one per picture; got {got}'
        )
    found = []
    for i, label in enumerate(labels):
        held = label if isinstance(label, Mapping) else {}
        missing = [name for name in ("class_labels", "boxes") if not isinstance(held.get(name), Tensor)]
        if missing:
            got = {name: described(x) for name, x in held.items()}
            raise ValueError(f'labels[{i}]: expected tensors "class_labels" and "boxes"; got {got or described(label)}')
        classes, places, none = label["class_labels"], label["boxes"], logits.shape[-1] - 1
        if classes.dim() != 1 or classes.is_floating_point() or classes.dtype == torch.bool:
            raise ValueError(
                f"labels[{i}]['class_labels']: expected integers (objects,); got {classes.dtype} {tuple(classes.shape)}"
            )
        if places.shape != (len(classes), 4) or not places.is_floating_point():
            raise ValueError(
                f"labels[{i}]['boxes']: expected floats ({len(classes)}, 4), a box for each of the class_labels; "
                f"got {places.dtype} {tuple(places.shape)}"
            )
        if bool(((classes < 0) | (classes >= none)).any()):
            raise ValueError(f"labels[{i}]['class_labels']: expected classes from 0 to {none - 1}; got {classes.tolist()}")
        wrong = ~((places >= 0) & (places <= 1)).all(-1) | ~(places[:, 2:] > 0).all(-1)
        if bool(wrong.any()):
            raise ValueError(
                f"labels[{i}]['boxes']: expected centre x and y, width and height as parts of the picture, each from 0 to 1 "
                f"and no side 0; got {[round(x, 4) for x in places[wrong][0].tolist()]}"
            )
        found.append((classes.to(boxes.device, torch.long), _wide(places.to(boxes.device))))
    return found


def _probabilities(logits: Tensor) -> Tensor:
    return _wide(logits).log_softmax(-1).exp()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).clamp(min=0).unbind(-1)
    return width * height
