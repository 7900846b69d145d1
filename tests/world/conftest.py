"""A small world that the tests of this folder share."""

import pytest

from onerec.world import WorldConfig, make_world


@pytest.fixture(scope="session")
def small_world():
    return make_world(WorldConfig(n_items=600, n_users=300, days=20, seed=5))


@pytest.fixture(scope="session")
def small_log(small_world):
    return small_world.simulate()
