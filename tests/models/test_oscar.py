"""Oscar is what its specification says: compared with a second implementation (oscar_reference.py), and with BERT."""

import json
import pickle

import pytest
import tiny
import torch
from oscar_reference import Reference
from safetensors.torch import save_file
from torch.nn import functional

import headwise as hw
from headwise.models.checkpoint.folder import CheckpointError
from headwise.models.oscar import (
    BertForImageCaptioning,
    BertImgForPreTraining,
    ImageBertForSequenceClassification,
    OscarConfig,
)

EXACT = {"atol": 1e-9, "rtol": 0.0}
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "img_feature_dim": 13,
}
CLASSES = {"id2label": {i: f"LABEL_{i}" for i in range(5)}}
NORM = {"use_img_layernorm": 1, "img_layer_norm_eps": 0.5}
ROWS = [
    (ImageBertForSequenceClassification, CLASSES),
    (ImageBertForSequenceClassification, CLASSES | NORM | {"loss_type": "bce"}),
    (ImageBertForSequenceClassification, CLASSES | {"classifier": "mlp", "cls_hidden_scale": 3, "loss_type": "kl"}),
    (ImageBertForSequenceClassification, {"id2label": {0: "LABEL_0"}, "loss_type": "bce"}),
    (BertForImageCaptioning, {}),
    (BertForImageCaptioning, NORM | {"tie_weights": True, "label_smoothing": 0.1}),
    (BertForImageCaptioning, {"drop_worst_ratio": 0.4, "label_smoothing": 0.2, "num_hidden_layers": 3}),
    (BertImgForPreTraining, {}),
    (BertImgForPreTraining, NORM | {"num_contrast_classes": 3}),
]
each_kind = pytest.mark.parametrize(("make", "changes"), ROWS, ids=lambda x: getattr(x, "__name__", None) or "-".join(x))
LENGTHS, TAGS, REGIONS = (5, 3, 4), (4, 0, 2), (3, 5, 1)  # of captions (6 places), tags (4) and regions (5)


def build(make, **changes):
    model = make(OscarConfig(**SIZES | changes)).double()
    with torch.no_grad():
        tiny.randomise(model)
    return model.eval()


def kept():
    """Which rows are real: captions, tags, regions."""
    return torch.cat([torch.arange(n) < torch.tensor(x)[:, None] for n, x in ((6, LENGTHS), (4, TAGS), (5, REGIONS))], dim=1)


def table():
    """The caption mask as the original builds it."""
    mask = torch.zeros(3, 15, 15, dtype=torch.long)
    for row, a, t, r in zip(mask, LENGTHS, TAGS, REGIONS, strict=True):
        caption, tags, seen = range(a), range(6, 6 + t), range(10, 10 + r)
        for i in (*caption, *tags, *seen):
            for j in (*tags, *seen):
                row[i, j] = 1
        for i in caption:
            row[i, : i + 1] = 1
    return mask


def inputs(make, config):
    """A padded batch of the text's places (6 + 4) and 5 regions, and what is asked of it."""
    generator = torch.Generator().manual_seed(1)
    batch = {
        "input_ids": torch.randint(1, 99, (3, 10), generator=generator),
        "token_type_ids": (torch.arange(10) >= 6).long().expand(3, -1),
        "attention_mask": table() if make is BertForImageCaptioning else kept().long(),
        "img_feats": torch.randn(3, 5, 13, generator=generator, dtype=torch.float64),
    }
    if make is BertForImageCaptioning:
        places = torch.zeros(3, 10, dtype=torch.long)
        places[[0, 0, 0, 1, 2, 2], [1, 2, 4, 2, 1, 3]] = 1
        return batch, {"masked_pos": places, "masked_ids": torch.tensor([[7, 8, 9], [10, 0, 0], [11, 7, 0]])}
    if make is BertImgForPreTraining:
        labels = torch.full((3, 15), -1)
        labels[[0, 0, 1, 2], [1, 7, 2, 3]] = torch.tensor([5, 6, 7, 8])
        return batch, {"masked_lm_labels": labels, "next_sentence_label": torch.tensor([0, 1, config.num_contrast_classes - 1])}
    shares = torch.rand(3, 5, generator=generator, dtype=torch.float64).round(decimals=1)
    kind = {"bce": shares, "kl": shares.clamp(min=0.0)}.get(config.loss_type, torch.tensor([4, 0, 3]))
    return batch, {"labels": torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64) if config.num_labels == 1 else kind}


def reference_of(folder, drop=None):
    """The second implementation, on what a folder holds."""
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for tensor in {id(tensor): tensor for tensor in weights.values()}.values():
        tensor.requires_grad_()
    entries = json.loads((folder / "config.json").read_text("utf-8"))
    if entries["tie_weights"] or "cls.seq_relationship.bias" in weights:
        weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    return Reference(weights, entries, **({} if drop is None else {"drop": drop}))


