"""What an item says of itself in words."""

import numpy as np
import pandas as pd

from onerec.data.item_text import (
    as_one,
    empty_columns,
    item_texts,
    same_columns,
    text_columns,
)

LONG = ("a quiet walk along the river", "how to mend a bicycle at home", None)


def frame(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"item": [0, 1, 2], "item_id": ["x", "y", "z"], **columns})


def test_words_stand_in_one_order_lists_flattened_gaps_empty() -> None:
    texts, columns = item_texts(
        frame(
            category=[["food", "soup"], np.array(["food"]), []],
            title=["Soup", None, np.nan],
            tags=[["hot", "hot"], [], ["cold"]],
        )
    )
    assert columns == ["title", "tags", "category"]
    assert texts == ["Soup hot food soup", "food", "cold"]


def test_nested_categories_lose_what_they_repeat() -> None:
    texts, _ = item_texts(frame(category=[[["Beauty", "Hair"], ["Beauty"]], [["Beauty"]], []]))
    assert texts[0].split().count("Hair") == 1
    assert texts[1:] == ["Beauty", ""]


def test_a_further_column_is_read_when_it_holds_sentences_and_only_then() -> None:
    texts, columns = item_texts(
        frame(
            title=["one", "two", "three"],
            description=LONG,
            link=[f"https://example.org/some/long/path/{i}" for i in range(3)],
            state=["normal"] * 3,
        )
    )
    assert columns == ["title", "description"]
    assert texts == [f"one {LONG[0]}", f"two {LONG[1]}", "three"]


def test_what_is_read_on_screen_and_said_are_texts_however_short() -> None:
    found = frame(ocr=["SALE 3% OFF", "x", ""], caption=["one", "two", ""], asr=["大家好", "", ""])
    texts = ["one SALE 3% OFF 大家好", "two x", ""]
    assert item_texts(found) == (texts, ["caption", "ocr", "asr"])


def test_a_chinese_sentence_is_as_long_as_one_of_letters() -> None:
    said = ["今天给大家做一道很好吃的菜", "这个视频教你怎么修自行车", "周末我们一起去公园散步"]
    assert item_texts(frame(title=["a", "b", "c"], words=said))[1] == ["title", "words"]


def test_without_words_categories_become_words() -> None:
    """Tags that are numbers say nothing to an encoder of letters; `tags=39` does."""
    texts, columns = item_texts(
        frame(tags=["39", "8", "39"], author_id=[1, 1, 2], kind=["a b", "c", "c"], same=[1, 1, 1])
    )
    assert columns == ["tags=", "author_id=", "kind="]
    assert texts[0] == "tags=39 author_id=1 kind=a_b"
    assert texts[2] == "tags=39 author_id=2 kind=c"


def test_items_that_say_nothing_have_empty_texts() -> None:
    texts, columns = item_texts(frame(image=["1.png", "2.png", "3.png"]))
    assert texts == ["", "", ""]
    assert columns == []


def test_later_items_are_read_in_the_columns_of_those_before() -> None:
    items = pd.DataFrame({"title": ["a cup", "b"], "tags": [["x", "y"], None]})
    columns = list(text_columns(items))
    assert same_columns(items, columns) == text_columns(items)
    later = pd.DataFrame({"title": ["c", None], "brand": ["never read", "z"]})
    texts = same_columns(later, columns)
    assert texts == {"title": ["c", ""], "tags": ["", ""]}
    assert as_one(texts, 2) == ["c", ""]
    named = pd.DataFrame({"shelf": [1, 2, 1]})
    assert same_columns(named.iloc[:1], list(text_columns(named))) == {"shelf=": ["shelf=1"]}


def test_a_list_of_numbers_with_gaps_is_no_text_and_no_end() -> None:
    """A missing number of a list column ended `tokenize` in a traceback."""
    gap = np.ma.MaskedArray([0.5, 0.0], mask=[False, True])
    whole = np.ma.MaskedArray([1.0, 2.0], mask=[True, True])
    nan = np.array([np.nan, 0.25], dtype=np.float32)
    items = pd.DataFrame({"title": ["a", "b", "c"], "scores": [gap, whole, nan]})
    assert item_texts(items)[0] == ["a", "b", "c"]
    assert same_columns(items, ["scores"])["scores"] == ["0.5", "", "0.25"]


def test_a_column_of_blanks_is_not_read_and_is_named() -> None:
    items = frame(title=["", " ", None], tags=[[], [""], []], caption=["a", "", "b"], x=[1, 2, 3])
    assert list(text_columns(items)) == ["caption"]
    assert empty_columns(items) == ["title", "tags"]
    blank = frame(title=["", "", ""], shelf=[1, 1, 2])
    assert list(text_columns(blank)) == ["shelf="]
    assert empty_columns(frame(title=["a", "b", "c"])) == []
