"""Recorded policy steps as tables: equal to the replay, whatever columns there are, or one line."""

import json
import shutil
from pathlib import Path

import fake_rollouts
import numpy as np
import pandas as pd
import pytest
import torch

from onerec.errors import RunError
from onerec.explain import policy
from onerec.rollouts import OBJECTIVES, read_rollout, write_rollout
from onerec.runs import Run

STEP = 10


@pytest.fixture
def aligned(run: Run, tmp_path: Path) -> Run:
    return Run(fake_rollouts.build(shutil.copytree(run.path, tmp_path / "aligned")))


def step_file(run: Run, step: int = STEP) -> Path:
    return run.path / "rollouts" / f"step-{step:06d}.parquet"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_items_are_what_the_replay_of_the_step_gives(aligned: Run, objective: str) -> None:
    write_rollout(step_file(aligned), fake_rollouts.rollout(STEP, objective=objective))
    replay = read_rollout(step_file(aligned))
    step, advantage, reward = replay.step(), replay.advantage(), replay.reward()
    for group, user in enumerate(replay.user.tolist()):
        found = policy.items(aligned, STEP, user)
        for column, wanted in (("advantage", advantage), ("reward", reward)):
            np.testing.assert_allclose(found[column], wanted[group], atol=1e-5)
        np.testing.assert_allclose(
            found["push"] + found["format_push"], step.push[group], atol=1e-5
        )
        ratio = (replay.log_prob - replay.drawn).exp()[group]
        np.testing.assert_allclose(found["ratio"], ratio, rtol=1e-5)
        assert found["item"].tolist() == replay.item[group].tolist()


@pytest.mark.parametrize("beam", [False, True])
def test_items_of_a_tilted_step_are_what_its_replay_gives(aligned: Run, beam: bool) -> None:
    made = fake_rollouts.rollout(STEP)
    made.reference, made.tilt, made.beam = made.drawn - 0.5 * made.reward(), 2.0, beam
    made.codes[:, 1:4] = made.codes[:, :1]  # a leaf of several items
    write_rollout(step_file(aligned), made)
    replay = read_rollout(step_file(aligned))
    step, advantage = replay.step(), replay.advantage()
    for group, user in enumerate(replay.user.tolist()):
        found = policy.items(aligned, STEP, user)
        np.testing.assert_allclose(found["advantage"], advantage[group], atol=1e-4)
        np.testing.assert_allclose(
            found["push"] + found["format_push"], step.push[group], atol=1e-4
        )
        assert found.attrs["tilt"] == 2.0


def test_dots_lie_on_the_curve_of_their_objective(aligned: Run) -> None:
    found = policy.dots(aligned, STEP)
    for sign in (-1.0, 1.0):
        curve = policy.curves(("ecpo",), signs=(sign,))
        part = found[found["advantage"] * sign > 0]
        assert len(part) > 5
        for column in ("value", "push"):
            on_it = np.interp(np.log(part["ratio"]), np.log(curve["ratio"]), curve[column])
            np.testing.assert_allclose(part[f"unit_{column}"], on_it, atol=2e-3)
    assert found.loc[found["advantage"] == 0, "unit_push"].isna().all()


def test_regions_count_what_dots_show(aligned: Run) -> None:
    found, counts = policy.dots(aligned, STEP), policy.regions(aligned, STEP)
    assert counts["items"].sum() == (found["advantage"] != 0).sum()
    bounded = counts[counts["effect"] == "bounded push"]
    assert set(bounded["region"]) == {"above 1+ε+δ"}
    assert set(bounded["advantage"]) == {"A < 0"}
    loose = policy.regions(aligned, STEP, objective="grpo", epsilon=0.9)
    assert "bounded push" not in set(loose["effect"])


