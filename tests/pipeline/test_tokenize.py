"""The tokenizer stage: what it is fitted on, how large its codebooks get, what it reports."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy_home

from onerec.assembly import Setting, setting_of, trained_item_qformer, trained_quantiser
from onerec.data.dataset import dataset_path, open_dataset, write_dataset
from onerec.errors import DataError, RecipeError, RunError
from onerec.explain import tokens
from onerec.pipeline import run, run_stage
from onerec.pipeline.content import content_vectors
from onerec.pipeline.tokenize import _quantise, codebook_size
from onerec.recipes import from_dict, recipe
from onerec.rewards import own_content
from onerec.runs import Run, open_run, read_json, write_json
from onerec.tokenizer.quantiser import make_quantiser


def tokenized(home: Path, changes: dict[str, str] | None = None, name: str = "x") -> Run:
    return run_stage(
        "tokenize", name, recipe=toy_home.make_recipe(changes), dataset="toy", home=home
    )


def make_setting(home: Path, changes: dict[str, str] | None = None) -> Setting:
    return Setting.of(toy_home.make_recipe(changes), open_dataset("toy", home))


def test_every_item_has_its_codes_and_the_report_agrees_with_them(trained: Path) -> None:
    run = open_run("first", trained)
    ids, report = run.semantic_ids(), run.report()
    assert report is not None
    columns = ["item", "item_id", "code_1", "code_2", "leaf_size", "popularity"]
    assert list(ids.columns) == columns
    items = open_dataset("toy", trained).items
    assert ids["item"].tolist() == list(range(toy_home.ITEMS))
    assert ids["item_id"].tolist() == items["item_id"].tolist()
    codes = ids[["code_1", "code_2"]]
    assert report["sizes"] == [4, 4]
    assert codes.min().min() >= 0
    assert codes.max().max() < 4
    assert report["collisions"]["distinct"] == len(codes.drop_duplicates())
    sharing = codes.groupby(["code_1", "code_2"])["code_1"].transform("size")
    assert ids["leaf_size"].tolist() == sharing.tolist()
    assert [level["used"] for level in report["levels"]] == codes.nunique().tolist()
    assert run.codebooks().shape == (2, 4, 16)
    assert run.vectors().shape == (toy_home.ITEMS, 16)
    parts = [(part["part"], part["dim"]) for part in report["content"]]
    assert parts == [("hashed text", 8), ("co-consumption of training positives", 8)]


def test_codes_are_the_nearest_entries_level_by_level(trained: Path) -> None:
    """Against the definition: each level takes the entry nearest to what is left."""
    run = open_run("first", trained)
    left = run.vectors().astype(np.float64)
    codes = run.semantic_ids()[["code_1", "code_2"]].to_numpy()
    for level, book in enumerate(run.codebooks().astype(np.float64)):
        distance = ((left[:, None] - book[None]) ** 2).sum(2)
        rows = np.arange(len(left))
        # Vectors are kept in half precision: a tie within that may fall either way.
        assert (distance[rows, codes[:, level]] - distance.min(1)).max() < 1e-2
        left = left - book[codes[:, level]]


def test_popularity_counts_training_positives_alone(trained: Path) -> None:
    setting = make_setting(trained)
    split, slow = setting.split, np.zeros(toy_home.ITEMS, dtype=int)
    for user in range(toy_home.USERS):
        for row in range(split.log.offsets[user], split.train_end[user]):
            slow[split.log.item[row]] += bool(split.log.positive[row])
    assert open_run("first", trained).semantic_ids()["popularity"].tolist() == slow.tolist()


def test_a_ceiling_shrinks_to_a_quarter_of_the_items_and_the_report_shows_it(trained: Path) -> None:
    report = open_run("first", trained).report()
    assert report is not None
    ceiling = recipe("tiny").tokenizer.codebook_size
    assert (report["codebook_ceiling"], report["codebook_size"]) == (ceiling, 4)


def test_a_size_that_was_asked_for_is_kept_or_refused(home: Path) -> None:
    exact = make_setting(home, {"tokenizer.codebook_size": "20"})
    assert codebook_size(exact) == 20
    assert codebook_size(make_setting(home, {"tokenizer.codebook_size": "30"})) == 30
    with pytest.raises(RecipeError, match="codebook_size=31 is above the 30 items"):
        codebook_size(make_setting(home, {"tokenizer.codebook_size": "31"}))
    assert codebook_size(Setting.of(recipe("tiny"), open_dataset("toy", home))) == 4
    report = tokenized(home, {"tokenizer.codebook_size": "20"}).report()
    assert report is not None
    assert report["codebook_size"] == 20


KINDS = {
    "balanced": {"tokenizer.kind": "balanced", "tokenizer.policy": "nearest_free"},
    "rq_vae": {"tokenizer.kind": "rq_vae", "tokenizer.steps": "30"},
}


@pytest.mark.parametrize("kind", ["rq_vae", pytest.param("balanced", marks=pytest.mark.slow)])
def test_a_run_with_each_kind_goes_through_all_stages(home: Path, kind: str) -> None:
    changes = {**toy_home.ALIGNED, **KINDS[kind], "history.content": "true"}
    run("x", toy_home.make_recipe(changes), "toy", home=home)
    made = open_run("x", home)
    report = made.report()
    assert report is not None
    assert report["quantiser"] == kind
    assert report["collisions"]["share_touched"] * toy_home.ITEMS == pytest.approx(
        report["collisions"]["items_touched"]
    )
    assert (made.evaluate() or {})["models"]["onerec"]["recall@10"] >= 0
    walk = tokens.residual_walk(made, 3)
    assert walk["norm_after"].notna().all()
    assert tokens.levels(made)["entropy_nats"].tolist() == [
        level["entropy_nats"] for level in report["levels"]
    ]
    assert own_content(made).shape == (toy_home.ITEMS, 8)


def test_an_rq_vae_keeps_content_and_latents_apart(home: Path) -> None:
    """Codes are the nearest entries to the latents; whoever reads content finds content."""
    made = tokenized(home, KINDS["rq_vae"])
    content = content_vectors(setting_of(made, home)).vectors
    np.testing.assert_allclose(made.vectors(), content, atol=1e-3)
    assert made.codebooks().shape == (2, 4, 32)
    assert made.encoded().shape == (toy_home.ITEMS, 32)
    codes = made.semantic_ids()[["code_1", "code_2"]].to_numpy()
    left = made.encoded().astype(np.float64)
    for level, book in enumerate(made.codebooks().astype(np.float64)):
        distance = ((left[:, None] - book[None]) ** 2).sum(2)
        assert distance.argmin(1).tolist() == codes[:, level].tolist()
        left = left - book[codes[:, level]]
    report = made.report()
    assert report is not None
    said = trained_quantiser(made).inverse_transform(torch.tensor(codes)).numpy()
    error = ((content - said) ** 2).sum(1).mean()
    assert report["reconstruction_loss"] == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("kind", ["rq_kmeans", "rq_vae"])
def test_the_quantiser_of_a_run_gives_its_items_their_codes_again(home: Path, kind: str) -> None:
    made = tokenized(home, KINDS.get(kind, {}))
    content = torch.from_numpy(content_vectors(setting_of(made, home)).vectors)
    codes = made.semantic_ids()[["code_1", "code_2"]].to_numpy()
    assert trained_quantiser(made).transform(content).tolist() == codes.tolist()
    with pytest.raises(RunError, match="has no tokenizer yet; `onerec tokenize --run y`"):
        trained_quantiser(Run(made.path.with_name("y")))


def test_balanced_codes_of_a_run_are_balanced(home: Path) -> None:
    ids = tokenized(home, {"tokenizer.kind": "balanced"}).semantic_ids()
    assert make_setting(home).split.fit_items.all()
    for name in ("code_1", "code_2"):
        assert sorted(ids[name].value_counts()) == [7, 7, 8, 8]


def test_a_run_keeps_its_cap_and_refined_codes_are_those_of_the_quantiser(home: Path) -> None:
    capped = {"tokenizer.kind": "balanced", "tokenizer.cap": "1.2"}
    ids = tokenized(home, capped).semantic_ids()
    for name in ("code_1", "code_2"):
        assert ids[name].value_counts().max() <= 9  # of 30 items on 4 codes, 7.5 in the mean
    run = tokenized(home, {"tokenizer.kind": "refined"}, "y")
    quantiser, vectors = trained_quantiser(run), run.vectors()
    codes = quantiser.transform(torch.from_numpy(np.asarray(vectors, dtype=np.float32)))
    assert type(quantiser).__name__ == "RefinedRQKmeans"
    shown = run.semantic_ids()[["code_1", "code_2"]].to_numpy()
    assert (codes.numpy() == shown).mean() > 0.95, "vectors are kept in half precision"


def test_nearest_free_leaves_no_more_than_a_prefix_can_hold_and_says_so(home: Path) -> None:
    share = tokenized(home)
    free = tokenized(home, {"tokenizer.policy": "nearest_free"}, "y")
    before, after = share.semantic_ids(), free.semantic_ids()
    assert after["code_1"].tolist() == before["code_1"].tolist()
    report, was = free.report(), share.report()
    assert report is not None
    assert was is not None
    touched = int((after["code_2"] != before["code_2"]).sum())
    assert report["collisions"]["items_touched"] == touched > 0
    assert was["collisions"]["items_touched"] == 0
    largest = before.groupby("code_1").size()
    taken = after.groupby("code_1")["code_2"].nunique()
    assert taken.tolist() == largest.clip(upper=4).tolist()
    assert report["collisions"]["items_left"] == int((after["leaf_size"] > 1).sum())
    assert report["reconstruction_loss"] > was["reconstruction_loss"]


def test_a_run_from_before_there_were_kinds_is_one_of_residual_k_means(finished: Path) -> None:
    path = finished / "runs" / "first" / "recipe.json"
    described = read_json(path)
    for name in ("kind", "steps"):
        del described["recipe"]["tokenizer"][name]
    write_json(path, described)
    old = open_run("first", finished)
    assert from_dict(described["recipe"]).tokenizer.kind == "rq_kmeans"
    assert trained_quantiser(old).codebooks.numpy().tolist() == old.codebooks().tolist()
    assert np.array_equal(old.encoded(), old.vectors())
    run("first", toy_home.make_recipe(), "toy", home=finished)  # goes on, and has nothing to do


def test_each_policy_is_counted(home: Path) -> None:
    report = tokenized(home, {"tokenizer.policy": "extra_level"}).report()
    assert report is not None
    assert report["collisions"]["policy"] == "extra_level"
    assert len(report["sizes"]) == 3
    ids = open_run("x", home).semantic_ids()
    assert len(ids[["code_1", "code_2", "code_3"]].drop_duplicates()) == toy_home.ITEMS


ALIGNED = {"qformer.steps": "24"}


def test_a_qformer_is_trained_saved_and_told_of(home: Path) -> None:
    made = tokenized(home, ALIGNED)
    report = made.report()
    assert report is not None
    part = report["content"][0]
    assert (part["part"], part["dim"], part["steps"]) == ("QFormer", 256, 24)
    assert part["last_losses"]["loss"] < part["first_losses"]["loss"]
    assert part["retrieval"]["held_out_items"] == 1
    lines = [line for line in made.metrics().to_dict("records") if line["stage"] == "tokenize"]
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert lines[-1]["caption"] < lines[0]["caption"]
    vectors = made.vectors()
    assert vectors is not None
    assert vectors.shape == (toy_home.ITEMS, 256 + 8)
    model = trained_item_qformer(made)
    assert model.dim == 8
    assert sum(p.numel() for p in model.parameters()) * 4 < (
        (made.path / "tokenizer" / "qformer.safetensors").stat().st_size
    )


def test_a_stage_that_was_stopped_begins_anew_and_ends_alike(home: Path) -> None:
    def stop(stage: str, step: int, of: int, values: dict[str, object]) -> None:
        if "step 20" in str(values.get("message")):
            raise KeyboardInterrupt

    whole = tokenized(home, ALIGNED, "whole")
    recipe = toy_home.make_recipe(ALIGNED)
    with pytest.raises(KeyboardInterrupt):
        run_stage("tokenize", "x", recipe=recipe, dataset="toy", home=home, report=stop)
    assert not open_run("x", home).is_done("tokenize")
    again = run_stage("tokenize", "x", home=home)
    for file in ("qformer", "codebooks", "vectors"):
        one, two = (made.path / "tokenizer" / f"{file}.safetensors" for made in (whole, again))
        assert one.read_bytes() == two.read_bytes()
    for made in (whole, again):
        steps = made.metrics().query("stage == 'tokenize'")["step"].tolist()
        assert steps == list(range(1, 25))


def test_a_run_without_a_qformer_says_so(trained: Path) -> None:
    with pytest.raises(RunError, match=r"'first' has no trained QFormer.*qformer\.steps"):
        trained_item_qformer(open_run("first", trained))


def test_vectors_that_are_all_equal_are_refused(home: Path) -> None:
    """No co-consumption, and texts that say the same."""
    log, items, users = toy_home.tables()
    items = items.assign(title="the same words", tags=[["x"]] * toy_home.ITEMS)
    items = items.drop(columns="author_id")
    write_dataset(dataset_path("same", home), "same", log, items, users, source="toy")
    recipe = toy_home.make_recipe({"content.behaviour_weight": "0"})
    with pytest.raises(DataError, match=r"content vectors of all 30 items are equal"):
        run_stage("tokenize", "x", recipe=recipe, dataset="same", home=home)


def test_vectors_of_another_width_are_refused_by_the_quantiser_of_a_run(trained: Path) -> None:
    quantiser = trained_quantiser(open_run("first", trained))
    with pytest.raises(ValueError, match=r"x is \(2, 5\); the codebooks take \(n, 16\)"):
        quantiser.transform(torch.zeros(2, 5))


def test_codebooks_are_fitted_on_some_items_which_have_the_codes_of_the_fit(home: Path) -> None:
    """Balanced codes need not be the nearest; the other items get those."""
    setting = make_setting(home, {"tokenizer.kind": "balanced"})
    setting.split.fit_items[24:] = False
    vectors = content_vectors(setting).vectors
    session = SimpleNamespace(setting=setting, device=torch.device("cpu"))
    quantiser, ids, report = _quantise(session, vectors, 4)  # type: ignore[arg-type]
    x, slow = torch.from_numpy(vectors), make_quantiser("balanced", quantiser.config)
    codes = slow.fit_transform(x[:24])
    assert quantiser.codebooks.equal(slow.codebooks)
    assert ids.codes[:24].tolist() == codes.tolist() != slow.transform(x[:24]).tolist()
    assert ids.codes[24:].tolist() == slow.transform(x[24:]).tolist()
    assert report["fit_items"] == 24


def test_items_that_may_not_be_fitted_on_make_no_room_for_codes(home: Path) -> None:
    setting = make_setting(home, {"tokenizer.codebook_size": "21"})
    setting.split.fit_items[20:] = False
    with pytest.raises(RecipeError, match="codebook_size=21 is above the 20 items"):
        codebook_size(setting)
    setting.split.fit_items[20] = True
    assert codebook_size(setting) == 21
