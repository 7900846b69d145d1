"""Several seeds of `onerec.bench.pscore` in one result: `--join FILE FILE ..`, the first in whole.

`seeds` puts beside each other what the seeds found of each behaviour; nothing is averaged. Trees
have no seed: where theirs differ, the weights of the label do, which are the towers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onerec.bench.generate import write
from onerec.bench.mistakes import read_results, refuse_unlike
from onerec.errors import DataError

RIVALS = ("pscore", "lightgbm", "product")


def joined(paths: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """The first result with `seeds` of all of them; writes it to `out` as well.

    Raises:
        RunError: a file is missing or is no JSON object.
        DataError: a file is no result of this benchmark, of other rows or another commit than the
            first, or of a seed that is there already.
    """
    parts = read_results(paths, "behaviours", "fused")
    refuse_unlike(paths, parts, ("benchmark", "commit", "rows"), other_than="seed")
    found = [_of_a_seed(path, part) for path, part in zip(paths, parts, strict=True)]
    seeds = {"seeds": [part["seed"] for part in parts], **_beside(found)}
    numbers = ", ".join(map(str, seeds["seeds"]))
    note = f"`seeds` puts together the results of --seed {numbers}; the rest is of seed "
    result = parts[0] | {"seeds": seeds, "note": f"{note}{parts[0]['seed']}."}
    if out is not None:
        write(result, out)
    return result


def _of_a_seed(path: Path, part: dict[str, Any]) -> dict[str, Any]:
    try:
        return {
            "behaviours": {
                name: {
                    "auc_difference": line["auc_difference"],
                    "gauc_at_once_difference": line["gauc_at_once_difference"]["mean"],
                }
                for name, line in part["behaviours"].items()
            },
            "fused_gauc_at_once": {
                name: {
                    rival: round(part["fused"][rival][name]["gauc_at_once"], 5) for rival in RIVALS
                }
                for name in part["behaviours"]
            },
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: lacks {error}; measure this seed again, then join") from error


def _beside(found: Sequence[Any]) -> Any:
    """Results of one shape as one, in which a list of values stands for each value."""
    if not isinstance(found[0], dict):
        return list(found)
    return {key: _beside([each[key] for each in found]) for key in found[0]}
