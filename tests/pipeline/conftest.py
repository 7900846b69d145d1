"""A home of one's own with the dataset `toy`, and a copy of the finished run."""

import shutil
from pathlib import Path

import pytest
import toy_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home but for the dataset `toy`."""
    toy_home.make_dataset(tmp_path)
    return tmp_path


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A home that a test may change: the dataset `toy` and the finished run `first`."""
    return Path(shutil.copytree(trained, tmp_path / "finished"))
