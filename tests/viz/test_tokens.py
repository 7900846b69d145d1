"""The pictures of a tokenizer show its numbers."""

from collections.abc import Callable

import fake_run
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from onerec.explain import tokens as explain
from onerec.runs import Run
from onerec.viz import theme
from onerec.viz import tokens as viz


@pytest.fixture(scope="module")
def levels(run: Run) -> pd.DataFrame:
    return explain.levels(run)


def test_used_and_unused_codes_stack_to_the_size(levels: pd.DataFrame) -> None:
    dead = levels.assign(used=[4, 3, 4], dead_codes=[0, 1, 0], utilisation=[1, 0.75, 1])
    fig = viz.utilisation(dead)
    assert [a + b for a, b in zip(fig.data[0].y, fig.data[1].y, strict=True)] == [4, 4, 4]
    assert theme.title(fig) == "11 of 12 codes are in use; level 2 uses 75%"
    assert theme.title(viz.utilisation(levels)) == "All 12 codes are in use"
    assert "level 2: 3/4 = 0.750" in theme.how(fig)


def test_entropy_stands_below_its_bound(levels: pd.DataFrame) -> None:
    fig = viz.entropy(levels)
    assert all(a <= b + 1e-9 for a, b in zip(fig.data[0].y, fig.data[1].y, strict=True))
    assert list(fig.data[0].y) == levels["entropy_nats"].tolist()
    assert "the least even is level 2" in theme.title(fig)


def test_residuals_show_the_variance_explained(levels: pd.DataFrame) -> None:
    fig = viz.residuals(levels)
    assert list(fig.data[0].y) == levels["variance_explained"].tolist()
    assert theme.title(fig).startswith("95% of the variance")


def test_rank_frequency_has_a_line_per_level(run: Run) -> None:
    frame = explain.rank_frequency(run)
    fig = viz.rank_frequency(frame)
    assert [trace.name for trace in fig.data] == ["level 1", "level 2", "level 3"]
    assert sum(fig.data[1].y) == fake_run.ITEMS
    assert fig.layout.xaxis.type == fig.layout.yaxis.type == "log"
    assert "34 items (71%)" in theme.title(fig)


def test_leaf_sizes_hold_all_items(run: Run) -> None:
    fig = viz.leaf_sizes(explain.leaf_sizes(run))
    assert sum(fig.data[0].y) == fake_run.ITEMS
    assert theme.title(fig).startswith("75% of the items share")
    alone = pd.DataFrame({"leaf_size": [1], "leaves": [5], "items": [5]})
    assert theme.title(viz.leaf_sizes(alone)) == "Every item has a name of its own"


def test_the_tree_is_an_icicle_whose_branches_add_up(run: Run) -> None:
    frame = explain.code_tree(run)
    icicle = viz.code_tree(frame).data[0]
    assert icicle.type == "icicle"
    assert icicle.branchvalues == "remainder"
    assert icicle.values[0] == 0, "a branch is as wide as what is below it"
    assert sum(icicle.values) == pytest.approx(1)
    assert list(icicle.ids) == frame["id"].tolist()
    assert list(icicle.customdata[1][:2]) == ["0", -1]
    below = viz.code_tree(explain.code_tree(run, prefix=(2,)))
    assert theme.title(below).startswith("12 items below code 2; the fullest branch, 0, holds ")
    assert theme.title(below).endswith("% of them")
    assert list(icicle.customdata[0][[2, 4]]) == ["48 items", ""]


def test_the_tree_by_popularity_says_that_its_widths_are_no_items(run: Run) -> None:
    frame = explain.code_tree(run, weight="popularity")
    fig = viz.code_tree(frame, weight="popularity")
    assert "; the most popular branch, " in theme.title(fig)
    assert theme.title(fig).endswith(" of their popularity")
    (one,) = {told for told in fig.data[0].customdata[:, 2] if told.startswith("1 ")}
    assert one == "1 item"
    assert fig.data[0].customdata[0][4] == f", popularity {frame['weight'].iloc[0]:,}"


def test_the_way_to_the_chosen_item_has_an_outline(run: Run) -> None:
    frame = explain.code_tree(run, chosen=3)
    fig = viz.code_tree(frame)
    wide = fig.data[0].marker.line.width
    assert [bool(one) for one in wide] == frame["chosen"].tolist()
    assert "outline leads" in theme.how(fig)
    assert theme.title(fig).endswith(f"; the chosen item is in {explain.codes_of(run, 3)[0]}")
    assert "outline" not in theme.how(viz.code_tree(explain.code_tree(run)))


