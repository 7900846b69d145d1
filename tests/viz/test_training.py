"""The pictures of a training show its numbers."""

import fake_run
import pandas as pd
import pytest

from onerec.explain import training as explain
from onerec.runs import Run
from onerec.viz import theme
from onerec.viz import training as viz


@pytest.fixture(scope="module")
def curves(run: Run) -> pd.DataFrame:
    return explain.curves(run)


def test_losses_of_levels_stand_beside_their_sum(curves: pd.DataFrame) -> None:
    fig = viz.losses(curves)
    names = [trace.name for trace in fig.data]
    assert names[:2] == ["loss, all levels", "loss on valid"]
    assert names[2:] == ["loss, level 1", "loss, level 2", "loss, level 3"]
    total = sum(trace.y[-1] for trace in fig.data[2:])
    assert fig.data[0].y[-1] == pytest.approx(total, abs=1e-3)
    assert "from 4.67 to 1.28 in 60 steps; level 3 is the hardest" in theme.title(fig)
    assert "0.325 + 0.425 + 0.525" in theme.how(fig)
    assert len({(trace.line.color, trace.line.dash) for trace in fig.data}) == len(fig.data)
    assert "; the loss is their sum: 0.325" in theme.how(fig)


def test_the_loss_of_a_lazy_decoder_is_the_mean_of_its_levels(curves: pd.DataFrame) -> None:
    lazy = curves.assign(value=curves["value"].where(curves["metric"] != "loss", 0.425))
    assert "their mean, as V2's: (0.325 + 0.425 + 0.525) / 3 = 0.425" in theme.how(viz.losses(lazy))


def test_a_loss_that_did_not_change_stayed(curves: pd.DataFrame) -> None:
    assert "The loss stayed at 2.00 in 60 steps" in theme.title(viz.losses(curves.assign(value=2)))
    first = curves[curves["step"] == 1].assign(value=2)
    assert theme.title(viz.losses(first)).startswith("The loss is 2.00 after 1 step;")


def test_one_metric(curves: pd.DataFrame) -> None:
    fig = viz.metric(curves, "grad_norm")
    assert list(fig.data[0].x) == list(range(1, fake_run.STEPS + 1))
    assert theme.title(fig).startswith("Gradient norm is 1.017 at step 60")
    assert not viz.metric(curves, "nothing_of_the_kind").data
    assert viz.metric_name("aux_balance") == "balance loss of the routers"


def test_rates_are_drawn_in_units_that_people_read(curves: pd.DataFrame) -> None:
    fig = viz.metric(curves, "flops_per_second")
    assert set(fig.data[0].y) == {16.0}
    assert theme.title(fig).startswith("GFLOP per second is 16 at step 60")
    faster = curves.assign(metric="flops_per_second", value=2.1e14)
    assert "TFLOP per second is 210 at" in theme.title(viz.metric(faster, "flops_per_second"))
    share = curves.assign(metric="mfu", value=0.25)
    assert "MFU in percent is 25 at" in theme.title(viz.metric(share, "mfu"))
    assert curves["value"].max() == 1.6e10, "what was read is left as it is"


def test_valid_names_the_best_step(curves: pd.DataFrame) -> None:
    fig = viz.valid(curves)
    assert list(fig.data[0].y) == [0.1, 0.2, 0.3]
    assert theme.title(fig) == "recall@10 on valid is best at step 60: 0.3000"
    assert len(fig.data) == 1, "the loss on valid stands with the losses"


def test_a_live_picture_keeps_its_zoom(curves: pd.DataFrame) -> None:
    early, late = curves[curves["step"] < 30], curves
    assert viz.losses(early).layout.uirevision == viz.losses(late).layout.uirevision


def test_progress_by_stage(run: Run) -> None:
    frame = explain.progress(run)
    frame.loc[1, ["state", "share", "step", "of"]] = ["running", 0.25, 15, 60]
    fig = viz.progress(frame)
    assert list(fig.data[0].x) == [1, 0.25, *[1] * (len(frame) - 2)]
    assert list(fig.data[0].text) == [
        *("done", "running, 15 of 60"),
        *["done"] * (len(frame) - 2),
    ]
    assert theme.title(fig) == f"{len(frame) - 1} of {len(frame)} stages are done"


def test_no_step_yet_says_how_to_start(curves: pd.DataFrame) -> None:
    none = curves.iloc[:0]
    assert "onerec run" in viz.losses(none).layout.annotations[0].text
    assert "train.evaluate_every" in viz.valid(none).layout.annotations[0].text


@pytest.mark.parametrize(
    ("name", "words"),
    [("loss_2", "loss, level 2"), ("lr", "learning rate"), ("valid_ndcg@5", "ndcg@5")],
)
def test_metrics_are_named_for_people(name: str, words: str) -> None:
    assert viz.metric_name(name) == words


def test_a_metric_without_a_value_is_none() -> None:
    row = {"metric": "valid_recall@10", "step": 1, "seconds": 0.1, "value": float("nan")}
    frame = pd.DataFrame([row, row | {"metric": "loss"}])
    for fig in (viz.losses(frame), viz.metric(frame, "loss"), viz.valid(frame)):
        assert not fig.data
