"""A run's parts put together: the same for the same recipe, and refused where they do not fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_home

from onerec.assembly import (
    Setting,
    load_semantic_ids,
    make_trie,
    setting_of,
    trained_model,
    training_popularity,
)
from onerec.data.dataset import open_dataset
from onerec.errors import RunError
from onerec.metrics import recall_at_k
from onerec.model.lazy import ContextConfig, LazyDecoder
from onerec.model.routers import RouterConfig
from onerec.pipeline import run_stage
from onerec.recommend import Recommender
from onerec.runs import Run, open_run


@pytest.fixture(scope="module")
def setting(trained: Path) -> Setting:
    return setting_of(open_run("first", trained))


def test_the_setting_of_a_run_is_what_it_was_made_with(trained: Path, setting: Setting) -> None:
    assert setting.recipe == toy_home.make_recipe()
    assert setting.dataset.path == trained / "datasets" / "toy"
    assert setting.split.rule == "leave_one_out"


def test_a_new_model_depends_on_the_seed_alone(trained: Path, setting: Setting) -> None:
    ids, _ = load_semantic_ids(open_run("first", trained))
    torch.manual_seed(1)
    first = setting.new_model(ids).state_dict()
    torch.manual_seed(2)
    again = setting.new_model(ids).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = Setting.of(toy_home.make_recipe({"seed": "5"}), setting.dataset).new_model(ids)
    assert any(not torch.equal(first[name], tensor) for name, tensor in other.state_dict().items())


def test_every_setting_of_the_model_reaches_it(trained: Path) -> None:
    changes = {
        "model.width": "24",
        "model.heads": "3",
        "model.encoder_layers": "2",
        "model.decoder_layers": "3",
        "model.experts": "5",
        "model.active_experts": "3",
        "routing.router": "competition",
        "routing.shared_experts": "2",
        "routing.balance_weight": "0.5",
        "routing.z_weight": "0.25",
        "routing.distillation_weight": "0.125",
        "routing.diversity_weight": "0.0625",
        "routing.competition_rate": "0.3",
        "routing.competition_layers": "4",
        "routing.competition_warmup": "0.2",
        "model.dropout": "0.25",
        "model.label_smoothing": "0.05",
        "train.residual": "bfloat16",
        "model.tied_output": "true",
        "model.expert_blocks": "alternate",
        "history.short_length": "4",
        "history.positive_length": "6",
        "history.item_input": "codes",
    }
    ids, _ = load_semantic_ids(open_run("first", trained))
    made = Setting.of(toy_home.make_recipe(changes), open_dataset("toy", trained)).new_model(ids)
    config, vocabulary = made.config, made.vocabulary
    assert (config.width, config.heads, config.layers, config.decoder_layers) == (24, 3, 2, 3)
    assert (config.experts, config.active_experts, config.shared_experts) == (5, 3, 2)
    assert config.router == RouterConfig(
        kind="competition",
        balance_weight=0.5,
        z_weight=0.25,
        distillation_weight=0.125,
        diversity_weight=0.0625,
        competition_rate=0.3,
        competition_layers=4,
        competition_warmup=0.2,
    )
    assert len(made.mixtures()) == 2  # the second block of each side
    assert (config.dropout, config.label_smoothing) == (0.25, 0.05)
    assert config.residual == "bfloat16"
    assert (config.short_length, config.positive_length) == (4, 6)
    assert (vocabulary.item_input, vocabulary.tied_output) == ("codes", True)
    assert vocabulary.sizes == ids.sizes
    assert vocabulary.n_items == toy_home.ITEMS
    assert vocabulary.user_features == (2,)  # north and south
    assert vocabulary.behaviours == 2  # click and like


def test_the_default_of_the_recipe_is_that_of_the_model(setting: Setting, trained: Path) -> None:
    ids, _ = load_semantic_ids(open_run("first", trained))
    assert setting.new_model(ids).config.router == RouterConfig()


def test_a_lazy_recipe_makes_a_lazy_decoder(trained: Path) -> None:
    changes = {
        "model.kind": "lazy",
        "model.decoder_layers": "3",
        "model.expert_blocks": "late",
        "model.label_smoothing": "0.05",
        "context.width": "24",
        "context.sets": "2",
        "context.separate_values": "true",
        "context.groups": "1",
    }
    ids, _ = load_semantic_ids(open_run("first", trained))
    made = Setting.of(toy_home.make_recipe(changes), open_dataset("toy", trained)).new_model(ids)
    assert isinstance(made, LazyDecoder)
    assert made.config.context == ContextConfig(24, 2, True, 1)
    assert (made.config.width, made.config.heads, made.config.layers) == (16, 2, 0)
    assert (made.config.experts, made.config.label_smoothing) == (2, 0.05)
    assert len(made.mixtures()) == 1  # the third block


def test_content_is_read_where_the_recipe_says_so(trained: Path) -> None:
    run = open_run("first", trained)
    ids, _ = load_semantic_ids(run)
    vectors = run.vectors()
    assert vectors is not None
    reading = Setting.of(
        toy_home.make_recipe({"history.content": "true"}), open_dataset("toy", trained)
    )
    made = reading.new_model(ids, vectors=vectors)
    assert made.vocabulary.content_dim == vectors.shape[1]
    assert np.array_equal(made.items.content[1:].numpy(), vectors)
    with pytest.raises(RunError, match=r"vectors\.safetensors.*onerec tokenize"):
        reading.new_model(ids)


def test_popularity_by_hand(setting: Setting) -> None:
    counts = training_popularity(setting.split)
    log, train = setting.split.log, setting.split.train
    assert counts.sum() == (train & log.positive).sum()
    item = int(log.item[0])
    rows = [r for r in range(len(log)) if train[r] and log.positive[r] and log.item[r] == item]
    assert counts[item] == len(rows)


def test_semantic_ids_and_their_trie_agree(trained: Path) -> None:
    ids, popularity = load_semantic_ids(open_run("first", trained))
    trie = make_trie(ids, popularity)
    leaves = trie.leaf_of(torch.from_numpy(ids.codes))
    assert trie.n_leaves == len(np.unique(ids.codes, axis=0))
    for leaf in range(trie.n_leaves):
        items = trie.items_of(leaf).tolist()
        assert sorted(items) == np.flatnonzero(leaves.numpy() == leaf).tolist()
        assert popularity[items].tolist() == sorted(popularity[items], reverse=True)


def test_the_trained_model_is_the_chosen_checkpoint(trained: Path, setting: Setting) -> None:
    from safetensors.torch import load_file

    run = open_run("first", trained)
    ids, _ = load_semantic_ids(run)
    model = trained_model(run, setting, ids).state_dict()
    saved = load_file(run.path / "pretrain" / (run.done("pretrain") or {})["checkpoint"])
    assert all(torch.equal(saved[f"model.{name}"], tensor) for name, tensor in model.items())


def test_what_is_missing_is_said_with_the_command_that_makes_it(
    tmp_path: Path, setting: Setting, trained: Path
) -> None:
    empty = tmp_path / "runs" / "x"
    empty.mkdir(parents=True)
    with pytest.raises(RunError, match=r"'x' has no recipe\.json; start it with `onerec run`"):
        setting_of(Run(empty))
    with pytest.raises(RunError, match="no tokenizer yet; `onerec tokenize --run x` makes it"):
        load_semantic_ids(Run(empty))
    ids, _ = load_semantic_ids(open_run("first", trained))
    with pytest.raises(RunError, match="not trained yet; `onerec pretrain --run x` goes on"):
        trained_model(Run(empty), setting, ids)


def test_damaged_semantic_ids_are_told_in_one_line(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "cut"
    shutil.copytree(trained / "runs" / "first" / "tokenizer", path / "tokenizer")
    file = path / "tokenizer" / "semantic_ids.parquet"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(RunError, match=r"semantic_ids\.parquet: cannot be read .* start a new run"):
        load_semantic_ids(Run(path))


def test_a_checkpoint_of_another_shape_is_named(trained: Path) -> None:
    run = open_run("first", trained)
    ids, _ = load_semantic_ids(run)
    wide = Setting.of(toy_home.make_recipe({"model.width": "32"}), open_dataset("toy", trained))
    with pytest.raises(RunError, match=r"checkpoint-000030.* tensor .* is \(.*\) in the file"):
        trained_model(run, wide, ids)


def test_a_recipe_of_another_version_is_refused(trained: Path, tmp_path: Path) -> None:
    said = json.loads((trained / "runs" / "first" / "recipe.json").read_text())
    said["recipe"]["model"]["widht"] = said["recipe"]["model"].pop("width")
    path = tmp_path / "runs" / "old"
    path.mkdir(parents=True)
    (path / "recipe.json").write_text(json.dumps(said))
    from onerec.errors import RecipeError

    with pytest.raises(RecipeError, match=r"'model\.widht' is unknown \(did you mean 'width'"):
        setting_of(Run(path), trained)
    said["recipe"]["model"] = {"dropout": float("nan")}
    (path / "recipe.json").write_text(json.dumps(said))
    with pytest.raises(RecipeError, match=r"model\.dropout=nan: needs a finite number"):
        setting_of(Run(path), trained)


def test_a_run_that_reads_content_is_served_as_it_was_trained(tmp_path: Path) -> None:
    """Through the checkpoint on disk: the valid recall of the last step, measured again."""
    toy_home.make_dataset(tmp_path)
    changes = {"history.content": "true", "baselines.names": "popularity"}
    made = run_stage(
        "pretrain", "c", recipe=toy_home.make_recipe(changes), dataset="toy", home=tmp_path
    )
    recommender = Recommender.load(made, device="cpu")
    assert recommender.model.vocabulary.content_dim > 0
    valid = recommender.setting.split.valid
    items = recommender.lists(valid, 10).items
    recall = recall_at_k(items, valid.target_offsets, valid.target_items, 10).mean()
    assert made.metrics("pretrain")["valid_recall@10"].iloc[-1] == recall
