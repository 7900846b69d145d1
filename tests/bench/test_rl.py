"""The benchmark of a policy step runs, and its shares add up to one."""

import json
from pathlib import Path

import pytest
import torch

from onerec.bench import rl
from onerec.errors import DataError
from onerec.world import WorldConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("rl") / "rl.json"
    world = WorldConfig(n_items=500, n_users=120, mean_history=30)
    opened, real = [], rl.autocast
    restarted, restart = [], rl.Clock.restart
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "autocast", lambda device: opened.append(device) or real(device))
        patch.setattr(rl.Clock, "restart", lambda c: restarted.append(len(opened)) or restart(c))
        found = rl.run(name="tiny", group=8, users=4, steps=2, out=out, world=world)
    assert len(opened) == 2 * (rl.WARM_UP + 2), "both losses of each step, as the loop has them"
    assert restarted == [2 * rl.WARM_UP], "once, before the steps that are measured"
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


def test_what_was_before_the_measured_steps_is_in_no_time_and_no_peak(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    for name in ("cpu", "cuda"):
        clock = rl.Clock(torch.device(name))
        clock.seconds["rollout"] = 3.0
        clock.restart()
        assert clock.seconds == dict.fromkeys(rl.PARTS, 0.0)
    assert asked == [torch.device("cuda")]


def test_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(rl, "run", lambda world, **settings: settings | {"items": world.n_items})
    rl.main(["--json", "--recipe", "tiny", "--group", "9", "--items", "700"])
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["group"], said["items"]) == ("tiny", 9, 700)
    rl.main([])
    assert "steps                  10" in capsys.readouterr().out


def test_groups_are_put_together_by_the_script(tmp_path, capsys):
    """What is committed of the GPU is what it makes."""
    committed = Path(rl.__file__).parent / "results" / "rl_gpu.json"
    whole = json.loads(committed.read_text())
    second = whole.pop("group_2048")
    paths = [tmp_path / "512.json", tmp_path / "2048.json"]
    for path, part in zip(paths, [whole, whole | second | {"group": 2048}], strict=True):
        path.write_text(json.dumps(part))
    out = tmp_path / "all.json"
    assert rl.main(["--json", "--join", *map(str, paths), "--out", str(out)]) == 0
    assert out.read_text() == committed.read_text()
    assert json.loads(capsys.readouterr().out)["group_2048"] == second


def test_what_was_measured_of_something_else_is_not_put_beside_it(result, tmp_path):
    _, written = result
    first, other = tmp_path / "first.json", tmp_path / "other.json"
    first.write_text(json.dumps(written))
    assert "group_9" in rl.joined([first, changed(other, written, group=9)])
    with pytest.raises(DataError, match=r"other\.json: users is 5, and 4 in .*first\.json"):
        rl.joined([first, changed(other, written, group=9, users=5)])
    with pytest.raises(DataError, match=r"other\.json: group 8 is in .*first\.json too"):
        rl.joined([first, changed(other, written)])


def changed(path, written, **values):
    path.write_text(json.dumps(written | values))
    return path
