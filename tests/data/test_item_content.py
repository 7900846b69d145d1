"""Reading what items say and show: which files, which hashes, what cannot be read."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_home

from onerec.data.dataset import Dataset
from onerec.data.item_content import ItemReader, image_paths
from onerec.data.sources.world import png
from onerec.errors import DataError, RecipeError


def picture(light: int, height: int = 6, width: int = 4) -> bytes:
    return png(np.full((height, width, 3), light, dtype=np.uint8))


@pytest.fixture
def toy(tmp_path: Path) -> Dataset:
    return toy_home.make_dataset(tmp_path)


def with_columns(dataset: Dataset, **columns: object) -> Dataset:
    """The same dataset with more columns of its items, not on disk."""
    changed = replace(dataset)
    changed.__dict__["items"] = dataset.items.assign(**columns)
    return changed


def test_texts_are_read_by_column_and_missing_ones_are_empty(toy: Dataset) -> None:
    ocr = [None, "words on the screen of the video", *[f"scene {i} of a film" for i in range(28)]]
    reader = ItemReader(with_columns(toy, ocr=pd.Series(ocr * 1, dtype="str")))
    read = reader.read([1, 0])
    assert list(read.texts) == reader.columns
    assert read.texts["title"] == toy.items["title"].iloc[[1, 0]].tolist()
    assert read.texts["tags"][0] == " ".join(toy.items["tags"].iloc[1])
    assert read.images == [[], []]
    assert len(reader) == toy_home.ITEMS


def test_a_cover_is_the_named_file_or_the_drawn_one_and_frames_follow(toy: Dataset) -> None:
    images = toy.path / "images"
    images.mkdir()
    for name in ("0.png", "1.PNG", "2.txt"):
        (images / name).write_bytes(b"")
    covers = ["covers/a.jpg", "https://somewhere/b.jpg", None, *[None] * 27]
    frames = [[f"f{i}.png" for i in range(9)], ["one.png", "https://x/y.png"], None, *[None] * 27]
    paths = image_paths(with_columns(toy, image=covers, frames=pd.Series(frames, dtype=object)))
    names = [[str(path.relative_to(toy.path)) for path in one] for one in paths[:4]]
    assert names[0] == ["covers/a.jpg", "f0.png", "f2.png", "f4.png", "f6.png", "f8.png"]
    assert names[1] == ["images/1.PNG", "one.png"]
    assert names[2:] == [[], []]


def test_images_are_the_middle_square_and_those_that_cannot_be_read_are_left_out(
    toy: Dataset,
) -> None:
    pytest.importorskip("PIL")
    images = toy.path / "images"
    images.mkdir()
    tall = np.zeros((6, 2, 3), dtype=np.uint8)
    tall[2:4] = 200
    (images / "0.png").write_bytes(png(tall))
    (images / "1.png").write_bytes(picture(9)[:40])
    (images / "2.png").write_bytes(b"no picture at all")
    reader = ItemReader(toy, pixels=2, texts=False)
    shown = reader.read([0, 1, 2, 3]).images
    assert [len(one) for one in shown] == [1, 0, 0, 0]
    assert shown[0][0].shape == (2, 2, 3)
    assert shown[0][0].dtype == np.uint8
    assert shown[0][0].min() == 200
    assert reader.read([0]).texts == {}
    assert reader.unreadable(0) == []
    assert reader.unreadable(1) == [images / "1.png"]


def test_the_hash_follows_the_content_and_nothing_else(toy: Dataset) -> None:
    pytest.importorskip("PIL")
    images = toy.path / "images"
    images.mkdir()
    for row in range(3):
        (images / f"{row}.png").write_bytes(picture(row))
    before = ItemReader(toy, pixels=8).digests()
    assert before.shape == (toy_home.ITEMS, 32)
    assert len(np.unique(before, axis=0)) == toy_home.ITEMS
    (images / "1.png").write_bytes(picture(77))
    toy.items.loc[2, "title"] = "something else"
    changed = (ItemReader(toy, pixels=8).digests() != before).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [1, 2]
    assert (ItemReader(toy, pixels=16).digests() != before).any(axis=1).all()
    same = with_columns(toy, title=["the same"] * 30, tags=[["x"]] * 30)
    assert len(np.unique(ItemReader(same).digests(), axis=0)) == 1


def test_a_text_does_not_run_into_the_next(toy: Dataset) -> None:
    one = with_columns(toy, title=["ab"] * 30, caption=["c"] * 30)
    two = with_columns(toy, title=["a"] * 30, caption=["bc"] * 30)
    assert (ItemReader(one).digests() != ItemReader(two).digests()).any()


def test_a_dataset_without_images_is_refused(toy: Dataset) -> None:
    pytest.importorskip("PIL")
    with pytest.raises(DataError, match=r"'toy' has no images.*content\.images=false"):
        ItemReader(toy, pixels=8)


def test_without_pillow_the_error_says_what_to_install(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(RecipeError, match=r"pillow; `pip install onerec\[multimodal\]`"):
        ItemReader(toy, pixels=8)
