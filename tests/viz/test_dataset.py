"""The pictures of a dataset show its numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from onerec.explain import dataset as explain
from onerec.viz import dataset as viz
from onerec.viz import theme


def test_the_time_line_has_a_line_for_all_and_for_each_behaviour(folder: Path) -> None:
    frame = explain.timeline(folder)
    fig = viz.timeline(frame)
    assert [trace.name for trace in fig.data] == ["events", "click", "long view", "like", "follow"]
    assert sum(fig.data[0].y) == 420
    assert len({(trace.line.color, trace.line.dash) for trace in fig.data}) == 5
    assert "48 at the peak on 15 Nov 2023" in theme.title(fig)
    assert "420 events / 15 days" in theme.how(fig)
    assert fig.layout.yaxis.type != "log"
    assert not viz.timeline(frame.iloc[:0]).data


def test_rare_behaviours_are_lifted_off_the_floor(folder: Path) -> None:
    frame = explain.timeline(folder)
    frame.loc[frame["behaviour"] == "events", "count"] *= 1000
    axis = viz.timeline(frame).layout.yaxis
    assert axis.type == "log"
    assert axis.title.text == "events per day, log scale"


def test_bars_of_behaviours_are_rates(folder: Path) -> None:
    fig = viz.behaviours(explain.behaviours(folder))
    bars = fig.data[0]
    rates = dict(zip(bars.y, bars.x, strict=True))
    assert rates["follow"] == 48 / 216
    assert list(bars.x) == sorted(bars.x), "the most frequent on top"
    assert dict(zip(bars.y, bars.marker.pattern.shape, strict=True)) == {
        "like": "/",
        "follow": "/",
        "long view": "/",
        "click": "",
    }
    assert theme.title(fig).startswith(
        "Click is the most frequent behaviour (100% of the rows where it is known), like"
    )
    assert "follow 48 / 216" in theme.how(fig)


def test_a_rare_behaviour_is_still_a_percentage(folder: Path) -> None:
    """It stood there as 7e-04, on an axis of percent."""
    frame = explain.behaviours(folder)
    frame.loc[frame["behaviour"] == "follow", "rate"] = 0.00071
    fig = viz.behaviours(frame)
    assert "0.07%" in fig.data[0].text
    assert theme.title(fig).endswith("follow the rarest (0.07%)")
    assert "follow 0.07%" in theme.alt_text(fig)


def test_history_lengths_and_what_they_find(folder: Path) -> None:
    fig = viz.history_lengths(explain.history_lengths(folder))
    assert dict(zip(fig.data[0].x, fig.data[0].y, strict=True)) == {
        "5-8": 3,
        "9-16": 8,
        "17-32": 13,
    }
    assert theme.title(fig) == "Most common: 17-32 events (54% of the users); none has fewer than 5"


def test_the_popularity_curve_begins_at_zero_and_ends_at_one(folder: Path) -> None:
    frame = explain.popularity(folder)
    fig = viz.popularity(frame, explain.summary(folder)["gini"])
    curve = fig.data[0]
    assert (curve.x[0], curve.y[0]) == (0, 0)
    assert (curve.x[-1], curve.y[-1]) == pytest.approx((1, 1))
    assert "Gini 0.27" in theme.title(fig)
    tenth = frame[frame["item_share"] <= 0.1].iloc[-1]
    assert theme.percent(tenth["cumulative"]) in theme.title(fig)


def test_empty_frames_say_so() -> None:
    none = pd.DataFrame()
    for fig in (viz.behaviours(none), viz.history_lengths(none), viz.popularity(none, 0)):
        assert not fig.data
        assert theme.alt_text(fig)


def test_a_behaviour_that_no_row_knows_is_no_finding() -> None:
    row = {"known": 10, "count": 4, "rate": 0.4, "positive": True}
    unknown = row | {"known": 0, "count": 0, "rate": float("nan"), "positive": False}
    frame = pd.DataFrame([row | {"behaviour": "like"}, unknown | {"behaviour": "follow"}])
    fig = viz.behaviours(frame)
    assert theme.title(fig) == "Like is true in 40.0% of the rows where it is known"
    assert "follow never known" in theme.alt_text(fig)
    assert not viz.behaviours(frame.tail(1)).data


def test_equal_rates_have_no_rarest() -> None:
    row = {"known": 10, "count": 0, "rate": 0.0, "positive": True}
    frame = pd.DataFrame([row | {"behaviour": name} for name in ("like", "follow")])
    assert theme.title(viz.behaviours(frame)) == "All 2 behaviours are equally frequent (0%)"


def test_one_event_and_equal_items_are_told_plainly() -> None:
    one = pd.DataFrame([{"low": 1, "high": 1, "label": "1", "users": 3, "share": 1.0}])
    assert theme.title(viz.history_lengths(one)).startswith("Most common: 1 event (100%")
    day = pd.Timestamp("2024-01-02")
    log = pd.DataFrame([{"day": day, "behaviour": "events", "count": 1, "unit": "day"}])
    assert theme.title(viz.timeline(log)).startswith("1 event a day on average, 1 at the peak")
    equal = {"rank": 1, "count": 3, "share": 1.0, "item_share": 1.0, "cumulative": 1.0}
    fig = viz.popularity(pd.DataFrame([equal]), explain.gini(np.full(7, 3)))
    assert "(Gini 0.00)" in theme.title(viz.popularity(pd.DataFrame([equal]), -1e-16))
    assert "-0.00" not in theme.title(fig) + theme.how(fig) + theme.alt_text(fig)
