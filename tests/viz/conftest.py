"""A finished toy run for every test here; see `tests/fake_run.py`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `fake_run` can be imported

import fake_run

from onerec.runs import Run


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> fake_run.Fake:
    return fake_run.build(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def run(fake: fake_run.Fake) -> Run:
    return Run(fake.run)


@pytest.fixture(scope="session")
def folder(fake: fake_run.Fake) -> Path:
    return fake.dataset
