"""The comparison's parts: equal sizes, the loss by hand, the summary by hand, one small run."""

import json

import pytest
import torch

from onerec.assembly import load_semantic_ids, setting_of
from onerec.bench import arms, lazy
from onerec.count import Counter
from onerec.model.lazy import LazyDecoder
from onerec.runs import open_run


def test_the_lazy_decoder_is_as_deep_as_parameters_say(trained):
    run = open_run("first", trained)
    setting = setting_of(run, trained)
    known = lazy.cardinalities(setting, run)
    found = lazy.arms(setting.recipe, 32, 2, known)
    ids, _ = load_semantic_ids(run)
    counts = {}
    for kind, recipe in found.items():
        model = type(setting)(recipe, setting.dataset, setting.split, setting.features)
        model = model.new_model(ids, vectors=run.vectors())
        counts[kind] = sum(p.numel() for p in model.parameters())
        assert counts[kind] == Counter(recipe, known).total()
        assert isinstance(model, LazyDecoder) == (kind == "lazy")
        assert not model.mixtures()
    block = 18 * 32**2
    assert abs(counts["lazy"] - counts["encoder_decoder"]) <= block / 2 + 200


def test_the_loss_counts_every_target_that_exists_once(trained):
    run = open_run("first", trained)
    setting = setting_of(run, trained)
    ids, _ = load_semantic_ids(run)
    model = setting.new_model(ids, vectors=run.vectors()).eval()
    cases, total = setting.split.valid, []
    contexts = setting.contexts("cpu")
    for case in range(len(cases)):
        items = cases.target_items[cases.target_offsets[case] : cases.target_offsets[case + 1]]
        for item in items[: setting.recipe.train.targets]:
            batch = contexts.batch(
                torch.tensor([cases.user[case]]),
                torch.tensor([cases.end[case]]),
                torch.tensor([[item + 1]]),
            )
            with torch.no_grad():
                total.append(model.loss(batch)[0].item() / model.levels)
    assert lazy.valid_loss(model, setting) == pytest.approx(sum(total) / len(total), rel=1e-5)


def test_the_summary_takes_the_better_rate_of_the_first_seed_and_pairs_by_seed():
    def line(kind, seed, rate, loss):
        extra = {"recall@10": 0.1, "seconds": 1.0, "parameters": 7}
        return {"kind": kind, "seed": seed, "rate": rate, "loss": loss, **extra}

    runs = [
        line("encoder_decoder", 0, 1e-3, 2.0),
        line("encoder_decoder", 0, 2e-3, 3.0),
        line("lazy", 0, 1e-3, 5.0),
        line("lazy", 0, 2e-3, 1.98),
        line("encoder_decoder", 1, 1e-3, 4.0),
        line("lazy", 1, 2e-3, 4.0),
    ]
    found = lazy.summary(runs)
    assert found["encoder_decoder"]["rate"] == 1e-3
    assert found["lazy"]["rate"] == 2e-3
    assert found["lazy"]["loss"]["mean"] == pytest.approx(2.99)
    assert found["loss_change"]["mean"] == pytest.approx((1.98 / 2 - 1) / 2)


def test_a_small_comparison_from_end_to_end(trained, tmp_path, capsys, monkeypatch):
    made = []

    def here(command, check, stderr, env):
        made.append(command[command.index("--one") + 1])
        lazy.main(command[3:])

    monkeypatch.setattr(arms.subprocess, "run", here)
    monkeypatch.setattr(lazy, "commit", lambda: "made here")
    out = tmp_path / "lazy.json"
    words = ["--run", "first", "--home", str(trained), "--width", "16", "--layers", "1"]
    words += ["--steps", "4", "--batch", "16", "--rates", "0.001", "0.002", "--seeds", "2"]
    lazy.main([*words, "--out", str(out)])
    told = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == told["summary"]
    assert len(told["runs"]) == 4 + 2  # both rates with the first seed, the better one then
    assert len(made) == 6
    tuned, best = told["runs"], told["summary"]
    for kind in lazy.KINDS:
        tried = {r["rate"]: r["loss"] for r in tuned if r["kind"] == kind and not r["seed"]}
        assert best[kind]["rate"] == min(tried, key=tried.get)
        assert f"{kind}:{best[kind]['rate']:g}:1" in made
    lazy.main([*words, "--out", str(out)])  # what is there is not trained again
    assert len(made) == 6
    again = json.loads(out.read_text())
    assert again["summary"] == told["summary"]
    flops = told["gflops_per_sample"]
    assert flops["lazy"] < flops["encoder_decoder"]


def test_a_rate_that_trains_nothing_is_refused(trained, tmp_path, capsys):
    words = ["--run", "first", "--home", str(trained), "--rates", "0", "0.001"]
    assert lazy.main([*words, "--out", str(tmp_path / "lazy.json")]) == 2
    assert "--rates 0.0: a number above 0" in capsys.readouterr().err
