"""Opening, listing and deleting dataset folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from onerec.data import dataset as module
from onerec.data.dataset import (
    Dataset,
    dataset_path,
    delete_dataset,
    home,
    list_datasets,
    open_dataset,
    write_dataset,
)
from onerec.errors import DataError


@pytest.fixture
def made(tmp_path: Path) -> Dataset:
    log = {
        "user_id": np.array(["u1", "u1", "u1", "u2"], dtype=object),
        "item_id": np.array(["a", "b", "c", "a"], dtype=object),
        "timestamp": np.arange(4),
        "click": np.array([1, 0, 1, 1], dtype=np.int8),
        "comment": np.full(4, -1, dtype=np.int8),
    }
    return write_dataset(dataset_path("d", tmp_path), "d", log, None, None, source="test")


def test_a_dataset_opens_by_name_and_by_path(made: Dataset, tmp_path: Path) -> None:
    for opened in (open_dataset("d", tmp_path), open_dataset(made.path)):
        assert opened.fingerprint == made.fingerprint
        assert (opened.n_users, opened.n_items, len(opened.log)) == (2, 3, 4)


def test_a_behaviour_of_which_nothing_is_known_is_none(made: Dataset) -> None:
    assert made.behaviours == ("click",)


def arrays_of(made: Dataset, **changed: np.ndarray) -> Path:
    """A file of content tokens for the three items, two tokens each."""
    arrays = {
        "tokens": np.zeros((3, 2, 4), np.float32),
        "mask": np.ones((3, 2), np.uint8),
        "modality": np.zeros(2, np.int64),
    }
    path = made.path / "content.safetensors"
    save_file({k: v for k, v in (arrays | changed).items() if v.ndim}, path)
    return path


def test_content_that_does_not_fit_the_items_names_the_file(made: Dataset) -> None:
    arrays_of(made)
    content = made.content()
    assert content is not None
    assert content.tokens.shape == (3, 2, 4)
    for changed, said in (
        ({"tokens": np.zeros((2, 2, 4), np.float32), "mask": np.ones((2, 2), np.uint8)},
         r"are of 2 items, the dataset has 3"),
        ({"mask": np.ones((3, 5), np.uint8)}, r"mask \(3, 5\) .* do not agree"),
        ({"modality": np.zeros(3, np.int64)}, r"modality \(3,\) do not agree"),
        ({"modality": np.array(0)}, "has no array 'modality'"),
        ({"tokens": np.array(0)}, "has no array 'tokens'"),
    ):  # fmt: skip
        path = arrays_of(made, **changed)
        with pytest.raises(DataError, match=f"^{path}: .*{said}"):
            made.content()
    arrays_of(made, modality=np.array([0, 2]))
    made.info["modalities"] = ["caption", "cover"]
    with pytest.raises(DataError, match=r"goes from 0 to 2, dataset\.json names 2"):
        made.content()


def test_ids_are_found_as_text(made: Dataset) -> None:
    index = made.item_index(["c", "a"])
    assert made.items["item_id"].to_numpy()[index].tolist() == ["c", "a"]
    assert made.user_index([]).tolist() == []
    with pytest.raises(DataError, match="'q' is no item of dataset 'd'"):
        made.item_index(["a", "q"])
    with pytest.raises(DataError, match=r"^\[0, 1, .{73}\.\.\. is no item of dataset 'd'"):
        made.item_index([list(range(100))])


def test_a_missing_dataset_names_what_is_there_and_how_to_make_it(
    made: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"no dataset 'e' .*there are d.*onerec data import"):
        open_dataset("e", tmp_path)


def test_a_damaged_dataset_says_so(made: Dataset, tmp_path: Path) -> None:
    file = made.path / "interactions.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"damaged dataset.*import it again"):
        open_dataset("d", tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="damaged dataset"):
        open_dataset("d", tmp_path)
    file.write_bytes(whole)
    info = json.loads((made.path / "dataset.json").read_text())
    info["rows"]["interactions"] = 3
    (made.path / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"4 interactions, dataset\.json says 3"):
        open_dataset("d", tmp_path)
    (made.path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="damaged dataset"):
        open_dataset("d", tmp_path)


def test_the_list_shows_finished_datasets_only(made: Dataset, tmp_path: Path) -> None:
    (tmp_path / "datasets" / ".e.1.tmp").mkdir()
    (tmp_path / "datasets" / ".e.1.tmp" / "dataset.json").write_text("{}")
    (tmp_path / "datasets" / "half").mkdir()
    assert [one["name"] for one in list_datasets(tmp_path)] == ["d"]
    assert list_datasets(tmp_path / "nothing") == []


def test_delete(made: Dataset, tmp_path: Path) -> None:
    for name in ("e", "", "..", "../datasets"):
        with pytest.raises(DataError, match="no dataset"):
            delete_dataset(name, tmp_path)
    delete_dataset("d", tmp_path)
    assert list((tmp_path / "datasets").iterdir()) == []


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEREC_HOME", "/somewhere")
    assert home() == Path("/somewhere")
    monkeypatch.delenv("ONEREC_HOME")
    assert home() == Path("data")


def test_the_public_names_are_there() -> None:
    assert all(hasattr(module, name) for name in module.__all__)
