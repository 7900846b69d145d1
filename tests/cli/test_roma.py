"""`onerec roma`: what it prints, and what it says of a mistake."""

from pathlib import Path
from typing import Any

import toy_home
import toy_routers

from onerec.run_files import read_json, write_json
from onerec.runs import open_run

SETTINGS = toy_routers.SETTINGS | {"train.steps": "8", "baselines.names": "popularity"}
SHORT = ("--steps", "2", "--bank", "60", "--learning-rate", "0.05")


def test_tune_then_evaluate_and_recommend(cli: Any, check_refused: Any, home: Path) -> None:
    toy_home.make_dataset(home)
    new = ("--dataset", "toy", *toy_home.set_options(SETTINGS))
    cli("align", "--run", "first", *new, "--json")
    command = ("roma", "--run", "first", "--into", "tuned", *SHORT)
    done = cli(*command, "--json").json()
    assert (done["run"], done["state"]) == ("tuned", "done")
    assert done["roma"]["tuning"] == {"steps": 2, "rate": 0.05, "weight": 1.0, "bank": 60}
    measured = cli("evaluate", "--run", "tuned", "--json").json()
    assert measured == open_run("tuned").evaluate()
    rows = cli("recommend", "--run", "tuned", "--user", "u07", "--json").json()
    assert len(rows["recommendations"]) == 10
    check_refused(cli(*command), "a run 'tuned' is already there", "--into")
    check_refused(cli("roma", "--run", "frist", "--into", "x"), "did you mean 'first'?")


def test_for_people_it_says_what_moved(cli: Any, check_refused: Any, finished: Path) -> None:
    command = ("roma", "--run", "first", "--into", "tuned", *SHORT)
    recipe = read_json(finished / "runs" / "first" / "recipe.json")
    model, routing = recipe["recipe"]["model"], recipe["recipe"]["routing"]
    routing["router"] = "competition"
    write_json(finished / "runs" / "first" / "recipe.json", recipe)
    check_refused(cli(*command), "'first' has model.active_experts=1", "train one with 2")
    model["active_experts"], routing["router"] = 2, "loss_free"  # of two: shapes of weights stay
    write_json(finished / "runs" / "first" / "recipe.json", recipe)
    answer = cli(*command)
    assert answer.code == 0
    assert "disagreement: " in answer.err
    assert "routers: 32 of " in answer.err
    assert "next: onerec evaluate --run tuned" in answer.err
