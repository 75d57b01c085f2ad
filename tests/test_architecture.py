"""The house: floors import downwards, attention is formed in one place, the public names stay."""

import ast
import inspect
import pydoc
import re
from pathlib import Path

import pytest

import headwise as hw

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "headwise"
FLOORS = ["attention", "blocks", "models", "insight", "tasks", "explorer", "lecture", "cli", "__main__"]
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py" or len(path.parts) > 1], ids=str)
def test_a_floor_imports_only_floors_below(path):
    floor = FLOORS.index(path.parts[0].removesuffix(".py"))
    used = {name.split(".")[1] for name in imports(path) if name.startswith("headwise.")}
    assert all(FLOORS.index(name) <= floor for name in used), used


def test_attention_imports_torch_and_jaxtyping_alone():
    standard = {"__future__", "abc", "collections", "contextlib", "copy", "dataclasses", "functools", "math", "typing"}
    for path in FILES:
        if path.parts[0] == "attention":
            assert {name.split(".")[0] for name in imports(path)} <= standard | {"torch", "jaxtyping", "headwise"}, path


def test_nobody_else_writes_a_softmax_over_scores():
    for path in FILES:
        if path.parts[0] != "attention":
            tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
            names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert not names & {"softmax", "Softmax"}, path  # log_softmax, over a vocabulary, is not attention


def test_functions_fit_a_screen_and_files_read_in_one_go():
    for path in FILES:
        text = (PACKAGE / path).read_text(encoding="utf-8")
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 62, f"{path}: {node.name}"


# What a user may write. A new line is a decision; a changed one breaks somebody.
PUBLIC = """
LearnedGates(model, open=0.95)
Keep(*, addresses=None, heads=None, last=None, dtype=None, folder=None)
MultiHeadAttention(embed_dim, num_heads, *, num_kv_heads=None, head_dim=None, kdim=None, vdim=None, bias=True, position=None, \
qk_norm=None, scores=None, dropout=0.0, device=None, dtype=None)
MultiHeadAttention.forward(self, query, key=None, value=None, *, mask=None, cache=None)
Scores(scale=None, softcap=None, sinks=False)
ablate(model, heads, how=None)
ablation.Mean(record)
ablation.Patch(record)
ablation.Resample(record, seed=0)
ablation.Zero()
attend(query, key, value, *, mask=None, bias=None, scale=None, softcap=None, sinks=None, dropout=0.0, backend=None)
attend_with_lse(query, key, value, *, mask=None, bias=None, scale=None, softcap=None, sinks=None, dropout=0.0, backend=None)
attention_weights(query, key, *, mask=None, bias=None, scale=None, softcap=None, sinks=None, rows=None, columns=None, \
stage='weights')
backends = ('formula', 'sdpa', 'blocks', 'flex')
bootstrap(measured, *, resamples=1000, confidence=0.95, seed=0)
cache.Cross()
cache.Fixed(max_len)
cache.Growing()
compat.MultiheadAttention(embed_dim, num_heads, dropout=0.0, bias=True, add_bias_kv=False, add_zero_attn=False, kdim=None, \
vdim=None, batch_first=False, device=None, dtype=None)
ctc.decode(model, *, width=1, **inputs)
ctc.loss(logits, labels, lengths=None, *, blank=0, reduction='mean', zero_infinity=False)
diffusion.DDIM(steps=50, eta=0.0, clip=None)
diffusion.DDPM(steps=250, clip=None)
diffusion.Schedule(steps=1000, beta_start=0.0001, beta_end=0.02)
diffusion.loss(model, clean, class_labels, *, timestep=None, noise=None, label_dropout=0.1, schedule=None)
diffusion.sample(model, class_labels, *, sampler=None, guidance_scale=4.0, seed=None, schedule=None)
feature_extractor(folder)
flow(record, row, columns=None, *, batch=0)
gates(model, values)
generate(model, input_ids=None, attention_mask=None, *, input_features=None, decoder_input_ids=None, search=None, \
max_new_tokens=128, cache=<class 'headwise.attention.cache.Growing'>)
generation.Beam(width=4, length_penalty=0.6, offset=5.0)
generation.Greedy()
generation.Sample(temperature=1.0, top_k=None, top_p=None, seed=None)
group_heads(model, num_kv_heads)
image_processor(folder)
importance(model, batches, loss=None)
leave_one_out(model, batches, loss=None)
load(folder, architecture=None, dtype=torch.float32, labels=None)
masks.causal()
masks.dense(tensor)
masks.documents(ids)
masks.padding(lengths_or_keep)
masks.prefix(lengths)
masks.window(before, after)
places.Grid(height, width, special=0, unit=1.0)
places.Line(unit=1.0)
observe(model, keep=None)
open_record(folder)
positions.AfterRotation(norm)
positions.Alibi(num_heads, slopes=None)
positions.Linear(factor)
positions.Llama3(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
positions.NTK(factor)
positions.Rotary(base=10000.0, dim=None, interleaved=False, scaling=None)
positions.Shaw(head_dim, before, after, device=None, dtype=None)
positions.T5Buckets(num_heads, num_buckets=32, max_distance=128, bidirectional=True, device=None, dtype=None)
positions.TransformerXL(embed_dim, num_heads, head_dim=None, device=None, dtype=None)
positions.YaRN(factor, original_max_position_embeddings, beta_fast=32.0, beta_slow=1.0, attention_factor=None)
prune(model, heads)
rollout(record, rows=None)
replace_attention(module)
save(model, folder, dtype=None)
similarity.outputs(record)
similarity.weights(record)
speech.Mel(*, sampling_rate=16000, n_fft=1024, win_length=1024, hop_length=256, num_mel_bins=80, fmin=80.0, fmax=7600.0, \
mel_floor=1e-10, amplitude_floor=0.0)
speech.griffin_lim(spectrogram, mel, *, iterations=32, momentum=0.99, seed=0)
speech.save(waveform, path, sampling_rate)
statistics(record, top=3, *, places=None, tokens=None, groups=None, query_groups=None)
synthesise(model, input_ids, attention_mask=None, *, vocoder=None, **wishes)
tokenizer(folder)
weights.read(layer, library, *, num_heads=None, names=None, prefix='', position=None, scores=None, dropout=0.0)
weights.write(attention, library, *, names=None)
which_backend(query, key, value, *, mask=None, bias=None, scale=None, softcap=None, sinks=None, dropout=0.0, backend=None)
"""
IN_MODULES = {
    "ablation": ("Mean", "Patch", "Resample", "Zero"),
    "cache": ("Cross", "Fixed", "Growing"),
    "compat": ("MultiheadAttention",),
    "ctc": ("decode", "loss"),
    "diffusion": ("DDIM", "DDPM", "Schedule", "loss", "sample"),
    "generation": ("Beam", "Greedy", "Sample"),
    "masks": ("causal", "dense", "documents", "padding", "prefix", "window"),
    "places": ("Grid", "Line"),
    "similarity": ("outputs", "weights"),
    "speech": ("Mel", "griffin_lim", "save"),
    "weights": ("read", "write"),
    "positions": tuple(name for name in hw.positions.__all__ if not inspect.isabstract(getattr(hw.positions, name))),
}


