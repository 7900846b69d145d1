"""The legality experiment: its arms, its sums, and one small training of each."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onerec import alignment
from onerec.bench import legality
from onerec.runs import open_run
from onerec.sections import SamplingConfig


def test_the_share_of_legal_codes_and_the_start(aligned):
    found = legality.before("first", aligned)
    assert 0 < found["legal_share_of_codes"] <= 1
    assert 0 <= found["legality"] <= 1


def test_the_arms_differ_in_what_they_say():
    """Illegal items are worth -1 in one arm and nothing in the others, which drop them."""
    illegal = {arm: given.get("format_illegal") for arm, given in legality.ARMS.items()}
    assert illegal == dict.fromkeys(illegal, None) | {"punished": -1.0}
    assert legality.ARMS["punished"]["format_items"] == legality.GROUP == 128
    assert legality.ARMS["random"] == {"format_items": 5}
    assert legality.ARMS["top"] == {"format_items": 5, "format_by": "probability"}


@pytest.mark.parametrize("arm", legality.ARMS)
def test_every_arm_trains(aligned, monkeypatch, arm):
    monkeypatch.setattr(legality, "GROUP", 8)
    monkeypatch.setattr(legality, "USERS", 4)
    found = legality.train("first", arm, 0, aligned, 3)
    assert len(found["curve"]) == (0 if arm == "frozen" else 3)
    assert 0 <= found["legality"] <= 1


def test_the_summary_by_hand():
    runs = [
        {"arm": "top", "seed": s, "curve": [0.1] * 20 + [0.9] * 20 + [0.3] * 20, "legality": value}
        | {"valid_recall@10": 0.1, "valid_reward": 0.2}
        for s, value in ((0, 0.25), (1, 0.35))
    ]
    found = legality.summary(runs)["top"]
    assert found["legality"] == [pytest.approx(0.3), 0.25, 0.35]
    assert found["highest"]["legality"] == pytest.approx(0.9)
    assert 20 < found["highest"]["step"] <= 40


def test_the_command_writes_as_it_goes(aligned, tmp_path, monkeypatch):
    monkeypatch.setattr(legality, "GROUP", 8)
    monkeypatch.setattr(legality, "USERS", 4)
    out = tmp_path / "legality.json"
    words = ["--run", "first", "--home", str(aligned), "--steps", "2", "--seeds", "1"]
    legality.main([*words, "--arms", "none", "random", "--out", str(out)])
    found = json.loads(out.read_text())
    assert set(found["arms"]) == {"none", "random"}
    assert (found["search"], found["temperature"]) == ("sample", 1.0)
    assert found["recipe"] == open_run("first", aligned).recipe()["name"]


def test_the_temperature_that_is_told_is_that_of_the_draws(aligned, monkeypatch):
    """By what `sample` is called with, for a run whose recipe samples otherwise; without a trie."""
    monkeypatch.setattr(legality, "GROUP", 8)
    monkeypatch.setattr(legality, "USERS", 4)
    asked, real = [], alignment.sample

    def sample(*given, **settings):
        bound = inspect.signature(real).bind(*given, **settings)
        bound.apply_defaults()
        asked.append([bound.arguments[name] for name in ("temperature", "top_p", "constrained")])
        return real(*given, **settings)

    def cool(*given, known=legality.setting_of):
        setting = known(*given)
        sampling = SamplingConfig(temperature=0.5, top_p=0.9, icepop=5.0)
        return replace(setting, recipe=replace(setting.recipe, sampling=sampling))

    monkeypatch.setattr(alignment, "sample", sample)
    monkeypatch.setattr(legality, "setting_of", cool)
    legality.before("first", aligned)
    of_start = len(asked)
    legality.train("first", "random", 0, aligned, 1)
    assert len(asked) > of_start > 0
    assert all(each == [1.0, 1.0, False] for each in asked)
    shipped = Path(legality.__file__).parent / "results" / "legality.json"
    told = json.loads(shipped.read_text())
    assert (told["search"], told["temperature"]) == (legality.SEARCH, 1.0)


def test_with_a_lag_it_is_the_policy_in_training_that_is_measured(aligned, monkeypatch):
    """A copy that was sent before the first step alone would say what the start says."""
    monkeypatch.setattr(legality, "GROUP", 8)
    monkeypatch.setattr(legality, "USERS", 4)
    monkeypatch.setattr(legality, "RATE", 0.1)
    drew, real = [], alignment.sample

    def sample(model, *given, **settings):
        drew.append({name: each.clone() for name, each in model.state_dict().items()})
        return real(model, *given, **settings)

    monkeypatch.setattr(alignment, "sample", sample)
    end = []
    evaluate = legality.Aligning.evaluate

    def last(self, *given):
        end.append({name: each.clone() for name, each in self.alignment.model.state_dict().items()})
        return evaluate(self, *given)

    monkeypatch.setattr(legality.Aligning, "evaluate", last)
    legality.train("first", "random", 0, aligned, 2, lag=100)
    (trained,) = end
    assert any(not torch.equal(drew[1][name], trained[name]) for name in trained)  # training draws
    for weights in drew[2:]:
        assert all(torch.equal(weights[name], trained[name]) for name in trained)
    assert len(drew) > 2


def parts_of(folder, **changes):
    """Files of `top` and `none`, of which `none` says other things."""
    for arm, said in (("top", {}), ("none", changes)):
        part = {"weight": 0.3, "temperature": 1.0, "arms": {arm: {"seeds": 1}}} | said
        (folder / f"{arm}.json").write_text(json.dumps(part))
    return [str(folder / f"{arm}.json") for arm in ("top", "none")]


def test_arms_measured_apart_are_put_together(tmp_path):
    out = tmp_path / "all.json"
    assert legality.main(["--join", *parts_of(tmp_path), "--out", str(out)]) == 0
    joined = json.loads(out.read_text())
    assert list(joined["arms"]) == ["none", "top"]
    assert joined["weight"] == 0.3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"temperature": 0.5}, "temperature is 0.5, and 1.0 in"),
        ({"lag": 3}, "lag is 3, and None in"),
        ({"before": {"legality": 0.1}}, "before is {'legality': 0.1}, and None in"),
        ({"arms": {"none": {}, "top": {}}}, "arm top is in"),
    ],
)
def test_arms_measured_otherwise_are_not_put_together(tmp_path, capsys, changes, says):
    out = tmp_path / "all.json"
    parts = parts_of(tmp_path, **changes)
    assert legality.main(["--join", *parts, "--out", str(out)]) == 2
    assert f"onerec: {parts[1]}: {says}" in capsys.readouterr().err
    assert not out.exists()


def test_without_a_run_it_says_what_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit):
        legality.main(["--out", str(tmp_path / "f.json")])
    assert "--run is needed" in capsys.readouterr().err
