"""The align stage: what it records, that a stop changes nothing, and which step it keeps."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import toy_home
from safetensors.torch import load_file

from onerec.assembly import load_semantic_ids, setting_of, trained_model
from onerec.data.dataset import dataset_path, open_dataset, write_dataset
from onerec.errors import DataError, RecipeError
from onerec.pipeline import run as run_all
from onerec.pipeline import run_stage
from onerec.pipeline.align import Aligning, Valid, best, is_recorded, listed_items
from onerec.rollouts import read_rollout
from onerec.runs import Run, open_run
from onerec.sections import AlignConfig

STEPS = int(toy_home.ALIGNED["align.steps"])


def recipe(**changes):
    return toy_home.make_recipe({**toy_home.ALIGNED, **changes})


def weights(run, step=STEPS):
    return load_file(run.path / "align" / f"checkpoint-{step:06d}.safetensors")


def test_every_step_of_a_short_training_is_recorded_and_replays(aligned):
    run = open_run("first", aligned)
    files = sorted((run.path / "rollouts").glob("step-*.parquet"))
    assert [file.stem for file in files] == [f"step-{s:06d}" for s in range(1, STEPS + 1)]
    metrics = run.metrics("align").set_index("step")
    for step, file in enumerate(files, 1):
        rollout = read_rollout(file)
        assert rollout.item.shape == (4, 6)
        # JSON keeps a float32 exactly
        assert rollout.step().loss.item() == metrics.loc[step, "policy"]
        counted = rollout.counted
        reward = (rollout.reward() * counted).sum() / counted.sum().clamp(min=1)
        assert reward.item() == pytest.approx(metrics.loc[step, "reward"])
        assert set(rollout.parts) == {"click", "like", "pscore"}
        assert rollout.weights == {"click": 0.0, "like": 0.0, "pscore": 1.0}


def test_recorded_rewards_are_those_of_the_reward_model(aligned):
    run = open_run("first", aligned)
    with_reward = aligning(run)
    rollout = read_rollout(run.path / "rollouts" / "step-000003.parquet")
    user, end = rollout.user.numpy(), rollout.end.numpy()
    again = with_reward.reward.score(user, end, rollout.item)
    for name, part in rollout.parts.items():
        torch.testing.assert_close(again[name], part)


def aligning(run):
    return Aligning(run, setting_of(run), torch.device("cpu"))


def test_the_curves_hold_what_is_looked_at(aligned):
    metrics = open_run("first", aligned).metrics("align")
    assert metrics["step"].tolist() == list(range(STEPS + 1))
    names = "loss next_token policy reward legality outside beyond flat_groups ratio_max grad_norm"
    assert set(names.split()) <= set(metrics.columns)
    assert (metrics["ratio_max"].dropna() == 1).all()  # lag 0
    assert metrics.dropna(subset="valid_reward")["step"].tolist() == [0, 2, 4, 8]
    passes = metrics[[f"valid_pass@{k}" for k in (10, 32, 128)]].dropna()
    assert len(passes) == 4
    assert passes.apply(lambda row: row.is_monotonic_increasing, axis=1).all()
    assert 0 < passes.iloc[0, 0] <= passes.iloc[0, 2] <= 1


def test_pass_at_k_is_the_share_of_users_with_a_hit(aligned):
    training = aligning(open_run("first", aligned))
    cases = training.setting.split.valid
    found = training.passes()
    for k in (10, 32, 128):
        ranked = training.recommender.lists(cases, 128).items[:, :k]
        hits = [
            bool(set(row.tolist()) & set(cases.target_items[a:b].tolist()))
            for row, (a, b) in zip(ranked, pairwise(cases.target_offsets), strict=True)
        ]
        assert found[f"valid_pass@{k}"] == pytest.approx(np.mean(hits))


def test_rewards_compose_by_weights_and_each_part_is_recorded(home):
    mix = {"align.reward": "pscore=0.7,like=0.3", "align.steps": "2"}
    run = run_stage("align", "mix", recipe=recipe(**mix), dataset="toy", home=home)
    rollout = read_rollout(run.path / "rollouts" / "step-000001.parquet")
    assert rollout.weights == {"click": 0.0, "like": 0.3, "pscore": 0.7}
    parts = rollout.parts
    torch.testing.assert_close(rollout.reward(), 0.7 * parts["pscore"] + 0.3 * parts["like"])
    training = aligning(run)
    cases = training.setting.split.valid
    ranked = training.recommender.lists(cases, 10).items
    scored = training.reward.score(cases.user, cases.end, torch.from_numpy(ranked))
    mean = 0.7 * scored["pscore"].mean() + 0.3 * scored["like"].mean()
    assert training.evaluate(0)["valid_reward"] == pytest.approx(float(mean), rel=1e-5)
    changed = recipe(**{"align.reward": "follow,like"})
    says = (
        r"align\.reward='follow,like': 'follow' cannot be learned from 'toy' \(.*pscore, click, li"
    )
    with pytest.raises(RecipeError, match=says):
        run_stage("align", "mix2", recipe=changed, dataset="toy", home=home)
    with pytest.raises(RecipeError, match=says):  # before a folder is made, not after training
        run_all("mix3", changed, "toy", home=home)
    assert not (home / "runs" / "mix3").exists()


def test_how_groups_are_sampled_reaches_them(home):
    how = {"sampling.temperature": "0.5", "sampling.top_p": "0.9", "sampling.icepop": "5"}
    run = run_stage(
        "align", "cool", recipe=recipe(**how, **{"align.steps": "2"}), dataset="toy", home=home
    )
    rollout = read_rollout(run.path / "rollouts" / "step-000001.parquet")
    assert rollout.icepop == 5.0
    assert (rollout.drawn - rollout.model)[rollout.counted].abs().max() > 0.05
    config = aligning(run).alignment.config
    assert (config.temperature, config.top_p, config.icepop) == (0.5, 0.9, 5.0)
    assert run.metrics("align")["masked"].dropna().tolist() == [0.0, 0.0]


LOGGED = {"align.search": "log", "align.reward": "feedback", "align.objective": "gbpo"}


def test_what_people_did_can_be_the_group(tmp_path):
    """Of training rows alone, from the context on; V2 section 3.3."""
    log, items, users = toy_home.tables()
    log["play_ms"] = np.random.default_rng(0).integers(500, 90_000, len(log))
    log["duration_ms"] = 60_000
    write_dataset(dataset_path("toy", tmp_path), "toy", log, items, users, source="toy")
    run = run_stage("align", "log", recipe=recipe(**LOGGED), dataset="toy", home=tmp_path)
    training = aligning(run)
    log, train = training.setting.split.log, training.setting.split.train
    told = set()
    for step in range(1, STEPS + 1):
        rollout = read_rollout(run.path / "rollouts" / f"step-{step:06d}.parquet")
        assert rollout.logged
        assert set(rollout.parts) == {"feedback"}
        told |= set(rollout.parts["feedback"].unique().tolist())
        for user, end, items in zip(rollout.user, rollout.end, rollout.item, strict=True):
            own = np.arange(int(end), int(log.offsets[int(user) + 1]))
            shown = log.item[own[train[own]]][: rollout.item.shape[1]]
            assert items[items >= 0].tolist() == shown.tolist()
    assert told == {0.0, 1.0}
    said = "align: align.format_items=2 is not read: groups by log hold legal codes alone"
    assert said in (run.path / "log.txt").read_text()
    metrics = run.metrics("align")
    assert (metrics["ratio_max"].dropna() == 1).all()
    assert (metrics["legality"].dropna() == 1).all()


def test_a_log_without_play_times_has_no_feedback(home):
    with pytest.raises(DataError, match="no training row has a play_ms"):
        run_stage("align", "silent", recipe=recipe(**LOGGED), dataset="toy", home=home)


def test_the_chosen_step_is_the_best_on_valid_and_is_what_serves(aligned):
    run = open_run("first", aligned)
    done = run.done("align")
    assert done is not None
    valid = {int(s): Valid(v["recall@10"], v["reward"]) for s, v in done["valid"].items()}
    assert done["step"] == best(valid)
    ids, _ = load_semantic_ids(run)
    model = trained_model(run, setting_of(run), ids)
    saved = weights(run, done["step"])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved[f"model.{name}"])


def test_best_weighs_reward_against_recall():
    valid = {0: Valid(0.2, 0.1), 10: Valid(0.199, 0.3), 20: Valid(0.1, 0.9), 30: Valid(0.3, 0.2)}
    assert best(valid) == 10  # 20 lost too much recall
    assert best({0: Valid(0.2, 0.1), 10: Valid(0.1, 0.9)}) == 0
    assert best({0: Valid(0.2, 0.3), 10: Valid(0.2, 0.3)}) == 0  # the earlier of equals
    assert best(valid, [0, 20, 30]) == 30  # of those that are there
    assert best(valid, [20]) == 20, "nothing else is left"
    assert best({0: Valid(0.2, 0.9), 10: Valid(0.2, 0.1)}, [10]) == 10
    assert best({0: Valid(0.2, 0.9)}, [40]) == 40


def test_without_valid_users_the_last_step_is_kept_and_the_log_says_so(tmp_path):
    """The one row of valid is no positive, so that it asks for nothing."""
    log, items, users = toy_home.tables()
    last = log["timestamp"] == log.groupby("user_id")["timestamp"].transform("max")
    log["split"] = np.where(last, "test", "train")
    log.loc[last & (log["user_id"] == "u00"), ["split", "click", "like"]] = ["valid", False, False]
    write_dataset(dataset_path("toy", tmp_path), "toy", log, items, users, source="toy")
    asked = recipe(**{"evaluate.split": "given"})
    run = run_stage("align", "blind", recipe=asked, dataset="toy", home=tmp_path)
    done = run.done("align")
    assert done is not None
    assert (done["step"], done["valid"]) == (STEPS, {})
    before, after = load_file(run.path / "align" / done["checkpoint"]), weights(run, STEPS // 2)
    assert any(not torch.equal(before[name], after[name]) for name in after)
    said = f"align: nothing to choose by, valid has no users; step {STEPS} is kept"
    assert said in (run.path / "log.txt").read_text()


@pytest.mark.parametrize("lag", [pytest.param("0", marks=pytest.mark.slow), "3"])
def test_a_stop_in_the_middle_changes_nothing(home, lag):
    whole = run_stage("align", "w", recipe=recipe(**{"align.lag": lag}), dataset="toy", home=home)

    def stop(stage, now, of, values):
        if stage == "align" and now == 5:
            open_run("s", home).control(stop=True)

    part = run_stage(
        "align", "s", recipe=recipe(**{"align.lag": lag}), dataset="toy", home=home, report=stop
    )
    assert not part.is_done("align")
    part.control(stop=False)
    part = run_stage("align", "s", home=home)
    a, b = weights(whole), weights(part)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert part.metrics("align")["step"].tolist() == list(range(STEPS + 1))
    assert part.metrics("align")["policy"].equals(whole.metrics("align")["policy"])


@pytest.mark.parametrize("lag", [pytest.param("0", marks=pytest.mark.slow), "3"])
def test_without_moments_it_begins_with_what_pre_training_chose(home, lag):
    """Weights could be read of every checkpoint and moments of none: no weights may stay behind."""
    asked = recipe(**{"align.lag": lag})
    whole = run_stage("align", "w", recipe=asked, dataset="toy", home=home)

    def stop(stage, now, of, values):
        if stage == "align" and now == 5:
            open_run("s", home).control(stop=True)

    part = run_stage("align", "s", recipe=asked, dataset="toy", home=home, report=stop)
    for file in (part.path / "align").glob("checkpoint-000000.*"):
        file.unlink()  # as where another step was the best on valid
    toy_home.spoil_moments(part.path / "align")
    part.control(stop=False)
    part = run_stage("align", "s", home=home)
    said = (part.path / "log.txt").read_text()
    assert "passed over: checkpoint-000005.safetensors: the optimiser's" in said
    a, b = weights(whole), weights(part)
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert part.metrics("align")["policy"].equals(whole.metrics("align")["policy"])


def test_what_is_written_before_damaged_checkpoints_is_kept(home):
    """They count as newer until training comes to their steps again."""
    steps = []

    def stop_at(step):
        def stop(stage, now, of, values):
            if stage == "align" and now:
                steps.append(now)
                if now == step:
                    open_run("s", home).control(stop=True)

        return stop

    part = run_stage("align", "s", recipe=recipe(), dataset="toy", home=home, report=stop_at(5))
    toy_home.spoil_moments(part.path / "align")
    part.control(stop=False)
    run_stage("align", "s", home=home, report=stop_at(3))
    part.control(stop=False)
    run_stage("align", "s", home=home, report=stop_at(0))
    assert steps == [*range(1, 6), *range(1, 4), *range(4, STEPS + 1)]


def test_a_step_whose_file_was_cut_is_not_chosen(home):
    def stop(stage, now, of, values):
        if stage == "align" and now == 5:
            open_run("s", home).control(stop=True)

    part = run_stage("align", "s", recipe=recipe(), dataset="toy", home=home, report=stop)
    first = part.path / "align" / "checkpoint-000000.safetensors"
    first.write_bytes(first.read_bytes()[:-8])
    for told in (part.path / "align").glob("checkpoint-*.json"):
        info = json.loads(told.read_text())
        info["valid"]["0"] = [1.0, 1.0]  # none is as good
        told.write_text(json.dumps(info))
    part.control(stop=False)
    part = run_stage("align", "s", home=home)
    done = part.done("align")
    assert done["step"] > 0
    assert (part.path / "align" / done["checkpoint"]).exists()


def test_a_training_that_was_killed_finds_the_serving_copy_of_its_checkpoint(home):
    """Copies are sent oftener than checkpoints are written: the last two need not be the one."""
    lagging = recipe(**{"align.lag": "1"})
    whole = run_stage("align", "w", recipe=lagging, dataset="toy", home=home)

    def kill(stage, now, of, values):
        if stage == "align" and now == 7:  # the last checkpoint is of step 4
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("align", "k", recipe=lagging, dataset="toy", home=home, report=kill)
    part = run_stage("align", "k", home=home)
    a, b = weights(whole), weights(part)
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert len(list((part.path / "align").glob("served-*"))) <= 4


def test_with_a_lag_ratios_move_and_stay_replayable(home):
    run = run_stage(
        "align",
        "lag",
        recipe=recipe(**{"align.lag": "100", "align.learning_rate": "0.01"}),
        dataset="toy",
        home=home,
    )
    metrics = run.metrics("align").set_index("step")
    assert metrics.loc[STEPS, "ratio_max"] > 1.01
    rollout = read_rollout(run.path / "rollouts" / f"step-{STEPS:06d}.parquet")
    assert rollout.step().loss.item() == metrics.loc[STEPS, "policy"]


def test_rsft_trains_on_long_sessions_alone(tmp_path):
    log, items, users = toy_home.tables()
    long = log["user_id"].isin([f"u{u:02d}" for u in range(40) if u % 5])
    log["play_ms"], log["duration_ms"] = 1_000 + 60_000 * long, 60_000
    write_dataset(dataset_path("toy", tmp_path), "toy", log, items, users, source="toy")
    run = run_stage("reward", "r", recipe=recipe(), dataset="toy", home=tmp_path)
    dataset = open_dataset("toy", tmp_path)
    kept = {str(u) for u in dataset.users["user_id"].to_numpy()[aligning(run).examples().user]}
    assert kept <= {f"u{u:02d}" for u in range(40) if u % 5}
    assert len(kept) > 10


def test_a_reward_that_is_not_there_is_refused_with_what_is(home):
    with pytest.raises(RecipeError, match=r"align.reward='long_view': .* there are pscore, click"):
        run_stage(
            "align", "x", recipe=recipe(**{"align.reward": "long_view"}), dataset="toy", home=home
        )


def test_listed_items_by_value_and_in_lists(home):
    dataset = open_dataset("toy", home)
    assert listed_items(dataset, "", "") is None
    by_author = listed_items(dataset, "author_id", "a3")
    assert by_author is not None
    assert by_author.tolist() == (dataset.items["author_id"] == "a3").tolist()
    by_tag = listed_items(dataset, "tags", "cooking")
    assert by_tag is not None
    assert int(by_tag.sum()) == toy_home.PER_SHELF
    with pytest.raises(RecipeError, match=r"industrial\.column='brand': items have"):
        listed_items(dataset, "brand", "x")
    with pytest.raises(RecipeError, match="no item has it"):
        listed_items(dataset, "author_id", "nobody")


def test_a_cut_rollout_is_one_line(aligned, tmp_path):
    run = open_run("first", aligned)
    path = tmp_path / "step.parquet"
    whole = (run.path / "rollouts" / "step-000001.parquet").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        read_rollout(path)


@pytest.mark.slow
def test_from_the_command_line(home):
    words = [sys.executable, "-m", "onerec", "align", "--run", "c", "--dataset", "toy", "--json"]
    words += toy_home.set_options(toy_home.ALIGNED)
    done = subprocess.run(
        words,
        env={"ONEREC_HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "done"
    run = Run(home / "runs" / "c")
    assert run.is_done("align")
    assert isinstance(run.metrics("align"), pd.DataFrame)


def test_every_step_is_recorded_up_to_a_number_of_items_then_every_nth():
    def kept(steps, users, group):
        config = AlignConfig(users=users, group=group)
        return [step for step in range(1, steps + 1) if is_recorded(step, steps, config)]

    assert kept(400, 10, 500) == list(range(1, 401)), "2,000,000 items"
    assert kept(400, 10, 501) == [1, *range(2, 401, 2)]
    assert kept(600, 32, 512)[:3] == [1, 5, 10]
