"""dataset.json, and the rule for positives when it names none."""

import json
from pathlib import Path

import duckdb
import pytest

from onerec.errors import DataError
from onerec.explain.folder import info, positive_rule, positive_sql

COLUMNS = {
    "long_view|like": 'true AS click, false AS long_view, i = 1 AS "like", NULL::BOOLEAN AS follow',
    "click": "i = 1 AS click, false AS long_view, 5.0 AS rating",  # no row meets long_view
    "rating>=4": "NULL::BOOLEAN AS click, i::FLOAT AS rating",
    "every row": "1.0::FLOAT AS rating",
}


def make(folder: Path, columns: str, **about: object) -> Path:
    path = folder / "interactions.parquet"
    select = f'SELECT 0 AS "user", i AS item, {columns} FROM range(6) t(i)'
    duckdb.connect().execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    (folder / "dataset.json").write_text(json.dumps({"positive": None, **about}))
    return folder


@pytest.mark.parametrize("rule", COLUMNS)
def test_the_default_rule_is_the_first_that_a_row_meets(rule: str, tmp_path: Path) -> None:
    """Once every event of such a dataset was shown as positive: null was read as "every row"."""
    assert positive_rule(make(tmp_path, COLUMNS[rule])) == rule


def test_a_named_rule_stands(tmp_path: Path) -> None:
    folder = make(tmp_path, COLUMNS["click"], positive="rating>=3")
    assert positive_rule(folder) == "rating>=3"
    assert positive_sql(folder) == 'coalesce("rating" >= 3.0, false)'


def test_the_rule_agrees_with_the_one_that_trains(tmp_path: Path) -> None:
    from onerec.data.dataset import positive_rows

    columns = {"click": [1, 0, -1], "long_view": [0, 0, -1]}
    import numpy as np

    arrays = {name: np.array(values, dtype=np.int8) for name, values in columns.items()}
    rows, rule = positive_rows(arrays, 3, None)
    text = "CASE WHEN i < 2 THEN i = 0 END AS click, CASE WHEN i < 2 THEN false END AS long_view"
    folder = make(tmp_path, text)
    assert positive_rule(folder) == rule == "click"
    found = duckdb.connect().execute(
        f"SELECT {positive_sql(folder)} FROM '{folder / 'interactions.parquet'}' LIMIT 3"
    )
    assert [row[0] for row in found.fetchall()] == rows.tolist()


def test_a_folder_without_its_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="onerec data list"):
        info(tmp_path)
