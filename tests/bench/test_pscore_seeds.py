"""Seeds are put together by the script: what is committed is what it makes."""

import copy
import json
from pathlib import Path

import pytest

from onerec.bench import pscore, pscore_seeds
from onerec.errors import DataError

COMMITTED = Path(pscore.__file__).parent / "results" / "pscore.json"


def apart(folder: Path) -> list[Path]:
    """The committed result taken apart: a file of each seed, as far as `seeds` knows it."""
    whole = json.loads(COMMITTED.read_text())
    seeds = whole.pop("seeds")
    del whole["note"]
    paths = []
    for place, seed in enumerate(seeds["seeds"]):
        part = copy.deepcopy(whole) | {"seed": seed}
        for name, line in part["behaviours"].items():
            found = {key: values[place] for key, values in seeds["behaviours"][name].items()}
            line["auc_difference"] = found["auc_difference"]
            line["gauc_at_once_difference"]["mean"] = found["gauc_at_once_difference"]
            if place:
                for rival, values in seeds["fused_gauc_at_once"][name].items():
                    part["fused"][rival][name]["gauc_at_once"] = values[place]
        paths.append(folder / f"seed-{seed}.json")
        paths[-1].write_text(json.dumps(part))
    return paths


def test_what_is_committed_is_what_the_script_joins(tmp_path, capsys):
    out = tmp_path / "all.json"
    words = ["--json", "--join", *map(str, apart(tmp_path)), "--out", str(out)]
    assert pscore.main(words) == 0
    assert out.read_text() == COMMITTED.read_text()
    assert json.loads(capsys.readouterr().out) == json.loads(COMMITTED.read_text())


def change(path: Path, **values: object) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return path


def test_results_that_do_not_belong_together_are_refused(tmp_path):
    first, second, third = apart(tmp_path)
    rows = {"train": 1, "valid": 2, "test": 3}
    with pytest.raises(DataError, match=r"seed-1\.json: rows is .*, and .* in .*seed-0\.json"):
        pscore_seeds.joined([first, change(second, rows=rows)])
    with pytest.raises(DataError, match=r"seed-2\.json: seed 0 is in .*seed-0\.json too"):
        pscore_seeds.joined([first, change(third, seed=0)])
    with pytest.raises(DataError, match=r"^.*seed-0\.json: holds no 'fused'"):
        pscore_seeds.joined([change(first, fused={})])
    with pytest.raises(DataError, match=r"^.*seed-0\.json: lacks 'click'; measure this seed"):
        pscore_seeds.joined([change(first, fused={"pscore": {}})])
