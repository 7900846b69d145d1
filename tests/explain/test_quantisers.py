"""The kept comparison as tables: means over the seeds, with the least and the greatest."""

import json
from pathlib import Path

import numpy as np
import pytest

from onerec.explain import quantisers
from onerec.pipeline import quantisers as pipeline
from onerec.runs import Run


def row(kind: str, seed: int, loss: float, **more: object) -> dict[str, object]:
    level = {"utilisation": 1.0, "perplexity": 4.0, "dead_codes": seed, "entropy_nats": 1 + loss}
    both = [level | {"variance_explained": 1 - 2 * loss}, level | {"variance_explained": 1 - loss}]
    told = {"kind": kind, "seed": seed, "loss": loss, "held_out_loss": 2 * loss, "levels": both}
    return told | {"share_sharing": 0.5, "largest_leaf": 3, "seconds": 1.0} | more


@pytest.fixture
def compared(tmp_path: Path) -> Run:
    rows = [row("random", 0, 0.4), row("rq_kmeans", 0, 0.1, purity=0.8, chance=0.2)]
    rows += [row("rq_kmeans", 1, 0.3, purity=0.6, chance=0.2)]
    setting = {"items": 48, "dim": 6, "size": 4, "levels": 2, "steps": 10}
    (tmp_path / "cache").mkdir()
    text = json.dumps({"setting": setting, "rows": rows})
    (tmp_path / quantisers.RESULT).write_text(text)
    return Run(tmp_path)


def test_nothing_measured_is_an_empty_frame(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert quantisers.compared(run).empty
    assert quantisers.by_level(run).empty
    assert quantisers.facts(run) == {}


def test_means_with_their_ends_by_kind(compared: Run) -> None:
    frame = quantisers.compared(compared).set_index("kind")
    assert list(frame.index) == ["rq_kmeans", "random"], "learned ones first"
    own = frame.loc["rq_kmeans"]
    assert (own["seeds"], own["loss"], own["loss_low"], own["loss_high"]) == (2, 0.2, 0.1, 0.3)
    assert own["held_out_loss"] == pytest.approx(0.4)
    assert own["purity"] == pytest.approx(0.7)
    assert np.isnan(frame.loc["random", "purity"])
    setting = {"items": 48, "dim": 6, "size": 4, "levels": 2, "steps": 10}
    assert quantisers.facts(compared) == setting | {"seeds": 2}


def test_levels_say_what_is_left_after_them(compared: Run) -> None:
    frame = quantisers.by_level(compared)
    own = frame[frame["kind"] == "rq_kmeans"]
    assert own["level"].tolist() == [1, 2]
    assert own["spread_left"].tolist() == pytest.approx([0.4, 0.2])
    assert own["spread_left_high"].tolist() == pytest.approx([0.6, 0.3])
    assert own["dead_codes"].tolist() == [0.5, 0.5]
    assert own["max_entropy_nats"].tolist() == pytest.approx([np.log(4)] * 2)


def test_the_names_are_those_of_the_writer() -> None:
    assert quantisers.KINDS == pipeline.KINDS
    assert quantisers.RESULT == pipeline.RESULT
