"""The published layouts of MovieLens, in small."""

import zipfile
from pathlib import Path

import pytest

from onerec.data.dataset import Dataset
from onerec.data.ingest import import_files
from onerec.data.sources import movielens
from onerec.errors import DataError

RATINGS = [(1, 10, 5, 874965758), (1, 20, 3, 876893171), (1, 10, 4, 878542960), (2, 20, 2, 1)]


def make(folder: Path, files: dict[str, str]) -> Dataset:
    source = folder / "ml"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_text(text, encoding="latin-1")
    tables = movielens.sources(source)
    log = tables["interactions"]
    assert log is not None
    return import_files(log, tables["items"], tables["users"], name="ml", home=folder)


def rows(separator: str) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in RATINGS)


def check(dataset: Dataset) -> None:
    assert (dataset.n_users, dataset.n_items, len(dataset.log)) == (2, 2, 4)
    items = dataset.items.set_index("item_id")
    assert items.loc[10, "title"] == "Amélie (2001)"
    assert list(items.loc[10, "category"]) == ["Comedy", "Romance"]
    user = dataset.user_index([1])[0]
    mine = slice(*dataset.log.offsets[user : user + 2])
    assert dataset.log.columns["rating"][mine].tolist() == [5, 3, 4]
    assert dataset.log.columns["timestamp"][mine][0] == 874965758000
    assert dataset.info["time"] == "exact"


def test_100k(tmp_path: Path) -> None:
    amelie = ["0"] * 19
    amelie[5] = amelie[14] = "1"
    items = f"10|Amélie (2001)|25-Apr-2001||http://x|{'|'.join(amelie)}\n"
    items += f"20|unknown||||{'|'.join(['1'] + ['0'] * 18)}\n"
    dataset = make(
        tmp_path,
        {
            "u.data": rows("\t"),
            "u.item": items,
            "u.user": "1|24|M|technician|01234\n2|53|F|other|T8H1N\n",
        },
    )
    check(dataset)
    assert dataset.users.set_index("user_id").loc[1, "zip"] == "01234"
    assert dataset.items.set_index("item_id").loc[10, "published_at"] == 988156800000


def test_1m(tmp_path: Path) -> None:
    dataset = make(
        tmp_path,
        {
            "ratings.dat": rows("::"),
            "movies.dat": "10::Amélie (2001)::Comedy|Romance\n20::X (1)::Drama\n",
            "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
        },
    )
    check(dataset)
    assert sorted(dataset.users["gender"]) == ["F", "M"]


def test_25m_and_32m(tmp_path: Path) -> None:
    """These are UTF-8, and a title with a comma is quoted."""
    source = tmp_path / "ml"
    source.mkdir()
    text = "userId,movieId,rating,timestamp\n" + rows(",")
    (source / "ratings.csv").write_text(text)
    (source / "movies.csv").write_text(
        "movieId,title,genres\n10,Amélie (2001),Comedy|Romance\n"
        '20,"Net, The (1995)",(no genres listed)\n',
        encoding="utf-8",
    )
    (source / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,10,late,9\n")
    tables = movielens.sources(source)
    log = tables["interactions"]
    assert log is not None
    dataset = import_files(log, tables["items"], name="ml", home=tmp_path)
    check(dataset)
    other = dataset.items.set_index("item_id").loc[20]
    assert other["title"] == "Net, The (1995)"
    assert list(other["category"]) == []


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is this MovieLens"):
        movielens.sources(tmp_path)


def test_the_members_of_the_archive_are_those_that_are_read(tmp_path: Path) -> None:
    from onerec.data.download import unpack

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("ml-25m/ratings.csv", "ml-25m/movies.csv", "ml-25m/genome-scores.csv"):
            archive.writestr(name, "x")
    found = unpack(tmp_path / "a.zip", tmp_path, movielens.PATTERNS)
    assert sorted(path.name for path in found) == ["movies.csv", "ratings.csv"]
