"""Rows that quantisers are compared on, and those that are refused with their place."""

from pathlib import Path

import numpy as np
import pytest
import torch

from onerec.bench.vectors import read_vectors, refuse_few, world_vectors
from onerec.errors import DataError


def test_world_vectors_are_those_of_the_tokenizer_stage() -> None:
    x = world_vectors(500)
    assert x.shape == (500, 32)
    torch.testing.assert_close(x.mean(0), torch.zeros(32), atol=1e-5, rtol=0)
    assert float(x.norm(dim=1).mean()) == pytest.approx(1, abs=1e-4)


def test_files_that_hold_no_rows_are_named_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^\S+gone\.npy: No such file or directory; give a \.npy"):
        read_vectors(tmp_path / "gone.npy")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    with pytest.raises(DataError, match="holds no matrix"):
        read_vectors(tmp_path / "flat.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    for name in ("text", "objects"):
        with pytest.raises(DataError, match=r"no array of numbers; give a \.npy") as caught:
            read_vectors(tmp_path / f"{name}.npy")
        assert "pickle" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((6, 0)), r"v.npy: an array \(6, 0\) has no numbers"),
        (np.zeros((0, 6)), r"v.npy: an array \(0, 6\) has no numbers"),
        (np.array([[0.0, 1.0], [2.0, 3.0], [np.nan, 0.0]]), "v.npy: row 2 has a value that is not"),
        (np.array([[0.0, 1.0], [1e200, 3.0]]), "v.npy: row 1 has a value that is not finite"),
        (np.array([[0.0, 1.0], [2e19, 3.0]]), "v.npy: row 1 is so long that squares are not"),
        (np.diag([1.0, 1.0, 1e19, 1.0]), "v.npy: row 2 is so long that squares are not"),
        (np.ones((600, 8)), "v.npy: all 600 rows are equal"),
        (np.ones((1, 8)), "v.npy: one row is there"),
    ],
)
def test_rows_that_cannot_be_coded_are_named(tmp_path: Path, rows: np.ndarray, said: str) -> None:
    """Row 5 was told as 441, its place after the shuffle; equal rows ended in a traceback."""
    np.save(tmp_path / "v.npy", rows)
    with pytest.raises(DataError, match=said):
        read_vectors(tmp_path / "v.npy")


def test_rows_are_read_as_they_stand(tmp_path: Path) -> None:
    rows = np.array([[1, 2], [3, 4]])
    np.save(tmp_path / "v.npy", rows)
    assert read_vectors(tmp_path / "v.npy").equal(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_fewer_rows_than_codes_are_refused_with_how_many_do() -> None:
    """Of ten rows one is held out; of nine one too, the least that is."""
    for rows in (1, 5, 9):
        with pytest.raises(DataError, match=rf"rows\.npy: of {rows} rows .* give 11 or more$"):
            refuse_few(rows, 0.1, 9, "rows.npy")
    refuse_few(10, 0.1, 9, "rows.npy")
    with pytest.raises(DataError, match=r"of 283 rows 255 .* 256 codes; give 286 or more$"):
        refuse_few(283, 0.1, 256, "rows.npy")
    refuse_few(284, 0.1, 256, "rows.npy")
