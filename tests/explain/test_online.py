"""Streams as tables: their rounds, the A/B with its interval, one round's visits; by hand."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import fake_streams
import numpy as np
import pytest

from onerec.data.tables import read_parquet, write_parquet
from onerec.errors import RunError
from onerec.explain import online
from onerec.metrics import paired_difference_interval
from onerec.runs import Run


@pytest.fixture
def streamed(run: Run, tmp_path: Path) -> Run:
    """A run with an arm that learns, one that does not, and one with other people."""
    folder = tmp_path / "runs" / "toy_run"
    shutil.copytree(run.home / "datasets", tmp_path / "datasets")
    shutil.copytree(run.path, folder)
    fake_streams.build(folder, "frozen")
    fake_streams.build(folder, "ecpo", arm="rsft_ecpo", lift=20.0)
    fake_streams.build(folder, "elsewhere", seed=7)
    return Run(folder)


def test_a_row_per_stream_the_newest_first(streamed: Run) -> None:
    frame = online.streams(streamed)
    assert frame["stream"].tolist() == ["elsewhere", "frozen", "ecpo"]
    assert online.names(streamed) == frame["stream"].tolist()
    row = frame.set_index("stream").loc["ecpo"]
    assert row[["arm", "state", "round", "rounds"]].tolist() == ["rsft_ecpo", "done", 3, 3]
    users = np.arange(6, 14)
    assert row["value"] == "true_watch_s"
    assert row["last"] == pytest.approx(103 + 10 * users.mean() + 20 * (0.5 + users % 3 / 2).mean())
    assert row[["steps", "lag", "share", "shown", "seed"]].tolist() == [2, 2, 0.5, 4, 0]


def test_weights_that_were_sent_are_counted(streamed: Run) -> None:
    """Six updates, numbers 0 to 5, sent before 2 and 4; an arm that learns nothing sends none."""
    sent = online.streams(streamed).set_index("stream")["sent"]
    assert sent["ecpo"] == 2
    assert sent["frozen"] == 0
    fake_streams.build(streamed.path, "slow", arm="all", lag=6)
    fake_streams.build(streamed.path, "direct", arm="all", lag=0)
    sent = online.streams(streamed).set_index("stream")["sent"]
    assert (sent["slow"], sent["direct"]) == (0, 6)


@pytest.mark.parametrize(
    ("lag", "idle", "sent"),
    [(2, (1,), 1), (2, (2,), 1), (2, (1, 2, 3), 0), (3, (1,), 1), (3, (2,), 0), (5, (1, 2), 1),
     (5, (3,), 0), (0, (2,), 4)],
)  # fmt: skip
def test_rounds_without_examples_keep_their_numbers_and_send_nothing(
    streamed: Run, lag: int, idle: tuple[int, ...], sent: int
) -> None:
    """Updates 0 and 1, 2 and 3, 4 and 5; sent before multiples of `lag`, once one was learned."""
    fake_streams.build(streamed.path, "gaps", arm="all", lag=lag, idle=idle)
    assert online.streams(streamed).set_index("stream").loc["gaps", "sent"] == sent


@pytest.mark.parametrize(
    ("steps", "lag", "first"), [(20, 20, 3), (20, 10, 2), (5, 20, 6), (20, 0, 2), (20, 30, 3)]
)
def test_the_first_round_that_new_weights_serve(steps: int, lag: int, first: int) -> None:
    """Slowly: serve, then update and send where it is due, until something learned serves."""
    assert online.served_from(steps, lag) == first
    number, learned_serves = 0, False
    for round_ in range(1, 20):
        if learned_serves:
            assert round_ == first
            return
        for _ in range(steps):
            learned_serves |= number > 0 and (not lag or number % lag == 0)
            number += 1
    raise AssertionError("never served")


def test_curves_are_means_over_users_with_their_interval(streamed: Run) -> None:
    frame = online.curves(streamed, ["frozen", "ecpo"])
    assert frame["stream"].tolist() == ["frozen"] * 3 + ["ecpo"] * 3
    first = frame.iloc[0]
    worth = 101 + 10 * np.arange(2, 10)
    half = 1.96 * worth.std(ddof=1) / np.sqrt(8)
    assert first["mean"] == worth.mean()
    assert [first["low"], first["high"]] == pytest.approx(
        [worth.mean() - half, worth.mean() + half], rel=1e-4
    )
    assert (frame["users"] == 8).all()
    assert online.curves(streamed, ["frozen"], "true_long_view")["low"].tolist() == [0.25] * 3


def test_the_difference_by_round_and_over_all(streamed: Run) -> None:
    frame = online.compared(streamed, "ecpo", "frozen")
    assert frame["over"].tolist() == ["round 1", "round 2", "round 3", "all rounds"]
    assert frame["round"].tolist()[:3] == [1, 2, 3]
    assert frame["round"].isna().tolist() == [False, False, False, True]
    lifts = [20 * (0.5 + np.arange(2 * r, 2 * r + 8) % 3 / 2) * (r > 1) for r in (1, 2, 3)]
    by_hand = [lift.mean() for lift in lifts]
    assert frame["difference"].tolist()[:3] == pytest.approx(by_hand)
    assert frame["difference"].iloc[-1] == pytest.approx(np.mean(by_hand))
    assert frame["visits"].tolist() == [8, 8, 8, 24]
    assert frame["users"].tolist() == [8, 8, 8, 12], "users 2 to 13, some of them in each round"
    assert frame.loc[0, ["low", "high"]].tolist() == [0, 0], "alike before anything was learned"
    assert (frame["low"][1:] < frame["difference"][1:]).all()
    assert (frame["difference"][1:] < frame["high"][1:]).all()
    back = online.compared(streamed, "frozen", "ecpo")
    assert back["difference"].tolist() == pytest.approx((-frame["difference"]).tolist())


def test_with_one_visit_each_the_interval_is_the_plain_paired_one() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(1, 1, 400), random.normal(0, 1, 400)
    ours = online.user_interval(a - b, np.ones(400))
    plain = paired_difference_interval(a, b, np.random.default_rng(0), n=4000)
    assert ours == pytest.approx(plain, abs=0.03)


def test_a_users_visits_are_drawn_together() -> None:
    """Ten visits that say the same are no ten people: the interval must not shrink with them."""
    apart = np.random.default_rng(0).normal(0, 1, 50)
    once = online.user_interval(apart, np.ones(50))
    ten = online.user_interval(10 * apart, np.full(50, 10.0))
    assert ten == pytest.approx(once)
    assert all(np.isnan(online.user_interval(np.ones(1), np.ones(1))))


@pytest.mark.parametrize(("key", "value"), [("seed", 7), ("share", 0.25), ("shown", 9)])
def test_other_people_are_refused_with_the_reason(streamed: Run, key: str, value: float) -> None:
    fake_streams.build(streamed.path, "other", **{key: value})
    with pytest.raises(RunError, match=f"differ in {key} .*{value}") as caught:
        online.compared(streamed, "other", "frozen")
    assert "\n" not in str(caught.value)
    assert online.comparable(streamed, "ecpo", "frozen") == ""


def test_streams_without_a_common_round_have_no_rows(streamed: Run) -> None:
    for path in (streamed.path / "stream" / "ecpo" / "rounds").iterdir():
        path.unlink()
    assert online.compared(streamed, "ecpo", "frozen").empty
    assert online.curves(streamed, ["ecpo"]).empty
    assert online.rounds_of(streamed, "ecpo") == []
    assert online.compared(streamed, "frozen", "frozen", "hits").empty, "a world has no hits"


def test_a_round_says_what_was_shown_and_done(streamed: Run) -> None:
    frame = online.round_of(streamed, "frozen", 2, user=5)
    assert frame["place"].tolist() == [1, 2, 3, 4]
    assert frame["item"].tolist() == [7, 8, 9, 10]
    assert frame["title"].tolist()[0] == "music clip 7"
    assert frame["play_s"].tolist() == [0, 5, 10, 15]
    assert frame["play_share"].tolist() == [0, 0.5, 1, 1.5]
    answers = ["click", "click, long_view", "", ""]
    assert frame["behaviours"].tolist() == answers, "unknown (-1) is no yes"
    assert len(online.round_of(streamed, "frozen", 2)) == 8 * 4
    people = online.visitors(streamed, "frozen", 2)
    assert people["user"].tolist() == list(range(4, 12))
    shown = ["true_watch_s", "watch_s", "true_long_view", "positives"]
    assert people.columns.tolist() == ["user", *shown]
    with pytest.raises(RunError, match="no round 9: rounds 1 to 3 are there"):
        online.round_of(streamed, "frozen", 9)


def test_a_log_that_was_played_back_counts_hits(streamed: Run) -> None:
    folder = fake_streams.build(streamed.path, "replay")
    lines = (folder / "metrics.jsonl").read_text().replace("true_watch_s", "hits")
    (folder / "metrics.jsonl").write_text(
        lines.replace("true_long_view", "x").replace("watch_s", "y")
    )
    for path in (folder / "rounds").glob("values-*"):
        frame = read_parquet(path)
        write_parquet(path, {"user": frame["user"], "hits": frame["positives"]})
    assert online.values_of(streamed, "replay") == ["hits"], "not the day's own"
    assert online.streams(streamed).set_index("stream").loc["replay", "value"] == "hits"
    assert online.curves(streamed, ["replay"], "hits")["mean"].tolist() == [1.5] * 3
    assert online.visitors(streamed, "replay", 1).columns.tolist() == ["user", "hits"]


def test_learning_by_round(streamed: Run) -> None:
    frame = online.learning(streamed, "ecpo")
    assert frame.columns.tolist() == ["metric", "round", "value"]
    assert set(frame["metric"]) == set(online.LEARNED)
    rewards = frame[frame["metric"] == "reward"]
    assert rewards["value"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert online.learning(streamed, "frozen").empty


def test_what_is_not_there_is_one_line(streamed: Run, run: Run) -> None:
    with pytest.raises(RunError, match=r"no stream 'gone', it has elsewhere, frozen, ecpo"):
        online.learning(streamed, "gone")
    with pytest.raises(RunError, match="value 'happiness': choose one of true_watch_s"):
        online.curves(streamed, ["ecpo"], "happiness")
    assert online.streams(run).empty
    assert online.names(run) == []


def test_a_stream_that_has_just_been_started_has_a_row(streamed: Run) -> None:
    (streamed.path / "stream" / "new").mkdir()
    (streamed.path / "stream" / ".deleted-1").mkdir()
    row = online.streams(streamed).set_index("stream").loc["new"]
    assert row[["arm", "state", "round", "rounds", "sent"]].tolist() == ["", "new", 0, 0, 0]
    assert online.values_of(streamed, "new") == []
    assert ".deleted-1" not in online.names(streamed)


def test_a_damaged_file_is_named(streamed: Run) -> None:
    path = streamed.path / "stream" / "ecpo" / "rounds" / "values-000002.parquet"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RunError, match="start it again"):
        online.curves(streamed, ["ecpo"])
    with pytest.raises(RunError, match="values-000002"):
        online.visitors(streamed, "ecpo", 2)


def test_torch_is_not_needed() -> None:
    code = "import onerec.explain.online, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------ of two runs


@pytest.fixture
def second(streamed: Run) -> Run:
    """Another run of the same data, whose one stream is worth more than any of the first's."""
    folder = streamed.path.parent / "second"
    shutil.copytree(streamed.path, folder, ignore=shutil.ignore_patterns("stream"))
    fake_streams.build(folder, "ecpo", arm="rsft_ecpo", lift=40.0)
    return Run(folder)


