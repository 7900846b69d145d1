"""The comparison of routers: its arms, its parts on a tiny world, and its summary by hand."""

import json
import math
import subprocess
from dataclasses import replace

import pytest
import small_world

from onerec.assembly import setting_of
from onerec.bench import arms, equal_time, routers
from onerec.bench.balance import SETTLE, balance_of, settled
from onerec.bench.equal_time import EqualTime
from onerec.checkpoint import load_tensors
from onerec.data.sources.world import make_world_dataset
from onerec.pipeline import run as run_stages
from onerec.pipeline.router_tuning import Tuning
from onerec.world import WorldConfig

STEPS = 6
SETTINGS = small_world.SETTINGS | {
    "model.encoder_layers": "1",
    "model.decoder_layers": "1",
    "train.steps": str(STEPS),
    "evaluate.beam": "10",
}
ASKED = routers.Asked(users=30, batches=3, tuning=Tuning(steps=2, bank=300))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    found = tmp_path_factory.mktemp("routers")
    make_world_dataset("tiny_world", WorldConfig(n_items=500, n_users=120), found)
    return found


@pytest.fixture(scope="module")
def words(home):
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    command = ["--home", str(home), "--dataset", "tiny_world", "--set", *settings]
    command += ["--users", "30", "--batches", "3", "--roma-steps", "2", "--bank", "300"]
    return [*command, "--run", "tokens"]


@pytest.fixture
def here(monkeypatch):
    """Parts are made in this process; the list says which."""
    made = []

    def run(command, check, stderr, env=None):
        assert check
        assert command[1:3] == ["-m", "onerec.bench.routers"]
        made.append(command[command.index("--one") + 1])
        if routers.main(command[3:]):
            raise subprocess.CalledProcessError(2, command)

    monkeypatch.setattr(arms.subprocess, "run", run)
    monkeypatch.setattr(routers, "commit", lambda: "made here")
    monkeypatch.setattr(equal_time, "measure", lambda *_: EqualTime(0.5, 0.9, 1.1, 0.5))
    return made


@pytest.fixture(scope="module")
def base(home, words):
    """The setting that parts start from."""
    parsed = routers.recipe("small", SETTINGS)
    run = run_stages("tokens", parsed, "tiny_world", home=home, stages=("tokenize",))
    return run, setting_of(run, home)


def test_there_are_seven_arms_and_romas_three():
    assert len(routers.ARMS) == 7 + 3
    assert set(routers.ARMS) < set(routers.ALL)


def test_an_arm_decides_router_shared_expert_and_valid_users(base):
    _, setting = base
    for arm, router, shared in (
        ("softmax+shared", "softmax", 1),
        ("loss_free", "loss_free", 0),
        ("competition_time", "competition", 0),
        ("roma_random", "loss_free", 0),
        ("dense", "loss_free", 0),
    ):
        found = routers.arm_setting(setting, arm, seed=5, users=30)
        assert (found.recipe.routing.router, found.recipe.routing.shared_experts) == (
            router,
            shared,
        )
        assert found.recipe.seed == 5
        assert len(found.split.valid) == found.recipe.evaluate.valid_users == 30
        assert found.split.train_end is setting.split.train_end
        assert isinstance(found, routers.DenseSetting) == (arm == "dense")
    assert len(routers.arm_setting(setting, "dense", 0).split.valid) == len(setting.split.valid)


def test_a_part_is_the_pipelines_own_training(base, tmp_path):
    """The weights that loss_free leaves are those of `onerec pretrain`, bit for bit."""
    run, setting = base
    told = routers.part(run, setting, "loss_free", 0, ASKED, tmp_path)
    weights = load_tensors(tmp_path / "loss_free-0.safetensors")
    stages = ("tokenize", "pretrain")
    own = run_stages("own", setting.recipe, "tiny_world", home=run.home, stages=stages)
    expected = load_tensors(own.path / "pretrain" / f"checkpoint-{STEPS:06d}.safetensors", "model.")
    assert set(weights) == set(expected)
    for name, value in expected.items():
        assert value.equal(weights[name]), name
    assert (told["arm"], told["seed"], told["steps"], told["users"]) == ("loss_free", 0, STEPS, 30)
    assert 0 < told["loss"] < 10
    assert 0 < told["step_ms"] <= 1e3 * told["seconds"]
    assert (told["balance"]["batches"], told["balance"]["batch_size"]) == (3, 32)
    again = routers.new_training(run, routers.arm_setting(setting, "loss_free", 0, 30))
    again.model.load_state_dict(weights)  # as they were before biases settled
    assert told["balance"] == balance_of(again, 3)
    assert told["in_training"] == balance_of(again, 3, dropping=True)
    assert told["settled"] == settled(again, 3)
    assert told["settled"]["passes"] == SETTLE
    assert told["active_parameters"] < told["parameters"]


