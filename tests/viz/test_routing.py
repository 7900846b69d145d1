"""The pictures of routing show the numbers of their frames, and their titles say the finding."""

import numpy as np
import pandas as pd
import pytest

from onerec.explain import routing as explain
from onerec.runs import Run
from onerec.viz import routing as viz
from onerec.viz import theme

STEP = 60


def test_lift_is_a_cell_for_each_group_and_expert_on_a_scale_of_doublings(run: Run) -> None:
    frame = explain.lift(run, STEP, 0, "category")
    fig = viz.lift(frame, "category", 0)
    heat = fig.data[0]
    assert list(heat.x) == ["0", "1", "2", "3"]
    assert list(heat.y) == frame["group"].drop_duplicates().tolist()
    cell = frame[(frame["group"] == heat.y[0]) & (frame["expert"] == 1)].iloc[0]
    value = min(4, max(0.25, cell["lift"]))
    assert np.asarray(heat.z)[0, 1] == pytest.approx(np.log2(value))
    assert heat.zmin == -heat.zmax, "the middle of the colours is no preference"
    most = frame.loc[frame["lift"].idxmax()]
    said = (
        f"Layer 0: expert {most['expert']} sees category {most['group']} {most['lift']:.2f} times"
    )
    assert said in theme.title(viz.lift(frame.assign(few=False), "category", 0))


def test_few_tokens_stand_in_brackets_and_make_no_finding() -> None:
    rows = [(0, "a", 3, 2.0, 0.6, 0.4, 1.5, True), (1, "a", 30, 40.0, 0.3, 0.4, 0.75, False)]
    frame = pd.DataFrame(rows, columns=list(explain.LIFT))
    fig = viz.lift(frame, "tags", 2)
    assert [list(row) for row in fig.data[0].text] == [["(1.50)", "0.75"]]
    assert "expert 1 sees tag a 0.75 times" in theme.title(fig)
    even = frame.assign(lift=[1.02, 0.95])
    assert "no expert prefers a tag; lifts go from 0.95 to 0.95" in theme.title(
        viz.lift(even, "tags")
    )
    assert "no lift is sure" in theme.title(viz.lift(frame.assign(few=True), "tags", 2))


def test_tokens_are_bars_of_weights_with_the_number_of_the_expert(run: Run) -> None:
    user = explain.users(run, STEP)[0]
    frame = explain.tokens(run, STEP, user)
    fig = viz.tokens(frame, 0)
    lengths: dict[float, float] = {}
    for bar in fig.data:
        assert set(bar.text) == {bar.name.removeprefix("expert ")}
        for y, x in zip(bar.y, bar.x, strict=True):
            lengths[y] = lengths.get(y, 0) + x
    assert list(lengths.values()) == pytest.approx([1] * 6)
    items = {row[0] for bar in fig.data for row in bar.customdata}
    assert items == set(frame["item"])
    own = frame[(frame["layer"] == 0) & (frame["rank"] == 0)]["expert"]
    most = own.value_counts()
    assert f"expert {most.index[0]} is the first choice of {most.iloc[0]}" in theme.title(fig)
    assert len(fig.layout.annotations) == 2, "the title of each target"


def test_one_expert_alone_is_an_only_choice_and_shares_no_weight(run: Run) -> None:
    frame = explain.tokens(run, STEP, explain.users(run, STEP)[0])
    alone = frame[frame["rank"] == 0].assign(weight=0.25)
    assert "is the only choice of" in theme.title(viz.tokens(alone, 0))
    assert viz.ALONE in viz.tokens(alone, 0).layout.meta["how"]
    assert viz.SHARED in viz.tokens(frame, 0).layout.meta["how"]


def test_experts_from_the_ninth_on_have_a_pattern() -> None:
    assert viz._look(1)["color"] == viz._look(9)["color"]
    assert viz._look(1)["pattern"] != viz._look(9)["pattern"]


def test_flow_keeps_every_token_and_orders_experts_by_number(run: Run) -> None:
    frame = explain.flow(run, STEP)
    sankey = viz.flow(frame).data[0]
    assert sum(sankey.link.value) == frame["tokens"].sum()
    names = list(sankey.node.customdata)
    assert list(sankey.node.label[:2]) == ["expert 0", "expert 1"]
    assert names[:2] == ["expert 0 of layer 0", "expert 1 of layer 0"]
    for layer in (0, 1):
        heights = [
            y for name, y in zip(names, sankey.node.y, strict=True) if name[-1] == f"{layer}"
        ]
        assert heights == sorted(heights)
    first = frame.iloc[0]
    place = sankey.link.source.index(names.index(f"expert {first['source']:.0f} of layer 0"))
    assert sankey.link.value[place] == first["tokens"]


