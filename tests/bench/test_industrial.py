"""The experiment on the industrial reward: the filter and the cut by hand, and one small case."""

import numpy as np
import pytest
import small_world

from onerec.bench import industrial, worth
from onerec.world import WorldConfig


def test_the_filter_drops_items_of_the_kind_and_the_next_ones_move_up():
    kind = np.zeros(40, dtype=bool)
    kind[:3] = True
    lists = np.arange(20)[None]
    random = np.random.default_rng(0)
    assert industrial.filtered(lists, kind, 1.0, random)[0].tolist() == list(range(3, 13))
    assert industrial.filtered(lists, kind, 0.0, random)[0].tolist() == list(range(10))
    some = industrial.filtered(np.tile(lists, (400, 1)), kind, 0.5, random)
    assert 500 < kind[some].sum() < 700


def case(alpha: float, seed: int, exposure: float, watch: float) -> dict:
    made = {"alpha": alpha, "limit": 0.1, "seed": seed, "exposure": exposure, "watch_s": watch}
    made |= {"recall@10": 0.1, "valid_recall@10": 0.1}
    if alpha == 1:
        made["filter"] = [{"share": 0.2, "exposure": 0.8 * exposure, "watch_s": 0.99 * watch}]
    return made


def test_the_papers_cut_is_read_off_the_curve_seed_by_seed():
    runs = []
    for seed, lost in ((0, 0.01), (1, 0.03)):
        runs += [case(1.0, seed, 0.20, 100.0), case(0.9, seed, 0.192, 100.0)]
        runs += [case(0.5, seed, 0.17, 100.0 * (1 - lost))]
    found = industrial.summary(runs)
    at = found["at_the_papers_cut"]["f=0.1"]
    between = (industrial.CUT - 0.04) / (0.15 - 0.04)
    assert at["seeds"] == 2
    assert at["alpha"]["mean"] == pytest.approx(0.9 - 0.4 * between, abs=1e-4)
    assert at["watch_s"]["mean"] == pytest.approx(-0.02 * between, abs=1e-4)
    plain = found["at_the_papers_cut"]["filter"]["watch_s"]["mean"]
    assert plain == pytest.approx(-0.01 * industrial.CUT / 0.2, abs=1e-4)
    assert [line["alpha"] for line in found["changes"]] == [0.5, 0.9]


def test_a_cut_that_no_alpha_reaches_is_said():
    runs = [case(1.0, 0, 0.2, 100.0), case(0.5, 0, 0.199, 100.0)]
    assert industrial.summary(runs)["at_the_papers_cut"]["f=0.1"] == {"seeds": 0}


@pytest.mark.slow
def test_one_case_on_a_small_world(tmp_path):
    """And its objective is the paper's, whatever the recipe of the run says of alignment."""
    asked, real = [], industrial.policy_config

    def policy_config(recipe, dataset):
        asked.append(recipe.align)
        return real(recipe, dataset)

    other = {"align.tilt": "2", "align.weight": "1", "align.search": "beam", "align.lag": "7"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(industrial, "policy_config", policy_config)
        patch.setattr(worth, "SETTINGS", small_world.SETTINGS | other)
        worth.prepare(tmp_path, WorldConfig(n_items=600, n_users=150), steps=5)
        patch.setattr(industrial, "USERS", 4)
        patch.setattr(industrial, "GROUP", 8)
        name = next((tmp_path / "runs").iterdir()).name
        plain = industrial.train(name, 1.0, 0.0, 0, tmp_path, 3)
        less = industrial.train(name, 0.0, 0.0, 0, tmp_path, 3)
    assert {(a.tilt, a.weight, a.search, a.lag) for a in asked} == {(0.0, 0.3, "sample", 0)}
    assert {name: getattr(asked[0], name) for name in industrial.ALIGN} == industrial.ALIGN
    assert 0 <= plain["exposure"] < 1
    assert plain["watch_s"] > 0
    assert len(plain["filter"]) == 4
    assert set(less) == set(plain) - {"filter"}


@pytest.mark.parametrize("alphas", [["0.5"], ["1", "2"]])
def test_alphas_without_1_or_beyond_it_are_refused_before_anything_is_trained(
    alphas, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(industrial, "open_run", lambda *_: None)
    monkeypatch.setattr(industrial, "setting_of", lambda *_: None)
    monkeypatch.setattr(industrial, "known_world", lambda *_: None)
    words = ["--run", "r", "--out", str(tmp_path / "x.json"), "--alphas", *alphas]
    with pytest.raises(SystemExit):
        industrial.main(words)
    assert "--alphas lie from 0 to 1" in capsys.readouterr().err
