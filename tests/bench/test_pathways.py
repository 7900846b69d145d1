"""Pathways compared: both experiments on tiny worlds, what is refused, and sums by hand."""

import argparse
import json
import math
import subprocess

import pytest
import small_world

from onerec import assembly
from onerec.bench import arms, pathways
from onerec.data.dataset import open_dataset
from onerec.data.sources.world import make_world_dataset, world_of
from onerec.errors import DataError, RecipeError
from onerec.runs import open_run
from onerec.world import WorldConfig

WORLD = ["n_items=500", "n_users=40", "mean_history=60"]
LONG = {
    "history.short_length": "4",
    "history.lifelong_length": "12",
    "history.lifelong_limit": "8",
    "history.lifelong_queries": "3",
}
SETTINGS = (
    small_world.SETTINGS
    | LONG
    | {
        "model.encoder_layers": "1",
        "model.decoder_layers": "1",
        "model.experts": "0",
        "train.steps": "2",
        "evaluate.beam": "10",
    }
)
SET = ["--set", *(f"{name}={value}" for name, value in SETTINGS.items())]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    found = tmp_path_factory.mktemp("pathways")
    make_world_dataset("tiny", WorldConfig(n_items=500, n_users=40, mean_history=60.0), found)
    return found


@pytest.fixture
def here(monkeypatch):
    """Parts are made in this process, and a run's setting once; the list says which parts."""
    made, settings = [], {}

    def setting_of(run, home):
        if run.path not in settings:
            settings[run.path] = assembly.setting_of(run, home)
        return settings[run.path]

    def run(command, check, stderr, env=None):
        assert check
        assert command[1:3] == ["-m", "onerec.bench.pathways"]
        made.append(command[command.index("--one") + 1])
        if pathways.main(command[3:]):
            raise subprocess.CalledProcessError(2, command)

    monkeypatch.setattr(arms.subprocess, "run", run)
    monkeypatch.setattr(pathways, "commit", lambda: "made here")
    monkeypatch.setattr(pathways, "setting_of", setting_of)
    return made


def lifelong(home, out, *more):
    words = ["--experiment", "lifelong", "--home", str(home), *SET, "--world", *WORLD]
    return pathways.main([*words, "--users", "10", "--seeds", "1", "--out", str(out), *more])


def ablation(home, out, *more):
    words = ["--experiment", "ablation", "--home", str(home), "--dataset", "tiny", *SET]
    return pathways.main([*words, "--users", "10", "--seeds", "1", "--out", str(out), *more])


@pytest.mark.slow
def test_worlds_differ_in_the_weight_alone_and_what_is_there_stays(home, here, tmp_path, capsys):
    out = tmp_path / "l.json"
    assert lifelong(home, out, "--weights", "1", "--arms", "clusters", "none") == 0
    assert here == ["1:clusters:0", "1:none:0"]
    here.clear()
    assert lifelong(home, out, "--weights", "1", "0", "--arms", "recent", "clusters", "recent") == 0
    assert here == ["0:recent:0", "0:clusters:0", "1:recent:0"]
    said = json.loads(out.read_text())
    assert list(said["weights"]) == ["0", "1"]
    assert list(said["weights"]["0"]) == ["clusters", "recent"]
    assert list(said["weights"]["1"]) == ["clusters", "none", "recent"]
    assert list(said["weights"]["0"]["recent"]["less_base"]) == ["loss", "recall@10"]
    assert list(said["gains"]["none"]["loss"]) == ["1"]
    assert list(said["gains"]["recent"]["loss"]) == ["0", "1", "slope", "at_0"]
    assert said["recipe"]["history"]["lifelong_length"] == 12
    assert said["world"]["old_interest_weight"] == [0.0, 1.0]
    assert {one["weight"] for one in said["parts"]} == {0.0, 1.0}
    configs = [
        world_of(open_dataset(f"old_interests_{w}", home)).world.config.as_dict() for w in (0, 1)
    ]
    assert [one.pop("old_interest_weight") for one in configs] == [0.0, 1.0]
    assert configs[0] == configs[1]
    assert configs[0]["days"] == pathways.LONG.days
    assert "loss gained on recent: 0 " in capsys.readouterr().out


