"""`onerec runs`: list, show, compare, rename, delete, export."""

import json
import zipfile
from pathlib import Path
from typing import Any

import toy_home

from onerec.pipeline import run_stage


def test_list_and_show(cli: Any, finished: Path) -> None:
    rows = cli("runs", "list", "--json").json()["runs"]
    assert [(r["name"], r["state"], r["recipe"], r["dataset"]) for r in rows] == [
        ("first", "done", "tiny", "toy")
    ]
    result = json.loads((finished / "runs" / "first" / "evaluate.json").read_text())
    assert rows[0]["metrics"] == result["models"]["onerec"]
    assert f"{result['models']['onerec']['recall@10']:.4f}" in cli("runs", "list").out
    shown = cli("runs", "show", "first", "--json").json()
    assert shown["evaluate"] == result
    assert shown["status"]["state"] == "done"
    assert shown["recipe"]["name"] == "tiny"
    assert json.loads(cli("runs", "show", "first").out)["evaluate"] == result


def test_compare_shows_only_what_differs(cli: Any, finished: Path) -> None:
    changes = {"seed": "4", "train.steps": "2"}
    run_stage("pretrain", "b", recipe=toy_home.make_recipe(changes), dataset="toy", home=finished)
    compared = cli("runs", "compare", "first", "b", "--json").json()
    settings = {row["setting"]: (row["first"], row["b"]) for row in compared["settings"]}
    assert settings == {"seed": ("0", "4"), "train.steps": ("30", "2")}
    assert compared["results"]["b"] is None
    table = cli("runs", "compare", "first", "b").out
    assert "train.steps" in table
    assert "sasrec" in table
    assert "tokenizer.levels" not in table


def test_rename_export_delete(cli: Any, check_refused: Any, finished: Path, tmp_path: Path) -> None:
    assert cli("runs", "rename", "first", "best", "--json").json() == {"renamed": "best"}
    check_refused(cli("runs", "show", "first"), "no run 'first'")
    target = tmp_path / "best.zip"
    assert cli("runs", "export", "best", target, "--json").json() == {"path": str(target)}
    names = zipfile.ZipFile(target).namelist()
    assert "best/evaluate.json" in names
    assert not [name for name in names if name.startswith("best/pretrain/checkpoint-")]
    assert cli("evaluate", "--run", "best", "--json").code == 0  # a new name changes nothing
    assert cli("runs", "delete", "best", "--json").json() == {"deleted": "best"}
    assert list((finished / "runs").iterdir()) == []
    assert cli("runs", "list", "--json").json() == {"runs": []}


def test_mistakes_are_one_line(
    cli: Any, check_refused: Any, finished: Path, tmp_path: Path
) -> None:
    for command in (("show",), ("delete",), ("compare", "first"), ("export",)):
        extra = (tmp_path / "x.zip",) if command == ("export",) else ()
        answer = cli("runs", *command, "firts", *extra)
        check_refused(answer, "no run 'firts'", "did you mean 'first'?")
    check_refused(cli("runs", "rename", "first", "../x"), "run name '../x'")
    check_refused(cli("runs", "rename", "first", "first"), "already there")
    check_refused(cli("runs", "delete", ".."), "run name '..'")
    check_refused(cli("runs", "export", "first", tmp_path / "none" / "x.zip"), "x.zip")
    assert list(tmp_path.glob("*.zip")) == []
    assert (finished / "runs" / "first" / "evaluate.json").is_file()
