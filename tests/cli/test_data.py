"""`onerec data`, and every row of bad input that reaches it: one line, code 2, nothing left."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toy_home

from onerec.data.dataset import open_dataset

LOG = {
    "user_id": [1, 1, 1, 2, 2],
    "item_id": [10, 11, 12, 10, 12],
    "timestamp": [1_700_000_000 + n for n in range(5)],
}


def csv(folder: Path, **changes: Any) -> Path:
    """A small log as a file; a column that is None is left out."""
    columns = {name: v for name, v in {**LOG, **changes}.items() if v is not None}
    path = folder / "log.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def nothing_left(home: Path) -> bool:
    return not [p for p in home.rglob("*") if p.is_file() or p.name.startswith(".")]


def test_import_describe_list_delete(cli: Any, home: Path, tmp_path: Path) -> None:
    log, items, users = toy_home.write_files(tmp_path)
    made = cli("data", "import", "--interactions", log, "--items", items, "--users", users)
    assert made.code == 2  # without a name
    arguments = ("data", "import", "--interactions", log, "--items", items, "--users", users)
    made = cli(*arguments, "--name", "shop", "--json").json()
    assert made["rows"]["users"] == toy_home.USERS
    assert set(made["behaviours"]) == {"click", "like"}  # none is lost on the way
    assert cli("data", "describe", "shop", "--json").json() == made
    listed = cli("data", "list", "--json").json()["datasets"]
    assert [info["name"] for info in listed] == ["shop"]
    assert "shop" in cli("data", "list").out
    assert "like" in cli("data", "describe", "shop").out
    assert cli("data", "delete", "shop", "--json").json() == {"deleted": "shop"}
    assert cli("data", "list", "--json").json() == {"datasets": []}
    assert nothing_left(home)


def test_imported_files_give_the_dataset_that_was_written(
    cli: Any, home: Path, tmp_path: Path
) -> None:
    log, items, users = toy_home.write_files(tmp_path)
    cli("data", "import", "--interactions", log, "--items", items, "--users", users, "--name", "a")
    imported, written = open_dataset("a", home), toy_home.make_dataset(home, "b")
    assert imported.items["item_id"].tolist() == written.items["item_id"].tolist()
    assert imported.log.item.tolist() == written.log.item.tolist()
    for name, values in written.log.columns.items():
        assert imported.log.columns[name].tolist() == values.tolist(), name


def test_columns_may_be_named(cli: Any, home: Path, tmp_path: Path) -> None:
    path = csv(tmp_path, user_id=None, who=LOG["user_id"])
    command = ("data", "import", "--interactions", path, "--name", "x", "--json")
    made = cli(*command, "--column", "user_id=who").json()
    assert made["columns"]["interactions"]["user_id"] == "who"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"item_id": None}, ("log.csv", "item_id")),
        ({"timestamp": None}, ("neither timestamp nor position", "--column timestamp=THEIRS")),
        (
            {"timestamp": [1, 2, "yesterday", 4, 5]},
            ("log.csv, row 3, column timestamp", "yesterday"),
        ),
        ({"item_id": [10] * 5}, ("1 item", "at least 2")),
        ({"user_id": [1, 2, 3, 4, 5]}, ("no user has 3 events",)),
    ],
)
def test_a_file_that_is_no_dataset_is_refused(
    cli: Any,
    check_refused: Callable[..., None],
    home: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    parts: tuple[str, ...],
) -> None:
    path = csv(tmp_path, **changes)
    check_refused(cli("data", "import", "--interactions", path, "--name", "x"), *parts)
    assert nothing_left(home)


def test_mistakes_of_names_and_options_are_refused(
    cli: Any, check_refused: Callable[..., None], home: Path, tmp_path: Path
) -> None:
    path = csv(tmp_path)
    command = ("data", "import", "--interactions", path, "--name")
    check_refused(
        cli("data", "import", "--interactions", tmp_path / "none.csv", "--name", "x"), "none.csv"
    )
    check_refused(cli(*command, "../x"), "'../x'")
    check_refused(cli(*command, "x", "--column", "user_id"), "no '='")
    check_refused(cli(*command, "x", "--column", "user_id=usr"), "usr")
    check_refused(cli(*command, "x", "--unknown-items", "burn"), "burn", "keep or drop")
    check_refused(cli("data", "describe", "x"), "no dataset 'x'", "onerec data import")
    check_refused(cli("data", "delete", "x"), "no dataset 'x'")
    check_refused(cli("data", "delete", "../home"), "no dataset '../home'")
    check_refused(cli("data", "get", "ml-1000k"), "did you mean ml-100k?")
    check_refused(cli("data", "get", "ml-100k", "--from", tmp_path / "no.zip"), "no.zip")
    assert nothing_left(home)


def test_a_name_is_taken_once(
    cli: Any, check_refused: Callable[..., None], home: Path, tmp_path: Path
) -> None:
    command = ("data", "import", "--interactions", csv(tmp_path), "--name", "x")
    assert cli(*command).code == 0
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    check_refused(cli(*command), "'x' is already there", "onerec data delete x")
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == before


@pytest.mark.parametrize(("rule", "rows"), [("keep", 5), ("drop", 3)])
def test_unknown_items_are_counted_under_a_named_rule(
    cli: Any, home: Path, tmp_path: Path, rule: str, rows: int
) -> None:
    path = csv(tmp_path, user_id=[1] * 5)
    items = tmp_path / "items.csv"
    pd.DataFrame({"item_id": [10, 11], "title": ["a", "b"]}).to_csv(items, index=False)
    command = ("data", "import", "--interactions", path, "--items", items, "--name", "x")
    made = cli(*command, "--unknown-items", rule, "--json").json()
    assert made["counts"]["unknown_items"] == 2
    assert made["unknown_items_rule"] == rule
    assert made["rows"]["interactions"] == rows


def test_an_archive_with_another_checksum_is_refused(
    cli: Any, check_refused: Callable[..., None], home: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped.txt", "out")
    check_refused(cli("data", "get", "ml-100k", "--from", archive), "ml-100k.zip: md5", "expected")
    assert nothing_left(home)


def test_a_full_disk_leaves_nothing(
    cli: Any,
    check_refused: Callable[..., None],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onerec.data.write._copy", full)
    answer = cli("data", "import", "--interactions", csv(tmp_path), "--name", "x")
    check_refused(answer, "No space left on device", "nothing was left behind")
    assert nothing_left(home)


def test_a_damaged_dataset_is_listed_and_can_be_deleted(
    cli: Any, check_refused: Callable[..., None], finished: Path
) -> None:
    (finished / "datasets" / "toy" / "dataset.json").write_text("{")
    assert "damaged" in cli("data", "list").out
    assert json.loads(cli("data", "list", "--json").out)["datasets"][0]["damaged"] is True
    check_refused(cli("data", "describe", "toy"), "damaged dataset", "import it again")
    assert cli("data", "delete", "toy").code == 0


def test_a_world_of_ones_own_size(cli: Any, check_refused: Any, home: Path) -> None:
    size = ("--set", "n_users=20", "--set", "n_items=500")
    check_refused(cli("data", "get", "world", *size), "give another by --name")
    check_refused(cli("data", "get", "world", "--name", "w", "--set", "n_user=20"), "'n_users'")
    check_refused(cli("data", "get", "world", "--name", "w", "--set", "n_users=1"), "at least 10")
    check_refused(cli("data", "get", "beauty", "--set", "n_users=20"), "only a world has --set")
    assert nothing_left(home)
    made = cli("data", "get", "world", "--name", "w", *size, "--json").json()
    assert (made["rows"]["users"], made["rows"]["items"]) == (20, 500)
