"""The loop itself: every arm runs, arms share their people, and a restart loses nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_home
from safetensors.torch import load_file

from onerec.alignment import Alignment
from onerec.assembly import setting_of
from onerec.data.batches import Examples, training_examples
from onerec.data.sessions import kept_by_rsft, session_of
from onerec.data.sources.world import make_world_dataset
from onerec.data.tables import read_parquet
from onerec.errors import RecipeError, RunError
from onerec.explain import online as explained
from onerec.pipeline import run as run_stages
from onerec.rollouts import read_rollout
from onerec.runs import Run, open_run
from onerec.sections import AlignConfig
from onerec.stream import ARMS, StreamConfig, stream
from onerec.stream.online import Online
from onerec.world import WorldConfig

SMALL = {"rounds": 3, "steps": 4, "lag": 3, "share": 0.4, "shown": 5, "window": 2}
LEARNS = {"all": "all", "half": "half", "rsft": "rsft", "rsft_grpo": "rsft", "rsft_ecpo": "rsft"}
OBJECTIVE = {"rsft_grpo": "grpo", "rsft_ecpo": "ecpo"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    found = tmp_path_factory.mktemp("stream")
    make_world_dataset("w", WorldConfig(n_items=500, n_users=120, mean_history=25), found)
    changes = {**toy_home.ALIGNED, "evaluate.split": "temporal", "history.item_input": "codes"}
    recipe = toy_home.make_recipe(changes)
    run_stages("r", recipe, "w", home=found, stages=("tokenize", "pretrain", "reward", "align"))
    return found


@pytest.mark.parametrize(
    "arm", [pytest.param(a, marks=[] if a == "rsft_ecpo" else pytest.mark.slow) for a in ARMS]
)
def test_every_arm_runs_and_records(home, arm):
    said = []
    made = stream(
        "r", StreamConfig(arm=arm, **SMALL), home=home, report=lambda *values: said.append(values)
    )
    assert made.status().state == "done"
    assert [step for _, step, _, _ in said] == [1, 2, 3]
    metrics = made.metrics("stream")
    assert metrics["step"].tolist() == [1, 2, 3]
    assert (metrics["true_watch_s"] > 0).all()
    assert ("policy" in metrics) == arm.startswith("rsft_")
    assert ("loss" in metrics) == (arm != "frozen")
    kept = sorted((made.path / "rollouts").glob("*.parquet"))
    assert len(kept) == (12 if arm.startswith("rsft_") else 0), "every update of 3 rounds"
    for path in kept:
        replay = read_rollout(path)
        assert replay.objective == OBJECTIVE[arm]
        assert replay.reward().isfinite().all()
        assert replay.step().loss.isfinite()
    events = read_parquet(made.path / "rounds" / "events-000002.parquet")
    values = read_parquet(made.path / "rounds" / "values-000002.parquet")
    assert len(events) <= 5 * len(values)
    assert values["true_watch_s"].mean() == pytest.approx(metrics["true_watch_s"].iloc[1])


def test_arms_begin_alike_and_part_when_they_learn(home):
    found = {
        arm: stream("r", StreamConfig(arm=arm, **SMALL), home=home).metrics("stream")
        for arm in ("frozen", "rsft_ecpo")
    }
    first = {arm: frame["true_watch_s"].iloc[0] for arm, frame in found.items()}
    assert first["frozen"] == first["rsft_ecpo"]
    assert found["frozen"]["users"].equals(found["rsft_ecpo"]["users"])
    last = {arm: frame["true_watch_s"].iloc[-1] for arm, frame in found.items()}
    assert last["frozen"] != last["rsft_ecpo"]


def test_a_restart_in_the_middle_loses_nothing(home):
    config = StreamConfig(arm="rsft_ecpo", **SMALL)
    whole = stream("r", config, name="whole", home=home)

    def stop(stage, step, of, values):
        if step == 2:
            Run(home / "runs" / "r" / "stream" / "part").control(stop=True)

    part = stream("r", config, name="part", home=home, report=stop)
    assert part.status().state == "stopped"
    part.control(stop=False)
    part = stream("r", config, name="part", home=home)
    assert part.status().state == "done"
    a, b = (load_file(run.path / "checkpoint-000003.safetensors") for run in (whole, part))
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    same = ["step", "true_watch_s", "watch_s", "loss", "policy"]
    assert whole.metrics("stream")[same].equals(part.metrics("stream")[same])


def test_a_kill_between_a_rounds_line_and_its_weights_loses_nothing(home, monkeypatch):
    config = StreamConfig(arm="half", **SMALL)
    whole = stream("r", config, name="half", home=home)
    save, saved = Online._save, []

    def killed(online):
        saved.append(online.round)
        if online.round == 2:
            raise KeyboardInterrupt
        save(online)

    monkeypatch.setattr(Online, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        stream("r", config, name="half_killed", home=home)
    assert saved == [1, 2]
    monkeypatch.setattr(Online, "_save", save)
    part = stream("r", config, name="half_killed", home=home)
    same = ["step", "true_watch_s", "watch_s", "loss"]
    assert whole.metrics("stream")[same].equals(part.metrics("stream")[same])


def test_the_server_gets_new_weights_every_lag_updates(home):
    run = open_run("r", home)
    config = StreamConfig(arm="rsft", **{**SMALL, "steps": 2, "lag": 4})
    online = Online(run, setting_of(run), config, torch.device("cpu"), home / "lagging")
    before = [p.clone() for p in online.alignment.served.parameters()]
    online.step()  # updates 0 and 1: sent at 0, before anything was learned
    after = online.alignment.served.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    online.step()  # 2 and 3
    after = online.alignment.served.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    online.step()  # 4: sent again
    after = online.alignment.served.parameters()
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("lag", "idle"), [(2, 0), (2, 1), (3, 0), (3, 1), (4, 2), (1, 1)])
def test_weights_are_sent_as_often_as_is_told_also_where_a_round_had_no_examples(
    home, monkeypatch, lag, idle
):
    examples, send, taken, sent = Online._examples, Alignment.send, [], []

    def some(online):
        found = examples(online)
        none = Examples(found.user[:0], found.end[:0], found.target[:0])
        return none if online.round == idle else found

    def sending(alignment):
        sent.append(bool(taken))
        send(alignment)

    monkeypatch.setattr(Online, "_examples", some)
    monkeypatch.setattr(Online, "_record", lambda online, step: taken.append(step))
    monkeypatch.setattr(Alignment, "send", sending)
    config = StreamConfig(arm="rsft", **{**SMALL, "steps": 2, "lag": lag})
    name = f"gap-{lag}-{idle}"
    stream("r", config, name=name, home=home)
    assert len(taken) == 4
    told = explained.streams(open_run("r", home)).set_index("stream")["sent"]
    assert told[name] == sum(sent)


def test_training_reads_the_last_rounds_alone(home):
    run = open_run("r", home)
    config = StreamConfig(arm="all", **{**SMALL, "window": 1})
    online = Online(run, setting_of(run), config, torch.device("cpu"), home / "window")
    for _ in range(2):
        online.step()
    online.round = 1  # the second round, before it counts
    examples = online._examples()
    assert set(online.log.columns["round"]) == {0, 1, 2}
    assert len(examples)
    assert (online.log.columns["round"][examples.end] == 2).all()


def test_a_stream_whose_served_weights_are_gone_says_what_to_do(home):
    config = StreamConfig(arm="rsft", **SMALL)
    run = open_run("r", home)
    made = stream("r", config, name="torn", home=home)
    for path in made.path.glob("served-*.safetensors"):
        path.unlink()
    with pytest.raises(RunError, match=r"served-.*: the served weights are gone; delete .*torn"):
        Online(run, setting_of(run, home), config, torch.device("cpu"), made.path).resume()


def test_another_configuration_needs_another_name(home):
    stream("r", StreamConfig(arm="frozen", **SMALL), name="mine", home=home)
    with pytest.raises(RunError, match=r"stream .mine. was made with arm = frozen.*--name,"):
        stream("r", StreamConfig(arm="all", **SMALL), name="mine", home=home)


def once(home, arm, seed=0, setting=None):
    """An arm after its first round, looked at as it was while it learned; and the round's line."""
    run = open_run("r", home)
    config = StreamConfig(arm=arm, **SMALL, seed=seed)
    online = Online(
        run, setting or setting_of(run, home), config, torch.device("cpu"), home / f"once_{arm}"
    )
    line = online.step()
    online.round = 0
    return online, line


