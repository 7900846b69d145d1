"""What may be asked of a stream, how many rounds a log has, and what an arm needs of it."""

import numpy as np
import pytest

from onerec.data.log import Interactions, user_offsets
from onerec.errors import DataError, RecipeError
from onerec.stream.config import ARMS, ROUNDS, StreamConfig, check_log, rounds_of


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"arm": "rfst"}, "arm 'rfst': choose one of frozen"),
        ({"rounds": 0}, "rounds=0: needs at least 1"),
        ({"share": 0.0}, r"share=0\.0"),
        ({"lag": -1}, "lag=-1"),
        ({"seed": -1}, "seed=-1: needs 0 or more"),
    ],
)
def test_refusals(wrong, message):
    with pytest.raises(RecipeError, match=message):
        StreamConfig(**wrong)


def test_rounds_end_with_the_log():
    assert rounds_of(None, None) == (ROUNDS, "")
    assert rounds_of(50, None) == (50, "")
    assert rounds_of(None, ROUNDS) == (ROUNDS, "")
    assert rounds_of(14, 14) == (14, "")
    assert rounds_of(None, 14) == (14, "the log has 14 days to play back, so 14 rounds")
    with pytest.raises(RecipeError, match=r"rounds=15: the log has 14 days.* ask for 14 or fewer"):
        rounds_of(15, 14)


@pytest.mark.parametrize("arm", ARMS)
def test_who_needs_play_times(arm):
    user = np.zeros(3, dtype=np.int32)
    for play, known in ((None, False), ([np.nan] * 3, False), ([np.nan, 0, 1], True)):
        columns = {} if play is None else {"play_ms": np.array(play, dtype=np.float32)}
        log = Interactions(user, user, user_offsets(user, 1), 1, 1, columns, user == 0, "every row")
        if arm.startswith("rsft") and not known:
            with pytest.raises(DataError, match=f"arm '{arm}'.*no play_ms; use --arm all"):
                check_log(arm, log)
        else:
            check_log(arm, log)
