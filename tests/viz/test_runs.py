"""The pictures of whole runs show their numbers."""

import pandas as pd
import pytest

from onerec.explain import overview, serving, training
from onerec.runs import Run
from onerec.viz import runs as viz
from onerec.viz import theme


@pytest.mark.parametrize("vertical", [False, True])
def test_the_pipeline_shows_every_stage_with_its_number(run: Run, vertical: bool) -> None:
    stages = overview.stages(run)
    fig = viz.pipeline(stages, vertical)
    texts = [note.text for note in fig.layout.annotations if note.text]
    assert len(texts) == 5
    for text, row in zip(texts, stages.to_dict("records"), strict=True):
        assert row["label"] in text
        assert f"<b>{row['headline']}</b>" in text
        assert f"✓ {row['state']}" in text, "the state is said in words and by a sign"
    assert [row[0] for row in fig.data[0].customdata] == stages["stage"].tolist()
    assert sum(note.showarrow for note in fig.layout.annotations) == 4
    assert theme.title(fig) == "Every stage is done: recall@10 0.500"


def test_a_failed_stage_is_marked(run: Run) -> None:
    stages = overview.stages(run)
    stages.loc[2, "state"] = "failed"
    fig = viz.pipeline(stages)
    assert any("! failed" in note.text for note in fig.layout.annotations if note.text)
    assert theme.title(fig).startswith("4 of 5 stages are done")


def test_runs_laid_over_one_another(run: Run) -> None:
    curves = training.curves(run)
    worse = curves.assign(value=curves["value"] * 2)
    fig = viz.overlay({"worse": worse, "better": curves, "empty": curves.iloc[:0]})
    assert [trace.name for trace in fig.data] == ["worse", "better"]
    assert fig.data[0].line.dash != fig.data[1].line.dash
    assert theme.title(fig) == "better has the lowest loss at its last step: 1.275"
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
    assert not viz.compare_metrics(pd.DataFrame()).data
