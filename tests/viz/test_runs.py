"""The pictures of several runs show their numbers."""

import pandas as pd
import pytest

from onerec.explain import serving, training
from onerec.runs import Run
from onerec.viz import runs as viz
from onerec.viz import theme


def test_runs_laid_over_one_another(run: Run) -> None:
    curves = training.curves(run)
    worse = curves.assign(value=curves["value"] * 2)
    fig = viz.overlay({"worse": worse, "better": curves, "empty": curves.iloc[:0]})
    assert [trace.name for trace in fig.data] == ["worse", "better"]
    assert fig.data[0].line.dash != fig.data[1].line.dash
    assert theme.title(fig) == "better has the lowest loss at its last step: 1.275"
    alone = viz.overlay({"better": curves})
    assert theme.title(alone) == "Loss of better at its last step: 1.275"
    recall = viz.overlay({"a": curves, "b": worse}, "valid_recall@10")
    assert theme.title(recall).startswith("b has the highest recall@10")
    assert not viz.overlay({"empty": curves.iloc[:0]}).data


def test_metrics_of_several_runs_stand_in_groups(run: Run) -> None:
    own = serving.metrics(run)
    other = own[own["model"] != "popularity"].assign(run="other", value=own["value"] / 2)
    fig = viz.compare_metrics(pd.concat([own, other]))
    shown = [trace for trace in fig.data if trace.showlegend is not False]
    assert [trace.name for trace in shown] == ["toy_run", "other"]
    assert list(shown[0].x) == ["OneRec", "item-KNN", "popularity"]
    assert list(shown[1].x) == ["OneRec", "item-KNN"]
    assert list(shown[1].y) == pytest.approx([0.25, 2.5 / 24])
    assert [trace.offsetgroup for trace in fig.data] == ["toy_run"] * 2 + ["other"] * 2
    assert theme.title(fig) == "recall@10 of OneRec is highest in toy_run: 0.5000"
    assert theme.title(viz.compare_metrics(own)) == "recall@10 of OneRec in toy_run: 0.5000"
    assert not viz.compare_metrics(pd.DataFrame()).data


def test_runs_that_are_alike_have_no_leader_and_balance_is_better_when_small() -> None:
    curve = pd.DataFrame([{"step": 1, "metric": "max_violation", "value": 0.5}])
    even = curve.assign(value=0.1)
    said = [
        theme.title(viz.overlay({"a": curve, "b": other}, "max_violation"))
        for other in (curve, even)
    ]
    assert said[0] == "Both have the same MaxVio at their last step: 0.5"
    assert said[1] == "b has the lowest MaxVio at its last step: 0.1"


def test_a_metric_without_a_value_is_none() -> None:
    curve = pd.DataFrame([{"step": 1, "metric": "mfu", "value": None}]).astype({"value": float})
    assert not viz.overlay({"a": curve}, "mfu").data
    row = {"run": "a", "model": "onerec", "metric": "recall@10", "value": float("nan")}
    assert not viz.compare_metrics(pd.DataFrame([row])).data
