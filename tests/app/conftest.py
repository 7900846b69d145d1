"""A home with one finished run, an empty home, and the app's modules on the path."""

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "app", ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import fake_run  # noqa: E402
from streamlit.components.v2 import manifest_scanner  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def manifests_are_read_once() -> Iterator[None]:
    """Each page of a test would read what every installed package says of itself, half a second."""
    real = manifest_scanner.scan_component_manifests
    manifest_scanner.scan_component_manifests = functools.cache(real)
    yield
    manifest_scanner.scan_component_manifests = real


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that is read only by agreement: dataset `toy` and the finished run `toy_run`."""
    return fake_run.build(tmp_path_factory.mktemp("finished")).home


@pytest.fixture
def own_home(tmp_path: Path) -> Path:
    """The same, for tests that change it."""
    return fake_run.build(tmp_path / "home").home


@pytest.fixture
def use_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    """Call it with a folder to make it ONEREC_HOME; the demo is an empty folder unless given."""

    def use(home: Path, demo: Path | None = None) -> Path:
        monkeypatch.setenv("ONEREC_HOME", str(home))
        monkeypatch.setenv("ONEREC_DEMO", str(demo or tmp_path / "no_demo"))
        return home

    yield use
    os.environ.pop("ONEREC_DEMO", None)
