"""Who goes where is what the model on disk does; a resumed run has the same files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import toy_home

from onerec.assembly import Setting, load_semantic_ids
from onerec.data.dataset import open_dataset
from onerec.data.tables import read_parquet
from onerec.metrics import recall_at_k
from onerec.model.recording import decoder_mixtures, target_routing
from onerec.pipeline import run_stage
from onerec.pipeline.routing import BEAM, TARGETS, each_without, sample_batch
from onerec.recommend import Recommender
from onerec.runs import Run, open_run

ALTERNATE = {
    "model.encoder_layers": "2",
    "model.decoder_layers": "2",
    "model.expert_blocks": "alternate",
    "train.steps": "4",
    "train.evaluate_every": "2",
    "train.checkpoint_every": "2",
}


def tokens(run: Run, step: int) -> pd.DataFrame:
    return read_parquet(run.path / "routing" / f"tokens-{step:06d}.parquet")


def files(run: Run) -> list[str]:
    return sorted(path.name for path in (run.path / "routing").iterdir())


@pytest.fixture(scope="module")
def recommender(trained: Path) -> Recommender:
    return Recommender.load(open_run("first", trained), device="cpu")


def test_tokens_are_those_of_the_weights_at_that_step(
    trained: Path, recommender: Recommender
) -> None:
    """One context after the other, from the checkpoint on disk."""
    frame = tokens(open_run("first", trained), toy_home.STEPS)
    valid = recommender.setting.split.valid
    assert frame["user"].drop_duplicates().tolist() == valid.user.tolist()
    for number in (0, 7, len(valid) - 1):
        own = frame[frame["context"] == number]
        items = valid.target_items[valid.target_offsets[number] :][:1]
        assert set(own["item"]) == set(items)  # leave one out: one target each
        case = valid.take(np.array([number]))
        user, end = torch.from_numpy(case.user), torch.from_numpy(case.end)
        batch = recommender.contexts.batch(user, end, torch.from_numpy(items + 1)[None])
        alone = target_routing(recommender.model, batch).columns()
        assert own["expert"].tolist() == alone["expert"].tolist()
        assert own["weight"].to_numpy() == pytest.approx(alone["weight"], abs=1e-5)
        assert own["level"].tolist() == alone["level"].tolist()


def test_every_evaluation_leaves_a_file_and_the_files_are_small(trained: Path) -> None:
    run = open_run("first", trained)
    names = ["load.parquet", *(f"tokens-0000{step}.parquet" for step in (10, 20, 30))]
    assert files(run) == [*names, "without.json"]
    assert not tokens(run, 10).equals(tokens(run, 30))
    assert (run.path / "routing" / names[-1]).stat().st_size < 20_000


def test_a_context_has_its_first_targets_and_no_others(recommender: Recommender) -> None:
    from onerec.data.split import Cases

    user = recommender.setting.split.valid.user[:2]
    end = recommender.setting.split.valid.end[:2]
    cases = Cases(user, end, np.array([0, 1, 7]), np.array([9, 1, 2, 3, 4, 5, 6]))
    batch = sample_batch(recommender.contexts, cases)
    assert TARGETS == 4
    assert batch.target.tolist() == [[10, 0, 0, 0], [2, 3, 4, 5]]


def test_without_an_expert_by_hand(trained: Path, recommender: Recommender) -> None:
    """Two experts, one active: without one all tokens see the other, with weight 1."""
    stored = json.loads((open_run("first", trained).path / "routing" / "without.json").read_text())
    cases, model = recommender.setting.split.valid, recommender.model
    assert (stored["step"], stored["contexts"]) == (toy_home.STEPS, len(cases))
    assert [(one["layer"], one["expert"]) for one in stored["experts"]] == [(0, 0), (0, 1)]
    batch = sample_batch(recommender.contexts, cases)

    def numbers() -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            logits = model(batch)
        codes = model.items.codes[batch.target]
        loss = sum(
            F.cross_entropy(one[:, 0], codes[:, 0, level], reduction="none")
            for level, one in enumerate(logits)
        )
        lists = recommender.lists(cases, 10, beam=BEAM).items
        recall = recall_at_k(lists, cases.target_offsets, cases.target_items, 10)
        return recall, loss.numpy()

    recall, loss = numbers()
    assert stored["recall@10"] == pytest.approx(recall.mean())
    assert stored["loss"] == pytest.approx(loss.mean(), abs=1e-5)
    for one in stored["experts"]:
        with model.mixtures()[0].without([one["expert"]]):
            assert (target_routing(model, batch).expert == 1 - one["expert"]).all()
            less, more = numbers()
        assert one["recall@10"] == pytest.approx(less.mean())
        assert one["recall@10_change"][0] == pytest.approx((less - recall).mean())
        assert one["loss_change"][0] == pytest.approx((more - loss).mean(), abs=1e-5)
        middle, low, high = one["loss_change"]
        assert low <= middle <= high
    assert max(one["loss_change"][0] for one in stored["experts"]) > 0.001


def test_a_resumed_run_has_the_same_files(trained: Path, home: Path) -> None:
    run = Run(home / "runs" / "x")

    def stop(stage: str, now: int, *rest: object) -> None:
        if stage == "pretrain" and now == 23:
            run.control(stop=True)

    arguments = {"recipe": toy_home.make_recipe(), "dataset": "toy", "home": home}
    run_stage("pretrain", "x", report=stop, **arguments)
    assert files(run) == ["load.parquet", "tokens-000010.parquet", "tokens-000020.parquet"]
    early = run.path / "pretrain" / "checkpoint-000023.safetensors"
    early.write_bytes(early.read_bytes()[:99])  # so that it goes on from step 20
    ahead = run.path / "routing" / "tokens-000021.parquet"
    shutil.copy(run.path / "routing" / "tokens-000020.parquet", ahead)
    run_stage("pretrain", "x", home=home)
    first = open_run("first", trained)
    assert files(run) == files(first)
    for step in (10, 20, 30):
        assert tokens(run, step).equals(tokens(first, step))
    ours, theirs = ((one.path / "routing" / "without.json").read_text() for one in (run, first))
    assert ours == theirs


def test_killed_between_the_last_step_and_the_end_it_is_made_up_for(
    trained: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(trained, tmp_path / "copy"))
    run = open_run("first", home)
    before = (run.path / "routing" / "without.json").read_text()
    (run.path / "routing" / "without.json").unlink()
    (run.path / "pretrain" / "done.json").unlink()
    run_stage("pretrain", "first", home=home)
    assert (run.path / "routing" / "without.json").read_text() == before


def test_a_dense_model_leaves_nothing(home: Path) -> None:
    recipe = toy_home.make_recipe({"model.experts": "0", "train.steps": "2"})
    run = run_stage("pretrain", "dense", recipe=recipe, dataset="toy", home=home)
    assert run.is_done("pretrain")
    assert not (run.path / "routing").exists()


def test_where_all_experts_are_active_none_can_be_spared(home: Path) -> None:
    recipe = toy_home.make_recipe({"model.active_experts": "2", "train.steps": "2"})
    run = run_stage("pretrain", "all", recipe=recipe, dataset="toy", home=home)
    assert files(run) == ["load.parquet", "tokens-000002.parquet"]


def test_experts_in_the_encoder_have_no_targets_but_can_be_spared(home: Path) -> None:
    recipe = toy_home.make_recipe(ALTERNATE)
    run = run_stage("pretrain", "x", recipe=recipe, dataset="toy", home=home)
    setting = Setting.of(recipe, open_dataset("toy", home))
    model = setting.new_model(load_semantic_ids(run)[0])
    assert len(model.mixtures()) == 2
    (inside,) = decoder_mixtures(model)
    assert set(tokens(run, 4)["layer"]) == {inside}
    assert set(read_parquet(run.path / "routing" / "load.parquet")["layer"]) == {0, 1}
    stored = json.loads((run.path / "routing" / "without.json").read_text())
    assert sorted({one["layer"] for one in stored["experts"]}) == [0, 1]
    encoder = [one for one in stored["experts"] if one["layer"] != inside]
    assert any(one["loss_change"][0] != 0 for one in encoder), "the context is encoded anew"


def test_it_says_how_far_it_is_and_leaves_the_model_as_it_was(recommender: Recommender) -> None:
    seen: list[tuple[int, int]] = []
    cases = recommender.setting.split.valid.take(np.arange(5))
    recommender.model.train()
    each_without(recommender, cases, advance=lambda done, of: seen.append((done, of)))
    assert seen == [(0, 2), (1, 2)]
    assert recommender.model.training
    assert all(mixture.router.off is None for mixture in recommender.model.mixtures())
    recommender.model.eval()
