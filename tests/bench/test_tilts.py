"""The choice of a tilt by hand, and one small round that never reads test users."""

import json
from types import SimpleNamespace

import pytest
import small_world

from onerec.bench import arms, tilts, worth
from onerec.world import WorldConfig


def part(arm, seed, recall, reward):
    """Valid at the start and at step 5."""
    return {"arm": arm, "seed": seed, "valid": {"0": [0.2, 0.1], "5": [recall, reward]}}


def parts(arm, shares, reward):
    return [part(arm, seed, 0.2 * share, reward) for seed, share in enumerate(shares, 100)]


def test_the_arm_that_holds_with_the_most_reward_is_chosen():
    found = [
        *parts("none", (1.0, 1.0), 0.1),
        *parts("pscore+tilt2@4", (1.02, 1.0), 0.3),
        *parts("pscore+tilt3@4", (1.0, 0.99), 0.4),
        *parts("pscore+tilt4@4", (1.0, 0.975), 0.5),  # one seed lost more than 2%
        *parts("pscore+tilt5@4", (0.985, 0.985), 0.6),  # both seeds only just hold
        *parts("long_view+tilt9@4", (0.9, 0.9), 0.9),
    ]
    rows = tilts.summary(found)
    holds = {row["arm"]: row["holds"] for row in rows}
    assert [arm for arm, held in holds.items() if held] == ["pscore+tilt2@4", "pscore+tilt3@4"]
    assert tilts.chosen_arms(rows) == ["pscore+tilt3@4"]  # of the long view no arm holds
    assert rows[-2]["recall_share"] == [1.0, 0.975]
    assert rows[-2]["steps"] == [5, 5]


def test_a_seed_without_the_arm_that_has_no_reward_is_told():
    with pytest.raises(KeyError):
        tilts.summary(parts("pscore+tilt2@4", (1.0,), 0.3))


def test_the_grid_has_arms_that_can_be_trained():
    from onerec.recipes import recipe

    for arm in tilts.grid():
        found = arms.arm_recipe(recipe("small"), arm, 0).align
        assert found.tilt in tilts.GRID[found.reward]
        assert found.weight in tilts.WEIGHTS


@pytest.mark.slow
def test_a_round_on_a_small_world(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(worth, "SETTINGS", small_world.SETTINGS)
    worth.prepare(tmp_path, WorldConfig(n_items=600, n_users=150, seed=1), steps=5)
    here = SimpleNamespace(run=lambda command, check, stderr, env: tilts.main(command[3:]))
    monkeypatch.setattr(arms, "subprocess", here)
    out = tmp_path / "tilts.json"
    words = ["--home", str(tmp_path), "--arms", "long_view+beam+tilt1.5@4", "--steps", "2"]
    assert tilts.main([*words, "--looks", "2", "--seeds", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {p["arm"] for p in found["arms"]} == {"none", "long_view+beam+tilt1.5@4"}
    assert {p["seed"] for p in found["arms"]} == {tilts.FIRST_SEED}
    assert found["rows"][0]["steps"][0] in (1, 2)
    assert set(found["arms"][0]) == {"arm", "seed", "valid", "seconds"}  # nothing of test
    assert tilts.main(["--home", str(tmp_path / "no"), "--out", str(out)]) == 2
    assert "onerec: " in capsys.readouterr().err