def signature(name: str, thing: object) -> str:
    """How it is called, without annotations."""
    called = inspect.signature(thing)
    bare = [parameter.replace(annotation=parameter.empty) for parameter in called.parameters.values()]
    return f"{name}{called.replace(parameters=bare, return_annotation=called.empty)}"


def test_public_names_and_signatures():
    found = [signature("MultiHeadAttention.forward", hw.MultiHeadAttention.forward), f"backends = {hw.backends}"]
    for name in hw.__all__:
        if name in IN_MODULES:
            found += [signature(f"{name}.{part}", getattr(getattr(hw, name), part)) for part in IN_MODULES[name]]
        elif name != "backends":
            found.append(signature(name, getattr(hw, name)))
    assert sorted(found) == sorted(PUBLIC.strip().splitlines())
    public = {name for name in vars(hw.masks) if name.islower() and not name.startswith("_")}
    assert set(IN_MODULES["masks"]) == {name for name in public if inspect.isfunction(getattr(hw.masks, name))} - HELPERS


# Functions that the module of masks needs, for others below.
HELPERS = {"as_rule", "has_values", "dataclass", "kind", "abstractmethod"}


def test_pydoc_reads_as_a_manual():
    """The description names everything public, and everything public describes itself."""
    manual = pydoc.render_doc(hw, renderer=pydoc.plaintext)
    description = manual[manual.index("DESCRIPTION") : manual.index("PACKAGE CONTENTS")]
    for name in hw.__all__:
        assert re.search(rf"\b{name}\b", description), name
        assert name == "backends" or inspect.getdoc(getattr(hw, name)), name
    for name, parts in IN_MODULES.items():
        for part in parts:
            assert part in description or part == "AfterRotation", part
            own = getattr(getattr(hw, name), part).__doc__
            assert own, part
            assert not own.startswith(f"{part}("), f"{part}: a dataclass without words"


def test_the_readmes_python_runs(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_readmes_pictures_and_folders_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert target.startswith("http") or (ROOT / target).exists(), target
    for folder in re.findall(r"^\| `(\w+)/` ", readme, re.MULTILINE):
        assert (PACKAGE / folder).is_dir(), folder
