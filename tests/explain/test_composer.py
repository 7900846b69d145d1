"""Recorded groups under another reward: equal to the replay, and to orders worked out by hand."""

import json
import shutil
from pathlib import Path

import fake_rewards
import fake_rollouts
import numpy as np
import pandas as pd
import pytest

from onerec.errors import RunError
from onerec.explain import composer
from onerec.rollouts import check_weights, read_rollout, write_rollout
from onerec.runs import Run

STEP = 10


@pytest.fixture
def scored(run: Run, tmp_path: Path) -> Run:
    """A run of the dataset of `fake`, in a home of its own."""
    home = shutil.copytree(run.home, tmp_path / "home")
    return Run(fake_rewards.build(home / "runs" / run.name))


def step_file(run: Run, step: int = STEP) -> Path:
    return run.path / "rollouts" / f"step-{step:06d}.parquet"


def assert_is_the_replay(run: Run, step: int) -> None:
    replay = read_rollout(step_file(run, step))
    own = composer.recorded_weights(run, step)
    for found in (composer.composed(run, step), composer.composed(run, step, own)):
        items = found.items
        for when in ("before", "after"):
            np.testing.assert_array_equal(items[f"reward_{when}"], replay.reward().flatten())
            np.testing.assert_allclose(
                items[f"advantage_{when}"], replay.advantage().flatten(), atol=1e-4
            )
            np.testing.assert_array_equal(items[f"format_{when}"], replay.format.flatten())
        assert (items["moved"] == 0).all()
        assert found.facts["places_changed"] == 0
        assert found.parts["change"].dropna().eq(0).all()


def test_with_the_recorded_weights_it_is_the_replay(scored: Run) -> None:
    for step in fake_rewards.STEPS:
        assert_is_the_replay(scored, step)


def test_with_the_recorded_weights_it_is_the_replay_of_a_real_run(aligned: Path) -> None:
    run = Run(aligned / "runs" / "first")
    step = int(next((run.path / "rollouts").glob("step-*.parquet")).stem[5:])
    assert_is_the_replay(run, step)


def test_a_tilted_step_is_the_replay_too(scored: Run) -> None:
    step = fake_rewards.STEPS[0]
    made = read_rollout(step_file(scored, step))
    made.reference, made.tilt, made.beam = made.drawn - 0.5 * made.reward(), 2.0, True
    write_rollout(step_file(scored, step), made)
    assert_is_the_replay(scored, step)


