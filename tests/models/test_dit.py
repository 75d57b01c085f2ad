"""DiT beyond the parity table: other sizes and precisions, dropped classes, how it begins, files of every age, wrong calls."""

import io
import json

import pytest
import tiny
import torch
from parity import CLOSE
from rich.console import Console
from safetensors.torch import load_file

import headwise as hw
from headwise.explorer import listing
from headwise.models.checkpoint.folder import CheckpointError
from headwise.models.dit import DiTConfig, DiTTransformer2DModel

SIZES = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 2,
    "sample_size": 10,
    "num_embeds_ada_norm": 7,
}
CHANGES = [
    {},
    {"out_channels": None, "patch_size": 5, "num_layers": 1},
    {"attention_bias": False, "norm_eps": 0.5},
    {"activation_fn": "gelu", "norm_elementwise_affine": True},
]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def inputs(size=10, channels=3):
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(3, channels, size, size, generator=generator),
        "timestep": torch.tensor([0, 481, 999]),
        "class_labels": torch.tensor([6, 0, 7]),  # the null class is one of them
    }


def reference(**changes):
    from diffusers import DiTTransformer2DModel as Reference  # seconds to import: where it is needed

    model = Reference(**SIZES | changes)
    tiny.randomise(model)
    return model.eval()


def read_by_reference(folder):
    from diffusers import DiTTransformer2DModel as Reference

    model, info = Reference.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not any(info.values()), info
    return model.eval()


@pytest.fixture(params=CHANGES, ids=str)
def pair(request, tmp_path):
    theirs = reference(**request.param)
    theirs.save_pretrained(tmp_path / "theirs")
    return theirs, hw.load(tmp_path / "theirs")


@pytest.fixture
def folder(tmp_path):
    reference().save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


@pytest.fixture
def ours(folder):
    return hw.load(folder)


@torch.no_grad()
@pytest.mark.parametrize("cells", [1, 3, 5, 7])
def test_other_sizes_are_read_too(pair, cells):
    """Smaller and larger ones than the config's; in float64, where the two are told from rounding."""
    batch = inputs(cells * pair[1].config.patch_size)
    batch["hidden_states"] = batch["hidden_states"].double()
    want, got = (model.double()(**batch).sample for model in pair)
    assert got.shape[2:] == batch["hidden_states"].shape[2:]
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    assert got.abs().max() > 1


@torch.no_grad()
def test_outputs_are_equal_in_float64_and_bfloat16(pair):
    """In bfloat16 as near to the truth as the reference."""
    batch = inputs()
    batch["hidden_states"] = batch["hidden_states"].double()
    want, got = (model.double()(**batch).sample for model in pair)
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    batch["hidden_states"] = batch["hidden_states"].bfloat16()
    theirs, ours = (model.bfloat16()(**batch).sample for model in pair)
    assert ours.dtype == torch.bfloat16
    assert (ours - want).abs().mean() < 1.2 * (theirs - want).abs().mean() < 0.05 * want.abs().mean()


@torch.no_grad()
def test_steps_may_lie_between(pair):
    want, got = (model(**inputs() | {"timestep": torch.tensor([0.5, 30.25, 998.75])}).sample for model in pair)
    torch.testing.assert_close(got, want, **CLOSE)


def test_dropped_classes(ours):
    ours.train()
    assert ours.config.dropout == 0
    batch = {name: torch.cat([x[:1]] * 64) for name, x in inputs().items()}
    with torch.no_grad():
        outputs = ours(**batch).sample.flatten(1).unique(dim=0)
        assert 2 <= len(outputs) <= 2**3  # each of two blocks, and the end, with the class or without
        ours.label_dropout = 0
        assert len(ours(**batch).sample.flatten(1).unique(dim=0)) == 1


@pytest.mark.nohook
@pytest.mark.parametrize("train", [False, True])
def test_compiled_is_one_graph(ours, train):
    ours.train(train)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    if train:
        ours.label_dropout = 0.5
        assert compiled(**inputs()).sample.shape == (3, 6, 10, 10)
        return
    got, want = compiled(**inputs()).sample, ours(**inputs()).sample
    got.sum().backward()
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_it_begins_as_the_paper_says():
    """By saying nothing; blocks as the identity; everything else at work."""
    model = DiTTransformer2DModel(DiTConfig(**SIZES | {"num_attention_heads": 16, "num_embeds_ada_norm": 500}))
    assert not model(**inputs()).sample.any()
    zero = {name for name, parameter in model.named_parameters() if not parameter.any()}
    modulations = {f"{place}modulation.weight" for place in ("", "blocks.0.", "blocks.1.")}
    assert {name for name in zero if "bias" not in name} == modulations | {"proj_out.weight"}
    assert model.blocks[0].condition.label.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.patches.projection.weight.abs().max().item() == pytest.approx((6 / (128 + 12)) ** 0.5, rel=0.01)
    x = torch.randn(3, 25, 128)
    assert torch.equal(model.blocks[0](x, torch.randn(3, 256), torch.tensor([1, 2, 3])), x)


