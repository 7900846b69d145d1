"""The benchmark of a policy step runs, and its shares add up to one."""

import json

import pytest
import torch

from onerec.bench import rl
from onerec.world import WorldConfig


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("rl") / "rl.json"
    world = WorldConfig(n_items=500, n_users=120, mean_history=30)
    found = rl.run(name="tiny", group=8, users=4, steps=2, out=out, world=world)
    return found, json.loads(out.read_text())


def test_it_says_how_fast_and_where_the_time_goes(result):
    found, written = result
    assert written == found
    assert found["users_per_second"] > 0
    assert found["items_per_second"] == pytest.approx(8 * found["users_per_second"], rel=0.02)
    assert set(found["share"]) == {"rollout", "reward", "update"}
    assert sum(found["share"].values()) == pytest.approx(1, abs=0.01)
    assert found["milliseconds_a_step"]["next_token"] > 0


def test_the_clock_books_what_passed():
    clock = rl.Clock(torch.device("cpu"))
    begun = clock.now()
    ended = clock.add("reward", begun)
    assert clock.seconds["reward"] == pytest.approx(ended - begun)
    assert clock.seconds["rollout"] == 0


def test_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(rl, "run", lambda **settings: settings)
    rl.main(["--json", "--recipe", "tiny", "--group", "9"])
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["group"]) == ("tiny", 9)
    rl.main([])
    assert "steps                  10" in capsys.readouterr().out
