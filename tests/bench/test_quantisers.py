"""The comparison measures what it says, on made-up items and on a run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from onerec.bench import quantisers
from onerec.bench.quantisers import Items, compare, measure, table
from onerec.errors import RunError
from onerec.pipeline.quantisers import Shape, fitted
from onerec.runs import Run
from onerec.tokenizer.nearest_free import LastLevel
from onerec.tokenizer.semantic_ids import make_semantic_ids


def made_up(n: int = 160, topics: int = 4) -> Items:
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(topics, 6, generator=generator)
    x = centres.repeat(n // topics, 1) + torch.randn(n, 6, generator=generator)
    return Items(x, np.arange(n) % topics)


def test_topics_far_apart_are_found_by_the_first_code() -> None:
    one = measure(made_up(), "rq_kmeans", 4, 2, 1, seed=0)
    assert one["purity"] == 1
    assert one["chance"] < 0.6
    assert 0 < one["loss"] < one["held_out_loss"] < 0.5
    assert one["utilisation"] == [1, 1]
    assert one["share_sharing"] == 1  # 160 items on 16 ids
    assert one["nearest_free"]["loss"] >= one["loss"]


def test_nearest_free_is_measured_on_the_codes_that_it_gave() -> None:
    items = made_up()
    x, told = items.vectors, measure(items, "rq_kmeans", 32, 2, 1, seed=0)
    quantiser, codes = fitted(x, "rq_kmeans", Shape(32, 2, 1), 0)
    last = LastLevel.of(x, codes, quantiser.codebooks)
    free = make_semantic_ids(codes, quantiser.sizes, "nearest_free", last)
    left = (x - quantiser.inverse_transform(torch.from_numpy(free.codes))).square().sum()
    loss = float(left / (x - x.mean(0)).square().sum())
    assert told["nearest_free"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert told["nearest_free"]["loss"] > told["loss"]
    assert told["nearest_free"]["share_touched"] > 0
    assert told["nearest_free"]["items_left"] == free.report["items_left"]


def test_seeds_are_measured_apart() -> None:
    told = compare(made_up(), size=8, levels=1, steps=2, seeds=2)["kinds"]["rq_kmeans"]
    by_seed = [measure(made_up(), "rq_kmeans", 8, 1, 2, seed)["held_out_loss"] for seed in (0, 1)]
    assert by_seed[0] != by_seed[1]
    assert told["held_out_loss"]["mean"] == pytest.approx(np.mean(by_seed), abs=1e-4)


def test_every_kind_is_measured_alike_and_balance_shows_in_the_entropy() -> None:
    result = compare(made_up(), size=8, levels=2, steps=5, seeds=2)
    assert set(result["kinds"]) == set(quantisers.KINDS)
    assert result["max_entropy_nats"] == pytest.approx(np.log(8), abs=1e-5)
    for kind in ("balanced", "algorithm_1"):
        told = result["kinds"][kind]
        assert told["entropy_nats"] == pytest.approx([np.log(8)] * 2, abs=1e-5)
    plain = result["kinds"]["rq_kmeans"]
    assert max(plain["entropy_nats"]) < np.log(8)
    assert plain["loss"]["low"] <= plain["loss"]["mean"] <= plain["loss"]["high"]
    assert table(result).count("\n") == len(quantisers.KINDS) + 1


def test_the_command_reads_a_run(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quantisers.json"
    words = ["--run", "first", "--home", str(trained), "--steps", "5", "--seeds", "1"]
    quantisers.main([*words, "--threads", "1", "--out", str(out)])
    assert "rq_vae" in capsys.readouterr().out
    told = json.loads(out.read_text())
    assert (told["setting"]["items"], told["setting"]["size"]) == (30, 4)
    assert told["benchmark"] == "quantisers"
    assert "purity" not in told["kinds"]["rq_vae"]  # the toy items have tags alone
    with pytest.raises(RunError, match="no content vectors"):
        Items.of(Run(tmp_path))
