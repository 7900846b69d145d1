"""The published layouts of the Amazon reviews, in small."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from onerec.data.ingest import get
from onerec.errors import DataError

REVIEWS = [
    ("A1", "B1", 2.0, 30),
    ("A1", "B2", 5.0, 10),
    ("A1", "B3", 4.0, 20),
    ("A2", "B1", 1.0, 5),
]


def gz(path: Path, lines: list[str]) -> None:
    path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))


def reviews(day: int = 86400) -> list[str]:
    keys = ("reviewerID", "asin", "overall", "unixReviewTime")
    rows = [(*row[:3], 1_400_000_000 + row[3] * day) for row in REVIEWS]
    return [
        json.dumps(dict(zip(keys, row, strict=True)) | {"reviewText": "nice", "helpful": [0, 1]})
        for row in rows
    ]


def check(dataset: Any, publisher: str) -> None:
    assert (dataset.n_users, dataset.n_items, len(dataset.log)) == (2, 3, 4)
    assert dataset.log.positive.all()  # every review, as in the literature
    assert dataset.log.positive_rule == "every row"
    user = dataset.user_index(["A1"])[0]
    mine = slice(*dataset.log.offsets[user : user + 2])
    ids = dataset.items["item_id"].to_numpy()[dataset.log.item[mine]]
    assert ids.tolist() == ["B2", "B3", "B1"]
    items = dataset.items.set_index("item_id")
    assert items.loc["B1", "title"] == "Cream"
    assert list(items.loc["B1", "category"]) == ["Beauty", "Skin Care"]
    assert items.loc["B1", "author_id"] == publisher
    assert not {"salesRank", "related", "also_buy", "average_rating"} & set(items)


def test_2014(tmp_path: Path) -> None:
    """The metadata of that year are Python literals, and name products nobody reviewed."""
    gz(tmp_path / "reviews_Beauty_5.json.gz", reviews())
    gz(
        tmp_path / "meta_Beauty.json.gz",
        [
            "{'asin': 'B1', 'title': 'Cream', 'brand': \"L'Or\", 'salesRank': {'Beauty': 3}, "
            "'categories': [['Beauty', 'Skin Care'], ['Beauty']], 'related': {'also_buy': ['x']}}",
            "{'asin': 'B2', 'categories': [['Beauty']]}",
            "{'asin': 'NOBODY', 'title': 'x'}",
        ],
    )
    dataset = get("amazon-2014-Beauty", tmp_path, tmp_path)
    check(dataset, "L'Or")
    assert dataset.info["counts"]["unknown_items"] == 1  # B3 has no metadata
    assert "reviews_Beauty_5.json.gz (sha256:" in dataset.info["source"]


def test_2018(tmp_path: Path) -> None:
    gz(tmp_path / "All_Beauty_5.json.gz", reviews())
    gz(
        tmp_path / "meta_All_Beauty.json.gz",
        [
            json.dumps(
                {
                    "asin": one,
                    "title": "Cream",
                    "brand": "L'Or",
                    "category": ["Beauty", "Skin Care"],
                    "also_buy": ["x"],
                    "description": ["soft", "and white"],
                }
            )
            for one in ("B1", "B2", "B3", "NOBODY")
        ],
    )
    dataset = get("amazon-2018-All_Beauty", tmp_path, tmp_path)
    check(dataset, "L'Or")
    assert dataset.items["caption"].tolist() == ["soft and white"] * 3


def test_2023(tmp_path: Path) -> None:
    lines = ["user_id,parent_asin,rating,timestamp"]
    lines += [f"{u},{i},{r},{1_600_000_000_000 + t}" for u, i, r, t in REVIEWS]
    gz(tmp_path / "All_Beauty.csv.gz", lines)
    meta = {
        "title": "Cream",
        "store": "L'Or",
        "average_rating": 4.1,
        "categories": ["Beauty", "Skin Care"],
        "details": {"Size": "1"},
        "price": None,
    }
    gz(
        tmp_path / "meta_All_Beauty.jsonl.gz",
        [json.dumps(meta | {"parent_asin": one}) for one in ("B1", "B2", "B3", "NOBODY")],
    )
    dataset = get("amazon-2023-All_Beauty", tmp_path, tmp_path)
    check(dataset, "L'Or")
    assert json.loads(dataset.items["details"][0]) == {"Size": "1"}


def test_a_folder_without_the_reviews(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file reviews_Beauty_5\.json\.gz"):
        get("amazon-2014-Beauty", tmp_path, tmp_path / "home")
