"""The legality experiment: its arms, its sums, and one small training of each."""

import inspect
import json
from pathlib import Path

import pytest

from onerec import alignment
from onerec.bench import legality
from onerec.runs import open_run


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
    """By what `sample` is called with; and temperature 1 without a trie is the model's own."""
    monkeypatch.setattr(legality, "GROUP", 8)
    monkeypatch.setattr(legality, "USERS", 4)
    asked, real = [], alignment.sample

    def sample(*given, **settings):
        bound = inspect.signature(real).bind(*given, **settings)
        bound.apply_defaults()
        asked.append((bound.arguments["temperature"], bound.arguments["constrained"]))
        return real(*given, **settings)

    monkeypatch.setattr(alignment, "sample", sample)
    legality.before("first", aligned)
    legality.train("first", "random", 0, aligned, 1)
    assert set(asked) == {(legality.temperature(), False)}
    shipped = Path(legality.__file__).parent / "results" / "legality.json"
    told = json.loads(shipped.read_text())
    assert (told["search"], told["temperature"]) == (legality.SEARCH, legality.temperature())


def test_arms_measured_apart_are_put_together(tmp_path):
    for arm in ("top", "none"):
        part = {"weight": 0.3, "arms": {arm: {"seeds": 1}}}
        (tmp_path / f"{arm}.json").write_text(json.dumps(part))
    out = tmp_path / "all.json"
    parts = [str(tmp_path / f"{arm}.json") for arm in ("top", "none")]
    legality.main(["--join", *parts, "--out", str(out)])
    joined = json.loads(out.read_text())
    assert list(joined["arms"]) == ["none", "top"]
    assert joined["weight"] == 0.3


def test_without_a_run_it_says_what_is_missing(tmp_path, capsys):
    with pytest.raises(SystemExit):
        legality.main(["--out", str(tmp_path / "f.json")])
    assert "--run is needed" in capsys.readouterr().err