@pytest.mark.slow
def test_every_arm_of_the_ablation_that_says_something(home, here, tmp_path, capsys):
    out = tmp_path / "a.json"
    assert ablation(home, out) == 0
    said = json.loads(out.read_text())
    left_out = {"codes"}  # the recipe's own
    assert {case.split(":")[0] for case in here} == set(pathways.ARMS["ablation"]) - left_out
    assert next(iter(said["arms"])) == "full"
    assert "less_base" not in said["arms"]["full"]
    assert list(said["arms"]["codes_x4"]["less_base"]) == ["recall@10"]
    assert list(said["arms"]["no_tag"]["less_base"]) == ["loss", "recall@10"]
    assert said["arms"]["no_lifelong"]["positions"]["mean"] == 0
    assert said["arms"]["full"]["positions"]["mean"] > 0
    sizes = [
        open_run(n, home).report()["sizes"]
        for n in ("pathways_tiny_small", "pathways_tiny_small_x4")
    ]
    assert sizes[1] == [4 * n for n in sizes[0]]
    losses = [line["loss"]["mean"] for line in said["arms"].values()]
    assert len(set(losses)) == len(losses)  # no arm is another one
    assert "codes_x4 " in capsys.readouterr().out
    here.clear()
    assert ablation(home, out, "--users", "9", "--arms", "full") == 2
    assert "was made with other settings" in capsys.readouterr().err
    assert not here


def test_what_cannot_be_compared_is_refused_in_one_line(home, here, tmp_path, capsys):
    out = tmp_path / "x.json"
    for more, said in (
        (["--arms", "ful"], "no arm 'ful' (did you mean 'full'?); there are full, no_static"),
        (["--arms", "no_tag"], "--arms needs full"),
        (["--arms", "full", "codes"], "--arms codes: the recipe is so already; leave it out"),
        (["--seeds", "0"], "--seeds 0: at least 1"),
        (["--jobs", "0"], "--jobs 0: at least 1"),
        (["--weights", "0"], "--world and --weights are of --experiment lifelong"),
        (["--users", "-1"], "--users -1: at least 1, or 0 for all"),
        (["--dataset", "nowhere"], "nowhere"),
        (["--set", "train.step=1"], "train.step"),
        (["--recipe", "smal"], "no recipe 'smal'"),
    ):
        assert ablation(home, out, *more) == 2, more
        error = capsys.readouterr().err
        assert error.startswith("onerec: ")
        assert said in error
        assert error.count("\n") == 1
    for more, said in (
        (["--set", "history.lifelong_length=0"], "--set history.lifelong_length=256"),
        (["--weights", "0", "2"], "old_interest_weight=2.0: must lie between 0 and 1"),
        (["--world", "n_user=9"], "--world: no 'n_user' (did you mean 'n_users'?)"),
        (["--world", "old_interest_weight=1"], "--weights says which weights"),
        (["--world", "days=x"], "days='x': needs a whole number"),
        (["--arms", "cluster", "none"], "no arm 'cluster' (did you mean 'clusters'?)"),
    ):
        assert lifelong(home, out, "--dataset", "new", *more) == 2, more
        assert said in capsys.readouterr().err
    assert not here
    assert not list((home / "datasets").glob("new*"))


def test_a_dataset_that_is_another_world_is_not_taken_for_this_one(home):
    config = WorldConfig(n_items=500, n_users=40, mean_history=60.0)
    pathways.make_world("tiny", config, home)
    with pytest.raises(DataError, match="dataset 'tiny' is there and is not the world asked for"):
        pathways.make_world("tiny", WorldConfig(n_items=501, n_users=40), home)
    with pytest.raises(RecipeError, match="--world"):
        pathways.world_config(["n=1"])


def test_a_part_that_fails_is_named(home, tmp_path, monkeypatch, capsys):
    def run(command, check, stderr, env=None):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(arms.subprocess, "run", run)
    assert ablation(home, tmp_path / "f.json", "--arms", "full") == 1
    assert "onerec: full:0 failed" in capsys.readouterr().err