def test_a_group_without_a_spread_is_flat_and_pushes_nothing(aligned: Run) -> None:
    groups = policy.groups(aligned, STEP)
    assert groups["user"].tolist() == [3, 4, 5, 6, 7, 8]
    flat = policy.items(aligned, STEP, 3)
    assert groups["flat"].tolist() == [True] + [False] * 5
    assert set(flat["effect"]) == {"no advantage", "left out"}
    assert (groups["legal"] == 7).all()
    illegal = policy.items(aligned, STEP, 4).iloc[-1]
    assert (illegal["item"], illegal["title"], illegal["effect"]) == (-1, "", "left out")


def test_steps_in_order_with_their_shares(aligned: Run) -> None:
    assert policy.recorded(aligned) == list(fake_rollouts.STEPS)
    frame = policy.steps(aligned)
    assert frame["step"].tolist() == list(fake_rollouts.STEPS)
    assert (frame["groups"] == 6).all()
    assert (frame["legality"] == 7 / 8).all()
    first = read_rollout(step_file(aligned, 1))
    earned = float(first.reward()[first.counted].mean())  # as metrics.jsonl says it
    assert frame["reward"].iloc[0] == pytest.approx(earned, abs=1e-6)
    groups = policy.groups(aligned, 1)
    mean = np.average(groups["reward_mean"], weights=groups["counted"])
    assert mean == pytest.approx(earned, abs=1e-6), "the groups add up to the step"
    own = policy.items(aligned, 1, 5).query("counted")["reward"].mean()
    assert groups.set_index("user")["reward_mean"][5] == pytest.approx(own)
    assert policy.steps(aligned, through=10)["step"].tolist() == [1, 10]
    assert policy.steps(aligned, limit=2)["step"].tolist() == [1, 30]
    assert policy.rule(aligned, STEP)["epsilon"] == 0.2


