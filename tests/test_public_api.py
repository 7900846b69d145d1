"""The public names: one list, true, cheap to import, and enough for what the README shows."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import onerec

ROOT = Path(__file__).resolve().parents[1]
# What a person types who follows the README or a notebook.
PROMISED = {
    *("import_files", "open_dataset", "describe", "make_split", "make_world", "WorldConfig"),
    *("recipe", "Recipe", "run", "open_run", "list_runs", "Run", "Recommender"),
    *("RQKmeans", "RQKmeansConfig", "SemanticIds", "Trie", "OneRec", "OneRecConfig"),
    *("LazyConfig", "LazyDecoder"),
    *("beam_search", "OneRecError", "DataError", "RecipeError", "RunError", "__version__"),
}


@pytest.mark.parametrize("name", onerec.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(onerec, name)
    assert value is not None
    if name in onerec._PUBLIC and not isinstance(value, dict):
        home = importlib.import_module(onerec._PUBLIC[name])
        assert getattr(home, name) is value
        assert value.__doc__, f"{name} does not say what it is"


def test_the_list_is_sorted_without_doubles_and_misses_nothing() -> None:
    assert onerec.__all__ == ["__version__", *sorted(set(onerec.__all__) - {"__version__"})]
    assert set(onerec.__all__) >= PROMISED
    assert set(dir(onerec)) == set(onerec.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'onerec' has no attribute 'Recomender'"):
        _ = onerec.Recomender


def test_importing_the_package_and_listing_its_names_costs_no_torch() -> None:
    code = (
        "import sys, onerec; dir(onerec); onerec.__version__; onerec.RunError;"
        "heavy = {'torch', 'pandas', 'duckdb', 'plotly', 'streamlit'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_package() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert onerec.__version__ == project["version"]
