"""What a run's tokenizer read of the items, and what it did without: from tokenizer/report.json."""

from __future__ import annotations

from typing import Any

import pandas as pd

from onerec.explain.query import empty
from onerec.runs import Run

COLUMNS = (
    *("part", "reads", "width", "weight", "tokens", "items_without"),
    *("images_read", "images_left_out", "first_left_out"),
)


def sources(run: Run) -> pd.DataFrame:
    """One row per source of content, and one per modality that a source has, in their order.

    part: its name; reads: columns or encoder; width of a token, or of the vector where there is no
    token; weight in the joined vector; tokens of all items; items_without: items that have nothing
    of it, which stand at the mean of the others. Images that could not be read are counted, the
    first is named. A number that a source does not have, or that the run is too old to tell, is
    missing. Empty while the tokenizer has not finished.
    """
    report = run.report()
    if report is None:
        return empty(COLUMNS)
    parts = [own for part in report.get("content", []) for own in _read_by(part)]
    frame = pd.DataFrame([_row(part) for part in parts], columns=list(COLUMNS))
    counts = ["tokens", "items_without", "images_read", "images_left_out"]
    return frame.astype(dict.fromkeys(counts, "Int64"))


def left_out(run: Run) -> list[str]:
    """What the tokenizer did without, a line each: items without a source of content, images that
    could not be read, and codebooks that few items made smaller than the recipe's."""
    report, told = run.report() or {}, []
    for row in sources(run).astype(object).where(lambda frame: frame.notna(), 0).to_dict("records"):
        if row["items_without"]:
            told.append(
                f"{row['part']}: {row['items_without']:,} of {report['items']:,} items have none; "
                "the mean of the others stands in"
            )
        if row["images_left_out"]:
            told.append(
                f"{row['part']}: {row['images_left_out']:,} could not be read, the first of "
                f"{row['first_left_out']}"
            )
    size, ceiling = report.get("codebook_size", 0), report.get("codebook_ceiling", 0)
    if size < ceiling:
        told.append(
            f"codebooks of {size:,} codes, not {ceiling:,}: {report['fit_items']:,} items to fit "
            "on allow no more"
        )
    return told


def _read_by(part: dict[str, Any]) -> list[dict[str, Any]]:
    """A QFormer's own sources, else the part itself; behind each its modalities."""
    inner = part.get("reads")
    found = [{"weight": part["weight"], **own} for own in inner] if inner else [part]
    return [row for own in found for row in (own, *_modalities(own))]


def _modalities(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"part": f"{part['part']}: {name}", "dim": part["dim"], "weight": None, **counts}
        for name, counts in part.get("modalities", {}).items()
    ]


def _row(part: dict[str, Any]) -> dict[str, Any]:
    images = part.get("images", {})
    columns = ", ".join(part.get("columns", []))
    return {
        "part": part["part"],
        "reads": " by ".join(filter(None, (columns, part.get("encoder", "")))),
        "width": part["dim"],
        "weight": part["weight"],
        "tokens": part.get("tokens"),
        "items_without": part.get("items_without"),
        "images_read": images.get("read"),
        "images_left_out": images.get("left_out"),
        "first_left_out": images.get("first_left_out"),
    }
