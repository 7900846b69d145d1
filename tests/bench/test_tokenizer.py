"""The benchmark of the paper's claims measures what it says, on made-up items."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onerec.bench import tokenizer
from onerec.bench.tokenizer import (
    VAES,
    Size,
    claims,
    compare,
    measure,
    until_flat,
)
from onerec.errors import OneRecError

SMALL = Size(levels=2, codes=8, steps=4, most_steps=16)
WITHOUT_VAE = ("rq_kmeans", "balanced_rq_kmeans", "random", "faiss")


def items(n: int = 200, d: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(4, d, generator=generator)
    return centres.repeat(n // 4, 1) + torch.randn(n, d, generator=generator)


def test_every_kind_has_the_keys_and_the_ranks_are_right() -> None:
    told = compare(items(), replace(SMALL, most_steps=4), seeds=2)
    keys = {"reconstruction_loss", "held_out_loss", "utilisation", "entropy_nats"}
    for kind in ("rq_kmeans", "balanced_rq_kmeans", "rq_vae", "rq_vae_wide", "random"):
        assert set(told[kind]) >= keys | {"collision_rate", "fit_seconds"}
        assert len(told[kind]["utilisation"]) == 2
    loss = {kind: told[kind]["reconstruction_loss"]["mean"] for kind in tokenizer.VAES}
    assert told["rq_kmeans"]["reconstruction_loss"]["mean"] < min(loss.values())
    assert (
        told["rq_kmeans"]["held_out_loss"]["mean"]
        > told["rq_kmeans"]["reconstruction_loss"]["mean"]
    )
    assert (
        told["random"]["reconstruction_loss"]["mean"]
        > told["rq_kmeans"]["reconstruction_loss"]["mean"]
    )
    balanced = [level["mean"] for level in told["balanced_rq_kmeans"]["entropy_nats"]]
    assert balanced == pytest.approx([math.log(8)] * 2, abs=1e-3)
    assert told["claims"]["utilisation_is_1"]["holds"]
    assert "claims" in told
    json.dumps(told)


def test_random_codebooks_are_rows_of_what_was_left() -> None:
    x = items()
    made, codes = tokenizer.fitted("random", x, SMALL, seed=3)
    first = made.codebooks[0]
    assert all((x == row).all(1).any() for row in first)
    left = x - first[codes[:, 0]]
    assert all(torch.isclose(left, row, atol=1e-6).all(1).any() for row in made.codebooks[1])


def test_faiss_finds_what_ours_finds_from_the_same_start() -> None:
    pytest.importorskip("faiss")
    ours, theirs = (measure(kind, items(), SMALL, 0) for kind in ("rq_kmeans", "faiss"))
    assert theirs["reconstruction_loss"] == pytest.approx(ours["reconstruction_loss"], rel=0.03)


def test_without_faiss_the_key_is_absent_and_the_output_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizer, "has_faiss", lambda: False)
    told = compare(items(), SMALL, 1, WITHOUT_VAE)
    assert "faiss" not in told
    assert "pip install" in told["faiss_is_absent"]
    assert "claims" not in told  # nothing to compare with


@pytest.mark.parametrize(
    ("losses", "steps", "flat"),
    [
        ([0.5, 0.4, 0.397], 16, True),
        ([0.5, 0.4, 0.3], 16, False),
        ([0.5, 0.499], 8, True),
        ([0.5, 0.4, 0.45], 8, True),  # more steps overfit, and do not count
    ],
)
def test_steps_double_until_the_held_out_loss_is_flat(
    losses: list[float], steps: int, flat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fake(kind: str, x: Any, size: Size, seed: int) -> dict[str, float]:
        asked.append(size.steps)
        return {"held_out_loss": losses[len(asked) - 1]}

    monkeypatch.setattr(tokenizer, "measure", fake)
    found, size, was_flat = until_flat("rq_vae", items(), SMALL, 0)
    assert (size.steps, was_flat) == (steps, flat)
    assert asked == [4, 8, 16][: len(losses)]
    assert found["held_out_loss"] == min(losses)


def test_other_seeds_make_as_many_steps_as_the_first_ended_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def fake(kind: str, x: Any, size: Size, seed: int) -> dict[str, float]:
        asked.append((size.steps, seed))
        return {"held_out_loss": {4: 0.5, 8: 0.4, 16: 0.399}[size.steps]}

    monkeypatch.setattr(tokenizer, "measure", fake)
    every, told = tokenizer.over_seeds("rq_vae", items(), SMALL, 3)
    assert asked == [(4, 0), (8, 0), (16, 0), (16, 1), (16, 2)]
    assert (len(every), told["steps"], told["flat"]) == (3, 16, True)
    asked.clear()
    tokenizer.over_seeds("rq_kmeans", items(), SMALL, 3)
    assert asked == [(4, 0), (4, 1), (4, 2)]


def one(loss: float, used: float, entropy: float) -> dict[str, Any]:
    return {
        "reconstruction_loss": loss,
        "held_out_loss": loss,
        "utilisation": [1.0, used],
        "entropy_nats": [entropy, entropy],
    }


def test_claims_by_hand() -> None:
    """The rival is the VAE that is better on held-out items; differences go by seed."""
    found = {
        "rq_kmeans": [one(0.30, 1.0, 1.8), one(0.33, 1.0, 1.8)],
        "rq_vae": [one(0.60, 1.0, 1.9), one(0.66, 1.0, 1.9)],
        "rq_vae_wide": [one(0.50, 0.9, 2.0), one(0.55, 0.9, 2.0)],
    }
    told = claims(found, codes=8)
    assert told["rival"] == "rq_vae_wide"
    change = told["loss_lower_by_a_quarter"]
    assert change["relative_difference"]["held_out_loss"]["mean"] == pytest.approx(-0.4)
    assert change["holds"]
    assert told["utilisation_is_1"]["holds"]
    assert told["utilisation_is_1"]["difference"][1]["mean"] == pytest.approx(0.1)
    assert not told["entropy_is_higher"]["holds"]
    assert told["entropy_is_higher"]["difference"][0]["mean"] == pytest.approx(-0.2)
    found["rq_kmeans"] = [one(0.40, 1.0, 2.1), one(0.44, 0.99, 2.1)]
    told = claims(found, codes=8)
    assert not told["loss_lower_by_a_quarter"]["holds"]  # lower by a fifth
    assert not told["utilisation_is_1"]["holds"]
    assert told["entropy_is_higher"]["holds"]


def test_one_seed_has_its_difference_for_an_interval() -> None:
    found = {"rq_kmeans": [one(0.3, 1.0, 2.0)]} | {kind: [one(0.6, 1.0, 1.8)] for kind in VAES}
    told = claims(found, codes=8)
    assert told["loss_lower_by_a_quarter"]["holds"]
    assert told["entropy_is_higher"]["holds"]


def test_what_evenness_costs_by_hand() -> None:
    found = {"rq_kmeans": [one(0.40, 1.0, 1.8), one(0.50, 1.0, 1.8)],
             "capped_rq_kmeans": [one(0.44, 1.0, 2.0), one(0.51, 1.0, 2.0)]}  # fmt: skip
    told = tokenizer.balance(found, 8, "capped_rq_kmeans")
    assert told["extra_error"]["held_out_loss"]["mean"] == pytest.approx(0.06)
    assert told["entropy_share"][1]["mean"] == pytest.approx(2 / math.log(8), abs=1e-4)


def test_a_capped_kind_keeps_its_cap() -> None:
    x = items() ** 3
    _, codes = tokenizer.fitted("capped_rq_kmeans", x, SMALL, 0)
    most = int(tokenizer.CAP * len(x) / SMALL.codes)
    for level in codes.T:
        assert int(level.bincount().max()) <= most
    assert int(codes[:, 0].bincount().max()) > math.ceil(len(x) / SMALL.codes), "not balanced"
    told = compare(x, SMALL, 1, ("rq_kmeans", "capped_rq_kmeans"))
    assert set(told["balance"]) == {"capped_rq_kmeans"}


def test_the_command_reads_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "x.npy", tmp_path / "tokenizer.json"
    np.save(file, items(400).numpy().repeat(2, axis=0))
    words = ["--world", "0", "--seeds", "1", "--kinds", "rq_kmeans", "random"]
    tokenizer.main(["--vectors", str(file), *words, "--threads", "1", "--out", str(out)])
    said = capsys.readouterr()
    assert "rq_kmeans" in said.out
    assert "rq_kmeans, seed 0: 0." in said.err  # a call that is cut has told what it found
    told = json.loads(out.read_text())
    assert told["vectors"]["setting"] == {"items": 800, "dim": 6, "levels": 3, "codes": 256}
    assert told["vectors"]["rq_kmeans"]["collision_rate"]["mean"] > 0.5  # every item is there twice


def test_says_what_cannot_be_measured() -> None:
    with pytest.raises(OneRecError, match="nothing to measure"):
        tokenizer.run(world=0)


def test_a_tenth_of_the_items_is_held_out_by_seed_and_not_fitted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted_on, told_of = [], []
    fit, report = tokenizer.fitted, tokenizer.quantisation_report

    def watched_fit(kind: str, x: torch.Tensor, size: Size, seed: int) -> Any:
        fitted_on.append(set(x[:, 0].tolist()))
        return fit(kind, x, size, seed)

    def watched_report(x: torch.Tensor, *more: Any) -> dict[str, Any]:
        told_of.append(set(x[:, 0].tolist()))
        return report(x, *more)

    monkeypatch.setattr(tokenizer, "fitted", watched_fit)
    monkeypatch.setattr(tokenizer, "quantisation_report", watched_report)
    for seed in (0, 1):
        measure("rq_kmeans", items(), SMALL, seed)
    assert [len(rows) for rows in told_of] == [180, 20, 180, 20]
    assert fitted_on == told_of[::2]
    assert not told_of[0] & told_of[1]
    assert told_of[1] != told_of[3]


def test_a_claim_holds_where_the_whole_interval_says_so() -> None:
    """Losses lower by 26% and 50%, entropies higher by .01 and .5: two seeds do not tell.

    The rival is lower in the mean of its seeds, though not with the first.
    """
    found = {
        "rq_kmeans": [one(0.37, 1.0, 2.01), one(0.25, 1.0, 2.5)],
        "rq_vae": [one(0.40, 1.0, 2.0), one(0.80, 1.0, 2.0)],
        "rq_vae_wide": [one(0.50, 1.0, 2.0), one(0.50, 1.0, 2.0)],
    }
    told = claims(found, codes=16)
    assert told["rival"] == "rq_vae_wide"
    change = told["loss_lower_by_a_quarter"]["relative_difference"]["held_out_loss"]
    assert change["mean"] == pytest.approx(-0.38)
    assert change["low"] < -0.25 < change["high"]
    assert not told["loss_lower_by_a_quarter"]["holds"]
    more = told["entropy_is_higher"]
    assert more["difference"][0]["low"] < 0 < more["difference"][0]["mean"]
    assert not more["holds"]


def test_a_kind_is_made_as_the_docstring_says() -> None:
    size = replace(SMALL, steps=40)
    made = {
        kind: tokenizer.new_quantiser(kind, size, 3).config
        for kind in tokenizer.KINDS
        if kind not in ("random", "faiss")
    }
    assert all((one.levels, one.codebook_size, one.seed) == (2, 8, 3) for one in made.values())
    starts = {kind: made[kind].init for kind in tokenizer.OURS}
    assert starts == {"rq_kmeans": "k-means++", "near_mean": "near-mean", "refined": "near-mean"}
    assert [made[kind].cap for kind in tokenizer.BALANCED] == [1.0, 1.2]
    assert [(made[kind].steps, made[kind].warm_up) for kind in tokenizer.VAES] == [(40, 4)] * 2
    assert [made[kind].latent_dim for kind in tokenizer.VAES] == [32, 128]


def test_rows_that_are_said_exactly_are_no_more_wrong_than_each_other() -> None:
    """Two different rows, each often: every level leaves nothing, and 0 / 0 ended the benchmark."""
    x = torch.eye(2).repeat(40, 1)
    told = compare(x, replace(SMALL, codes=2), 1, ("rq_kmeans", "balanced_rq_kmeans"))
    assert told["rq_kmeans"]["held_out_loss"]["mean"] == 0
    assert told["balance"]["balanced_rq_kmeans"]["extra_error"]["held_out_loss"]["mean"] in (
        0,
        math.inf,
    )
    assert tokenizer._more(3.0, 2.0) == 0.5
    assert tokenizer._more(0.0, 0.0) == 0
    assert tokenizer._more(1.0, 0.0) == math.inf


def test_most_steps_are_no_fewer_than_steps_and_a_kind_is_measured_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.npy"
    np.save(file, items(400).numpy())
    words = ["--vectors", str(file), "--world", "0", "--seeds", "1", "--kinds", "random", "random"]
    assert tokenizer.main([*words, "--steps", "50", "--most-steps", "10"]) == 2
    assert "--most-steps 10: at least --steps 50" in capsys.readouterr().err
    assert tokenizer.main(words) == 0
    assert capsys.readouterr().err.count("random, seed 0") == 1
