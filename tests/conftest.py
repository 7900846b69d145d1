"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets (never committed): ONEREC_TEST_DATA, else ../shared/data."""
    named = os.environ.get("ONEREC_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder}; set ONEREC_TEST_DATA to a folder that has them")
    return folder
