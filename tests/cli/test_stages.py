"""`onerec run` and the stages: what they print, and what they say of a mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toy_home

from onerec.run_files import read_json
from onerec.runs import open_run

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"train.steps": "3", "baselines.names": "popularity"}


def test_run_on_imported_files_then_every_stage_prints_one_object(
    cli: Any, home: Path, tmp_path: Path
) -> None:
    log, items, users = toy_home.write_files(tmp_path)
    cli("data", "import", "--interactions", log, "--items", items, "--users", users, "--name", "n")
    new = ("--run", "r", "--dataset", "n", *toy_home.set_options(SHORT))
    done = cli("run", *new, "--json").json()
    assert (done["run"], done["state"]) == ("r", "done")
    result = read_json(home / "runs" / "r" / "evaluate.json")
    assert done["evaluate"] == result
    assert cli("evaluate", "--run", "r", "--json").json() == result
    for stage in ("run", "tokenize", "pretrain", "recommend"):
        again = cli(stage, "--run", "r", "--json").json()
        assert (again["run"], again["state"]) == ("r", "done")
    assert cli("run", *new, "--json").json()["evaluate"] == result  # the same command again


def test_for_people_a_run_ends_in_a_table(cli: Any, finished: Path) -> None:
    answer = cli("evaluate", "--run", "first")
    assert answer.code == 0
    assert "item_knn" in answer.out
    assert "recall@10" in answer.out
    assert "run 'first': done" in answer.err


def test_recommend_for_users_by_id(cli: Any, check_refused: Any, finished: Path) -> None:
    command = ("recommend", "--run", "first", "--user")
    rows = cli(*command, "u07", "--user", "u00", "--k", "3", "--json").json()
    rows = rows["recommendations"]
    assert [row["user_id"] for row in rows] == ["u07"] * 3 + ["u00"] * 3
    assert [row["rank"] for row in rows] == [1, 2, 3] * 2
    assert all("part" in row["title"] for row in rows)
    assert "user u07" in cli(*command, "u07").out
    again = cli(*command, "u07", "--user", "u00", "--user", "u07", "--k", "3", "--json").json()
    assert again["recommendations"] == rows  # each user once
    check_refused(cli(*command, "nobody"), "'nobody' is no user of dataset 'toy'")
    check_refused(cli(*command, "u07", "--k", "0"), "k=0")
    check_refused(cli("recommend", "--run", "frist", "--user", "u07"), "did you mean 'first'?")
    changed = (*command, "u07", "--recipe", "tiny", "--set", "evaluate.beam=2")
    check_refused(cli(*changed), "answers as it was trained")


def test_recommend_by_rules(cli: Any, check_refused: Any, finished: Path) -> None:
    command = ("recommend", "--run", "first", "--user", "u07")
    items = pd.read_parquet(finished / "datasets" / "toy" / "items.parquet").set_index("item_id")

    def listed(*rules: str) -> pd.DataFrame:
        rows = cli(*command, *rules, "--json").json()["recommendations"]
        return items.loc[[row["item_id"] for row in rows]]

    tags = listed()["tags"].explode()
    off = tags.iloc[0]
    kept = listed("--without-tag", off)
    assert len(kept) == 10
    assert off not in set(kept["tags"].explode())
    assert not listed("--per-author", "1")["author_id"].duplicated().any()
    assert listed()["author_id"].duplicated().any()  # the rule had something to do
    check_refused(cli(*command, "--without-tag", "nothing"), "--without-tag nothing", "no item")
    check_refused(cli(*command, "--per-author", "-1"), "per_author=-1")
    check_refused(cli("recommend", "--run", "first", "--per-author", "1"), "name a user")


def test_items_that_came_later_are_recommended_by_their_texts(
    cli: Any, check_refused: Any, finished: Path, tmp_path: Path
) -> None:
    known = pd.read_parquet(finished / "datasets" / "toy" / "items.parquet").iloc[[4, 17]]
    file = tmp_path / "new.csv"
    known.assign(item_id=["later4", "later17"])[["item_id", "title"]].to_csv(file, index=False)
    command = ("recommend", "--run", "first", "--user", "u03", "--k", "40", "--json")
    found = cli(*command, "--new-items", str(file)).json()["recommendations"]
    titles = {row["item_id"]: row["title"] for row in found}
    assert titles["later4"] == known["title"].iloc[0]
    assert "later17" in titles
    check_refused(cli(*command, "--new-items", "nowhere.csv"), "--new-items nowhere.csv", "item_id")
    file.write_text("item_id,title\n")
    check_refused(cli(*command, "--new-items", str(file)), "no new item is given")
    file.write_text("")
    check_refused(cli(*command, "--new-items", str(file)), "No columns", "a row for each")
    known[["item_id", "title"]].to_csv(file, index=False)
    check_refused(cli(*command, "--new-items", str(file)), "is there already")
    check_refused(cli("recommend", "--run", "first", "--new-items", str(file)), "name a user")


def test_what_became_of_new_items_is_said(cli: Any, finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text("item_id,title\nlater,[/b] cooking part4\nbare,\n")
    command = ("recommend", "--run", "first", "--user", "u03", "--new-items", file, "--k")
    whole = cli(*command, "32")
    assert "[/b] cooking part4" in whole.out
    assert "2 new items joined the trie; 2 are in the first 32\n" in whole.err
    assert "1 of 2 new items without text: this run reads title" in whole.err
    file.write_text("item_id,caption\nlater,part4\n")
    several = cli(*command, "1", "--user", "u00", "--json").json()
    assert several["notes"][0] == (
        "1 new item joined the trie; none is in the first 1 of these 2 users"
    )
    assert several["notes"][1].startswith("1 of 1 new item without text: this run reads title")
    titles = [row["title"] for row in several["recommendations"]]
    assert all("part" in title for title in titles)  # another column of the new items hides none


def test_recommend_for_all_users_into_a_file(
    cli: Any, check_refused: Any, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lists.parquet"
    command = ("recommend", "--run", "first", "--all", "--out", out, "--k", "3")
    answer = cli(*command, "--json").json()
    assert (answer["users"], answer["rows"], answer["path"]) == (40, 120, str(out))
    assert len(pd.read_parquet(out)) == 120
    again = " ".join(cli(*command).out.split())
    assert "120 rows for 40 users" in again
    assert "in place of the file that was there" in again
    other = ("recommend", "--run", "first", "--all", "--out", tmp_path / "new.parquet")
    assert "in place of" not in " ".join(cli(*other).out.split())
    check_refused(cli("recommend", "--run", "first", "--all"), "--all and --out FILE go together")
    check_refused(cli("recommend", "--run", "first", "--out", out), "go together")
    one = cli("recommend", "--run", "first", "--user", "u0", "--compile")
    check_refused(one, "--compile goes with --all")
    check_refused(cli(*command, "--user", "u07"), "without --user")
    check_refused(cli(*command[:-1], "0"), "k=0")


def test_a_list_that_is_too_short_says_so(cli: Any, finished: Path) -> None:
    answer = cli("recommend", "--run", "first", "--user", "u07", "--k", "35")
    assert "user u07: 30 of 35 items" in answer.err
    rows = cli("recommend", "--run", "first", "--user", "u07", "--k", "35", "--json").json()
    assert len(rows["recommendations"]) == 30
    assert rows["notes"] == ["user u07: 30 of 35 items; the catalogue has 30"]


def test_a_run_without_a_trained_model_says_what_to_do(
    cli: Any, check_refused: Any, home: Path
) -> None:
    toy_home.make_dataset(home)
    cli("tokenize", "--run", "half", "--dataset", "toy", *toy_home.set_options())
    answer = cli("recommend", "--run", "half", "--user", "u00")
    check_refused(answer, "run 'half' is not trained yet", "onerec pretrain --run half")
    assert answer.code == 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--recipe", "tinny", "--dataset", "toy"), ("no recipe 'tinny'", "did you mean 'tiny'?")),
        (
            ("--recipe", "tiny", "--dataset", "toy", "--set", "train.step=3"),
            ("no setting 'train.step'", "did you mean 'train.steps'?"),
        ),
        (("--recipe", "tiny", "--dataset", "toy", "--set", "seed"), ("'seed' has no '='",)),
        (("--recipe", "tiny", "--dataset", "tyo"), ("no dataset 'tyo'", "there are toy")),
        (("--recipe", "tiny"), ("'new'", "--dataset is needed")),
        (("--dataset", "toy"), ("'new'", "--recipe is needed")),
        ((), ("'new'", "needed")),
        (("--set", "seed=1"), ("name it with --recipe",)),
        (
            ("--recipe", "tiny", "--dataset", "toy", "--set", "tokenizer.codebook_size=4096"),
            ("codebook_size=4096", "30 items", "at most 30"),
        ),
        (
            ("--recipe", "tiny", "--dataset", "toy", "--set", "device=gpu"),
            ("device 'gpu'", "cpu"),
        ),
        *(
            (("--recipe", "tiny", "--dataset", "toy", "--set", f"{name}={value}"), (said,))
            for name, value, said in (
                ("align.weight", "nan", "align.weight=nan: needs a finite number"),
                ("align.tilt", "inf", "align.tilt=inf: needs a finite number"),
                ("align.learning_rate", "-inf", "align.learning_rate=-inf: needs a finite number"),
            )
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(
    cli: Any,
    check_refused: Callable[..., None],
    finished: Path,
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    for stage in ("run", "align"):
        check_refused(cli(stage, "--run", "new", *arguments), *parts)
    assert [p.name for p in (finished / "runs").iterdir()] == ["first"]


def test_a_split_in_time_needs_times(
    cli: Any, check_refused: Any, home: Path, tmp_path: Path
) -> None:
    log, *_ = toy_home.tables()
    log["position"] = range(len(log))
    path = tmp_path / "log.parquet"
    log.drop(columns="timestamp").to_parquet(path)
    cli("data", "import", "--interactions", path, "--name", "n")
    changes = {"evaluate.split": "temporal"}
    answer = cli("run", "--run", "r", "--dataset", "n", *toy_home.set_options(changes))
    check_refused(answer, "temporal", "exact timestamps", "leave_one_out")
    assert not (home / "runs").exists()


def test_a_run_of_another_dataset_or_recipe_is_refused(
    cli: Any, check_refused: Any, finished: Path
) -> None:
    toy_home.make_dataset(finished, "other", seed=1)
    same = toy_home.set_options()
    check_refused(cli("run", "--run", "first", "--dataset", "other", *same), "dataset.name = toy")
    changed = toy_home.set_options({"seed": "9"})
    check_refused(cli("run", "--run", "first", "--dataset", "toy", *changed), "seed = 0", "9")
    assert open_run("first", finished).recipe()["recipe"]["seed"] == 0  # nothing was changed


def test_a_damaged_checkpoint_is_named_at_serving(
    cli: Any, check_refused: Any, finished: Path
) -> None:
    path = finished / "runs" / "first" / "pretrain" / "checkpoint-000030.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    answer = cli("recommend", "--run", "first", "--user", "u00")
    check_refused(answer, "checkpoint-000030.safetensors", "damaged")
    assert path.exists()  # it is named, not taken away


def test_recipes_are_listed_with_every_setting(cli: Any, home: Path) -> None:
    shown = cli("recipes", "--json").json()
    assert {"tiny", "small", "beauty"} <= set(shown)
    assert shown["tiny"]["train"]["steps"] > 0
    table = cli("recipes").out
    assert "train.steps" in table
    assert "lazy_1b" in table.splitlines()[-1]  # named, not shown
    assert list(cli("recipes", "lazy_1b", "--json").json()) == ["lazy_1b"]
    assert "did you mean 'lazy_1b'" in cli("recipes", "lazy_1").err


def test_as_a_program_exit_code_streams_and_no_traceback(finished: Path) -> None:
    """Twice through a real process: one mistake, one answer."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "onerec", *arguments],
            env={**os.environ, "ONEREC_HOME": str(finished)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    wrong = call("run", "--run", "r", "--recipe", "tiny", "--dataset", "none", "--json")
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr.startswith("onerec: no dataset 'none'")
    assert wrong.stderr.count("\n") == 1
    right = call("evaluate", "--run", "first", "--json")
    assert right.returncode == 0
    assert right.stderr == ""
    assert json.loads(right.stdout)["split"] == "leave_one_out"
