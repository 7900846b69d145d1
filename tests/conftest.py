"""Fixtures that every test may use."""

import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from onerec.runs import Run

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "tests") not in sys.path:  # for `import toy_home` and `import fake_run`
    sys.path.insert(0, str(ROOT / "tests"))

import fake_run  # noqa: E402


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets (never committed): ONEREC_TEST_DATA, else ../shared/data."""
    named = os.environ.get("ONEREC_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder}; set ONEREC_TEST_DATA to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> fake_run.Fake:
    """A dataset and a finished run written by hand (see `fake_run`); do not change."""
    return fake_run.build(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="session")
def run(fake: fake_run.Fake) -> Run:
    """The finished run of `fake`."""
    return Run(fake.run)


@pytest.fixture(scope="session")
def folder(fake: fake_run.Fake) -> Path:
    """The folder of the dataset of `fake`."""
    return fake.dataset


@pytest.fixture(scope="session")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the dataset `toy` and the run `first` with reward and align; do not change."""
    import toy_home

    from onerec.pipeline import run

    home = tmp_path_factory.mktemp("aligned")
    toy_home.make_dataset(home)
    run("first", toy_home.make_recipe(toy_home.ALIGNED), "toy", home=home)
    return home


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the dataset `toy` and the finished run `first`, really trained; do not change."""
    import toy_home

    from onerec.pipeline import run

    home = tmp_path_factory.mktemp("trained")
    toy_home.make_dataset(home)
    run("first", toy_home.make_recipe(), "toy", home=home)
    return home


@pytest.fixture(scope="session")
def two_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes that train together wrote (see `two_processes`); do not change.

    Made once for all workers of pytest-xdist: who comes second waits, as both cores are at work.
    """
    import two_processes

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "two_trained"
    with FileLock(root / "two_trained.lock"):
        if not (root / "two_trained.done").is_file():
            folder.mkdir(exist_ok=True)
            two_processes.both(folder)
            (root / "two_trained.done").touch()
    return folder
