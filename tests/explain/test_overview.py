"""The stages of a run in one line each."""

import json
from pathlib import Path

from onerec.explain import overview
from onerec.runs import STAGES, Run


def test_each_stage_shows_its_number(run: Run) -> None:
    frame = overview.stages(run).set_index("stage")
    assert list(frame.index) == ["data", *STAGES]
    assert frame.loc["data", "headline"] == "420 events"
    assert frame.loc["tokenize", "headline"] == "4 x 4 x 4"
    assert frame.loc["tokenize", "detail"].startswith("3 code words an item; ")
    assert frame.loc["recommend", "detail"] == "lists of OneRec and item-knn"
    assert frame.loc["pretrain", "detail"] == "step 60 of 60"
    assert frame.loc["evaluate", "headline"] == "recall@10 0.500"
    assert frame.loc["evaluate", "detail"] == "best baseline: item-knn 0.208"
    assert frame.loc["recommend", "headline"] == "24 users"
    assert set(frame["state"]) == {"done"}


def test_a_run_that_has_not_begun_says_not_yet(tmp_path: Path) -> None:
    frame = overview.stages(Run(tmp_path))
    assert frame["state"].tolist() == ["missing", *["waiting"] * len(STAGES)]
    assert frame["headline"].tolist()[1:] == ["not yet"] * len(STAGES)


def test_an_alignment_that_valid_could_not_judge_says_which_step_it_kept(tmp_path: Path) -> None:
    (tmp_path / "align").mkdir()
    stamp = {"finished": 1.0, "checkpoint": "checkpoint-000008.safetensors", "step": 8, "valid": {}}
    (tmp_path / "align" / "done.json").write_text(json.dumps(stamp))
    row = overview.stages(Run(tmp_path)).set_index("stage").loc["align"]
    assert row[["headline", "detail"]].tolist() == ["step 8", "valid has no users to choose by"]
