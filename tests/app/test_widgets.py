"""Widgets: the notebook cell under a figure really makes the figure."""

from pathlib import Path

import fake_run
import pytest
import widgets

from onerec.explain import dataset, tokens
from onerec.runs import Run
from onerec.viz import dataset as draw_dataset
from onerec.viz import tokens as draw_tokens


@pytest.mark.parametrize("case", ["run", "tuple", "dataset"])
def test_the_notebook_cell_runs(case: str, tmp_path: Path) -> None:
    fake = fake_run.build(tmp_path)
    run = Run(fake.run)
    cells = {
        "run": (run, tokens.residual_walk, draw_tokens.residual_walk, {"item": 3}, {}),
        "tuple": (run, tokens.projection, draw_tokens.projection, {}, {"colour": "popularity"}),
        "dataset": (fake.dataset, dataset.popularity, draw_dataset.popularity, {}, {"gini": 0.5}),
    }
    names: dict[str, object] = {}
    lines = widgets._cell(*cells[case]).splitlines()
    exec("\n".join([*lines[:-1], f"figure = {lines[-1]}"]), names)
    assert names["figure"].layout.meta["title"]  # type: ignore[attr-defined]