def test_every_arm_is_known_here():
    assert set(ARMS) == {"frozen", *LEARNS}


@pytest.mark.parametrize("arm", LEARNS)
def test_an_arm_learns_from_the_visits_that_it_is_named_for(home, arm):
    online, line = once(home, arm)
    log, split = online.log, online.setting.split
    fed = log.columns["round"] == 1
    wanted = {"all": fed, "rsft": kept_by_rsft(log, fed)}
    lucky = np.random.default_rng([0, 0, 3]).random(session_of(log)[-1] + 1) < 0.5
    wanted["half"] = fed & lucky[session_of(log)]
    found = online._examples().end.tolist()
    assert line["examples"] == len(found) > 0
    for kept, rows in wanted.items():
        rows = training_examples(split, 2, rows).end.tolist()
        assert (found == rows) == (kept == LEARNS[arm]), kept


def test_the_random_half_is_one_of_sessions_and_of_the_seed(home):
    online, _ = once(home, "half")
    fed = online.log.columns["round"] == 1
    session, half = session_of(online.log), online._random_half()
    assert 0.3 < half[fed].mean() < 0.7
    whole = np.bincount(session, half) / np.bincount(session)
    assert set(whole) == {0, 1}, "a session is in it or out of it"
    again, other = (once(home, "half", seed)[0]._random_half() for seed in (0, 1))
    assert np.array_equal(again, half)
    assert not np.array_equal(other, half)
    online.round = 1
    assert not np.array_equal(online._random_half(), half)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_has_the_objective_that_it_is_named_for(home, arm):
    """Whatever the recipe's; the tilt, whose reference stays behind, is off, weight the usual."""
    setting = setting_of(open_run("r", home), home)
    align = replace(setting.recipe.align, objective="reinforce", tilt=0.5, weight=0.9)
    setting = replace(setting, recipe=replace(setting.recipe, align=align))
    online, line = once(home, arm, setting=setting)
    objective = OBJECTIVE.get(arm)
    policy, rollout = online.alignment.config, online.alignment.last
    assert policy.weight == (AlignConfig.weight if objective else 0)
    assert (policy.tilt, online.alignment.lag) == (0, SMALL["lag"])
    assert (rollout and rollout.objective) == objective
    assert ("policy" in line) == bool(objective)
    assert online.alignment.served is not online.alignment.model