def change(path: Path, **changes: object) -> None:
    """Other entries in a recipe.json."""
    fake_streams.write(path, json.loads(path.read_text()) | changes)


def test_streams_of_two_runs_are_compared_user_by_user(streamed: Run, second: Run) -> None:
    assert online.runs_beside(streamed) == ["second"]
    assert online.runs_beside(second) == ["toy_run"]
    assert online.comparable(streamed, "ecpo", "ecpo", "second") == ""
    frame = online.compared(second, "ecpo", "ecpo", other="toy_run")
    lifts = [20 * (0.5 + np.arange(2 * r, 2 * r + 8) % 3 / 2) * (r > 1) for r in (1, 2, 3)]
    assert frame["difference"].tolist()[:3] == pytest.approx([lift.mean() for lift in lifts])
    assert frame["users"].tolist() == [8, 8, 8, 12]
    own = online.compared(second, "ecpo", "ecpo", other="second")
    assert (own["difference"] == 0).all()


def test_of_runs_with_other_rounds_the_common_ones_count(streamed: Run, second: Run) -> None:
    fake_streams.build(second.path, "short", arm="rsft", rounds=2)
    frame = online.compared(streamed, "ecpo", "short", other="second")
    assert frame["over"].tolist() == ["round 1", "round 2", "all rounds"]


