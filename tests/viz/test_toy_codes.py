"""The pictures of the toy quantiser show its numbers."""

import numpy as np
import pytest

from onerec.explain import toy_codes
from onerec.explain.toy_codes import CodesSetting, after, begin
from onerec.viz import theme
from onerec.viz import toy_codes as viz


def test_dots_carry_their_number_and_centroids_theirs() -> None:
    state = after(CodesSetting(size=5), 3)
    fig = viz.plane(state)
    dots, discs = fig.data[viz.DOTS], fig.data[-1]
    assert not isinstance(dots.customdata, np.ndarray), "a click would hand back {'0': 7}, not [7]"
    assert [row[0] for row in dots.customdata] == list(range(len(state.x)))
    assert [row[1] for row in dots.customdata] == state.codes[:, 0].tolist()
    assert list(discs.text) == ["0", "1", "2", "3", "4"]
    assert np.allclose(np.column_stack([discs.x, discs.y]), state.books[0])
    cells = np.asarray(fig.data[0].z)
    assert set(np.unique(cells)) == {0, 1, 2, 3, 4}
    assert theme.title(fig).startswith("Level 1, iteration 3: 5 of 5 codes in use")


def test_an_empty_code_is_named() -> None:
    state = begin(CodesSetting(size=16, start="anywhere", repair=False, shape="ring"))
    empty = np.flatnonzero(state.counts == 0)
    assert len(empty)
    texts = viz.plane(state).data[-1].text
    assert [int(text.split()[0]) for text in texts if text.endswith("empty")] == empty.tolist()


def test_ways_are_drawn_where_the_centroids_have_been() -> None:
    before = len(viz.plane(begin(CodesSetting())).data)
    fig = viz.plane(after(CodesSetting(), 2))
    assert len(fig.data) == before + 2, "a way and its rim"
    way = fig.data[3]
    assert way.x[:3] == tuple(book[0, 0] for book in after(CodesSetting(), 2).trail)
    assert way.x[3] is None


def test_the_walk_ends_at_what_is_said_of_the_point() -> None:
    state = after(CodesSetting(levels=2), 80)
    fig = viz.plane(state, point=4)
    walk = toy_codes.walk(state, 4)
    said, rest, ring = fig.data[-3:]
    assert said.x[-1] == pytest.approx(walk["said_x"].iloc[-1])
    assert (rest.x[-1], rest.y[-1]) == tuple(state.x[4])
    assert (ring.x[0], ring.y[0]) == tuple(state.x[4])


def test_a_level_that_waits_shows_what_is_left_in_grey() -> None:
    state = after(CodesSetting(levels=2), 2)
    fig = viz.residual(state, 2, point=1)
    assert "Its turn comes when level 1 has settled" in theme.title(fig)
    left = toy_codes.residuals(state, 2)
    assert np.allclose(np.column_stack([fig.data[0].x, fig.data[0].y]), left)
    assert (fig.data[-1].x[0], fig.data[-1].y[0]) == tuple(left[1])
    begun = viz.residual(after(state.setting, 80), 2)
    assert "Its turn" not in theme.title(begun)
    assert begun.data[0].type == "heatmap"


def test_the_course_is_the_history() -> None:
    state = after(CodesSetting(levels=2), 60)
    told, fig = toy_codes.history(state), viz.course(state)
    assert list(fig.data[0].y) == told["relative_error"].tolist()
    assert len(fig.layout.shapes) == 1, "one level began after the first"
    assert f"{told['relative_error'].iloc[-1]:.4f}" in theme.how(fig)
    assert all(theme.alt_text(one) for one in (fig, viz.plane(state), viz.residual(state, 2)))


def test_the_course_of_no_step_yet_shows_its_first_value() -> None:
    """A line of one point was no mark at all, on an axis from -1 to 1."""
    fig = viz.course(begin(CodesSetting()))
    assert {trace.mode for trace in fig.data} == {"markers"}
    assert fig.layout.xaxis.range[0] > -1
    assert {trace.mode for trace in viz.course(after(CodesSetting(), 2)).data} == {"lines"}


def test_codes_with_the_same_colour_differ_in_symbol_and_ground() -> None:
    assert len({*theme.COLOURS, *viz.PALE}) == 16
    state = after(CodesSetting(size=16, points=400), 5)
    dots = viz.plane(state).data[viz.DOTS]
    looks = {
        code: (colour, symbol)
        for code, colour, symbol in zip(
            state.codes[:, 0], dots.marker.color, dots.marker.symbol, strict=True
        )
    }
    assert len(set(looks.values())) == 16


def test_the_way_of_a_level_is_drawn_where_that_level_is() -> None:
    state = after(CodesSetting(levels=2), 80)
    assert (state.level, len(state.trail) > 2) == (2, True)
    plane, below = viz.plane(state), viz.residual(state, 2)
    assert len(plane.data) == len(viz.plane(begin(CodesSetting())).data)
    assert below.data[3].x[:3] == tuple(book[0, 0] for book in state.trail[:3])


def test_entropy_is_told_as_a_share_of_its_bound() -> None:
    state = after(CodesSetting(), 5)
    last = toy_codes.history(state).iloc[-1]
    share = last["entropy_nats"] / last["max_entropy_nats"]
    assert theme.alt_text(viz.course(state)).endswith(f"entropy over its bound {share:.3f}.")