def both(model, reference):
    """Losses and logits of the two, padded rows left out."""
    batch, asked = inputs(type(model), model.config)
    ours = model(**batch, **asked)
    if type(model) is BertForImageCaptioning:
        logits, loss = reference.caption(**batch, **asked)
        return (ours.logits[asked["masked_ids"] != 0], ours.loss), (logits, loss)
    if type(model) is BertImgForPreTraining:
        tokens, together, loss = reference.pretrain(**batch, **asked)
        got = ours.prediction_logits[kept()], ours.seq_relationship_logits, ours.loss
        return got, (tokens[kept()], together, loss)
    return (ours.logits, ours.loss), reference.classify(**batch, **asked)


@each_kind
def test_outputs_losses_and_attention_are_the_specifications(make, changes, tmp_path):
    model = build(make, **changes)
    hw.save(model, tmp_path)
    reference = reference_of(tmp_path)
    with torch.no_grad(), hw.observe(model) as record:
        got, want = both(model, reference)
    torch.testing.assert_close(got, want, **EXACT)
    assert list(record) == [f"bert.encoder.layers.{i}.self_attention" for i in range(model.config.num_hidden_layers)]
    for address, theirs in zip(record, reference.attentions, strict=True):
        ours = record[address].weights().transpose(1, 2)[kept()]
        torch.testing.assert_close(ours, theirs.transpose(1, 2)[kept()], **EXACT)


@each_kind
def test_gradients_are_the_specifications(make, changes, tmp_path):
    model = build(make, **changes)
    hw.save(model, tmp_path / "model")
    reference = reference_of(tmp_path / "model")
    (*_, ours), (*_, theirs) = both(model, reference)
    ours.backward()
    theirs.backward()
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    hw.save(model, tmp_path / "gradients")
    for name, got in torch.load(tmp_path / "gradients" / "pytorch_model.bin", weights_only=True).items():
        want = reference.w[name].grad
        torch.testing.assert_close(
            got, torch.zeros_like(got) if want is None else want, **EXACT, msg=lambda x, n=name: f"{n} {x}"
        )
        assert got.any() or "bert.pooler" in name, name  # a captioner has one, which no output needs


@each_kind
def test_dropout_is_drawn_where_the_specification_says(make, changes, tmp_path):
    model = build(make, **changes, hidden_dropout_prob=0.11, attention_probs_dropout_prob=0.23).train()
    hw.save(model, tmp_path)
    reference, losses, states = reference_of(tmp_path, functional.dropout), [], []
    batch, asked = inputs(make, model.config)
    call = {BertForImageCaptioning: reference.caption, BertImgForPreTraining: reference.pretrain}.get(make, reference.classify)
    for loss in (lambda: model(**batch, **asked).loss, lambda: call(**batch, **asked)[-1]):
        torch.manual_seed(0)
        losses.append(loss().detach())
        states.append(torch.get_rng_state())
    torch.testing.assert_close(*losses, **EXACT)
    assert torch.equal(*states)


def test_the_worst_are_left_out_only_after_so_many_losses(tmp_path):
    model = build(BertForImageCaptioning, drop_worst_ratio=0.4, drop_worst_after=2)
    hw.save(model, tmp_path)
    batch, asked = inputs(BertForImageCaptioning, model.config)
    found = [model(**batch, **asked).loss for _ in range(4)]
    for worst, loss in zip((False, False, True, True), found, strict=True):
        torch.testing.assert_close(loss, reference_of(tmp_path).caption(**batch, **asked, worst=worst)[1], **EXACT)
    assert found[2] < found[0]


def test_without_regions_it_is_bert(tmp_path):
    for theirs, make in (
        ("BertForSequenceClassification", ImageBertForSequenceClassification),
        ("BertForMaskedLM", BertForImageCaptioning),
    ):
        bert = tiny.reference(theirs).double()
        oscar = build(make, id2label=bert.config.id2label, tie_weights=True)
        hw.save(oscar, tmp_path)
        state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
        shared = {name: tensor for name, tensor in bert.state_dict().items() if name in state}
        torch.save(state | shared, tmp_path / "pytorch_model.bin")
        batch = tiny.inputs(theirs)
        want = bert(**batch).logits
        got = hw.load(tmp_path, dtype=torch.float64)(**batch).logits
        real = batch["attention_mask"].bool() if want.dim() == 3 else slice(None)
        torch.testing.assert_close(got[real], want[real], **EXACT)