def test_the_loss_that_is_told_is_without_label_smoothing(base):
    run, setting = base
    plain = routers.new_training(run, routers.arm_setting(setting, "dense", 0, 30))
    model = replace(setting.recipe.model, label_smoothing=0.5)
    smoothed = replace(setting, recipe=replace(setting.recipe, model=model))
    other = routers.new_training(run, routers.arm_setting(smoothed, "dense", 0, 30))
    assert other.model.config.label_smoothing == 0.5
    assert routers.measure(other, 1)["loss"] == routers.measure(plain, 1)["loss"]


@pytest.mark.slow
def test_all_arms_and_what_is_there_is_not_made_again(words, here, tmp_path, capsys):
    out = tmp_path / "routers.json"
    command = [*words, "--seeds", "1", "--out", str(out)]
    assert routers.main([*command, "--arms", "loss_free", "competition_time", "dense"]) == 0
    assert here == ["loss_free:0", "competition_time:0", "dense:0"]
    here.clear()
    assert routers.main([*command, "--arms", "router_only", "loss_free", "roma"]) == 0
    assert here == ["router_only:0", "roma:0"]
    said = json.loads(out.read_text())
    assert {"command", "commit", "device", "dataset", "recipe", "settings", "arms", "parts"} < set(
        said
    )
    assert len(said["parts"]) == 5
    assert list(said["arms"]) == ["dense", "loss_free", "competition_time", "roma", "router_only"]
    told = said["arms"]
    assert told["competition_time"]["steps"] == [3]  # a step of 1 s for one of half a second
    assert told["roma"]["steps"] == [2]
    assert set(told["roma"]["against"]) == {"loss_free", "router_only"}
    assert told["loss_free"]["against"] == {}
    assert not {"balance", "in_training", "settled"} & set(told["dense"])
    assert {"balance", "in_training", "settled"} < set(told["loss_free"])
    assert {"balance", "in_training"} < set(told["competition_time"])
    assert "settled" not in told["competition_time"]
    assert told["dense"]["active_parameters"] < told["loss_free"]["active_parameters"]
    assert said["recipe"]["train"]["steps"] == STEPS
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("dense:0 loss") for line in lines)
    assert lines[-6].startswith("dense ")


def test_parts_of_other_settings_are_refused(words, here, tmp_path, capsys):
    out = tmp_path / "routers.json"
    command = [*words, "--seeds", "1", "--arms", "loss_free", "--out", str(out)]
    assert routers.main(command) == 0
    assert routers.main([*command, "--batches", "4"]) == 2
    said = capsys.readouterr().err
    assert f"{out.with_suffix('.parts')} was made with other settings" in said
    assert "delete it or choose another --out" in said
    assert here == ["loss_free:0"]


def test_what_cannot_be_compared_is_refused(words, here, tmp_path, capsys):
    command = [*words, "--out", str(tmp_path / "x.json"), "--run", "refused"]
    for more, said in (
        (["--arms", "loss_fre"], "no arm 'loss_fre' (did you mean 'loss_free'?)"),
        (["--arms", "dense"], "--arms needs loss_free"),
        (["--set", "model.experts=0"], "model.experts=0: these arms"),
        (["--dataset", "nowhere"], "nowhere"),
        (["--seeds", "0"], "--seeds 0: at least 1"),
        (["--roma-steps", "0"], "--roma-steps 0: at least 1"),
    ):
        assert routers.main([*command, *more]) == 2
        assert said in capsys.readouterr().err
    assert not here