@pytest.mark.parametrize(("key", "value"), [("seed", 7), ("share", 0.25), ("shown", 9)])
def test_other_people_of_another_run_are_refused(
    streamed: Run, second: Run, key: str, value: float
) -> None:
    fake_streams.build(second.path, "mine", **{key: value})
    with pytest.raises(
        RunError, match=f"'ecpo' of run 'toy_run' and 'mine' of run 'second' .*{key}"
    ):
        online.compared(streamed, "ecpo", "mine", other="second")


def test_other_data_are_refused(streamed: Run, second: Run) -> None:
    recipe = second.path / "stream" / "ecpo" / "recipe.json"
    change(recipe, dataset={"name": "beauty", "fingerprint": "1"})
    with pytest.raises(RunError, match=r"have other data \(toy and beauty\)"):
        online.compared(streamed, "ecpo", "ecpo", other="second")
    change(recipe, dataset={"name": "toy", "fingerprint": "1"})
    with pytest.raises(RunError, match="two states of toy"):
        online.compared(streamed, "ecpo", "ecpo", other="second")
    assert online.runs_beside(streamed) == ["second"]
    change(second.path / "recipe.json", dataset={"name": "toy", "fingerprint": "1"})
    assert online.runs_beside(streamed) == []


def test_logs_that_are_cut_elsewhere_play_other_days_back(streamed: Run, second: Run) -> None:
    described = second.recipe()["recipe"]
    other = described | {"evaluate": described.get("evaluate", {}) | {"split": "leave_one_out"}}
    change(second.path / "recipe.json", recipe=other)
    assert online.comparable(streamed, "ecpo", "ecpo", "second") == "", "a world has no days left"
    lines = streamed.path / "stream" / "ecpo" / "metrics.jsonl"
    lines.write_text(lines.read_text().replace("true_watch_s", "hits"))
    with pytest.raises(RunError, match=r"differ in evaluate.split \(.* and leave_one_out\)"):
        online.compared(streamed, "ecpo", "ecpo", "hits", "second")
    for run, rule in ((streamed, "temporal"), (second, "leave_one_out")):
        change(run.path / "stream" / "ecpo" / "recipe.json", split=rule)
    with pytest.raises(RunError, match=r"evaluate.split \(temporal and leave_one_out\)"):
        online.compared(streamed, "ecpo", "ecpo", "hits", "second")
    change(second.path / "stream" / "ecpo" / "recipe.json", split="temporal")
    assert online.comparable(streamed, "ecpo", "ecpo", "second") == "", "auto came to the same"


def test_a_run_or_stream_that_is_not_there(streamed: Run, second: Run) -> None:
    with pytest.raises(RunError, match=r"no run 'secnd'.*did you mean 'second'"):
        online.compared(streamed, "ecpo", "ecpo", other="secnd")
    with pytest.raises(RunError, match="run 'second' has no stream 'frozen'"):
        online.compared(streamed, "ecpo", "frozen", other="second")
    with pytest.raises(RunError, match="use up to 80 letters"):
        online.compared(streamed, "ecpo", "ecpo", other="../toy_run")