@each_kind
def test_a_folder_is_read_and_written_byte_by_byte(make, changes, tmp_path):
    """And tells what it is, though its config.json does not."""
    model = build(make, **changes)
    hw.save(model, tmp_path / "one")
    entries = json.loads((tmp_path / "one" / "config.json").read_text("utf-8"))
    assert not {"model_type", "architectures", "id2label"} & entries.keys()
    again = hw.load(tmp_path / "one", dtype=torch.float64)
    assert type(again) is make
    assert again.config == model.config
    hw.save(again, tmp_path / "two")
    for name in ("config.json", "pytorch_model.bin"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    stated = torch.load(tmp_path / "one" / "pytorch_model.bin", weights_only=True)
    assert ("cls.predictions.decoder.weight" in stated) == (make is not ImageBertForSequenceClassification)
    save_file({name: tensor.clone() for name, tensor in stated.items()}, tmp_path / "one" / "model.safetensors")
    (tmp_path / "one" / "pytorch_model.bin").unlink()
    safe = hw.load(tmp_path / "one", dtype=torch.float64).state_dict()
    assert all(torch.equal(safe[name], tensor) for name, tensor in model.state_dict().items())
    hw.save(again, tmp_path / "one")
    assert not (tmp_path / "one" / "model.safetensors").exists()  # it would be read before what was written


PUBLISHED = {  # as pytorch_transformers 1.x and Oscar's scripts write them
    "finetuning_task": None,
    "num_labels": 2,
    "output_attentions": False,
    "output_hidden_states": False,
    "torchscript": False,
    "pruned_heads": {},
    "img_feature_type": "faster_r-cnn",
    "loss_type": "sfmx",
    "use_img_layernorm": True,
    "label_smoothing": 0.1,
    "drop_worst_after": 0,
}


def test_an_old_folder(tmp_path):
    """gamma and beta, a pickle of the arguments beside it, the base model's heads."""
    model = build(BertImgForPreTraining, use_img_layernorm=1)
    hw.save(model, tmp_path)
    weights = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {next((n.removesuffix(k) + v for k, v in names.items() if n.endswith(k)), n): x for n, x in weights.items()}
    assert "bert.LayerNorm.gamma" in old
    torch.save(old, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "training_args.bin").write_bytes(b"not for us")
    entries = json.loads((tmp_path / "config.json").read_text("utf-8")) | PUBLISHED
    (tmp_path / "config.json").write_text(json.dumps(entries), "utf-8")
    again = hw.load(tmp_path, dtype=torch.float64)
    batch, asked = inputs(BertImgForPreTraining, model.config)
    torch.testing.assert_close(again(**batch, **asked).loss, model(**batch, **asked).loss, **EXACT)
    hw.save(again, tmp_path / "back")
    written = json.loads((tmp_path / "back" / "config.json").read_text("utf-8"))
    assert {name: written[name] for name in entries} == entries
    assert all(type(written[name]) is type(entry) for name, entry in entries.items())
    captioner = hw.load(tmp_path, architecture="BertForImageCaptioning", dtype=torch.float64)
    assert torch.equal(captioner.head.lm_head.weight, model.bert.embedding.weight)
    classifier = hw.load(tmp_path, architecture="ImageBertForSequenceClassification", labels=["no", "yes", "who knows"])
    assert torch.equal(classifier.bert.pooler.weight, model.bert.pooler.weight.float())
    hw.save(classifier, tmp_path / "classes")
    written = json.loads((tmp_path / "classes" / "config.json").read_text("utf-8"))
    assert (written["num_labels"], written["id2label"]["2"]) == (3, "who knows")


def damaged(folder, **changes):
    path = folder / "config.json"
    entries = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(entries | changes), "utf-8")


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"img_feature_type": "dis_code_t"}, "regions as discrete codes are not known"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is"),
        ({"img_feature_dim": 14}, r"bert.img_embedding.weight is \(32, 13\), the model's is \(32, 14\)"),
        ({"use_img_layernorm": 1}, "misses 2 tensors: bert.LayerNorm.bias, bert.LayerNorm.weight"),
        ({"drop_worst_ratio": 1}, r"drop_worst_ratio: expected a number in \[0, 1\)"),
        ({"tie_weights": True}, "unexpected 1 tensors: cls.predictions.decoder.weight"),
        ({"num_labels": 0}, "num_labels: expected an integer from 1"),
    ],
)
def test_a_folder_that_cannot_be_read(changes, said, tmp_path):
    hw.save(build(BertForImageCaptioning), tmp_path)
    damaged(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=said):
        hw.load(tmp_path)


