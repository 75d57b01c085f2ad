"""BERT's published names, under three heads."""

from headwise.models.bert.config import BertConfig
from headwise.models.bert.model import BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification
from headwise.models.checkpoint.format import Format
from headwise.models.checkpoint.keys import Keys

# The body, and the head that predicts tokens, as Oscar has them too.
BODY = {
    "bert.embeddings.word_embeddings.weight": "bert.embedding.weight",
    "bert.embeddings.position_embeddings.weight": "bert.position_embedding.weight",
    "bert.embeddings.token_type_embeddings.weight": "bert.type_embedding.weight",
    "bert.embeddings.LayerNorm.{leaf}": "bert.norm.{leaf}",
    "bert.encoder.layer.{i}.attention.self.query.{leaf}": "bert.encoder.layers.{i}.self_attention.q_proj.{leaf}",
    "bert.encoder.layer.{i}.attention.self.key.{leaf}": "bert.encoder.layers.{i}.self_attention.k_proj.{leaf}",
    "bert.encoder.layer.{i}.attention.self.value.{leaf}": "bert.encoder.layers.{i}.self_attention.v_proj.{leaf}",
    "bert.encoder.layer.{i}.attention.output.dense.{leaf}": "bert.encoder.layers.{i}.self_attention.out_proj.{leaf}",
    "bert.encoder.layer.{i}.attention.output.LayerNorm.{leaf}": "bert.encoder.layers.{i}.residuals.0.norm.{leaf}",
    "bert.encoder.layer.{i}.intermediate.dense.{leaf}": "bert.encoder.layers.{i}.feed_forward.expand.{leaf}",
    "bert.encoder.layer.{i}.output.dense.{leaf}": "bert.encoder.layers.{i}.feed_forward.contract.{leaf}",
    "bert.encoder.layer.{i}.output.LayerNorm.{leaf}": "bert.encoder.layers.{i}.residuals.1.norm.{leaf}",
}
PREDICTIONS = {
    "cls.predictions.transform.dense.{leaf}": "head.transform.{leaf}",
    "cls.predictions.transform.LayerNorm.{leaf}": "head.norm.{leaf}",
    "cls.predictions.decoder.weight": "head.lm_head.weight",
    "cls.predictions.bias": "head.bias",
}
GAMMA_AND_BETA = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # before 2019

KEYS = Keys(
    rows=BODY
    | PREDICTIONS
    | {
        "bert.pooler.dense.{leaf}": "pooler.{leaf}",
        "qa_outputs.{leaf}": "qa_outputs.{leaf}",
        "classifier.{leaf}": "classifier.{leaf}",
    },
    tied={
        "cls.predictions.decoder.weight": ("bert.embeddings.word_embeddings.weight",),
        "cls.predictions.decoder.bias": ("cls.predictions.bias",),
    },
    ignored=(r"(bert\.)?embeddings\.position_ids", r"cls\.seq_relationship\..+", r"bert\.pooler\..+"),
    renamed=GAMMA_AND_BETA,
    prefix="bert.",
    head=(r"qa_outputs\.", r"classifier\.", r"cls\.", r"bert\.pooler\."),
)

FORMAT = Format(
    "bert",
    BertConfig,
    {
        "BertForQuestionAnswering": BertForQuestionAnswering,
        "BertForMaskedLM": BertForMaskedLM,
        "BertForPreTraining": BertForMaskedLM,
        "BertForSequenceClassification": BertForSequenceClassification,
    },
    KEYS,
)
