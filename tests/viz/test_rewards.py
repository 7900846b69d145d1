"""The pictures of a reward model say what they show, and never by colour alone."""

import shutil
from pathlib import Path

import fake_rewards
import pandas as pd
import pytest

from onerec.explain import rewards as explain
from onerec.explain.query import empty
from onerec.runs import Run
from onerec.viz import rewards as viz
from onerec.viz import theme


@pytest.fixture(scope="module")
def scored(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("scored") / "run"
    return Run(fake_rewards.build(shutil.copytree(run.path, folder), rival=True))


def test_towers_beside_what_they_must_beat(scored: Run) -> None:
    fig = viz.towers(explain.towers(scored))
    assert theme.title(fig) == (
        "Of pairs among one user's items, one with the behaviour and one without, the towers order "
        "70% (click) to 71% (long view) rightly; the towers beat the trees on 1 of 2 behaviours"
    )
    assert [trace.name for trace in fig.data] == [
        "its own tower", "fused P-Score", "product of the towers", "gradient-boosted trees",
    ]  # fmt: skip
    assert len({trace.marker.symbol[0] for trace in fig.data}) == 4, "told apart without colour"
    assert fig.data[0].marker.symbol[2] == "circle-open", "too few positives: hollow"
    assert fig.layout.yaxis.ticktext[2] == "like<br>12 yes (few)"
    assert "long view, 150 of 1,000: its own tower 0.710" in theme.alt_text(fig)


def test_without_trees_the_product_is_the_rival_and_auc_has_none(scored: Run) -> None:
    frame = explain.towers(scored, rival=False)
    assert "the fused score beats the product of the towers on 1 of 2 behaviours" in theme.title(
        viz.towers(frame)
    )
    fig = viz.towers(frame, "auc")
    assert theme.title(fig).endswith("the towers order 75% (click) to 76% (long view) rightly")
    assert len(fig.data) == 2


def test_towers_with_too_few_positives_promise_nothing(scored: Run) -> None:
    frame = explain.towers(scored)
    few = viz.towers(frame[frame["behaviour"] == "like"].reset_index(drop=True))
    assert "no number here is sure" in theme.title(few)
    unknown = frame.assign(gauc=float("nan"))
    assert "onerec reward" in theme.how(viz.towers(unknown))


def test_learning_smooths_and_says_so(scored: Run) -> None:
    fig = viz.learning(explain.learning(scored))
    title = "The loss of the fused score went from 0.675 to 0.495 in 20 steps"
    assert theme.title(fig) == title, "the mean of two of twenty: a batch alone is noise"
    assert {trace.name for trace in fig.data} == {"click", "long view", "like", "fused P-Score"}
    assert fig.layout.yaxis.type == "log"
    assert "running means" in theme.how(fig)


def test_calibration_of_a_frequent_behaviour(scored: Run) -> None:
    fig = viz.calibration(explain.calibration(scored), "click")
    assert theme.title(fig) == (
        "Click: predicted 40.0%, happened 36.0%; in 9 of 10 parts the prediction lies within chance"
    )
    diagonal, parts, nothing = fig.data
    assert diagonal.x == diagonal.y
    assert len(parts.x) == 9
    assert list(nothing.y) == [0], "on a linear axis nothing is zero"
    assert fig.layout.xaxis.type is None


def test_calibration_of_a_rare_behaviour_has_logarithmic_axes(scored: Run) -> None:
    frame = explain.calibration(scored)
    rare = frame[frame["behaviour"] == "like"]
    fig = viz.calibration(frame, "like")
    assert fig.layout.xaxis.type == fig.layout.yaxis.type == "log"
    assert "0.1%" in fig.layout.xaxis.ticktext
    nothing = next(trace for trace in fig.data if trace.name == "nothing happened in them")
    assert 0 < nothing.y[0] < rare["predicted"].min(), "at the floor, not at minus infinity"
    assert len(fig.data[0].x) == 2
    assert "has no calibration" in theme.title(viz.calibration(frame, "share"))


def test_a_behaviour_that_never_happened_can_be_drawn(scored: Run) -> None:
    frame = explain.calibration(scored)
    never = frame[frame["behaviour"] == "like"].assign(observed=0.0, low=0.0)
    fig = viz.calibration(never, "like")
    assert len(fig.data[-1].x) == 10
    assert min(fig.data[-1].y) > 0


def test_weights_and_gaps_by_round(scored: Run) -> None:
    frame = explain.rounds(scored)
    fig = viz.weights(frame)
    assert theme.title(fig) == "1 round raised long view to 1.5"
    assert len({(trace.line.dash, trace.marker.symbol) for trace in fig.data}) == 3
    first = frame[frame["round"] == 0].assign(kept=True)
    assert theme.title(viz.weights(first)) == (
        "No weight is raised, though long view loses against the product of the towers"
    )
    calm = viz.weights(first.assign(gap=0.1))
    assert theme.title(calm).startswith("No weight is raised: no behaviour lost")
    back = viz.weights(frame.assign(kept=frame["round"] == 0))
    assert theme.title(back) == "No weight is raised: those before 1 round of raising were better"
    assert [note.text for note in back.layout.annotations] == ["kept"]
    fig = viz.gaps(frame)
    assert not fig.layout.annotations, "the last round is kept, as one expects"
    assert "most on long view (-0.020)" in theme.title(viz.gaps(frame.assign(kept=~frame["kept"])))
    assert theme.title(fig) == (
        "The fused score loses to the product of the towers on 1 of 2 behaviours, most on "
        "long view (-0.010)"
    )
    won = frame.assign(gap=frame["gap"] + 0.1)
    assert "on none of 2 behaviours; the least gain is long view's (+0.090)" in theme.title(
        viz.gaps(won)
    )
    mute = frame.assign(gap=float("nan"))
    assert "too few positives" in theme.title(viz.gaps(mute))


@pytest.mark.parametrize("draw", [viz.towers, viz.learning, viz.calibration, viz.weights, viz.gaps])
def test_without_data_they_say_what_to_do(draw: object) -> None:
    fig = draw(empty(explain.TOWER_COLUMNS))  # type: ignore[operator]
    assert fig.layout.annotations[0].text


def test_a_really_trained_run_is_drawn(aligned: Path) -> None:
    run = Run(aligned / "runs" / "first")
    frame: pd.DataFrame = explain.towers(run)
    for fig in (
        viz.towers(frame),
        viz.towers(frame, "auc"),
        viz.learning(explain.learning(run)),
        viz.weights(explain.rounds(run)),
        viz.gaps(explain.rounds(run)),
        *(viz.calibration(explain.calibration(run), name) for name in frame["behaviour"]),
    ):
        assert fig.to_json()
        assert theme.alt_text(fig)


def test_a_loss_of_one_step_is_seen_on_an_axis_with_numbers() -> None:
    one = pd.DataFrame([{"metric": "fused", "step": 1, "value": 0.5}])
    fig = viz.learning(one)
    assert "in 1 step" in theme.title(fig)
    assert not theme.title(fig).endswith("steps")
    assert "markers" in fig.data[0].mode
    two = pd.DataFrame([{"metric": "fused", "step": n, "value": 0.7 - 0.3 * n} for n in (0, 1)])
    assert len(viz.learning(two).layout.yaxis.tickvals) >= 2, "0.4 to 0.7 had none"