def test_reward_formula_by_hand(aligned: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    row = policy.items(aligned, STEP, 4).iloc[2]
    text = policy.reward_formula(aligned, STEP, 4, 2)
    assert text.startswith(f"0.1 × {row['reward_liked']:.3g} (liked) + 1 × ")
    assert text.endswith(f"= {row['reward']:.3f}")
    loaded = policy._group(aligned, STEP, 4)
    without = (loaded[0], loaded[1] | {"weights": {"p_score": 1.0, "liked": 0.0}})
    with monkeypatch.context() as patch:
        patch.setattr(policy, "_group", lambda *_: without)
        assert policy.reward_formula(aligned, STEP, 4, 2).startswith("1 × "), "nothing times 0"
    halved = lambda rows: rows.assign(factor=0.5)  # noqa: E731
    fake_rollouts.rewrite(step_file(aligned), halved)
    half = policy.items(aligned, STEP, 4).iloc[2]
    assert policy.reward_formula(aligned, STEP, 4, 2).endswith(
        f"× 0.5 (industrial) = {half['reward']:.3f}"
    )


def test_levels_add_up_to_the_item(aligned: Run) -> None:
    row = policy.items(aligned, STEP, 5).iloc[3]
    levels = policy.levels(aligned, STEP, 5, 3)
    assert " · ".join(map(str, levels["code"])) == row["codes"]
    assert levels["log_prob"].sum() == pytest.approx(row["log_prob"], abs=1e-5)
    assert levels["drawn"].sum() == pytest.approx(row["drawn"], abs=1e-5)
    assert levels["ratio"].prod() == pytest.approx(row["ratio"], rel=1e-4)


def test_a_step_may_lack_what_is_optional(aligned: Run) -> None:
    names = ["lp_1", "lp_2", "lp_3", "sampled", "factor", "format", "end", "model"]
    names += ["drawn_1", "drawn_2", "drawn_3"]
    fake_rollouts.rewrite(step_file(aligned), lambda rows: rows.drop(columns=names))
    found = policy.items(aligned, STEP, 4)
    assert (found["format_push"] == 0).all()
    assert policy.levels(aligned, STEP, 4, 0)[["log_prob", "drawn"]].isna().all(axis=None)


@pytest.mark.parametrize("name", ["log_prob", "drawn", "factor", "lp_2", "reward_liked"])
def test_a_step_that_lost_a_number_or_a_level_is_one_line(aligned: Run, name: str) -> None:
    def lost(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(**{name: rows[name].where(rows.index != 5)})

    fake_rollouts.rewrite(step_file(aligned), lost)
    with pytest.raises(RunError, match=rf"step \(column {name} holds nan in row 5\); delete the"):
        policy.groups(aligned, STEP)
    fake_rollouts.build(aligned.path)
    fake_rollouts.rewrite(step_file(aligned), lambda rows: rows.drop(columns="lp_2"))
    with pytest.raises(RunError, match=r"step \(column lp_2 is missing\); delete the file"):
        policy.levels(aligned, STEP, 4, 0)


def test_a_step_that_lost_whole_groups_is_one_line(aligned: Run) -> None:
    fake_rollouts.rewrite(step_file(aligned), lambda rows: rows.iloc[: len(rows) // 2])
    with pytest.raises(RunError, match=r"not a whole policy step \(24 of 48 rows\)"):
        policy.groups(aligned, STEP)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_icepop_masks_does_not_push(aligned: Run, objective: str) -> None:
    made = fake_rollouts.rollout(STEP, objective=objective)
    made.sampled, made.icepop = made.drawn - torch.tensor([0.0, 0.3, 2.0, -1.0] * 2), 5.0
    write_rollout(step_file(aligned), made)
    push = read_rollout(step_file(aligned)).step().push
    assert (push[:, [2, 3, 6, 7]] == 0).all()
    assert (push[:, [0, 1, 4, 5]] != 0).any()
    for group, user in enumerate(made.user.tolist()):
        found = policy.items(aligned, STEP, user)
        np.testing.assert_allclose(found["push"] + found["format_push"], push[group], atol=1e-5)
        assert set(found["effect"][[2, 3, 6, 7]]) == {"left out"}


def test_a_weight_of_icepop_is_no_bound(aligned: Run) -> None:
    """Training and sampling disagree a little about each item; every ratio is 1."""
    made = fake_rollouts.rollout(STEP)
    made.levels = made.drawn_levels.clone()
    made.sampled, made.icepop = made.drawn + 0.01 * torch.randn(made.drawn.shape), 5.0
    write_rollout(step_file(aligned), made)
    said = {
        effect
        for user in made.user.tolist()
        for effect in policy.items(aligned, STEP, user)["effect"]
    }
    assert said == {"pushes", "no advantage", "left out"}


def test_logged_items_have_their_reward_as_advantage(aligned: Run) -> None:
    made = fake_rollouts.rollout(STEP, objective="gbpo")
    made.parts = {"feedback": made.parts["liked"] - 1}
    made.weights, made.logged, made.factor = {"feedback": 1.0}, True, torch.ones(made.item.shape)
    write_rollout(step_file(aligned), made)
    replay = read_rollout(step_file(aligned))
    for group, user in enumerate(made.user.tolist()):
        found = policy.items(aligned, STEP, user)
        assert found["advantage"].tolist() == replay.advantage()[group].tolist()
        wanted = made.parts["feedback"][group] * made.counted[group]
        assert found["advantage"].tolist() == wanted.tolist()


def test_curves_of_the_stage_by_unit(aligned: Run) -> None:
    frame = policy.reward_curves(aligned)
    by_panel = frame.groupby("panel")["metric"].agg(set)
    assert by_panel["reward"] == {"reward", "valid_reward"}
    assert by_panel[policy.PARTS] == {"reward_p_score", "reward_liked"}
    assert by_panel["share"] == {"legality", "outside", "beyond", "flat_groups"}
    assert "lr" not in set(frame["metric"])
    assert policy.reward_curves(aligned, through=5)["step"].max() == 5


def test_curves_tolerate_missing_names(aligned: Run) -> None:
    log = aligned.path / "metrics.jsonl"
    log.write_text(json.dumps({"stage": "align", "step": 1, "of": 2, "seconds": 1, "loss": 2}))
    assert policy.reward_curves(aligned)["metric"].tolist() == ["loss"]


def test_a_run_without_policy_steps_is_empty(run: Run) -> None:
    assert policy.recorded(run) == []
    assert policy.steps(run).empty
    assert policy.reward_curves(run).empty


@pytest.mark.parametrize("damage", ["cut", "another table", "other groups", "no weights"])
def test_damage_is_one_line_that_says_what_next(aligned: Run, damage: str) -> None:
    path = step_file(aligned)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "another table":
        fake_rollouts.rewrite(path, lambda rows: rows[["user"]])
    elif damage == "other groups":
        fake_rollouts.rewrite(path, lambda rows: rows.iloc[:-3])
    else:
        fake_rollouts.rewrite(path, lambda rows: rows.assign(step='{"objective": "ecpo"}'))
    for read in (policy.groups, policy.dots, policy.rule):
        with pytest.raises(RunError, match=r"step-000010\.parquet.*delete the file") as caught:
            read(aligned, STEP)
        assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="delete the file"):
        policy.steps(aligned)


def test_what_is_not_there_is_named(aligned: Run) -> None:
    with pytest.raises(RunError, match="user 0: no group in step 10"):
        policy.items(aligned, STEP, 0)
    with pytest.raises(RunError, match="place 9: this group has the places 0 to 7"):
        policy.levels(aligned, STEP, 4, 9)
    with pytest.raises(RunError, match="step-000099"):
        policy.groups(aligned, 99)


def test_the_age_of_the_weights_that_drew(tmp_path: Path) -> None:
    """With a lag of 20 the copy is renewed before the steps 1, 21, 41, ..."""
    run = Run(tmp_path / "run")
    run.path.mkdir()
    (run.path / "recipe.json").write_text('{"recipe": {"align": {"steps": 60}}}')
    assert policy.age(run, 1) is None, "a recipe that does not say"
    (run.path / "recipe.json").write_text('{"recipe": {"align": {"lag": 20}}}')
    assert [policy.age(run, step) for step in (1, 2, 20, 21, 40)] == [
        *((0, 20), (1, 20), (19, 20), (0, 20), (19, 20)),
    ]
    (run.path / "recipe.json").write_text('{"recipe": {"align": {"lag": 0}}}')
    assert policy.age(run, 7) == (0, 0)


PASSES = {
    0: {10: 0.2, 32: 0.4, 128: 0.7},
    15: {10: 0.26, 32: 0.44, 128: 0.71},
    30: {10: 0.3, 32: 0.35, 128: 0.6},
}


def test_pass_at_k_is_that_of_the_step_that_was_kept(aligned: Run) -> None:
    assert policy.pass_at_k(aligned).empty, "a run of an earlier version"
    fake_rollouts.look(aligned.path, PASSES, kept=15)
    found = policy.pass_at_k(aligned)
    assert found["k"].tolist() == [10, 32, 128]
    assert found["before"].tolist() == [0.2, 0.4, 0.7]
    assert found["after"].tolist() == [0.26, 0.44, 0.71], "not the last look"
    assert set(found["step"]) == {15}
    assert found["kept"].all()


def test_pass_at_k_of_a_stage_that_goes_on_is_that_of_the_last_look(aligned: Run) -> None:
    fake_rollouts.look(aligned.path, {0: PASSES[0]})
    assert policy.pass_at_k(aligned).empty, "there is no after yet"
    fake_rollouts.look(aligned.path, {15: PASSES[15], 30: PASSES[30]})
    found = policy.pass_at_k(aligned)
    assert (found["after"].tolist(), set(found["step"])) == ([0.3, 0.35, 0.6], {30})
    assert not found["kept"].any()
    assert policy.pass_at_k(aligned, through=20)["after"].tolist() == [0.26, 0.44, 0.71]


def test_pass_at_k_may_be_kept_at_the_start_or_lack_a_look(aligned: Run) -> None:
    fake_rollouts.look(aligned.path, PASSES, kept=0)
    assert policy.pass_at_k(aligned)["after"].tolist() == [0.2, 0.4, 0.7]
    fake_rollouts.look(aligned.path, {}, kept=20)
    assert policy.pass_at_k(aligned).empty, "step 20 was not looked at"
