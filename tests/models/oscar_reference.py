"""Oscar once more, from its specification alone: functions of a state dict under its published names, in plain torch.

There is no class of Oscar in the reference library to compare with. A mask is what the original adds to the scores: -10,000
where one may not attend, so that a row without keys spreads its weight; only real rows are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Drop = Callable[[Tensor, float], Tensor]


def keep_all(x: Tensor, rate: float) -> Tensor:
    return x


class Reference:
    """config: the entries of config.json; drop: what dropout does."""

    def __init__(self, weights: Weights, config: dict, drop: Drop = keep_all) -> None:
        self.w, self.config, self.drop, self.attentions = weights, config, drop, list[Tensor]()

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, eps: float = 1e-12) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def hidden(self, input_ids, token_type_ids, attention_mask, img_feats=None, position_ids=None) -> Tensor:
        rate, name = self.config["hidden_dropout_prob"], "bert.embeddings"
        positions = torch.arange(input_ids.shape[1]) if position_ids is None else position_ids
        x = self.w[f"{name}.word_embeddings.weight"][input_ids] + self.w[f"{name}.position_embeddings.weight"][positions]
        x = x + self.w[f"{name}.token_type_embeddings.weight"][token_type_ids]
        x = self.drop(self.norm(x, f"{name}.LayerNorm"), rate)
        if img_feats is not None:
            image = self.linear(img_feats, "bert.img_embedding")
            if self.config.get("use_img_layernorm"):
                image = self.norm(image, "bert.LayerNorm", self.config["img_layer_norm_eps"])
            x = torch.cat([x, self.drop(image, rate)], dim=1)
        added = (1 - attention_mask.to(x.dtype)) * -10000.0
        added = added[:, None, None, :] if added.dim() == 2 else added[:, None]
        for i in range(self.config["num_hidden_layers"]):
            x = self.layer(x, added, f"bert.encoder.layer.{i}")
        return x

    def layer(self, x: Tensor, added: Tensor, name: str) -> Tensor:
        heads, rate = self.config["num_attention_heads"], self.config["hidden_dropout_prob"]
        q, k, v = (
            self.linear(x, f"{name}.attention.self.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]) + added, dim=-1)
        self.attentions.append(weights.detach())
        seen = self.drop(weights, self.config["attention_probs_dropout_prob"]) @ v
        out = self.linear(seen.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
        x = self.norm(x + self.drop(out, rate), f"{name}.attention.output.LayerNorm")
        wide = self.gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.norm(x + self.drop(self.linear(wide, f"{name}.output.dense"), rate), f"{name}.output.LayerNorm")

    def gelu(self, x: Tensor) -> Tensor:
        return x / 2 * (1 + torch.erf(x / math.sqrt(2)))

    def pooled(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden[:, 0], "bert.pooler.dense").tanh()

    def scores(self, hidden: Tensor) -> Tensor:
        """Of every token of the vocabulary."""
        x = self.norm(self.gelu(self.linear(hidden, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
        return x @ self.w["cls.predictions.decoder.weight"].T + self.w["cls.predictions.bias"]

    def classify(self, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        x = self.drop(self.pooled(self.hidden(**inputs)), self.config["hidden_dropout_prob"])
        if self.config["classifier"] == "mlp":
            logits = self.linear(self.linear(x, "classifier.0").clamp(min=0), "classifier.2")
        else:
            logits = self.linear(x, "classifier")
        log_p, kind = logits - logits.logsumexp(-1, keepdim=True), self.config["loss_type"]
        if logits.shape[1] == 1:
            return logits, (logits[:, 0] - labels).square().mean()
        if kind == "kl":
            return logits, (torch.xlogy(labels, labels) - labels * log_p).sum() / len(labels)
        if kind == "bce":
            yes, no = torch.sigmoid(logits), torch.sigmoid(-logits)
            return logits, -(labels * yes.log() + (1 - labels) * no.log()).mean() * labels.shape[1]
        return logits, -log_p[torch.arange(len(labels)), labels].mean()

    def caption(self, masked_pos: Tensor, masked_ids: Tensor, worst: bool = True, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all masked tokens of the batch in one row, as the original has them. worst: whether they are left out."""
        hidden = self.hidden(**inputs)[:, : masked_pos.shape[1]]
        logits, tokens = self.scores(hidden[masked_pos == 1]), masked_ids[masked_ids != 0]
        smoothing, log_p = self.config["label_smoothing"], logits - logits.logsumexp(-1, keepdim=True)
        target = torch.full_like(logits, smoothing / (logits.shape[1] - 1))
        target[torch.arange(len(tokens)), tokens] = 1 - smoothing
        losses = (torch.xlogy(target, target) - target * log_p).sum(-1)
        if worst and self.config["drop_worst_ratio"] > 0:
            losses = losses.sort().values[: int(len(losses) * (1 - self.config["drop_worst_ratio"]))]
        return logits, losses.mean()

    def pretrain(
        self, masked_lm_labels: Tensor, next_sentence_label: Tensor, **inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.hidden(**inputs)
        tokens, together = self.scores(hidden), self.linear(self.pooled(hidden), "cls.seq_relationship")
        loss = torch.zeros(())
        for logits, labels in ((tokens, masked_lm_labels), (together, next_sentence_label)):
            log_p = logits - logits.logsumexp(-1, keepdim=True)
            asked = labels != -1
            loss = loss - log_p[asked].gather(-1, labels[asked][:, None]).mean()
        return tokens, together, loss