def test_a_part_that_fails_is_named_and_the_others_stay(words, tmp_path, monkeypatch, capsys):
    def run(command, check, stderr, env=None):
        if command[command.index("--one") + 1] == "dense:0":
            raise subprocess.CalledProcessError(1, command)
        arms.write_part({"there": True}, tmp_path / "routers.parts" / "loss_free-0.json")

    monkeypatch.setattr(arms.subprocess, "run", run)
    command = [*words, "--seeds", "1", "--arms", "loss_free", "dense"]
    assert routers.main([*command, "--out", str(tmp_path / "routers.json")]) == 1
    assert "onerec: dense:0 failed" in capsys.readouterr().err
    there = {path.name for path in (tmp_path / "routers.parts").iterdir()}
    assert there == {"loss_free-0.json", arms.SETTINGS}


def one(arm, seed, loss, recall=0.1, vio=0.2):
    even, less, least = (
        {"worst": vio / part, "mean": vio / 2 / part, "by_layer": []} for part in (1, 2, 10)
    )
    known = {"batch_size": 8, "batches": 3, "dead": seed, "least_share": 0.5 - seed / 10}
    return {
        "arm": arm,
        "seed": seed,
        "steps": 10 + seed,
        "loss": loss,
        "recall@10": recall,
        "step_ms": 1.0,
        "seconds": 2.0,
        "parameters": 9,
        "active_parameters": 7,
        "balance": None if arm == "dense" else {**known, "pooled": even, "per_batch": even},
        "in_training": None if arm == "dense" else {**known, "pooled": less, "per_batch": less},
        "settled": {**known, "loss": loss + 1, "pooled": least, "per_batch": least}
        if arm == "loss_free"
        else None,
    }


def test_the_summary_by_hand_is_paired_by_seed():
    parts = [one("loss_free", 0, 2.0), one("loss_free", 1, 4.0, vio=0.4)]
    parts += [one("dense", 1, 4.5), one("dense", 0, 2.3)]
    parts += [one("roma", 0, 1.9), one("router_only", 0, 1.5), one("router_only", 1, 9.0)]
    told = routers.summary(parts)
    assert list(told) == ["dense", "loss_free", "roma", "router_only"]
    apart = told["dense"]["against"]["loss_free"]["loss"]
    half = (
        12.7062 * 0.1
    )  # Student's t with one degree of freedom; deviation of .3 and .5 over root 2
    assert apart["mean"] == pytest.approx(0.4)
    assert apart["low"] == pytest.approx(0.4 - half, abs=1e-4)
    assert told["dense"]["steps"] == [10, 11]
    assert told["loss_free"]["loss"]["mean"] == 3.0
    even = told["loss_free"]["balance"]
    assert even["pooled"]["worst"]["mean"] == pytest.approx(0.3)
    assert even["pooled"]["mean"]["mean"] == pytest.approx(0.15)
    assert (even["dead"], even["least_share"], even["batch_size"]) == (1, 0.4, 8)
    assert told["loss_free"]["in_training"]["pooled"]["worst"]["mean"] == pytest.approx(0.15)
    assert told["loss_free"]["settled"]["pooled"]["worst"]["mean"] == pytest.approx(0.03)
    assert told["loss_free"]["settled"]["loss"]["mean"] == 4.0
    against = told["roma"]["against"]
    assert against["router_only"]["loss"]["mean"] == pytest.approx(0.4)  # the seed of both
    assert math.isnan(against["router_only"]["loss"]["low"])
    assert set(told["router_only"]["against"]) == {"loss_free"}
    lines = routers.table(told).splitlines()
    assert len(lines) == 6
    assert lines[1].split()[:4] == ["dense", "7", "10", "3.4000"]
    assert "+0.4000 [" in lines[1]
    assert lines[1].split()[5:9] == ["-"] * 4
    assert lines[2].split()[5:9] == ["0.300", "0.300", "0.150", "0.030"]
    assert lines[5].startswith("roma less router_only's: +0.4000 [")
