"""The cache of content tokens: encoded once, resumed, refreshed where the content changes."""

from pathlib import Path

import numpy as np
import pytest
import toy_home

from onerec.data.content_cache import Encoded, encode_items
from onerec.data.dataset import Dataset
from onerec.data.item_content import ItemReader
from onerec.errors import DataError
from onerec.tokenizer.content import ItemContent, Precomputed, stack_states


class Letters:
    """As many tokens as the title has words; counts the items that it is asked for."""

    name, dim, pixels = "letters", 2, 0

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode(self, content: ItemContent) -> Precomputed:
        self.asked.append(len(content))
        states = [
            [np.array([[len(word), ord(word[0])] for word in title.split()], dtype=np.float32)]
            for title in content.texts["title"]
        ]
        return stack_states(states, self.dim, self.name)


@pytest.fixture
def toy(tmp_path: Path) -> Dataset:
    dataset = toy_home.make_dataset(tmp_path)
    dataset.items["title"] = [f"{'long ' * (i % 4)}title {i}" for i in range(toy_home.ITEMS)]
    return dataset


def encode(toy: Dataset, folder: Path | None, batch: int = 8) -> tuple[Encoded, Letters]:
    encoder = Letters()
    return encode_items(encoder, ItemReader(toy), folder, batch=batch), encoder


def test_tokens_equal_those_of_all_items_at_once_and_come_from_the_cache_after_that(
    toy: Dataset, tmp_path: Path
) -> None:
    whole = Letters().encode(ItemReader(toy).read(range(toy_home.ITEMS)))
    told: list[tuple[int, int]] = []
    first, encoder = Letters(), Letters()
    made = encode_items(
        first, ItemReader(toy), tmp_path / "c", lambda *at: told.append(at), batch=8
    )
    assert first.asked == [8, 8, 8, 6]
    assert told == [(8, 30), (16, 30), (24, 30), (30, 30)]
    again = encode_items(encoder, ItemReader(toy), tmp_path / "c")
    assert encoder.asked == []
    assert (made.encoded, made.found, again.encoded, again.found) == (30, 0, 0, 30)
    without, _ = encode(toy, None)
    for found in (made, again, without):
        assert np.array_equal(found.content.tokens, whole.tokens)
        assert np.array_equal(found.content.mask, whole.mask)
        assert found.images.tolist() == [0] * 30


def test_a_process_that_was_stopped_goes_on_where_it_was(toy: Dataset, tmp_path: Path) -> None:
    def stop(done: int, of: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_items(Letters(), ItemReader(toy), tmp_path / "c", stop, batch=8)
    made, encoder = encode(toy, tmp_path / "c")
    assert encoder.asked == [8, 6]
    assert np.array_equal(made.content.tokens, encode(toy, None)[0].content.tokens)


def test_only_items_that_changed_are_encoded_again(toy: Dataset, tmp_path: Path) -> None:
    encode(toy, tmp_path / "c")
    toy.items.loc[[3, 11], "title"] = "a title that is longer than all the others"
    made, encoder = encode(toy, tmp_path / "c")
    assert encoder.asked == [2]
    assert made.content.mask[3].sum() == made.content.mask.shape[1] == 9
    assert made.content.mask[4].sum() == 2


def test_longer_items_that_a_cached_part_holds_besides_add_no_places(
    toy: Dataset, tmp_path: Path
) -> None:
    """Another dataset's item of many words once made the tokens of all items as wide as its own."""
    usual = toy.items.loc[3, "title"]
    toy.items.loc[3, "title"] = "long " * 40
    encode(toy, tmp_path / "c")
    toy.items.loc[3, "title"] = usual
    made, encoder = encode(toy, tmp_path / "c")
    assert encoder.asked == [1]
    fresh, _ = encode(toy, None)
    assert made.content.tokens.shape == fresh.content.tokens.shape
    assert np.array_equal(made.content.tokens, fresh.content.tokens)
    assert np.array_equal(made.content.mask, fresh.content.mask)


def test_items_of_equal_content_are_encoded_once(toy: Dataset) -> None:
    toy.items["title"] = [f"title {i % 3}" for i in range(toy_home.ITEMS)]
    toy.items["tags"] = [["x"]] * toy_home.ITEMS
    made, encoder = encode(toy, None)
    assert encoder.asked == [3]
    assert made.content.tokens[:, 1, 1].tolist() == [ord(str(i % 3)) for i in range(30)]


def test_a_damaged_part_counts_as_not_there(toy: Dataset, tmp_path: Path) -> None:
    encode(toy, tmp_path / "c")
    paths = sorted((tmp_path / "c").rglob("*.safetensors"))
    assert len(paths) == 4
    paths[0].write_bytes(paths[0].read_bytes()[:-30])
    paths[1].write_bytes(b"")
    _, encoder = encode(toy, tmp_path / "c")
    assert 0 < sum(encoder.asked) <= 16
    _, encoder = encode(toy, tmp_path / "c")
    assert encoder.asked == []


def test_another_encoder_has_a_cache_of_its_own(toy: Dataset, tmp_path: Path) -> None:
    encode(toy, tmp_path / "c")
    other = Letters()
    other.name = "other letters"
    encode_items(other, ItemReader(toy), tmp_path / "c")
    assert other.asked == [30]


def test_tokens_that_are_not_finite_are_named_by_their_items(toy: Dataset) -> None:
    class Broken(Letters):
        def encode(self, content: ItemContent) -> Precomputed:
            return Precomputed(np.full((len(content), 1, 2), np.nan), np.ones((len(content), 1)))

    first = toy.items["item_id"].iloc[0]
    with pytest.raises(DataError, match=f"item {first}: letters: .* not all finite"):
        encode_items(Broken(), ItemReader(toy), batch=8)


def test_an_item_that_cannot_be_encoded_is_named_and_else_the_batch(toy: Dataset) -> None:
    class Fifth(Letters):
        """Stumbles over one item, or over any batch."""

        def __init__(self, least: int) -> None:
            super().__init__()
            self.least = least

        def encode(self, content: ItemContent) -> Precomputed:
            fifth = toy.items["title"].iloc[4] in content.texts["title"]
            if fifth and len(content) >= self.least:
                raise DataError("stumbled")
            return super().encode(content)

    ids = toy.items["item_id"]
    with pytest.raises(DataError, match=f"^item {ids.iloc[4]}: letters: stumbled$"):
        encode_items(Fifth(1), ItemReader(toy), batch=8)
    with pytest.raises(DataError, match=f"^item {ids.iloc[4]}: letters: stumbled$"):
        encode_items(Fifth(1), ItemReader(toy), batch=1)
    with pytest.raises(DataError, match=f"^items {ids.iloc[0]} to {ids.iloc[7]}: letters: stum"):
        encode_items(Fifth(2), ItemReader(toy), batch=8)


def test_a_disk_that_is_full_is_told_in_one_line(toy: Dataset, tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot be written .*; free some disk space"):
        encode(toy, tmp_path / "c")
