"""The pictures of policy steps show their numbers and say what they mean."""

import shutil

import fake_rollouts
import numpy as np
import pandas as pd
import pytest

from onerec.explain import policy as explain
from onerec.runs import Run
from onerec.viz import policy as viz
from onerec.viz import theme


@pytest.fixture(scope="module")
def aligned(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("aligned") / "run"
    return Run(fake_rollouts.build(shutil.copytree(run.path, folder)))


def test_a_bar_is_a_recorded_step(aligned: Run) -> None:
    frame = explain.steps(aligned)
    fig = viz.steps(frame)
    assert [row[0] for row in fig.data[0].customdata] == list(fake_rollouts.STEPS)
    assert '"customdata":[[' in fig.to_json(), "a packed array has no [0] in a click's event"
    first, last = frame["reward"].iloc[[0, -1]]
    assert theme.title(fig) == (
        f"The mean reward went from {first:.3f} to {last:.3f} between steps 1 and 30"
    )
    assert "the only one recorded" in theme.title(viz.steps(frame.iloc[:1]))
    many = pd.concat([frame] * 20)
    assert viz.steps(many).data[0].type == "scatter"


def test_a_group_shows_each_item_once_and_clipped_ones_by_symbol(aligned: Run) -> None:
    frame = explain.items(aligned, 10, 4)
    fig = viz.group(frame, 4)
    points = [trace for trace in fig.data if trace.mode == "markers"]
    assert sorted(row[0] for trace in points for row in trace.customdata) == list(range(8))
    clipped = next(trace for trace in points if trace.name.startswith("clipped"))
    assert clipped.marker.symbol == "x"
    assert len({trace.marker.symbol for trace in points}) == len(points)
    best = frame[frame["counted"]]["reward"].max()
    assert f"is best with {best:.3f}" in theme.title(fig)


def test_a_flat_group_is_said_to_teach_nothing(aligned: Run) -> None:
    fig = viz.group(explain.items(aligned, 10, 3), 3)
    assert theme.title(fig) == (
        "User 3: all 7 items that count earn 0.600; without a spread the group teaches nothing"
    )
    none = explain.items(aligned, 10, 3).assign(counted=False)
    assert "no item of this group counts" in theme.title(viz.group(none, 3))


def test_levels_name_the_least_certain_code_or_the_one_that_moved(aligned: Run) -> None:
    told = explain.levels(aligned, 10, 4, 2)
    frame = told.assign(drawn=np.nan, ratio=np.nan)  # a step from before it was recorded
    fig = viz.levels(frame, "clip")
    far = frame.iloc[int(frame["log_prob"].argmin())]
    assert f"code {far['code']:.0f} of level {far['level']:.0f} is the least certain" in (
        theme.title(fig)
    )
    assert list(fig.data[0].y) == pytest.approx(np.exp(frame["log_prob"]).tolist())
    both = frame.assign(drawn=frame["log_prob"] - [0.1, 0.5, -0.2], ratio=np.exp([0.1, 0.5, -0.2]))
    fig = viz.levels(both, "clip")
    assert len(fig.data) == 2
    assert {bars.textposition for bars in fig.data} == {"outside"}, "no number on hatching"
    assert f"level 2 moved most, ×1.65; the whole item ×{np.exp(0.4):.3g}" in theme.title(fig)
    moved = told.loc[(told["log_prob"] - told["drawn"]).abs().idxmax(), "level"]
    assert f"of level {moved} moved most" in theme.title(viz.levels(told, "clip"))
    unknown = frame.assign(log_prob=np.nan)
    assert "only the sum" in viz.levels(unknown).layout.annotations[0].text.lower()


def test_curves_have_one_unit_a_panel(aligned: Run) -> None:
    frame = explain.reward_curves(aligned)
    fig = viz.reward_curves(frame, "reward")
    assert theme.title(fig) == "Reward went from 0.51 to 0.8"
    assert {line.name for line in fig.data} == {"all parts", "on valid"}
    parts = viz.reward_curves(frame, explain.PARTS)
    assert [line.name for line in parts.data] == ["p score", "liked"]
    assert theme.title(parts) == "P score went from 0.41 to 0.7"
    assert viz.metric_name("reward_pscore") == "P-Score"
    shares = viz.reward_curves(frame, "share")
    assert theme.title(shares) == "Legal items went from 80% to 95%"
    assert shares.layout.yaxis.tickformat == ".0%"
    assert not viz.reward_curves(frame, "ratio").layout.showlegend
    still = viz.reward_curves(frame[frame["panel"] == "ratio"].assign(value=1.0), "ratio")
    assert theme.title(still) == "Greatest ratio stayed at 1", "it once went from 1 to 1"
    assert "onerec align" in viz.reward_curves(frame.iloc[:0], "reward").layout.annotations[0].text


def test_nothing_recorded_says_how_to_make_it(aligned: Run) -> None:
    none = explain.steps(aligned).iloc[:0]
    assert "onerec align" in viz.steps(none).layout.annotations[0].text
    assert viz.group(explain.items(aligned, 10, 4).iloc[:0]).layout.annotations


def test_where_nothing_counts_or_moved_no_number_is_made_up(aligned: Run) -> None:
    none = viz.group(explain.items(aligned, 10, 3).assign(counted=False), 3)
    assert "nan" not in theme.how(none) + none.to_json()
    frame = explain.levels(aligned, 10, 4, 2)
    still = viz.levels(frame.assign(drawn=frame["log_prob"], ratio=1.0), "clip")
    assert theme.title(still).startswith("clip: no code has moved since it was drawn"), "was ×1"
    one = pd.DataFrame([{"panel": "share", "metric": "legality", "step": 1, "value": 0.5}])
    assert theme.title(viz.reward_curves(one, "share")) == "Legal items: 50%"


def passes(step: int, kept: bool) -> pd.DataFrame:
    rows = [(10, 0.2, 0.26), (32, 0.4, 0.4), (128, 0.7, 0.65)]
    if not step:
        rows = [(k, before, before) for k, before, _ in rows]
    return pd.DataFrame(rows, columns=["k", "before", "after"]).assign(step=step, kept=kept)


def test_pass_at_k_says_what_became_of_it_and_calls_nothing_sure() -> None:
    fig = viz.pass_at_k(passes(15, kept=True))
    assert theme.title(fig) == (
        "With alignment pass@10 went from 20.0% to 26.0%, pass@128 went from 70.0% to 65.0%"
    )
    assert "pass@32 stayed at 40.0%" in theme.alt_text(fig)
    assert [list(bars.y) for bars in fig.data] == [[0.2, 0.4, 0.7], [0.26, 0.4, 0.65]]
    assert fig.data[1].name == "after, at step 15"
    assert {bars.textposition for bars in fig.data} == {"outside"}, "no number on hatching"
    assert "only means were kept" in theme.how(fig)
    assert "`valid_pass@128` 0.7000 at step 0, 0.6500 at step 15" in theme.how(fig)


def test_pass_at_k_before_the_end_and_where_nothing_was_gained() -> None:
    going = viz.pass_at_k(passes(15, kept=False))
    assert theme.title(going).startswith("Up to step 15 pass@10 went from")
    assert going.data[1].name == "after, at step 15, not chosen yet"
    assert "kept the policy that it began with" in theme.title(viz.pass_at_k(passes(0, True)))
    one = viz.pass_at_k(passes(15, kept=True).iloc[:1])
    assert theme.title(one) == "With alignment pass@10 went from 20.0% to 26.0%"
    none = viz.pass_at_k(passes(15, True).iloc[:0])
    assert "onerec align" in theme.how(none)
