"""The house: floors import downwards, attention is formed in one place, the public names stay."""

import ast
import re
from pathlib import Path

import pytest

import headwise as hw

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "headwise"
FLOORS = ["attention", "blocks", "models", "insight", "tasks", "explorer", "lecture", "cli"]
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
    standard = {"__future__", "abc", "collections", "contextlib", "dataclasses", "math", "typing"}
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


def test_public_names():
    assert sorted(hw.__all__) == [
        "MultiHeadAttention", "Scores", "attend", "attend_with_lse", "attention_weights", "backends", "cache", "gates",
        "load", "masks", "observe", "positions", "save", "statistics", "which_backend",
    ]  # fmt: skip
    assert hw.backends == ("formula", "sdpa")
    for name in hw.__all__:
        assert hasattr(hw, name)


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
