"""The pictures of lists and metrics show their numbers."""

import numpy as np
import pandas as pd
import pytest

from onerec.explain import serving as explain
from onerec.runs import Run
from onerec.viz import serving as viz
from onerec.viz import theme


def test_codes_stack_to_the_surprise_of_the_item(run: Run) -> None:
    frame = explain.code_log_probs(run, 0, top=5)
    fig = viz.code_log_probs(frame)
    assert [trace.name for trace in fig.data] == ["level 1", "level 2", "level 3"]
    assert len({trace.marker.pattern.shape for trace in fig.data}) == 3
    scores = explain.recommendations(run, 0, k=5)["score"]
    assert -np.sum([trace.x for trace in fig.data], axis=0) == pytest.approx(scores.to_numpy())
    assert fig.data[0].y[0] == "1. ✓ music clip 23"
    assert theme.title(fig).startswith(
        "The codes of the first item have probability 54.9%; level 3"
    )
    assert "(-0.150) + (-0.200) + (-0.250) = -0.600" in theme.how(fig)


def test_why_is_in_the_given_order(run: Run) -> None:
    frame = explain.why(run, 0, 23)
    fig = viz.why(frame, "music clip 23")
    assert list(fig.data[0].x) == frame["cosine"].tolist()
    assert "is “music clip 15”, which shares its first code" in theme.title(fig)


def test_bars_of_a_metric_are_sorted_and_say_whether_intervals_overlap(run: Run) -> None:
    metrics = explain.metrics(run)
    fig = viz.metric_bars(metrics)
    assert list(fig.data[0].y) == ["OneRec", "item-KNN", "popularity"]
    assert list(fig.data[0].x) == pytest.approx([0.5, 5 / 24, 0.1])
    assert theme.title(fig).endswith("(140% more); the intervals overlap, so it may be chance")
    apart = metrics.assign(low=metrics["value"] - 0.01, high=metrics["value"] + 0.01)
    assert theme.title(viz.metric_bars(apart)).endswith("(140% more)")


def test_random_and_oracle_are_no_rivals(run: Run) -> None:
    rows = [
        ("r", m, "recall@10", v, np.nan, np.nan)
        for m, v in (("oracle", 0.9), ("onerec", 0.3), ("sasrec", 0.2))
    ]
    frame = pd.DataFrame(rows, columns=list(explain.METRIC_COLUMNS))
    title = theme.title(viz.metric_bars(frame))
    assert title == "OneRec leads: recall@10 0.3000 against 0.2000 of SASRec (50% more)"


def test_empty_frames_name_the_command() -> None:
    none = pd.DataFrame()
    assert "onerec recommend" in viz.code_log_probs(none).layout.annotations[0].text
    assert "onerec evaluate" in viz.metric_bars(none).layout.annotations[0].text
    assert not viz.why(none).data


def test_the_worth_of_lists_is_said_with_what_alignment_did() -> None:
    frame = pd.DataFrame({"model": ["onerec", "onerec_pretrained"], "true_long_view": [0.44, 0.4]})
    said = viz.worth_finding(frame)
    assert said == "Alignment raised the true share of long views of the first ten by 10%"
    frame["true_long_view"] = [0.3, 0.4]
    assert "lowered" in viz.worth_finding(frame)
    alone = pd.DataFrame({"model": ["onerec"], "p_score": [0.25]})
    assert viz.worth_finding(alone) == "P-Score of OneRec's first ten: 0.250"
    assert viz.worth_finding(alone.assign(model="random")) == "P-Score of the first ten"


def test_an_unlikely_list_is_not_said_to_be_impossible() -> None:
    row = {"rank": 1, "item": 3, "title": "a", "level": 1, "code": 2, "hit": False}
    frame = pd.DataFrame([row | {"log_prob": -10.0, "probability": np.exp(-10)}])
    assert "The codes of the first item have probability 0.005%;" in theme.title(
        viz.code_log_probs(frame)
    )


def test_the_only_model_is_named_though_the_oracle_is_above_it() -> None:
    rows = [("r", "oracle", 0.9), ("r", "onerec", 0.3), ("r", "random", 0.1)]
    frame = pd.DataFrame(rows, columns=["run", "model", "value"])
    frame = frame.assign(metric="recall@10", low=np.nan, high=np.nan)
    assert theme.title(viz.metric_bars(frame)) == "recall@10 of OneRec is 0.3000"
    level = frame.assign(model=["onerec", "sasrec", "random"], value=[0.0, 0.0, 0.0])
    said = theme.title(viz.metric_bars(level))
    assert said == "OneRec and SASRec are level: recall@10 0.0000", "it was: leads (0% more)"


def test_alignment_that_moved_nothing_is_not_said_to_have_raised() -> None:
    frame = pd.DataFrame({"model": ["onerec", "onerec_pretrained"], "p_score": [0.4, 0.4]})
    assert viz.worth_finding(frame) == "Alignment left the P-Score of the first ten at 0.400"


def test_certain_codes_have_no_minus_nought() -> None:
    row = {"rank": 1, "item": 3, "title": "a", "level": 1, "code": 2, "hit": False}
    frame = pd.DataFrame([row | {"log_prob": 0.0, "probability": 1.0}])
    fig = viz.code_log_probs(frame)
    assert "(0.00 nats on average)" in theme.title(fig)
    assert "-0.00" not in theme.alt_text(fig)
