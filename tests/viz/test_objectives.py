"""The pictures of the objectives say what the curves do, and tell dots apart without colour."""

import shutil

import fake_rollouts
import pandas as pd
import pytest

from onerec.explain import policy as explain
from onerec.rollouts import OBJECTIVES
from onerec.runs import Run
from onerec.viz import objectives as viz
from onerec.viz import theme


@pytest.fixture(scope="module")
def aligned(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("aligned") / "run"
    return Run(fake_rollouts.build(shutil.copytree(run.path, folder)))


@pytest.fixture(scope="module")
def curves() -> pd.DataFrame:
    return explain.curves()


def test_every_objective_that_can_be_recorded_has_a_name() -> None:
    assert set(OBJECTIVES) <= set(viz.NAMES)


def test_a_worse_item_far_above_the_bound_is_a_bounded_push(curves: pd.DataFrame) -> None:
    value, push = viz.value(curves), viz.push(curves)
    assert theme.title(value).startswith(
        "The value beyond a ratio of 1.3: ECPO's is flat at -1.3, GRPO's reaches -20 at 20"
    )
    assert "ECPO's stays at -1.3, a bounded push, GRPO's grows to -20" in theme.title(push)
    assert "Bounded, not zero." in theme.how(push)
    for fig in (value, push):
        assert "no gradient" not in theme.title(fig) + theme.how(fig) + theme.alt_text(fig)
        assert "One ratio per item" in theme.how(fig)
        assert fig.layout.xaxis.type == "log"
        assert [trace.name for trace in fig.data] == ["ECPO", "GRPO", "GBPO"]
        assert len({(trace.line.color, trace.line.dash) for trace in fig.data}) == 3


def test_a_better_item_is_clipped_where_grpo_clips_it(curves: pd.DataFrame) -> None:
    fig = viz.push(curves, advantage=1.0)
    assert theme.title(fig) == (
        "The push beyond a ratio of 1.2: ECPO has none, GRPO has none, GBPO's stays at 1"
    )


def test_the_bounds_are_named_where_they_are() -> None:
    curves = explain.curves(("ecpo",), epsilon=0.3, delta=0.5)
    fig = viz.value(curves, epsilon=0.3, delta=0.5)
    texts = [note.text for note in fig.layout.annotations]
    assert texts == ["1-ε = 0.7", "1+ε = 1.3", "1+ε+δ = 1.8"]
    assert [shape.x0 for shape in fig.layout.shapes] == pytest.approx([0.7, 1.3, 1.8])


def test_dots_stand_where_the_items_are(curves: pd.DataFrame, aligned: Run) -> None:
    dots = explain.dots(aligned, 10)
    fig = viz.push(curves, dots)
    worse = dots[dots["advantage"] < 0]
    drawn = {trace.name: trace for trace in fig.data if trace.mode == "markers"}
    assert sum(len(trace.x) for trace in drawn.values()) == len(worse)
    bounded = drawn["item, bounded push"]
    assert list(bounded.y) == pytest.approx([-1.3] * len(bounded.y))
    assert len({trace.marker.symbol for trace in drawn.values()}) == len(drawn)
    far = (worse["region"] == "above 1+ε+δ").sum()
    assert f"{far} of this step's {len(worse)} items with A < 0" in theme.title(
        viz.value(curves, dots)
    )


def test_with_items_the_picture_is_as_wide_as_they_need(curves: pd.DataFrame, aligned: Run) -> None:
    """On an axis from 0.05 to 20 the items of a step, most between 0.5 and 2, were one heap."""
    dots = explain.dots(aligned, 10)
    near = viz.value(curves, dots.assign(ratio=dots["ratio"].clip(0.5, 2.0)))
    assert "GRPO's reaches -4 at 4" in theme.title(near)
    for trace in near.data[:3]:
        assert 0.24 < min(trace.x) < 0.26
        assert 3.9 < max(trace.x) < 4.0
    assert near.layout.xaxis.tickvals == viz.NEAR_TICKS
    far = viz.push(curves, dots.assign(ratio=dots["ratio"] * 3))
    assert max(far.data[0].x) > 3 * dots["ratio"].max()
    assert far.layout.xaxis.tickvals == viz.TICKS
    wide = explain.curves(("ecpo",), epsilon=0.9, delta=2.0)
    assert max(viz.value(wide, dots, epsilon=0.9, delta=2.0).data[0].x) > 1 + 0.9 + 2.0 + 1


def test_very_many_dots_are_thinned(curves: pd.DataFrame, aligned: Run) -> None:
    many = pd.concat([explain.dots(aligned, 10)] * 200, ignore_index=True)
    fig = viz.value(curves, many)
    assert sum(len(t.x) for t in fig.data if t.mode == "markers") == viz.DOTS_SHOWN


def test_regions_by_count(aligned: Run) -> None:
    frame = explain.regions(aligned, 10)
    fig = viz.regions(frame)
    clipped = frame.loc[frame["effect"] == "clipped: no push", "items"].sum()
    assert f"Of {frame['items'].sum()} items with an advantage, {clipped} are clipped" in (
        theme.title(fig)
    )
    assert sum(sum(bar.x) for bar in fig.data) == frame["items"].sum()
    assert {bar.marker.pattern.shape for bar in fig.data} == {"", "/"}
    assert "flat" in viz.regions(frame.iloc[:0]).layout.annotations[0].text


def test_one_item_is_clipped_and_none_is_no_division() -> None:
    row = {"region": "above 1+ε", "advantage": "A > 0", "effect": "clipped: no push", "items": 1}
    one = pd.DataFrame([row])
    assert theme.title(viz.regions(one)).startswith("Of 1 item with an advantage, 1 is clipped")
    assert not viz.regions(one.assign(items=0)).data
