"""The comparison of content vectors: held-out pairs by hand, every arm measured alike."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_home

from onerec.assembly import Setting
from onerec.bench import content as module
from onerec.bench.content import ARMS, MEAN, Held, arm_vectors, compare, later_pairs, table
from onerec.data.dataset import open_dataset
from onerec.data.log import Interactions
from onerec.data.split import Cases, Split
from onerec.errors import DataError
from onerec.tokenizer.content import Precomputed

NO_CASES = Cases(np.zeros(0), np.zeros(0), np.zeros(1), np.zeros(0))


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    toy_home.make_dataset(tmp_path)
    changes = {"qformer.steps": "2", "qformer.width": "16"}
    return Setting.of(toy_home.make_recipe(changes), open_dataset("toy", tmp_path))


def test_later_pairs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """User 0 took 1 2 4 3 3, 4 without success and the 3s after training; user 1 took 3."""
    log = Interactions(
        user=np.array([0, 0, 0, 0, 0, 1], dtype=np.int32),
        item=np.array([1, 2, 4, 3, 3, 3], dtype=np.int32),
        offsets=np.array([0, 5, 6]),
        n_users=2,
        n_items=5,
        columns={},
        positive=np.array([True, True, False, True, True, True]),
        positive_rule="click",
    )
    split = Split("temporal", log, np.array([3, 6]), NO_CASES, NO_CASES, np.ones(5, dtype=bool))
    held = np.array([False, True, False, True, True])
    assert later_pairs(split, held).tolist() == [[3, 1], [3, 2]]
    assert later_pairs(split, ~held).tolist() == []
    all_later = replace(split, train_end=np.array([0, 5]))
    assert later_pairs(all_later, ~held).tolist() == [[2, 1]]
    monkeypatch.setattr(module, "RECENT", 1)
    assert later_pairs(split, held).tolist() == [[3, 2]], "the one before it, and no less"


def test_what_another_user_took_before_is_no_partner() -> None:
    """Users 0 and 1 took items 1 and 2, user 2 then 3 and 4."""
    log = Interactions(
        user=np.array([0, 1, 2, 2], dtype=np.int32),
        item=np.array([1, 2, 3, 4], dtype=np.int32),
        offsets=np.array([0, 1, 2, 4]),
        n_users=3,
        n_items=5,
        columns={},
        positive=np.ones(4, dtype=bool),
        positive_rule="click",
    )
    begin = np.array([0, 1, 2])
    split = Split("temporal", log, begin, NO_CASES, NO_CASES, np.ones(5, dtype=bool))
    assert later_pairs(split, np.ones(5, dtype=bool)).tolist() == [[4, 3]]


def test_held_out_items_may_not_be_fitted_on_and_their_pairs_are_of_later_rows(
    setting: Setting,
) -> None:
    held = Held.of(setting, seed=1)
    out = np.flatnonzero(setting.split.fit_items & ~held.setting.split.fit_items)
    assert len(out) == toy_home.ITEMS // 10
    assert set(held.pairs[:, 0]) <= set(out)
    assert held.setting.recipe.seed == 1
    other = Held.of(setting, seed=2).setting.split.fit_items
    assert not np.array_equal(other, held.setting.split.fit_items), "a seed draws them"
    log, train = setting.split.log, setting.split.train
    log.positive[~train] = False
    with pytest.raises(DataError, match="no held-out item was taken after the training rows"):
        Held.of(setting, seed=1)


def test_items_that_first_appear_later_are_asked_for_too(setting: Setting) -> None:
    split = setting.split
    drawn = split.fit_items & ~Held.of(setting, seed=1).setting.split.fit_items
    late = np.zeros(toy_home.ITEMS, dtype=bool)
    late[np.flatnonzero(~drawn)[:10]] = True
    split.fit_items[late] = False
    held = Held.of(setting, seed=1)
    assert len(later_pairs(split, late))
    assert held.pairs.tolist() == later_pairs(split, late | drawn).tolist()
    assert not held.setting.split.fit_items[late | drawn].any()


def test_the_mean_stands_on_items_that_may_be_fitted_on(setting: Setting) -> None:
    tokens = np.arange(2.0 * toy_home.ITEMS).reshape(toy_home.ITEMS, 1, 2) ** 2
    content = Precomputed(tokens, np.ones((toy_home.ITEMS, 1), dtype=bool))
    made, model = arm_vectors(MEAN, Held.of(setting, 0).setting, content, torch.device("cpu"))
    fit = Held.of(setting, 0).setting.split.fit_items
    centred = tokens[:, 0] - tokens[fit, 0].mean(0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(made, expected, rtol=1e-4)
    assert model is None


def test_every_arm_is_measured_on_the_same_pairs(setting: Setting) -> None:
    result = compare(setting, seeds=2)
    assert tuple(result["arms"]) == ARMS
    for arm, told in result["arms"].items():
        assert len(told["by_seed"]) == 2
        assert 0 <= told["recall@10"]["mean"] <= 1
        assert ("over_mean" in told) == (arm != MEAN)
    both, mean = (result["arms"][arm]["by_seed"] for arm in ("both", MEAN))
    expected = np.mean(np.subtract(both, mean))
    assert result["arms"]["both"]["over_mean"]["mean"] == pytest.approx(expected, abs=1e-5)
    assert result["chance"] == pytest.approx(10 / 29, abs=1e-5)
    speeds = result["items_per_second"]
    parts = sum(1 / speeds[name] for name in ("encoder", "qformer", "quantiser"))
    assert speeds["content_to_code"] == pytest.approx(1 / parts, rel=0.05)
    assert table(result).count("\n") == len(ARMS) + 2


def test_the_command_prints_and_writes_the_same_numbers(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "content.json"
    words = ["--dataset", "toy", "--home", str(tmp_path), "--steps", "2", "--width", "16"]
    words += ["--seeds", "1", "--split", "leave_one_out", "--arms", "mean", "both"]
    module.main([*words, "--threads", "1", "--json", "--out", str(out)])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert list(printed["arms"]) == ["mean", "both"]
    assert "--width 16 --seeds 1 --arms mean both" in printed["command"]
    assert printed["setting"]["width"] == 16