def test_without_a_tilt_the_weight_is_the_recipes(home):
    setting = setting_of(open_run("r", home), home)
    align = replace(setting.recipe.align, tilt=0.0, weight=0.9)
    setting = replace(setting, recipe=replace(setting.recipe, align=align))
    assert once(home, "rsft_grpo", setting=setting)[0].alignment.config.weight == 0.9
    assert once(home, "all", setting=setting)[0].alignment.config.weight == 0


def test_what_the_recipe_sets_and_an_arm_does_not_read_is_said(home):
    setting = setting_of(open_run("r", home), home)
    align = replace(setting.recipe.align, search="beam", tilt=2.0, lag=7, format_items=0)
    sampling = replace(setting.recipe.sampling, top_p=0.9)
    recipe = replace(setting.recipe, align=align, sampling=sampling)
    setting = replace(setting, recipe=recipe)

    def said(arm):
        config = StreamConfig(arm=arm, **SMALL)
        made = Online(open_run("r", home), setting, config, torch.device("cpu"), home / "no")
        return [line.partition(" is not read: ")[0] for line in made.unread()]

    assert said("rsft_ecpo") == ["align.tilt=2.0", "sampling.top_p=0.9"]
    assert said("rsft") == []
    setting = replace(setting, recipe=replace(recipe, align=replace(align, weight=4.0)))
    config = StreamConfig(arm="rsft_ecpo", **SMALL)
    made = Online(open_run("r", home), setting, config, torch.device("cpu"), home / "no")
    assert made.unread()[0].endswith("; nor align.weight=4.0, which suits it: here 0.1")
    words = "stream: align.tilt=2.0 is not read: a loop learns beyond the policy it began from"
    made = stream("r", StreamConfig(arm="rsft_ecpo", **SMALL), home=home)
    assert words in (made.path / "log.txt").read_text()


def test_groups_from_the_log_are_what_visitors_were_shown(home):
    """What a visit's list brought, with OneRec-V2's reward: the loop with live feedback."""
    setting = setting_of(open_run("r", home), home)
    align = replace(setting.recipe.align, search="log", reward="feedback", tilt=0.0, weight=0.5)
    setting = replace(setting, recipe=replace(setting.recipe, align=align))
    online, line = once(home, "rsft_ecpo", setting=setting)
    last, log = online.alignment.last, online.log
    assert last.logged
    assert line["ratio_max"] == 1
    for user, end, items in zip(last.user, last.end, last.item, strict=True):
        shown = log.item[int(end) : int(log.offsets[int(user) + 1])][: last.item.shape[1]]
        assert items[items >= 0].tolist() == shown.tolist()
        assert log.columns["round"][int(end)] == 1


def test_a_reward_that_the_model_does_not_give_is_refused_before_anything_is_served(home):
    run = open_run("r", home)
    setting = setting_of(run, home)
    align = replace(setting.recipe.align, reward="follow")
    setting = replace(setting, recipe=replace(setting.recipe, align=align))
    make = lambda arm: Online(  # noqa: E731
        run, setting, StreamConfig(arm=arm), torch.device("cpu"), home / "refused"
    )
    with pytest.raises(RecipeError, match=r"align\.reward='follow'"):
        make("rsft_ecpo")
    make("rsft")  # which reads no reward


def test_a_run_without_a_reward_model_is_refused(trained):
    with pytest.raises(RunError, match="no reward model"):
        stream("first", StreamConfig(), home=trained)
