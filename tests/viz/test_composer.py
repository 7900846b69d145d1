"""The pictures of the composer show who rises, who falls, and what the first items gain."""

import shutil

import fake_rewards
import pandas as pd
import pytest

from onerec.explain import composer as explain
from onerec.runs import Run
from onerec.viz import composer as viz
from onerec.viz import theme

STEP, USER = 10, 4
LIKE = dict.fromkeys(fake_rewards.WEIGHTS, 0.0) | {"like": 1.0}


@pytest.fixture(scope="module")
def scored(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    home = shutil.copytree(run.home, tmp_path_factory.mktemp("scored") / "home")
    return Run(fake_rewards.build(home / "runs" / run.name))


def test_a_line_goes_from_the_place_before_to_the_place_after(scored: Run) -> None:
    frame = explain.composed_group(scored, STEP, USER, weights=LIKE)
    fig = viz.ranks(frame, USER, top=3)
    first = frame.iloc[0]
    head = frame[frame["counted"] & (frame[["rank_before", "rank_after"]].min(axis=1) <= 3)]
    assert len(fig.data) == len(head)
    line = next(trace for trace in fig.data if trace.customdata[0][0] == first["place"])
    assert line.y[1] == 1
    assert line.y[0] == (first["rank_before"] if first["rank_before"] <= 3 else 4.5)
    new = int((head["rank_after"] <= 3).sum() - (head[["rank_before", "rank_after"]].max(axis=1)
              <= 3).sum())  # fmt: skip
    assert f"User 4: {new} of the 3 first are new" in theme.title(fig)
    assert '"customdata":[[' in fig.to_json(), "a packed array has no [0] in a click's event"


def test_rise_and_fall_differ_in_dash_and_the_rule_in_symbol(scored: Run) -> None:
    rule = ("category", "music", 0.0, 0.0)
    frame = explain.composed_group(scored, STEP, USER, weights=LIKE, industrial=rule)
    fig = viz.ranks(frame, USER)
    dashes = {trace.legendgroup: trace.line.dash for trace in fig.data}
    assert dashes["rises"] != dashes["falls"]
    touched = set(frame.loc[frame["touched"] & frame["counted"], "place"])
    drawn = {trace.customdata[0][0]: trace.marker.symbol for trace in fig.data}
    assert touched == {place for place, symbol in drawn.items() if symbol == "square"}


def test_with_the_recorded_reward_all_stay(scored: Run) -> None:
    frame = explain.composed_group(scored, STEP, USER)
    fig = viz.ranks(frame, USER)
    assert {trace.legendgroup for trace in fig.data} == {"stays"}
    assert "0 of the 7 first are new" in theme.title(fig)
    assert "keeps the first place" in theme.title(fig)
    parts = viz.parts(explain.composed_parts(scored, STEP))
    assert theme.title(parts).startswith("No part changes")


def test_a_group_of_which_nothing_counts(scored: Run) -> None:
    frame = explain.composed_group(scored, STEP, USER).assign(counted=False)
    assert theme.title(viz.ranks(frame, USER)) == "No item of this group counts."


def test_parts_outside_the_reward_are_hatched(scored: Run) -> None:
    frame = explain.composed_parts(scored, STEP, weights=LIKE, top=3)
    fig = viz.parts(frame)
    inside, outside = fig.data
    assert list(inside.y) == ["like"]
    assert set(outside.y) == {"P-Score", "click", "long view"}
    assert (inside.marker.pattern.shape, outside.marker.pattern.shape) == ("", "/")
    change = frame.set_index("part").loc["like", "change"]
    assert change > 0
    assert f"like gains {theme.percent(change, 1)}" in theme.title(fig)


def test_a_change_that_rounds_to_nothing_has_no_minus(scored: Run) -> None:
    frame = explain.composed_parts(scored, STEP).assign(change=-1e-5)
    fig = viz.parts(frame)
    assert {text for bars in fig.data for text in bars.text} == {"+0.0%"}
    assert "-0.0%" not in theme.how(fig)
    assert "P-Score: " in theme.how(fig)


def test_parts_that_are_all_zero_cannot_be_compared(scored: Run) -> None:
    frame = explain.composed_parts(scored, STEP).assign(change=float("nan"))
    assert "no reward to compare" in theme.title(viz.parts(frame))
    assert viz.words("pscore") == "P-Score"


def test_what_stays_neither_gains_nor_loses() -> None:
    row = {"before": 0.5, "after": 0.6, "change": 0.2, "weight_after": 0.3}
    still = {"before": 0.5, "after": 0.5, "change": 0.0, "weight_after": 0.3}
    frame = pd.DataFrame([row | {"part": "like"}, still | {"part": "click"}])
    said = "Over the first items like gains 20.0%, and no part loses"
    assert theme.title(viz.parts(frame)) == said, "it was: click loses 0.0%"
