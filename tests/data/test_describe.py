"""The numbers of a description, by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from onerec.data.dataset import write_dataset
from onerec.data.describe import describe


def test_describe(tmp_path: Path) -> None:
    log = pd.DataFrame(
        {
            "user_id": [1, 1, 1, 2],
            "item_id": ["a", "b", "a", "b"],
            "timestamp": [0, 86_400_000, 2 * 86_400_000, 3 * 86_400_000],
            "click": [True, False, None, True],
            "play_ms": [100, 300, None, 200],
            "split": ["train", "train", "valid", "test"],
        }
    )
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["x", "y", "z"], "type": ["n"] * 3})
    dataset = write_dataset(
        tmp_path / "d",
        "d",
        log,
        items,
        None,
        source="by hand",
        mapping={"interactions": {"user_id": "who"}},
        ignored={"interactions": ["tab"]},
    )
    found = describe(dataset)
    assert found["rows"] == {"interactions": 4, "items": 3, "users": 2}
    assert found["columns"] == {"interactions": {"user_id": "who"}}
    assert found["ignored"] == {"interactions": ["tab"]}
    assert found["behaviours"] == {"click": {"known": 3, "true": 2, "rate": pytest.approx(2 / 3)}}
    assert found["positive"] == {"rule": "click", "rows": 2, "rate": 0.5}
    assert found["values"]["play_ms"]["mean"] == 200
    assert found["split"] == {"none": 0, "train": 2, "valid": 1, "test": 1}
    assert found["time"] == {
        "kind": "exact",
        "first": "1970-01-01T00:00:00",
        "last": "1970-01-04T00:00:00",
    }
    assert found["history_length"]["max"] == 3
    assert found["events_per_item"]["min"] == 0
    assert found["density"] == pytest.approx(4 / 6)
    assert found["constant"] == {"items": ["type"], "users": []}
    assert found["counts"]["items_without_events"] == 1


def test_a_log_that_knows_little(tmp_path: Path) -> None:
    log = {"user_id": np.ones(3, int), "item_id": np.arange(3), "position": np.arange(3)}
    found = describe(write_dataset(tmp_path / "d", "d", log, None, None, source="x"))
    assert found["behaviours"] == {}
    assert found["time"] == {"kind": "none"}
    assert found["split"] == {}
    assert found["positive"]["rule"] == "every row"