def test_what_it_writes_the_reference_reads_without_a_word(pair, tmp_path, caplog):
    theirs, ours = pair
    hw.save(ours, tmp_path / "ours")
    with caplog.at_level("WARNING"):
        again = read_by_reference(tmp_path / "ours")
    assert not caplog.records
    assert (tmp_path / "ours" / WEIGHTS).read_bytes() == (tmp_path / "theirs" / WEIGHTS).read_bytes()
    ours_says, theirs_says = (json.loads((tmp_path / whose / "config.json").read_text("utf-8")) for whose in ("ours", "theirs"))
    assert ours_says == theirs_says
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["config.json", WEIGHTS]
    with torch.no_grad():
        assert torch.equal(again(**inputs()).sample, theirs(**inputs()).sample)


def test_a_new_model_goes_to_the_reference_and_comes_back(tmp_path):
    model = DiTTransformer2DModel(DiTConfig(**SIZES)).eval()
    tiny.randomise(model)
    hw.save(model, tmp_path)
    with torch.no_grad():
        want = model(**inputs()).sample
        torch.testing.assert_close(read_by_reference(tmp_path)(**inputs()).sample, want, **CLOSE)
        assert torch.equal(hw.load(tmp_path)(**inputs()).sample, want)
    assert hw.load(tmp_path).config == model.config


def older(folder):
    """As diffusers 0.12 wrote it: another class, that class's entries, a pickle that held the table of positions."""
    entries = json.loads((folder / "config.json").read_text("utf-8"))
    del entries["norm_eps"]
    entries |= {"_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0", "cross_attention_dim": None}
    entries |= {"num_vector_embeds": None, "only_cross_attention": False, "use_linear_projection": False}
    (folder / "config.json").write_text(json.dumps(entries), "utf-8")
    weights = load_file(folder / WEIGHTS) | {"pos_embed.pos_embed": torch.randn(1, 25, 32)}
    torch.save(weights, folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def test_older_files(folder, tmp_path, caplog):
    want = hw.load(folder)(**inputs()).sample
    older(folder)
    model = hw.load(folder)
    assert torch.equal(model(**inputs()).sample, want)
    hw.save(model, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text("utf-8"))["_class_name"] == "DiTTransformer2DModel"
    with caplog.at_level("WARNING"):
        read_by_reference(tmp_path / "ours")
    assert not caplog.records


def test_weights_in_several_parts(folder):
    want = hw.load(folder)(**inputs()).sample
    (folder / WEIGHTS).unlink()
    reference().save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert torch.equal(hw.load(folder)(**inputs()).sample, want)


def pipeline(model, folder):
    """A folder with several models, ours in one of its own."""
    folder.mkdir()
    model.rename(folder / "transformer")
    (folder / "scheduler").mkdir()
    entries = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(entries), "utf-8")
    return folder


def test_a_pipeline_holds_it_in_a_folder_of_its_own(folder, tmp_path):
    want = hw.load(folder)(**inputs()).sample
    found = pipeline(folder, tmp_path / "pipeline")
    model = hw.load(found)
    assert torch.equal(model(**inputs()).sample, want)
    with torch.no_grad():
        model.proj_out.bias += 1.0
    hw.save(model, found)  # back to its place, where its library looks for it
    assert not (found / "config.json").exists()
    torch.testing.assert_close(read_by_reference(found / "transformer")(**inputs()).sample, want + 1.0, **CLOSE)
    console = Console(width=120, file=io.StringIO())
    console.print(listing.model(found))
    said = console.file.getvalue()
    assert "DiTTransformer2DModel: " in said
    assert "blocks.*.self_attention" in said
    (found / "transformer" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"transformer holds no config\.json"):
        hw.load(found)
    (found / "transformer").rename(found / "unet")
    with pytest.raises(CheckpointError, match="pipeline/transformer is not a folder with a model"):
        hw.load(found)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("piped", [False, True])