@pytest.mark.nohook
def test_wrong_calls():
    model = build(BertForImageCaptioning)
    batch, _ = inputs(BertForImageCaptioning, model.config)
    for name, wrong, said in (
        ("img_feats", torch.zeros(3, 5, 12), r"img_feats: expected \(batch, regions, 13\); got torch.float32 \(3, 5, 12\)"),
        ("attention_mask", torch.ones(3, 15, 14), r"attention_mask: expected \(3, 15, 15\); got \(3, 15, 14\)"),
        ("attention_mask", torch.ones(3, 10), r"attention_mask: expected \(3, 15\), 1 = a real token; got \(3, 10\)"),
        ("input_ids", torch.zeros(3, 65, dtype=torch.long), "65 tokens are more than this model's 64 positions"),
    ):
        with pytest.raises(ValueError, match=said):
            model(**batch | {name: wrong, "token_type_ids": None})
    classifier = build(ImageBertForSequenceClassification, loss_type="bce")
    with pytest.raises(ValueError, match=r"labels: expected \(3, 2\) for loss_type 'bce'; got \(3,\)"):
        classifier(batch["input_ids"], img_feats=batch["img_feats"], labels=torch.ones(3))


MAKES = [(make, changes) for make, changes in ROWS if not changes or changes is CLASSES]
each_class = pytest.mark.parametrize(("make", "changes"), MAKES, ids=lambda x: getattr(x, "__name__", ""))


@each_class
def test_it_learns_and_the_embedding_can_stay(make, changes):
    model = build(make, freeze_embedding=True, **changes).train()
    batch, asked = inputs(make, model.config)
    words, optimizer, losses = model.bert.embedding.weight.clone(), torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(model(**batch, **asked).loss)
        losses[-1].backward()
        optimizer.step()
    assert model.eval()(**batch, **asked).loss < 0.3 * losses[0]
    assert torch.equal(words, model.bert.embedding.weight) == (make is BertForImageCaptioning)


@each_class
def test_heads_are_seen_measured_and_silenced(make, changes):
    model = build(make, **changes)
    batch, asked = inputs(make, model.config)
    with torch.no_grad(), hw.observe(model) as record:
        before = model(**batch, **asked)
    for address, measured in hw.statistics(record).items():
        assert measured.entropy.shape == (4,)
        with torch.no_grad(), hw.gates(model, {address: torch.tensor([1.0, 0.0, 1.0, 1.0])}):
            gated = model(**batch, **asked)
        attention = model.get_submodule(address)
        weight = attention.out_proj.weight.detach().clone()
        with torch.no_grad():
            attention.out_proj.weight[:, 8:16] = 0.0
            cut = model(**batch, **asked)
            attention.out_proj.weight.copy_(weight)
        torch.testing.assert_close(gated.loss, cut.loss, **EXACT)
        assert not torch.allclose(cut.loss, before.loss, atol=1e-6)


@each_class
@pytest.mark.nohook
def test_compiled_exported_pickled(make, changes):
    model = build(make, **changes, drop_worst_ratio=0.3)
    batch, asked = inputs(make, model.config)
    want = model(**batch, **asked)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(**batch, **asked)
    compiled.loss.backward()
    torch.testing.assert_close(compiled.loss, want.loss, **EXACT)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(**batch, **asked).loss, want.loss, **EXACT)
    shapes = {name: {0: torch.export.Dim("batch")} for name in batch | asked}
    program = torch.export.export(model, (), batch | asked, dynamic_shapes=shapes).module()
    for count in (1, 2, 5):
        some = {name: torch.cat([x, x])[:count] for name, x in (batch | asked).items()}
        torch.testing.assert_close(program(**some).loss, model(**some).loss, **EXACT)


BODY = 109_482_240 + 2054 * 768 + 768  # BERT base with its pooler, and the regions
HEAD = 768 * 768 + 3 * 768 + 30522


@pytest.mark.parametrize(
    ("make", "changes", "count"),
    [
        (ImageBertForSequenceClassification, {}, BODY + 2 * 769),
        (ImageBertForSequenceClassification, {"id2label": {i: str(i) for i in range(3129)}}, BODY + 3129 * 769),
        (ImageBertForSequenceClassification, {"classifier": "mlp"}, BODY + 1536 * 769 + 2 * 1537),
        (BertForImageCaptioning, {"tie_weights": True}, BODY + HEAD),
        (BertForImageCaptioning, {"use_img_layernorm": 1}, BODY + HEAD + 30522 * 768 + 2 * 768),
        (BertImgForPreTraining, {"num_contrast_classes": 3}, BODY + HEAD + 3 * 769),
    ],
)
def test_parameters_of_the_base_size(make, changes, count):
    with torch.device("meta"):
        model = make(OscarConfig(**changes))
    assert sum(parameter.numel() for parameter in model.parameters()) == count