def test_rank_and_reward_by_hand(scored: Run) -> None:
    def one_group(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows[rows["user"] == 4].head(4)
        meta = json.loads(rows["step"].iloc[0]) | {"users": 1, "group": 4}
        return rows.assign(
            step=json.dumps(meta),
            place=range(4), item=[1, 2, 3, -1], counted=[True, True, True, False], factor=1.0,
            reward_pscore=[0.3, 0.2, 0.1, 0.9], reward_click=[0.0, 0.1, 0.5, 0.9],
            reward_long_view=0.0, reward_like=0.0,
        )  # fmt: skip

    fake_rollouts.rewrite(step_file(scored), one_group)
    weights = {"pscore": 1.0, "click": 2.0, "long_view": 0.0, "like": 0.0}
    found = composer.composed(scored, STEP, weights, top=2)
    assert found.items["rank_before"].tolist() == [1, 2, 3, 4], "illegal ones rank last"
    assert found.items["reward_after"].tolist() == pytest.approx([0.3, 0.4, 1.1, 2.7])
    assert found.items["rank_after"].tolist() == [3, 2, 1, 4]
    assert found.items["moved"].tolist() == [-2, 0, 2, 0]
    # 0.3, 0.4, 1.1: mean 0.6, standard deviation sqrt(0.38 / 3) = 0.3559
    assert found.items["advantage_after"].tolist() == pytest.approx(
        [-0.3 / 0.3559, -0.2 / 0.3559, 0.5 / 0.3559, 0], abs=1e-3
    )
    assert found.facts["places_changed"] == 1
    assert found.facts["legality"] == 0.75
    parts = found.parts.set_index("part")
    assert parts.loc["click", ["before", "after"]].tolist() == pytest.approx([0.05, 0.3])
    assert parts.loc["click", "change"] == pytest.approx(5.0)
    assert parts.loc["pscore", "share"] == pytest.approx(0.15 / 0.75)


def test_the_head_is_at_most_half_of_a_group(scored: Run) -> None:
    assert composer.composed(scored, STEP).facts["top"] == 4
    assert composer.composed(scored, STEP, top=7).facts["top"] == 7


def test_equal_rewards_keep_their_order(scored: Run) -> None:
    flat = composer.composed(scored, STEP).items.query("user == 3")
    assert flat[flat["counted"]]["rank_after"].tolist() == list(range(1, 8))


def test_the_industrial_rule_is_that_of_the_training(scored: Run) -> None:
    from onerec.data.dataset import open_dataset
    from onerec.pipeline.align import listed_items

    assert scored.dataset_folder is not None
    dataset = open_dataset(scored.dataset_folder)
    for column, value in (("category", "music"), ("tags", "tag3"), ("author_id", "a2")):
        items = composer.composed(scored, STEP, industrial=(column, value, 0.25, 0.0)).items
        listed = listed_items(dataset, column, value)
        assert listed is not None
        wanted = listed.numpy()[items["item"].clip(lower=0)] & (items["item"] >= 0)
        assert wanted.any()
        np.testing.assert_array_equal(items["touched"], wanted)
        np.testing.assert_array_equal(items["factor"], np.where(wanted, 0.25, 1.0))


def test_the_industrial_rule_waits_for_the_limit(scored: Run) -> None:
    share = composer.industrial_values(scored, STEP, "category").set_index("value").loc["music"]
    below = composer.composed(scored, STEP, industrial=("category", "music", 0.0, share["share"]))
    assert not below.facts["applied"]
    assert below.facts["touched"] == 0
    above = composer.composed(
        scored, STEP, industrial=("category", "music", 0.0, share["share"] - 0.01)
    )
    assert above.facts["applied"]
    assert above.facts["touched"] == pytest.approx(share["share"])
    assert (above.items.loc[above.items["touched"], "reward_after"] == 0).all()


def test_off_takes_the_recorded_factor_away(scored: Run) -> None:
    recorded, off = (composer.composed(scored, STEP, industrial=i) for i in ("recorded", None))
    assert recorded.items["touched"].any()
    assert (recorded.items.loc[recorded.items["touched"], "item"] == 7).all()
    assert (off.items["factor"] == 1).all()
    assert not off.items["touched"].any()


def test_values_are_counted_over_the_legal_items(scored: Run) -> None:
    assert composer.industrial_columns(scored) == ["category", "tags", "author_id"]
    frame = composer.industrial_values(scored, STEP, "category")
    legal = (composer.composed(scored, STEP).items["item"] >= 0).sum()
    assert frame["items"].sum() == legal, "one category each"
    assert frame["share"].sum() == pytest.approx(1)
    assert frame["items"].is_monotonic_decreasing


def test_the_format_reward_pushes_legal_items_drawn_by_lot_and_ranks_nothing(scored: Run) -> None:
    five, off = (composer.composed(scored, STEP, format_items=n) for n in (5, 0))
    assert (off.items["format_after"] == 0).all()
    pushed = five.items[five.items["format_after"] != 0]
    assert set(pushed["format_after"]) == {1.0}
    assert (pushed["item"] >= 0).all()
    assert pushed.groupby("group").size().max() <= 5
    assert five.facts["format_after"] == len(pushed)
    everyone = composer.composed(scored, STEP, format_items=99).items
    assert everyone["format_after"].sum() == (everyone["item"] >= 0).sum()
    np.testing.assert_array_equal(five.items["rank_after"], off.items["rank_after"])
    again = composer.composed(scored, STEP, format_items=5)
    np.testing.assert_array_equal(five.items["format_after"], again.items["format_after"])


@pytest.mark.parametrize(
    "weights", [{"pscore": -1.0}, dict.fromkeys(fake_rewards.WEIGHTS, 0.0), {"like": float("nan")}]
)
def test_weights_that_make_no_reward_are_refused_in_the_words_of_the_training(
    scored: Run, weights: dict[str, float]
) -> None:
    asked = fake_rewards.WEIGHTS | weights
    with pytest.raises(RunError) as ours:
        composer.composed(scored, STEP, asked)
    with pytest.raises(RunError) as theirs:
        check_weights(asked, fake_rewards.WEIGHTS)
    assert str(ours.value) == str(theirs.value)


def test_missing_and_unknown_parts_are_named(scored: Run) -> None:
    with pytest.raises(RunError, match=r"reward 'click': it has no weight"):
        composer.composed(scored, STEP, {"pscore": 1.0, "long_view": 1, "like": 1})
    with pytest.raises(RunError, match=r"reward 'share': not recorded; there are"):
        composer.composed(scored, STEP, fake_rewards.WEIGHTS | {"share": 1.0})


def test_rules_that_cannot_work_are_refused(scored: Run) -> None:
    with pytest.raises(RunError, match=r"alpha=2 and limit=0.1 must be from 0 to 1"):
        composer.composed(scored, STEP, industrial=("category", "music", 2, 0.1))
    with pytest.raises(RunError, match=r"column 'colour': items have"):
        composer.composed(scored, STEP, industrial=("colour", "red", 0.5, 0.1))
    with pytest.raises(RunError, match=r"format_items=-1"):
        composer.composed(scored, STEP, format_items=-1)
    shutil.rmtree(scored.home / "datasets")
    assert composer.industrial_columns(scored) == []
    with pytest.raises(RunError, match="its dataset is gone"):
        composer.composed(scored, STEP, industrial=("category", "music", 0.5, 0.1))


def test_one_group_with_titles_best_first(scored: Run) -> None:
    assert composer.users(scored, STEP) == [4, 5, 6, 7, 8, 3], "the flat group last"
    frame = composer.composed_group(
        scored, STEP, 4, weights=dict.fromkeys(fake_rewards.WEIGHTS, 0) | {"like": 1}
    )
    assert frame["rank_after"].tolist() == list(range(1, 9))
    assert frame["title"].iloc[0].endswith(f"clip {frame['item'].iloc[0]}")
    assert (frame["item"].iloc[-1], frame["title"].iloc[-1]) == (-1, "")
    assert frame["reward_like"].iloc[:7].is_monotonic_decreasing, "like decides"
    with pytest.raises(RunError, match=r"user 0: no group in step 10"):
        composer.composed_group(scored, STEP, 0)


def test_a_step_from_before_there_was_a_factor(scored: Run) -> None:
    fake_rollouts.rewrite(step_file(scored), lambda rows: rows.drop(columns=["factor", "format"]))
    found = composer.composed(scored, STEP)
    assert (found.items["factor"] == 1).all()
    assert found.facts["format_before"] == 0


def test_a_damaged_step_is_one_line(scored: Run) -> None:
    for damage in (
        lambda rows: rows.drop(columns="counted"),
        lambda rows: rows.iloc[:-1],
        lambda rows: rows.iloc[: len(rows) // 2],  # at a group's border
        lambda rows: rows.assign(step="{}"),
        lambda rows: rows.assign(reward_like=float("nan")),
        lambda rows: rows.drop(columns="lp_2"),
        lambda rows: rows[[name for name in rows if not name.startswith("reward_")]],
    ):
        fake_rewards.build(scored.path)
        fake_rollouts.rewrite(step_file(scored), damage)
        with pytest.raises(RunError, match=r"step-000010.*not a whole policy step.*delete the"):
            composer.composed(scored, STEP)
    with pytest.raises(RunError, match=r"step-000099.*holds the steps that were recorded"):
        composer.composed(scored, 99)