def test_flow_of_one_layer_comes_from_levels(run: Run) -> None:
    rows = [(-1, 1, 0, 0, 80, 60.0, 4 / 3), (-1, 2, 0, 0, 40, 60.0, 2 / 3)]
    fig = viz.flow(pd.DataFrame(rows, columns=list(explain.FLOW)))
    assert list(fig.data[0].node.label) == ["level 1", "level 2", "expert 0"]
    heads = [note.text for note in fig.layout.annotations]
    assert heads == ["<b>level of the code</b>", "<b>layer 0</b>"]
    assert theme.title(fig).startswith("Tokens of level 1 go to expert 0, 1.33 times")


def test_of_very_many_bands_the_widest_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viz, "LINKS", 1)
    rows = [(0, 1, 1, 0, 80, 60.0, 1.3), (0, 2, 1, 0, 40, 60.0, 0.7)]
    fig = viz.flow(pd.DataFrame(rows, columns=list(explain.FLOW)))
    assert list(fig.data[0].link.value) == [80]
    assert "1 of 2 bands are drawn" in theme.how(fig)


def test_without_has_a_point_an_interval_and_a_key_for_each_expert(run: Run) -> None:
    frame = explain.without(run)
    fig = viz.without(frame, "recall", "1-2")
    points = fig.data[0]
    assert points.x.tolist() == frame["recall_change"].tolist()
    assert points.customdata[6] == ["1-2"]
    assert points.marker.symbol[6] == "diamond"
    assert set(points.marker.symbol) == {"diamond", "circle"}
    right = np.asarray(points.x) + np.asarray(points.error_x.array)
    assert right == pytest.approx(frame["recall_high"].to_numpy())
    assert "Most missed is expert 0 of layer 1" in theme.title(fig)
    assert "from 0.500 to 0.460; 4 of 8 changes" in theme.title(fig)
    assert "expert 3 of layer 1" in theme.title(viz.without(frame, "loss")), "loss is worse above"


def test_a_change_within_chance_is_not_called_a_loss(run: Run) -> None:
    frame = explain.without(run).assign(recall_high=0.1)
    assert "No expert is missed beyond chance" in theme.title(viz.without(frame))


def test_nothing_recorded_says_what_to_do() -> None:
    blank = pd.DataFrame()
    for fig in (viz.lift(blank), viz.tokens(blank), viz.flow(blank), viz.without(blank)):
        assert "train one with experts" in fig.layout.annotations[0].text


def test_tags_that_are_numbers_or_begin_alike_have_a_row_each() -> None:
    long = "a very long name of a tag, the "
    rows = [(0, group, 30, 40.0, 0.3, 0.4, 0.75, False) for group in ("39", f"{long}1", f"{long}2")]
    fig = viz.lift(pd.DataFrame(rows, columns=list(explain.LIFT)), "tags")
    assert fig.layout.yaxis.type == "category", "39 would be a place on an axis of numbers"
    assert len(set(fig.data[0].y)) == 3
    assert fig.data[0].hovertext[2][0] == f"{long}2", "the whole name"


def test_who_is_missed_is_one_whose_interval_says_so() -> None:
    """The largest change had a wide interval, so no expert was said to be missed; one was."""
    row = {"layer": 0, "loss": 2.0, "recall": 0.4}
    frame = pd.DataFrame(
        [
            row | {"expert": 0, "recall_change": -0.05, "recall_low": -0.2, "recall_high": 0.1},
            row | {"expert": 1, "recall_change": -0.02, "recall_low": -0.03, "recall_high": -0.01},
        ]
    )
    fig = viz.without(frame)
    assert theme.title(fig).startswith("Most missed is expert 1: without it")
    assert "1 of 2 changes are beyond chance" in theme.title(fig)


def test_no_sure_lift_is_said_in_the_alternative_text_too() -> None:
    rows = [(0, "a", 3, 2.0, 0.6, 0.4, 1.5, True)]
    fig = viz.lift(pd.DataFrame(rows, columns=list(explain.LIFT)))
    assert theme.alt_text(fig).endswith("each is of too few tokens to be sure")


def test_lifts_and_changes_that_are_all_unknown_are_no_crash(run: Run) -> None:
    rows = [(0, "a", 30, 40.0, 0.3, 0.4, np.nan, False), (1, "a", 30, 40.0, 0.3, 0.4, 0.9, False)]
    frame = pd.DataFrame(rows, columns=list(explain.LIFT))
    assert "expert 1 sees tag a 0.90 times" in theme.title(viz.lift(frame, "tags"))
    none = viz.lift(frame.assign(lift=np.nan), "tags")
    assert theme.title(none) == "No lift of a tag is known."
    blank = explain.without(run).assign(recall_change=np.nan)
    assert theme.title(viz.without(blank)) == "What changes is not known."
