"""Names, JSON in one step, live processes, flattening."""

import errno
import os
from pathlib import Path

import psutil
import pytest

from onerec import run_files
from onerec.errors import RunError
from onerec.run_files import (
    dataset_folder,
    flatten,
    process_lives,
    read_json,
    valid_name,
    write_json,
)


@pytest.mark.parametrize("name", ["a", "t1", "kuairand-2.run_3", "9"])
def test_a_plain_name_is_kept(name: str) -> None:
    assert valid_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a..b", "ä", "x" * 81]
)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(RunError, match="run name"):
        valid_name(name)


def test_json_comes_back_as_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"b": [1, 2.5, None], "c": "é"})
    assert read_json(tmp_path / "new" / "a.json") == {"b": [1, 2.5, None], "c": "é"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_a_value_that_is_no_number_is_refused_before_the_file_is_touched(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == {"x": 1}


def test_a_full_disk_leaves_the_old_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "a.json", {"x": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_files.os, "replace", full)
    with pytest.raises(RunError, match="no space left"):
        write_json(tmp_path / "a.json", {"x": 2})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("text", "words"), [('{"a": 1', "not readable"), ("[1]", "found list")])
def test_a_damaged_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RunError, match=rf"a\.json.*{words}"):
        read_json(tmp_path / "a.json")


def test_a_process_is_known_by_number_and_birth() -> None:
    born = psutil.Process().create_time()
    assert process_lives(os.getpid(), born)
    assert not process_lives(os.getpid(), born - 1000), "the number was given out again"
    assert not process_lives(999_999_999, born)
    assert not process_lives(-1, born)


def test_flatten_gives_dotted_names_and_texts() -> None:
    nested = {"a": {"b": 1, "c": {"d": [1, "x"]}}, "e": "text", "f": None}
    assert flatten(nested) == {"a.b": "1", "a.c.d": '[1, "x"]', "e": "text", "f": "null"}


def test_where_the_dataset_of_a_run_lies(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away" / "toy"
    said = {"dataset": {"name": "toy", "fingerprint": "f"}, "dataset_path": str(away)}
    assert dataset_folder(home, said) is None
    assert dataset_folder(home, {}) is None
    ours = home / "datasets" / "toy"
    for folder, fingerprint in ((ours, "g"), (away, "f")):
        folder.mkdir(parents=True)
        write_json(folder / "dataset.json", {"fingerprint": fingerprint})
    assert dataset_folder(home, said) == away  # the home's is another of that name
    assert dataset_folder(home, {"dataset": said["dataset"]}) == ours
    write_json(ours / "dataset.json", {"fingerprint": "f"})
    assert dataset_folder(home, said) == ours  # the same, imported
    (ours / "dataset.json").write_text("{")
    assert dataset_folder(home, said) == away
    (away / "dataset.json").unlink()
    assert dataset_folder(home, said) == ours, "damaged and alone: whoever opens it says so"
