"""The pictures of the toy experts show its numbers."""

import numpy as np

from onerec.explain import toy_experts
from onerec.explain.toy_experts import ExpertsSetting, after
from onerec.viz import theme
from onerec.viz import toy_experts as viz


def test_a_collapse_is_said_in_the_titles() -> None:
    state = after(ExpertsSetting(), 100)
    loads = toy_experts.loads(state)
    idle = int((loads["points"] == 0).sum())
    assert idle
    assert f"{idle} of 4 answer none" in theme.title(viz.regions(state))
    assert theme.title(viz.load(state)).startswith("The busiest expert has ")
    assert list(viz.load(state).data[0].y) == loads["share"].tolist()


def test_regions_are_those_of_the_router() -> None:
    state = after(ExpertsSetting(balance=True), 400)
    fig = viz.regions(state)
    assert sum(len(trace.x) for trace in fig.data[1:]) == len(state.x)
    ground = fig.data[0]
    squares = np.stack(np.meshgrid(ground.x, ground.y), -1).reshape(-1, 2)
    chosen, _ = toy_experts.routed(squares, state.router, state.bias)
    assert np.array_equal(np.asarray(ground.z).ravel(), chosen)
    points = toy_experts.table(state)
    own = points[points["expert"] == 2]
    wide = 4 + 14 * (own["answer"] - own["target"]).abs().clip(upper=1)
    assert np.allclose(fig.data[3].marker.size, wide)


def test_the_bias_stands_on_the_bars_where_it_is_on() -> None:
    on, off = after(ExpertsSetting(balance=True), 5), after(ExpertsSetting(), 5)
    assert viz.load(on).data[0].x[1].endswith("b = +0.05")
    assert "b =" not in viz.load(off).data[0].x[1]
    assert "now it is off" in theme.how(viz.load(off))


def test_before_the_first_step_nothing_went_anywhere() -> None:
    title = theme.title(viz.course(after(ExpertsSetting(points=50), 0)))
    assert title.startswith("Step 0: the loss is 0.")
    assert ", MaxVio is " in title


def test_the_course_of_no_step_yet_shows_its_first_value() -> None:
    """A line of one point was no mark at all, on an axis from -1 to 1."""
    fig = viz.course(after(ExpertsSetting(points=50), 0))
    assert {trace.mode for trace in fig.data} == {"markers"}
    assert fig.layout.xaxis.range[0] > -1


def test_the_course_keeps_both_ends_of_a_long_history() -> None:
    state = after(ExpertsSetting(points=50), 900)
    fig = viz.course(state, most=100)
    assert len(fig.data[0].x) <= 100
    assert (fig.data[0].x[0], fig.data[0].x[-1]) == (0, 900)
    assert fig.data[0].y[-1] == state.history[-1]["loss"]
    assert fig.data[1].y[-1] == state.history[-1]["max_violation"]
