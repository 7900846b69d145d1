"""The pictures of sizes show their numbers, and their titles say the finding."""

import numpy as np
import pandas as pd
import pytest

from onerec.explain import scale as explain
from onerec.viz import scale as viz
from onerec.viz import theme


def test_the_law_goes_through_its_points_and_the_prediction_stands_beside_the_measured() -> None:
    points = pd.DataFrame(
        [("ours", n, 2 + 1.5 / n**0.5, 2.0, 4.0, 1) for n in (1.0, 4.0, 16.0)],
        columns=list(explain.POINTS),
    )
    row = ("ours", 2.0, 1.5, 0.5, 0.4, 0.6, 16.0, 2.375, 2.4, 2.3, 2.5)
    fig = viz.scaling(points, pd.DataFrame([row], columns=list(explain.LAW)))
    assert theme.title(fig) == (
        "ours: 2.00 + 1.5 / N^0.50; the largest size, left out, is predicted at 2.400 and is 2.375"
    )
    marks, curve, predicted = fig.data
    assert list(marks.y) == pytest.approx([3.5, 2.75, 2.375])
    assert curve.y == pytest.approx(2 + 1.5 / np.asarray(curve.x) ** 0.5)
    assert (curve.x[0], curve.x[-1]) == pytest.approx((1.0, 16.0))
    assert (list(predicted.x), list(predicted.y)) == ([16.0], [2.4])
    assert predicted.error_y.arrayminus[0] == pytest.approx(0.1)
    assert "16M left out: predicted 2.4000 [2.3000, 2.5000], measured 2.3750" in theme.how(fig)


def test_a_law_without_a_size_left_out_says_the_law_alone() -> None:
    fig = viz.scaling(explain.v2_points(), explain.v2_law())
    assert "the loss falls as 3.13 + 4.26 / N^0.49" in theme.title(fig)
    assert len(fig.data) == 2
    assert not viz.scaling(explain.v2_points().iloc[:0], explain.v2_law()).data


def test_shapes_are_what_a_loss_has_above_its_own_floor() -> None:
    points = pd.DataFrame(
        [("ours", n, loss, 0.0, 4.0, 1) for n, loss in ((1.0, 3.5), (4.0, 2.75), (16.0, 1.9))],
        columns=list(explain.POINTS),
    )
    row = ("ours", 2.0, 1.5, 0.5, 0.4, 0.6, np.nan, np.nan, np.nan, np.nan, np.nan)
    law = pd.DataFrame([row], columns=list(explain.LAW))
    fig = viz.shapes(pd.concat([points, explain.v2_points()]), pd.concat([law, explain.v2_law()]))
    assert "a = 0.50 (ours; 95% [0.40, 0.60]), 0.49 (V2, as printed)" in theme.title(fig)
    assert "1 size at or below the floor, not drawn" in theme.how(fig)
    marks, line, theirs, _ = fig.data
    assert list(marks.y) == pytest.approx([1.5, 0.75])
    assert line.y == pytest.approx(1.5 / np.asarray(line.x) ** 0.5)
    assert theirs.y[0] == pytest.approx(3.57 - 3.13)


def test_parts_are_shares_of_their_model() -> None:
    frame = pd.DataFrame(
        [("a", "experts", 3e9), ("a", "heads", 1e9), ("b", "heads", 2e6)],
        columns=["model", "part", "parameters"],
    )
    fig = viz.parts(frame)
    assert theme.title(fig) == "Experts: 75% of the 4 billion parameters of a"
    assert {trace.name: list(trace.x) for trace in fig.data} == {
        "experts": [0.75],
        "heads": [0.25, 1.0],
    }


@pytest.mark.parametrize("measure", list(viz.MEASURES))
def test_contexts_name_the_ratio_at_the_longest(measure: str) -> None:
    rows = [("encoder_decoder", 100, 10.0), ("encoder_decoder", 1000, 90.0)]
    rows += [("lazy", 100, 5.0), ("lazy", 1000, 9.0)]
    fig = viz.contexts(pd.DataFrame(rows, columns=["kind", "positions", measure]), measure)
    assert "At 1,000 positions the encoder-decoder takes 10 times" in theme.title(fig)
    assert [list(trace.y) for trace in fig.data] == [[10.0, 90.0], [5.0, 9.0]]
    assert "100 positions 10 / 5 = 2.0" in theme.how(fig)


def test_sizes_without_a_law_and_small_costs_have_their_axis() -> None:
    points = pd.DataFrame([("ours", 0.5, 3.0, 2.9, 3.1, 2)], columns=list(explain.POINTS))
    fig = viz.scaling(points, pd.DataFrame(columns=list(explain.LAW)))
    assert theme.title(fig) == "No law was fitted to 1 size: losses 3.000 to 3.000"
    assert fig.layout.xaxis.ticktext == ("0.5",)
    rows = [("encoder_decoder", 8, 0.09), ("lazy", 8, 0.02)]
    cost = viz.contexts(pd.DataFrame(rows, columns=["kind", "positions", "gflops"]))
    assert cost.layout.yaxis.ticktext[0] == "0.02", "it began at 1, above all that is drawn"


def test_large_costs_are_written_without_a_power() -> None:
    rows = [("encoder_decoder", 3000, 2596.4), ("lazy", 3000, 18.84)]
    fig = viz.contexts(pd.DataFrame(rows, columns=["kind", "positions", "gflops"]))
    assert "3,000 positions 2,596 / 18.8 = 137.8" in theme.how(fig), "it was 2.6e+03"
    assert "and 2,596 at 3,000" in theme.alt_text(fig)
