"""The notebooks: in step with their sources, without outputs, and standing on the library alone.

That they run is shown by running them (`pytest --nbmake notebooks`).
"""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
ALLOWED = {"onerec", "numpy", "pandas", "torch"} | set(sys.stdlib_module_names)


def cells_of_source(path: Path) -> list[tuple[str, str]]:
    """Kind and text of each cell."""
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def notebook(source: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    return content


def parts(cells: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """The cells from each heading to the next; what stands before the first `##` is left out."""
    found: list[list[tuple[str, str]]] = []
    for kind, text in cells:
        if kind == "markdown" and re.match("##", text):
            found.append([])
        if found:
            found[-1].append((kind, text))
    return found


def test_the_notebooks_are_known_and_each_has_its_pair() -> None:
    assert [path.stem for path in SOURCES] == [
        "01_from_logs_to_recommendations",
        "02_your_own_data",
        "03_semantic_ids",
        "04_experts_and_scale",
        "05_generation",
        "06_rewards_and_ecpo",
    ]
    assert sorted(FOLDER.glob("*.ipynb")) == [path.with_suffix(".ipynb") for path in SOURCES]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_ipynb_is_in_step_with_its_source(source: Path) -> None:
    made = notebook(source)
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]]
    assert cells == cells_of_source(source), "run `make notebooks`"
    assert made["metadata"]["jupytext"]["formats"] == "ipynb,py:percent"
    assert made["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_outputs_are_committed(source: Path) -> None:
    for cell in notebook(source)["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_imports_the_library_and_what_shows_tables(source: Path) -> None:
    heads = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            heads |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            heads.add(node.module.split(".")[0])
    assert heads <= ALLOWED


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_each_part_ends_in_an_assert_and_shows_at_most_one_figure(source: Path) -> None:
    for part in parts(cells_of_source(source)):
        title = part[0][1].splitlines()[0]
        code = [text for kind, text in part if kind == "code"]
        assert code, title
        assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code[-1]))), title
        drawn = sum(len(re.findall(r"show\((?:draw_|figure)", text)) for text in code)
        assert drawn <= 1, title
        asked = sum(text.count("*Question:") for kind, text in part if kind == "markdown")
        assert asked == drawn, f"{title}: a figure answers a question"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_results_that_it_reads_are_shipped(source: Path) -> None:
    """One looked for `routers.json` and said for good that no measurement ships."""
    results = FOLDER.parent / "onerec" / "bench" / "results"
    named = re.findall(r'RESULTS / "([^"]+)"', source.read_text(encoding="utf-8"))
    assert [name for name in named if not (results / name).is_file()] == []
