"""What a long history could say: by hand, and on worlds whose old interests come back or not."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from onerec.bench import old_interests
from onerec.bench.old_interests import potential, shares, worth
from onerec.errors import DataError
from onerec.world.config import WorldConfig


def test_shares_of_a_history_by_hand() -> None:
    topic = np.array([0, 1, 2, 3, 4, 5, 6, 0, 3, 7])  # the last three are looked at
    positive = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 0], dtype=bool)
    found = shares(topic, positive, window=2, topics=10)
    # 0 was liked, but not among the last two; 3 was seen and never liked
    assert found[0].tolist() == [0, 1, 1]
    # before row 7: 5 and 6 are recent, 0 1 2 4 old, 4 are left; before row 8: 6 0, 1 2 4 5, 4
    assert found[1].tolist() == [4, 8, 8]
    wide = shares(topic, positive, window=9, topics=10)
    assert wide[0].tolist() == [1, 0, 1]


def test_what_it_is_worth_by_hand() -> None:
    """Six of ten likes are of two old topics, two of six new ones, and two of what is recent."""
    told = worth(np.array([[2.0, 6.0, 2.0], [20.0, 20.0, 60.0]]))
    assert (told["recent"], told["old"], told["never"]) == (0.2, 0.6, 0.2)
    assert told["lift"] == 9.0
    alike = 0.8 / 8
    by_hand = 0.6 * math.log(0.3 / alike) + 0.2 * math.log(0.2 / 6 / alike)
    assert told["nats"] == pytest.approx(by_hand, abs=1e-4)
    nothing = worth(np.array([[2.0, 3.0, 3.0], [20.0, 30.0, 30.0]]))
    assert (nothing["lift"], nothing["nats"]) == (1.0, 0.0)
    assert worth(np.array([[2.0, 0.0, 0.0], [8.0, 0.0, 0.0]]))["lift"] is None


def test_old_interests_that_come_back_are_worth_more() -> None:
    config = WorldConfig(n_items=500, n_users=40, days=200, mean_history=800, interest_days=4)
    worths = [
        potential(WorldConfig(**config.as_dict() | {"old_interest_weight": weight}), (8, 52))
        for weight in (0.0, 1.0)
    ]
    for window in ("8", "52"):
        assert worths[1][window]["nats"] > 2 * worths[0][window]["nats"]
    assert worths[1]["8"]["nats"] > worths[1]["52"]["nats"], "more events say more by themselves"


def test_the_command_and_a_world_of_short_histories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "potential.json"
    asked = ["--world", "n_users=20", "mean_history=400", "n_items=500", "--weights", "1"]
    assert old_interests.main([*asked, "--windows", "8", "--json", "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["weights"]["1"]["8"]["nats"] > 0
    assert json.loads(capsys.readouterr().out) == told
    with pytest.raises(DataError, match="nobody has 2000000 events"):
        potential(WorldConfig(n_items=500, n_users=10), (1_000_000,))
