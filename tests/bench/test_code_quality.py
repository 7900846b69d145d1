"""Tokenizers side by side: what a kind changes, a part on a tiny world, and the ranks by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_world

from onerec.bench import arms, code_quality
from onerec.bench.code_quality import (
    KINDS,
    RECALL,
    SHUFFLED,
    deal_out,
    differences,
    foretells,
    kind_recipe,
    measures,
    summary,
    table,
)
from onerec.data.sources.world import make_world_dataset
from onerec.data.tables import read_parquet, write_parquet
from onerec.recipes import recipe
from onerec.runs import Run
from onerec.world import WorldConfig

IDS = "tokenizer/semantic_ids.parquet"
SETTINGS = small_world.SETTINGS | {"train.steps": "4", "evaluate.beam": "10"}


def test_a_kind_changes_what_it_says() -> None:
    base = recipe("tiny")
    found = {kind: kind_recipe(base, kind, 3) for kind in KINDS}
    assert all(one.seed == 3 and one.train == base.train for one in found.values())
    assert found["balanced"].tokenizer.kind == "balanced"
    assert found["half"].tokenizer.codebook_size * 2 == base.tokenizer.codebook_size
    assert found["quarter"].tokenizer.codebook_size * 4 == base.tokenizer.codebook_size
    assert found["content"].content.behaviour_weight == 0 < found["content"].content.tokens_weight
    assert found["consumed"].content.tokens_weight == 0 < found["consumed"].content.behaviour_weight
    assert found["near_mean"].tokenizer.init == "near-mean" != base.tokenizer.init
    assert base.qformer.steps == 0 < found["qformer"].qformer.steps
    assert found["qformer"].content == found["content"].content
    assert found["qformer_consumed"].content == base.content
    for name in ("qformer", "qformer_consumed"):
        other = found[name.replace("qformer", "residual")]
        assert replace(other, qformer=found[name].qformer) == found[name]
        assert other.qformer == replace(found[name].qformer, residual=True)
    assert found[SHUFFLED] == found["rq_kmeans"]


def test_measures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pairs and categories less what chance gives, of the first two levels; use is the least."""
    asked = []

    def quality(*given: Any) -> list[dict[str, float]]:
        asked.append(given)
        chance = {"purity_chance": 0.25, "consumed_chance": 0.0625}
        return [{"level": n, "purity": 1 / n, "consumed": 0.5 / n, **chance} for n in (1, 2, 3)]

    pairs = SimpleNamespace(item_to_item="Swing's pairs", user_to_item="others")
    monkeypatch.setattr(code_quality, "code_quality", quality)
    monkeypatch.setattr(code_quality, "training_pairs", lambda *given: pairs)
    monkeypatch.setattr(
        code_quality, "load_semantic_ids", lambda run: (SimpleNamespace(codes="codes"), None)
    )
    report = {
        "relative_reconstruction_loss": 0.3,
        "collisions": {"share_sharing": 0.125},
        "levels": [
            {"utilisation": 1.0, "entropy_nats": 1.5, "max_entropy_nats": 2.0},
            {"utilisation": 0.5, "entropy_nats": 0.5, "max_entropy_nats": 2.0},
        ],
    }
    setting = SimpleNamespace(
        dataset=SimpleNamespace(items={}), recipe=SimpleNamespace(seed=5), split=None
    )
    assert measures(SimpleNamespace(report=lambda: report), setting, "near") == {
        "reconstruction": 0.3,
        "utilisation": 0.5,
        "entropy": 0.5,
        "alone": 0.875,
        "purity_1": 0.75,
        "consumed_1": 0.4375,
        "purity_2": 0.25,
        "consumed_2": 0.1875,
    }
    assert asked == [("codes", None, "near", "Swing's pairs", 5)]


def test_ranks_by_hand() -> None:
    def one(kind: str, seed: int, recall: float, **measures: float) -> dict:
        return {"kind": kind, "seed": seed, RECALL: recall, "measures": measures}

    parts = [one(kind, 0, r, good=r, bad=-r, same=1) for kind, r in {"a": 1, "b": 2}.items()]
    parts += [one(kind, 1, r, good=-r, bad=-r, same=1) for kind, r in {"a": 1, "b": 2}.items()]
    found = foretells(parts)
    assert found["good"]["mean"] == pytest.approx((1 - 1) / 2)
    assert found["bad"]["mean"] == -1
    assert "same" not in found


def test_ranks_are_those_within_a_seed() -> None:
    """Over both seeds together the larger measures have the smaller recalls."""
    values = {("a", 0): (1, 0.2), ("b", 0): (2, 0.3), ("a", 1): (11, 0.05), ("b", 1): (12, 0.1)}
    parts = [
        {"kind": kind, "seed": seed, RECALL: recall, "measures": {"good": measure}}
        for (kind, seed), (measure, recall) in values.items()
    ]
    assert foretells(parts)["good"]["mean"] == pytest.approx(1)


