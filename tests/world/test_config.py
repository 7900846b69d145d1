"""Settings are checked, and every part of the world has random numbers of its own."""

import pytest

from onerec.errors import RecipeError
from onerec.world import WorldConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_items": 10}, "n_items=10: a world needs at least 500"),
        ({"off_content_share": 1.5}, "off_content_share=1.5: must lie between 0 and 1"),
        ({"interest_days": 0.0}, "interest_days=0.0: must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        WorldConfig(**settings)


def test_streams_differ_by_name_and_seed_and_repeat():
    config = WorldConfig()
    first = config.stream("log 0").random(4).tolist()
    assert first == config.stream("log 0").random(4).tolist()
    assert first != config.stream("log 1").random(4).tolist()
    assert first != WorldConfig(seed=1).stream("log 0").random(4).tolist()


def test_the_settings_can_be_written_down():
    config = WorldConfig(n_items=600, seed=3)
    assert WorldConfig(**config.as_dict()) == config
