"""The shipped demo: whole, small, and able to answer after what only training needs is gone."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy_home
from safetensors.torch import load_file

from onerec import demo
from onerec.explain import item_map, online, policy, quantisers, rewards
from onerec.recommend import Recommender
from onerec.runs import Run, open_run
from onerec.stream import StreamConfig
from onerec.world import WorldConfig

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = Run(ROOT / "data" / "demo" / "runs" / demo.RUN)


def test_a_stripped_run_holds_its_weights_alone_and_answers_as_before(
    trained: Path, tmp_path: Path
) -> None:
    run = open_run("first", Path(shutil.copytree(trained, tmp_path / "finished")))
    (run.path / "cache" / "umap").mkdir(parents=True)
    (run.path / "cache" / "quantisers.json").write_text("{}")
    before = Recommender.load(run).recommend(["u01", "u02"], k=5)
    demo._strip(run)
    assert [path.name for path in run.path.glob("cache/*")] == ["quantisers.json"]
    assert run.checkpoints()["step"].tolist() == [toy_home.STEPS]
    saved = load_file(run.checkpoints()["path"][0])
    assert all(name.startswith("model.") for name in saved)
    after = Recommender.load(run).recommend(["u01", "u02"], k=5)
    assert np.array_equal(before["score"], after["score"])
    assert before["item_id"].tolist() == after["item_id"].tolist()


def fail(*_: object, **__: object) -> None:
    raise OSError("full")


@pytest.mark.slow
def test_a_demo_is_made_beside_the_old_one_and_replaces_it_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "old").write_text("kept until the new one is whole")
    world = WorldConfig(n_items=500, n_users=60)
    changes = {"baselines.names": "popularity", "evaluate.split": "temporal", "align.lag": "3"}
    small = toy_home.make_recipe({**toy_home.ALIGNED, **changes})
    short = {"rounds": 2, "steps": 2, "lag": 2, "share": 0.2, "shown": 3}
    streams = {arm: StreamConfig(arm=arm, **short) for arm in ("frozen", "rsft_ecpo")}
    monkeypatch.setattr(demo, "WorldConfig", lambda **_: world)
    monkeypatch.setattr(demo, "recipe", lambda *_: small)
    monkeypatch.setattr(demo, "STREAMS", streams)
    with monkeypatch.context() as patch:
        patch.setattr(demo, "make_world_dataset", fail)
        with pytest.raises(OSError, match="full"):
            demo.make_demo(folder)
    assert [p.name for p in tmp_path.rglob("*")] == ["demo", "old"]
    kept: list[str] = []  # the two take minutes; what they write is tested beside them
    monkeypatch.setattr(demo, "make_map", lambda *_, **__: kept.append("map"))
    monkeypatch.setattr(demo, "compare_quantisers", lambda *_, **__: kept.append("quantisers"))
    run = demo.make_demo(folder)
    assert kept == ["map", "quantisers"]
    assert rewards.has_rival(run)
    assert run.status().state == "done"
    assert sorted(p.name for p in folder.iterdir()) == ["datasets", "runs"]
    assert {"random", "oracle"} < set((run.evaluate() or {})["models"])
    assert (folder / "datasets" / demo.DATASET / "images").is_dir()
    assert online.names(run) == ["rsft_ecpo", "frozen"], "the app opens the newest"
    assert len(online.compared(run, "rsft_ecpo", "frozen")) == 3  # two rounds and both together
    assert not list(run.path.glob("stream/*/rollouts/*")), "the run's own are shown"
    weights = [path.parent.name for path in sorted(run.path.rglob("*.safetensors"))]
    tokenizer = ["tokenizer"] * 3  # codebooks, vectors, and what gives new items vectors
    assert weights == ["align", "pretrain", "reward", *tokenizer], "no moments"


def test_the_shipped_run_has_its_map_and_its_comparison() -> None:
    """A map of other vectors would not be found: rebuild the demo as a whole."""
    run = SHIPPED
    points, facts = item_map.umap(run)
    assert len(points) == facts["items"] == len(run.semantic_ids())
    told = quantisers.facts(run)
    report = run.report() or {}
    assert (told["items"], told["size"]) == (len(points), report["codebook_size"])
    assert set(quantisers.compared(run)["kind"]) == set(quantisers.KINDS)
    assert rewards.towers(run)["rival_auc"].notna().all()
    assert "Pantheon's rule is satisfied" in rewards.verdict(run)


def test_the_shipped_run_is_small_and_tells_nothing_of_who_made_it() -> None:
    files = [path for path in SHIPPED.home.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= demo.SIZE_LIMIT
    for path in files:
        if path.suffix in (".json", ".jsonl", ".txt"):
            assert not re.search(r'(^|[\s":(])/\w', path.read_text()), f"{path} names a folder"


def test_the_shipped_alignment_shows_the_clip() -> None:
    """At lag 0 every ratio is 1, and the page ECPO had nothing to teach."""
    told = policy.steps(SHIPPED).set_index("step")
    assert told.index.tolist() == [1, *range(5, 41, 5)]
    assert told.loc[1, "ratio_max"] == pytest.approx(1, abs=1e-4), "nothing has moved yet"
    assert told.loc[15:, "outside"].min() > 0.1 > told.loc[:10, "outside"].max(), "the older it is"
    opened = told.loc[40]  # what the pages show at first
    assert opened["clipped"] > 0.1
    assert opened["bounded"] > 0.005, "ECPO's own part: a push that is bounded, not zero"
    done = SHIPPED.done("align") or {}
    before, after = (done["valid"][str(step)] for step in (0, done["step"]))
    assert after["reward"] > before["reward"]
    assert after["recall@10"] > 0.99 * before["recall@10"]


def test_the_shipped_streams_differ_on_the_page_online() -> None:
    assert online.names(SHIPPED) == list(reversed(demo.STREAMS))
    told = online.streams(SHIPPED).set_index("stream")
    assert set(told["state"]) == {"done"}
    assert (told["round"] == told["rounds"]).all()
    for learns in ("rsft", "rsft_ecpo"):  # over ten seeds groups on top add nothing: stream.json
        whole = online.compared(SHIPPED, learns, "frozen").iloc[-1]
        assert whole["low"] > 0, f"{learns} is not ahead of frozen"
