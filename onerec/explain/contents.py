"""What a run's tokenizer read of the items, and what it did without: from tokenizer/report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from onerec.explain.query import empty
from onerec.runs import Run
from onerec.tokenizer.content import CO_CONSUMPTION

COLUMNS = (
    *("part", "reads", "width", "weight", "tokens", "items_without"),
    *("images_read", "images_left_out", "first_left_out", "left_out_of"),
)


def sources(run: Run) -> pd.DataFrame:
    """One row per source of content, and one per modality that a source has, in their order.

    part: its name; reads: columns or encoder; width of a token, or of the vector where there is no
    token; weight in the joined vector; tokens of all items; items_without: items that have nothing
    of it, which stand at the mean of the others. Images that could not be read are counted, the
    first is named, and `left_out_of` are the ids of the first ten items that lack one. What a
    source does not have, or the run is too old to tell, is missing. Empty while the tokenizer has
    not finished.
    """
    report = run.report()
    if report is None:
        return empty(COLUMNS)
    parts = [own for part in report.get("content", []) for own in _read_by(part)]
    frame = pd.DataFrame([_row(part) for part in parts], columns=list(COLUMNS))
    counts = ["tokens", "items_without", "images_read", "images_left_out"]
    return frame.astype(dict.fromkeys(counts, "Int64"))


def left_out(run: Run) -> list[str]:
    """What the tokenizer did without, a line each: columns without a word, items without a source
    of content, images that could not be read, and codebooks that few items made smaller than the
    recipe's."""
    report = run.report() or {}
    told = _words_missing(report)
    for row in sources(run).astype(object).where(lambda frame: frame.notna(), 0).to_dict("records"):
        if row["items_without"]:
            of = f" of {report['items']:,}" if "items" in report else ""
            told.append(
                f"{row['part']}: {row['items_without']:,}{of} items have none; "
                "the mean of the others stands in"
            )
        if row["images_left_out"]:
            told.append(
                f"{row['part']}: {row['images_left_out']:,} could not be read, the first of "
                f"{row['first_left_out']}{_of_items(row)}"
            )
    size, ceiling = report.get("codebook_size", 0), report.get("codebook_ceiling", 0)
    if size < ceiling:
        told.append(
            f"codebooks of {size:,} codes, not {ceiling:,}: {report['fit_items']:,} items to fit "
            "on are too few (tokenizer.exact_size=true insists)"
        )
    return told


def _words_missing(report: dict[str, Any]) -> list[str]:
    """Columns that no item fills, categories that stand for words, and codes without any content.

    A run that is too old to tell says nothing of the first.
    """
    whole = report.get("content", [])
    parts = [own for part in whole for own in _sources(part)]
    told = [
        f"{part['part']}: the same for all items, so it tells none apart"
        for part in whole
        if part.get("alike")
    ]
    if parts and all(part["part"] == CO_CONSUMPTION for part in parts):
        told.append(
            "no text, image or token is read: codes say only who takes items together; items that "
            "nobody took stand in one place"
        )
    for part in parts:
        if blank := part.get("empty_columns"):
            told.append(f"{part['part']}: no item has a word in {', '.join(blank)}")
        columns = part.get("columns", [])
        if columns and all(name.endswith("=") for name in columns):
            names = ", ".join(name.removesuffix("=") for name in columns)
            told.append(f"{part['part']}: no column holds words; values stand for them ({names})")
    return told


def _of_items(row: Mapping[Any, Any]) -> str:
    """The first of the items with an image that was not read; one alone is named already."""
    names = str(row["left_out_of"])
    return f" (items {names})" if ", " in names else ""


def _sources(part: dict[str, Any]) -> list[dict[str, Any]]:
    """A QFormer's own sources, else the part itself."""
    inner = part.get("reads")
    return [{"weight": part["weight"], **own} for own in inner] if inner else [part]


def _read_by(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The sources of a part, behind each its modalities."""
    return [row for own in _sources(part) for row in (own, *_modalities(own))]


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
        "left_out_of": ", ".join(images.get("left_out_of", [])) or None,
    }