def test_the_joined_branch_leaves_room_for_the_others() -> None:
    """Once 120 joined codes of 128 took nine tenths of the picture and no label could be read."""
    rows = [("all", "", 100, False), ("all/1", "all", 6, False), ("all/2", "all", 4, False)]
    rows += [("all/other", "all", 90, True), ("all/1/0", "all/1", 6, False)]
    frame = pd.DataFrame(rows, columns=["id", "parent", "weight", "other"])
    widths = dict(zip(frame["id"], viz.drawn_widths(frame), strict=True))
    assert widths == pytest.approx(
        {"all": 0, "all/1": 0, "all/2": 4 / 16, "all/other": 6 / 16, "all/1/0": 6 / 16}
    )
    nothing_popular = frame.assign(weight=0)
    assert sum(viz.drawn_widths(nothing_popular)) == pytest.approx(1)


def test_the_map_carries_items_in_its_points(run: Run) -> None:
    points, shares = explain.projection(run)
    fig = viz.projection(points, shares)
    items = [int(row[0]) for trace in fig.data for row in trace.customdata]
    assert sorted(items) == list(range(fake_run.ITEMS))
    assert len({(trace.marker.color, trace.marker.symbol) for trace in fig.data}) == 4
    assert {trace.type for trace in fig.data} == {"scatter"}
    assert theme.title(fig) == "48 items; the two axes hold 94% of the variance of their vectors"
    coloured = viz.projection(points, shares, "popularity")
    assert len(coloured.data) == 1
    assert coloured.data[0].marker.colorscale[0][1] == "#00224e"  # cividis
    with pytest.raises(ValueError, match="choose one of"):
        viz.projection(points, shares, "title")  # type: ignore[arg-type]


def test_many_points_are_drawn_by_webgl_and_many_codes_joined(run: Run) -> None:
    points = pd.concat([explain.projection(run)[0]] * 100, ignore_index=True)
    points["code_1"] = [min(n % 40, 20) for n in range(len(points))]
    fig = viz.projection(points, (0.5, 0.2))
    assert len(fig.data) == 8
    assert fig.data[0].name == "14 others"
    assert fig.data[0].marker.color == theme.GREY
    assert sum(len(trace.x) for trace in fig.data) == 4800
    assert fig.data[0].type == "scatter" or len(fig.data[0].x) >= 2000
    popular = viz.projection(points, (0.5, 0.2), "popularity")
    assert popular.data[0].type == "scattergl"


def test_the_most_frequent_codes_have_a_colour_and_the_rarest_are_joined(run: Run) -> None:
    points = explain.projection(run)[0].head(45)
    points["code_1"] = np.repeat(np.arange(9), np.arange(1, 10))
    fig = viz.projection(points, (0.5, 0.2))
    assert [trace.name for trace in fig.data] == ["2 others", *"8765432"]
    assert len(fig.data[0].x) == 1 + 2


def test_neighbours_say_how_many_codes_they_share(run: Run) -> None:
    frame = explain.neighbours(run, 5, 4)
    fig = viz.neighbours(frame, "football clip 5")
    bars = fig.data[0]
    assert list(bars.x) == frame["distance"].tolist()[::-1]
    assert bars.text[-1] == "1 code shared"
    assert theme.title(fig).startswith("4 of the 4 items nearest to “football clip 5”")
    assert [row[0] for row in bars.customdata][-1] == frame["item"][0]


def test_the_walk_shows_each_norm(run: Run) -> None:
    walk = explain.residual_walk(run, 5)
    fig = viz.residual_walk(walk)
    assert list(fig.data[0].y) == pytest.approx([walk["norm_before"][0], *walk["norm_after"]])
    assert "1 · 3 · 3" in theme.title(fig)
    assert "23%" in theme.title(fig)


def test_a_level_that_says_too_much_is_named(run: Run) -> None:
    """The words below once said that each code takes away a part, above a bar that grew."""
    walk = explain.residual_walk(run, 5)
    assert "larger" not in theme.title(viz.residual_walk(walk))
    walk.loc[2, "norm_after"] = walk.loc[2, "norm_before"] + 0.1
    assert theme.title(viz.residual_walk(walk)).endswith("; level 3 made that larger")


def test_empty_frames_name_the_command(levels: pd.DataFrame) -> None:
    none = pd.DataFrame()
    for make in (viz.utilisation, viz.entropy, viz.rank_frequency, viz.code_tree, viz.leaf_sizes):
        assert "onerec tokenize" in make(none).layout.annotations[0].text
    assert not viz.projection(none, (0, 0)).data


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (viz.utilisation, "The report cannot say how many codes are in use."),
        (viz.entropy, "The report cannot say how evenly the codes are used."),
        (viz.residuals, "do not vary"),
    ],
)
def test_a_report_of_unknown_numbers_is_no_crash(
    levels: pd.DataFrame, draw: Callable[[pd.DataFrame], go.Figure], said: str
) -> None:
    unknown = levels.assign(utilisation=np.nan, entropy_share=np.nan, variance_explained=np.nan)
    assert said in theme.title(draw(unknown))
