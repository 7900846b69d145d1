"""What was read of the items: a row per source, whatever the report's age."""

import json
from pathlib import Path

import pandas as pd

from onerec.explain import contents
from onerec.runs import Run
from onerec.tokenizer.content import CO_CONSUMPTION


def told(run: Run, *parts: dict) -> pd.DataFrame:
    """The sources of a run whose report says so."""
    path = run.path / "tokenizer" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"content": list(parts)}))
    return contents.sources(Run(run.path))


def test_a_source_says_what_it_read_and_which_items_lack_it(run: Run) -> None:
    (row,) = contents.sources(run).to_dict("records")
    assert row["part"] == "hashed text"
    assert row["reads"] == "title, tags"
    assert (row["width"], row["tokens"], row["items_without"]) == (8, 45, 3)
    assert pd.isna(row["images_read"])


def test_images_are_counted_and_the_first_left_out_is_named(run: Run) -> None:
    images = {"read": 27, "left_out": 2, "items_without": 3, "first_left_out": "item 28: 28.png"}
    found = told(
        run,
        {"part": "images", "dim": 4, "weight": 0.5, "encoder": "eyes", "images": images},
        {"part": "co-consumption", "dim": 6, "weight": 0.7},
    )
    assert found["reads"].tolist() == ["eyes", ""]
    assert found.loc[0, "images_read"] == 27
    assert found.loc[0, "images_left_out"] == 2
    assert found.loc[0, "first_left_out"] == "item 28: 28.png"
    assert found["items_without"].isna().all(), "an old run does not tell"


def test_a_column_without_a_word_and_values_in_place_of_words_are_told(run: Run) -> None:
    told(
        run,
        {"part": "hashed text", "dim": 8, "weight": 1.0, "columns": ["brand=", "author_id="],
         "empty_columns": ["title", "tags"], "alike": True},
        {"part": CO_CONSUMPTION, "dim": 6, "weight": 0.7},
    )  # fmt: skip
    assert contents.left_out(run)[:3] == [
        "hashed text: the same for all items, so it tells none apart",
        "hashed text: no item has a word in title, tags",
        "hashed text: no column holds words; values stand for them (brand, author_id)",
    ]
    reads = [{"part": "text", "dim": 8, "columns": ["title"], "empty_columns": ["asr"]}]
    told(run, {"part": "QFormer", "dim": 64, "weight": 2.0, "reads": reads, "alike": True})
    assert contents.left_out(run)[:2] == [
        "QFormer: the same for all items, so it tells none apart",
        "text: no item has a word in asr",
    ]


def test_codes_of_co_consumption_alone_are_told(run: Run) -> None:
    told(run, {"part": CO_CONSUMPTION, "dim": 6, "weight": 0.7})
    assert contents.left_out(run)[0].startswith("no text, image or token is read: codes say only")
    told(run)
    assert not any("is read" in line for line in contents.left_out(run)), "too old to tell"


def test_the_first_items_with_an_image_left_out_are_named(run: Run) -> None:
    images = {"read": 1, "left_out": 3, "first_left_out": "item 7: 7.png"}
    for named, end in ((["7", "9"], "7.png (items 7, 9)"), (["7"], "7.png"), ([], "7.png")):
        told(
            run,
            {"part": "images", "dim": 4, "weight": 1, "images": images | {"left_out_of": named}},
        )
        assert (
            contents.left_out(run)[0] == f"images: 3 could not be read, the first of item 7: {end}"
        )


def test_what_a_qformer_reads_is_told_in_its_place(run: Run) -> None:
    reads = [
        {"part": "text", "dim": 8, "columns": ["title"], "encoder": "words", "items_without": 1},
        {"part": "images", "dim": 9, "items_without": 4},
    ]
    found = told(run, {"part": "QFormer", "dim": 64, "weight": 2.0, "reads": reads})
    assert found["part"].tolist() == ["text", "images"]
    assert found["weight"].tolist() == [2.0, 2.0]
    assert found["reads"].tolist() == ["title by words", ""]
    assert found["items_without"].tolist() == [1, 4]


def test_the_modalities_of_a_source_stand_behind_it(run: Run) -> None:
    """An item without any speech has tokens all the same."""
    lacking = {"caption": {"tokens": 90, "items_without": 0},
               "asr": {"tokens": 40, "items_without": 12}}  # fmt: skip
    own = {"part": "tokens", "dim": 8, "weight": 1.0, "items_without": 0, "modalities": lacking}
    found = told(run, own, {"part": "co-consumption", "dim": 6, "weight": 0.7})
    parts = ["tokens", "tokens: caption", "tokens: asr", "co-consumption"]
    assert found["part"].tolist() == parts
    assert found["items_without"].tolist()[:3] == [0, 0, 12]


def test_without_a_tokenizer_there_is_an_empty_frame(tmp_path: Path) -> None:
    found = contents.sources(Run(tmp_path))
    assert found.empty
    assert list(found.columns) == list(contents.COLUMNS)


def test_what_the_tokenizer_did_without_is_told_in_lines(run: Run) -> None:
    images = {"read": 27, "left_out": 2, "items_without": 3, "first_left_out": "item 28: 28.png"}
    told(
        run,
        {"part": "hashed text", "dim": 8, "weight": 1.0, "items_without": 3},
        {"part": "images", "dim": 4, "weight": 0.5, "items_without": 0, "images": images},
        {"part": "co-consumption", "dim": 6, "weight": 0.7},
    )
    path = run.path / "tokenizer" / "report.json"
    report = json.loads(path.read_text())
    more = {"items": 48, "codebook_size": 4, "codebook_ceiling": 16, "fit_items": 44}
    path.write_text(json.dumps(report | more))
    assert contents.left_out(Run(run.path)) == [
        "hashed text: 3 of 48 items have none; the mean of the others stands in",
        "images: 2 could not be read, the first of item 28: 28.png",
        "codebooks of 4 codes, not 16: 44 items to fit on are too few "
        "(tokenizer.exact_size=true insists)",
    ]
    path.write_text(json.dumps(report | more | {"codebook_ceiling": 4, "content": []}))
    assert contents.left_out(Run(run.path)) == []
    assert contents.left_out(Run(run.path.parent)) == []