def test_names_on_the_hub(folder, tmp_path, monkeypatch, old, piped):
    """What is fetched: of a pipeline the one model, of the others' weights none, and pickles only where there is no other."""
    from huggingface_hub.utils import filter_repo_objects

    want = hw.load(folder)(**inputs()).sample
    if old:
        older(folder)
    there = pipeline(folder, tmp_path / "pipeline") if piped else folder
    (there / "vae").mkdir()
    (there / "vae" / "config.json").write_text("{}")
    for name in ("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin", "flax_model.msgpack"):
        (there / name).write_bytes(b"a lot")
    cache, fetched = tmp_path / "cache", []

    def snapshot_download(name, allow_patterns):
        assert name == "someone/dit"
        files = [str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            fetched.append(file)
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            (cache / file).write_bytes((there / file).read_bytes())
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert torch.equal(hw.load("someone/dit")(**inputs()).sample, want)
    name = "diffusion_pytorch_model." + ("bin" if old else "safetensors")
    weights = {file for file in fetched if not file.endswith(".json")}
    if piped:
        assert weights == {f"transformer/{name}"}
    else:
        assert name in weights
        assert not any(file.endswith((".bin", ".msgpack")) for file in weights - {name})


def config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"norm_type": "ada_norm_single"}, "norm_type is 'ada_norm_single'; only 'ada_norm_zero' is known here"),
        ({"cross_attention_dim": 32}, "cross_attention_dim is 32; only None is known here"),
        ({"sample_size": 11}, "sample_size: expected a multiple of patch_size = 2; got 11"),
        ({"attention_head_dim": 7, "num_attention_heads": 2}, "got 2 heads of 7"),
        ({"patch_size": 5}, r"is \(.*\), the model's is \(.*\)"),
        ({"num_layers": 3}, "misses 19 tensors: transformer_blocks.2"),
        ({"norm_elementwise_affine": True}, "misses 4 tensors: transformer_blocks.0.norm3.bias"),
        ({"_class_name": "UNet2DModel"}, r"architectures is \['UNet2DModel'\] and model_type None; known are Transformer, "),
        ({"_class_name": 3}, r"architectures is \[3\] and model_type None; known are Transformer, "),
        ({"model_type": "bert"}, "holds a 'bert' model"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder, changes, problem):
    config(folder, **changes)
    with pytest.raises(CheckpointError, match=problem):
        hw.load(folder)


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm: expected an integer"),
        ({"sample_size": None}, "sample_size: expected an integer"),
        ({"activation_fn": "geglu"}, "activation_fn: expected 'gelu-approximate' or 'gelu'; got 'geglu'"),
    ],
)
def test_what_no_field_can_be_is_said(folder, changes, problem):
    config(folder, **changes)
    with pytest.raises(CheckpointError, match=problem):
        hw.load(folder)


def test_a_folder_without_weights(folder):
    (folder / WEIGHTS).rename(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no diffusion_pytorch_model\.safetensors \(nor diffusion_pytorch"):
        hw.load(folder)


@pytest.mark.nohook
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"hidden_states": torch.randn(3, 3, 10, 20)},
            r"hidden_states: expected floats \(batch, 3 channels, .* \(3, 3, 10, 20\)",
        ),
        ({"hidden_states": torch.randn(3, 3, 11, 11)}, r"square, a multiple of 2; got .*\(3, 3, 11, 11\)"),
        ({"hidden_states": torch.randn(3, 4, 10, 10)}, r"3 channels.* got .*\(3, 4, 10, 10\)"),
        ({"hidden_states": torch.randn(3, 10, 10)}, r"got .*\(3, 10, 10\)"),
        ({"timestep": torch.tensor([3])}, r"timestep: expected \(3,\), one for each picture; got \(1,\)"),
        ({"timestep": torch.tensor(3)}, r"timestep: expected \(3,\), one for each picture; got \(\)"),
        ({"class_labels": torch.tensor([3, 4])}, r"class_labels: expected \(3,\), one for each picture; got \(2,\)"),
        ({"class_labels": torch.zeros(3, 1).long()}, r"class_labels: expected \(3,\), one for each picture; got \(3, 1\)"),
        ({"class_labels": torch.zeros(3)}, r"class_labels: expected integers; got torch\.float32"),
    ],
)
def test_a_wrong_call_is_refused_with_a_sentence(ours, change, problem):
    with pytest.raises(ValueError, match=problem):
        ours(**inputs() | change)