def one(arm, seed, loss, recall=0.1, weight=0.0):
    return {
        "weight": weight,
        "arm": arm,
        "seed": seed,
        "steps": 5,
        "positions": 7.0 * (arm != "none"),
        "loss": loss,
        "recall@10": recall,
        "step_ms": 1.0,
        "seconds": 2.0,
        "parameters": 9_000,
        "active_parameters": 9_000,
    }


def test_gains_by_hand():
    """Clusters gain .1 and .3 in loss at weight 0, .5 and .9 at weight 1."""
    parts = [one("clusters", seed, 2.0, 0.3, w) for seed in (0, 1) for w in (0.0, 0.5, 1.0)]
    gained = {(0, 0.0): 0.1, (1, 0.0): 0.3, (0, 0.5): 0.3, (1, 0.5): 0.6}
    gained |= {(0, 1.0): 0.5, (1, 1.0): 0.9}
    parts += [one("recent", s, 2.0 + g, 0.3 - g / 10, w) for (s, w), g in gained.items()]
    parts += [one("none", 1, 2.5, 0.2, 0.0), one("none", 5, 9.0, 0.2, 1.0)]
    told = pathways.gains(parts)
    assert list(told) == ["none", "recent"]
    loss = told["recent"]["loss"]
    assert [loss[w]["mean"] for w in ("0", "0.5", "1")] == pytest.approx([0.2, 0.45, 0.7])
    assert loss["0"]["low"] == pytest.approx(0.2 - 12.7062 * 0.1, abs=1e-4)
    assert loss["slope"]["mean"] == pytest.approx((0.4 + 0.6) / 2)
    assert loss["slope"]["high"] == pytest.approx(0.5 + 12.7062 * 0.1, abs=1e-4)
    assert loss["at_0"]["mean"] == pytest.approx((0.1 + 0.3) / 2)
    assert told["recent"]["recall@10"]["1"]["mean"] == pytest.approx(0.07)
    assert list(told["none"]["loss"]) == ["0"]  # seed 5 has no clusters beside it
    assert told["none"]["loss"]["0"]["mean"] == 0.5
    assert math.isnan(told["none"]["loss"]["0"]["low"])
    lines = pathways.gain_table(told).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("loss gained on recent: 0 +0.2000 [-1.0706, +1.4706], 0.5 +0.4500 [")


def test_the_summary_by_hand():
    parts = [one("clusters", 0, 2.0), one("clusters", 1, 2.2), one("none", 1, 2.5, 0.05)]
    told = pathways.summary(parts, "lifelong")
    assert list(told) == ["clusters", "none"]
    assert told["clusters"]["loss"]["mean"] == pytest.approx(2.1)
    assert told["clusters"]["seed"] == [0, 1]
    assert told["none"]["less_base"]["loss"]["mean"] == pytest.approx(0.3)
    assert told["none"]["less_base"]["recall@10"]["mean"] == pytest.approx(-0.05)
    lines = pathways.table(told, "lifelong").splitlines()
    assert len(lines) == 3
    assert lines[2].split()[:5] == ["none", "9,000", "0.0", "2.5000", "0.0500"]


def test_a_case_names_the_run_of_its_tokenizer(monkeypatch):
    opened = []
    monkeypatch.setattr(pathways, "open_run", lambda name, home: opened.append(name))
    monkeypatch.setattr(pathways, "setting_of", lambda run, home: None)
    monkeypatch.setattr(pathways, "part", lambda run, base, *case: {"case": case})
    for case in ("0.25:none:3", "no_tag:1", "codes_x4:0"):
        asked = argparse.Namespace(one=case, run="r", home=None, experiment="e", users=4)
        found = pathways.one(asked)
        assert found.get("weight") == (0.25 if case[0] == "0" else None)
    assert opened == ["r_0.25", "r", "r_x4"]
    assert found["case"] == ("e", "codes_x4", 0, 4)
