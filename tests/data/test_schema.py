"""Names of other datasets become ours, and what knows the future is not read."""

from pathlib import Path

import pytest

from onerec.data.schema import FORBIDDEN, TABLES, map_columns, simplify
from onerec.errors import DataError


@pytest.mark.parametrize(
    "name", ["user_id", "userId", "USER-ID", "user_id:token", " User ID ", "userid"]
)
def test_spellings_of_one_name_are_one(name: str) -> None:
    assert simplify(name) == "userid"


def test_no_name_stands_for_two_of_our_columns() -> None:
    for table, fields in TABLES.items():
        names = [simplify(name) for one in fields for name in {one.name, *one.aliases}]
        repeated = {name for name in names if names.count(name) > 1}
        repeated -= {simplify(one.name) for one in fields}  # an alias spelled like its own column
        assert not repeated, table


def test_kuairand_names() -> None:
    names = ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_hate", "tab"]
    mapped = map_columns("interactions", names, {}, "log.csv")
    assert mapped.columns == {
        "user_id": "user_id",
        "item_id": "video_id",
        "timestamp": "time_ms",
        "click": "is_click",
        "dislike": "is_hate",
    }
    assert mapped.ignored == ("date", "hourmin", "tab")


def test_amazon_names() -> None:
    names = ["reviewerID", "asin", "overall", "unixReviewTime", "reviewTime", "reviewText"]
    mapped = map_columns("interactions", names, {}, "reviews.json")
    assert mapped.columns == {
        "user_id": "reviewerID",
        "item_id": "asin",
        "rating": "overall",
        "timestamp": "unixReviewTime",
    }


def test_further_item_columns_are_kept_but_not_those_that_know_the_future() -> None:
    names = ["asin", "brand", "salesRank", "related", "price", "item", "play_cnt", "Price"]
    mapped = map_columns("items", names, {}, "meta.json")
    assert mapped.columns == {"item_id": "asin", "author_id": "brand"}
    assert mapped.kept == ("price",)
    assert mapped.ignored == (
        "salesRank (knows the future)",
        "related (knows the future)",
        "item",
        "play_cnt (knows the future)",
        "Price",
    )


def test_an_override_wins_and_an_empty_one_leaves_out() -> None:
    names = ["user_id", "item_id", "sku", "timestamp", "comment"]
    mapped = map_columns("interactions", names, {"item_id": "sku", "comment": ""}, "log.csv")
    assert mapped.columns == {"user_id": "user_id", "item_id": "sku", "timestamp": "timestamp"}
    assert mapped.ignored == ("item_id", "comment")


def test_a_missing_column_lists_what_is_there() -> None:
    with pytest.raises(DataError, match=r"log\.csv: no column user_id .*it has who, item_id"):
        map_columns("interactions", ["who", "item_id"], {}, "log.csv")


def test_the_table_of_names_is_documented() -> None:
    text = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    for fields in TABLES.values():
        for one in fields:
            line = next(row for row in text.splitlines() if row.startswith(f"| `{one.name}`"))
            assert line
            assert all(f"`{alias}`" in text for alias in one.aliases), one.name
    assert all(f"`{name}`" in text for name in FORBIDDEN)
