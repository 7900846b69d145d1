"""Vectors of items that came later: as of items like them, and clear words where they cannot be."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_home

from onerec.assembly import setting_of
from onerec.data.dataset import Content, dataset_path, write_dataset
from onerec.errors import DataError, RunError
from onerec.new_items import new_item_vectors, textless
from onerec.pipeline import run_stage
from onerec.recommend import Recommender
from onerec.runs import Run, open_run
from onerec.tokenizer.content import CO_CONSUMPTION, Precomputed

TEXTS = {"content.behaviour_weight": "0"}
ALIGNED = {"qformer.steps": "4", "qformer.width": "16"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the dataset `toy`."""
    toy_home.make_dataset(tmp_path)
    return tmp_path


def tokenized(home: Path, changes: dict[str, str]) -> Run:
    """A run of the toy dataset whose tokenizer is done."""
    recipe = toy_home.make_recipe(changes)
    return run_stage("tokenize", "x", recipe=recipe, dataset="toy", home=home)


@pytest.mark.parametrize("changes", [TEXTS, {**TEXTS, **ALIGNED}], ids=["mean", "qformer"])
def test_items_like_those_of_the_run_get_their_vectors(home: Path, changes: dict[str, str]) -> None:
    run = tokenized(home, changes)
    setting = setting_of(run, home)
    rows = setting.dataset.items.iloc[[4, 17, 9]]
    content = setting.dataset.content()
    tokens = None
    if content is not None:
        tokens = Precomputed(content.tokens, content.mask, "own").take(np.array([4, 17, 9]))
    made = new_item_vectors(setting, run, rows, tokens)
    vectors = run.vectors()
    assert vectors is not None
    np.testing.assert_allclose(made, vectors[[4, 17, 9]], atol=4e-3)


def test_what_nobody_knows_of_a_new_item_stands_at_the_mean(home: Path) -> None:
    """Co-consumption of all, and the text of one that has none."""
    run = tokenized(home, {})
    setting = setting_of(run, home)
    items = pd.DataFrame({"item_id": ["a", "b"], "title": ["nothing known", None]})
    made = new_item_vectors(setting, run, items)
    parts = (run.report() or {})["content"]
    assert [part["part"] for part in parts] == ["hashed text", CO_CONSUMPTION]
    assert not made[:, parts[0]["dim"] :].any()
    assert not made[1].any()


def test_a_recommender_takes_texts_alone(trained: Path) -> None:
    recommender = Recommender.load(open_run("first", trained))
    items = recommender.setting.dataset.items.iloc[[4]].assign(item_id="again4")
    richer = recommender.with_items(items)
    assert richer.trie.n_items == toy_home.ITEMS + 1
    found = richer.recommend_for(["i03"], k=toy_home.ITEMS + 1)
    assert "again4" in set(found["item_id"])


@pytest.mark.parametrize("changes", [TEXTS, {**TEXTS, **ALIGNED}], ids=["mean", "qformer"])
def test_items_without_a_text_that_the_run_reads_are_counted(
    home: Path, changes: dict[str, str]
) -> None:
    run = tokenized(home, changes)
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["cooking", None, ""]})
    assert textless(run, items[:1]) == []
    (note,) = textless(run, items)
    assert note.startswith("2 of 3 new items without text: this run reads title")
    (note,) = textless(run, pd.DataFrame({"item_id": ["a"], "headline": ["cooking"]}))
    assert note.startswith("1 of 1 new item without text: this run reads title")


def test_what_cannot_be_made_is_said(home: Path) -> None:
    run = tokenized(home, {})
    setting = setting_of(run, home)
    items = pd.DataFrame({"item_id": ["a"]})
    path = run.path / "tokenizer" / "content.safetensors"
    state = path.read_bytes()
    path.unlink()
    with pytest.raises(RunError, match="'x' was tokenized before what encodes new items was kept"):
        new_item_vectors(setting, run, items)
    path.write_bytes(state[:40])
    with pytest.raises(RunError, match=r"content\.safetensors"):
        new_item_vectors(setting, run, items)
    (run.path / "tokenizer" / "done.json").unlink()
    with pytest.raises(RunError, match="'x' has no tokenizer yet; `onerec tokenize --run x`"):
        new_item_vectors(setting, run, items)


def test_tokens_are_asked_for_where_the_run_reads_tokens(home: Path) -> None:
    log, items, users = toy_home.tables()
    tokens = np.random.default_rng(0).normal(size=(len(items), 2, 4)).astype(np.float32)
    there = np.ones(tokens.shape[:2], dtype=bool)
    content = Content(tokens, there, np.zeros(2, dtype=np.int64), ("caption",))
    path = dataset_path("told", home)
    write_dataset(path, "told", log, items, users, source="toy", content=content)
    recipe = toy_home.make_recipe({"content.behaviour_weight": "0"})
    run = run_stage("tokenize", "y", recipe=recipe, dataset="told", home=home)
    setting = setting_of(run, home)
    kept = setting.dataset.content()
    assert kept is not None
    own = Precomputed(kept.tokens, kept.mask, "own")
    asked = pd.DataFrame({"item_id": ["a", "b"]})
    with pytest.raises(DataError, match=r"2 new items need content tokens.*vectors=.*weight=0"):
        new_item_vectors(setting, run, asked)
    with pytest.raises(DataError, match=r"^1 new item needs content tokens"):
        new_item_vectors(setting, run, asked[:1])
    with pytest.raises(DataError, match="given are those of 1"):
        new_item_vectors(setting, run, asked, own.take(np.array([3])))
    made = new_item_vectors(setting, run, asked, own.take(np.array([3, 5])))
    vectors = run.vectors()
    assert vectors is not None
    np.testing.assert_allclose(made, vectors[[3, 5]], atol=2e-3)