def test_what_shuffled_codes_tell_is_left_out_of_the_second_table() -> None:
    """Rank correlations: 1, 2 and 0 against .2, .1 and .0 give .5, without the last -1."""
    values = {"rq_kmeans": (1, 0.2), "half": (2, 0.1), SHUFFLED: (0, 0.0)}
    parts = [
        {"kind": kind, "seed": 0, RECALL: recall, "measures": {"good": measure}}
        for kind, (measure, recall) in values.items()
    ]
    told = summary(parts)
    assert told["foretells"]["good"]["mean"] == pytest.approx(0.5)
    assert told["foretells_without_shuffled"]["good"]["mean"] == pytest.approx(-1)


def test_differences_by_hand() -> None:
    recall = {("qformer", 0): 0.3, ("content", 0): 0.1, ("qformer", 1): 0.5, ("content", 1): 0.2}
    recall[("qformer", 2)] = 0.9  # without a partner of its seed
    parts = [{"kind": kind, "seed": seed, RECALL: value} for (kind, seed), value in recall.items()]
    found = differences(parts)
    assert list(found) == ["qformer - content"]
    assert found["qformer - content"]["mean"] == pytest.approx(0.25)


def test_one_seed_has_no_interval_to_print() -> None:
    recall = {"rq_kmeans": 0.2, "balanced": 0.3}
    parts = [
        {"kind": kind, "seed": 0, RECALL: value, "measures": {"good": value}}
        for kind, value in recall.items()
    ]
    shown = table(summary(parts))
    assert shown.endswith("recall@10 balanced - rq_kmeans: +0.1000 [-, -]")
    assert "nan" not in shown


def test_what_foretells_is_told_of_tokenizers_of_the_same_vectors_too() -> None:
    """`content` quantises other vectors: its loss is low, and its recall as well."""
    values = {"rq_kmeans": (0.3, 0.2), "half": (0.2, 0.4), "content": (0.1, 0.1)}
    parts = [
        {"kind": kind, "seed": 0, RECALL: recall, "measures": {"loss": loss}}
        for kind, (recall, loss) in values.items()
    ]
    told = summary(parts)
    assert told["foretells_of_same_vectors"]["loss"]["mean"] == pytest.approx(-1)
    assert told["foretells"]["loss"]["mean"] == pytest.approx(0.5)


@pytest.mark.slow
def test_parts_on_a_small_world(tmp_path, monkeypatch, capsys) -> None:
    make_world_dataset("small", WorldConfig(n_items=500, n_users=80), tmp_path)
    monkeypatch.setattr(
        arms.subprocess, "run", lambda command, check, stderr, env: code_quality.main(command[3:])
    )
    monkeypatch.setattr(code_quality, "commit", lambda: "made here")
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    out = tmp_path / "quality.json"
    words = ["--home", str(tmp_path), "--dataset", "small", "--set", *settings]
    words += ["--kinds", "rq_kmeans", SHUFFLED, "--seeds", "1", "--out", str(out)]
    assert code_quality.main(words) == 0
    told = json.loads(out.read_text())
    plain, dealt = (told["kinds"][kind] for kind in ("rq_kmeans", SHUFFLED))
    for name in ("reconstruction", "entropy", "alone"):
        assert plain[name] == dealt[name]
    for name in ("neighbours_1", "purity_1"):
        assert plain[name]["mean"] > 0.1 > abs(dealt[name]["mean"])
    assert "shuffled" in capsys.readouterr().out
    first, second = (
        read_parquet(tmp_path / "runs" / f"codes_small_tiny_{kind}_0" / IDS)
        for kind in ("rq_kmeans", SHUFFLED)
    )
    assert (first["item_id"] == second["item_id"]).all()
    codes = ["code_1", "code_2", "code_3", "leaf_size"]
    assert not first[codes].equals(second[codes])
    rows = [sorted(map(tuple, one[codes].to_numpy().tolist())) for one in (first, second)]
    assert rows[0] == rows[1]


def test_codes_are_dealt_by_the_seed_and_everything_else_stays(tmp_path) -> None:
    items = np.arange(40)
    columns = {"item": items, "item_id": items.astype(str), "code_1": items % 7}
    columns |= {"code_2": items // 7, "leaf_size": items % 3}

    def dealt(seed: int) -> pd.DataFrame:
        write_parquet(tmp_path / IDS, columns)
        deal_out(Run(tmp_path), seed)
        return read_parquet(tmp_path / IDS)

    (tmp_path / IDS).parent.mkdir()
    first, again, other = (dealt(seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first["code_1"].equals(other["code_1"])
    assert first["item_id"].tolist() == columns["item_id"].tolist()
    assert sorted(zip(first["code_1"], first["code_2"], first["leaf_size"], strict=True)) == sorted(
        zip(columns["code_1"], columns["code_2"], columns["leaf_size"], strict=True)
    )


def test_an_unknown_kind_is_named(tmp_path, capsys) -> None:
    assert code_quality.main(["--kinds", "rq_kmean", "--out", str(tmp_path / "a.json")]) == 2
    assert "rq_kmeans" in capsys.readouterr().err
