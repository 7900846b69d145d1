"""Amazon reviews, the 5-core files of a category with its metadata: 2014, 2018 and 2023.

Metadata covers far more products than the 5-core does; only products with a review are taken. Every
review counts as a positive, as in the literature. Fields that know the future (related products,
sales rank, average rating) are left out by `schema`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from onerec.data.readers import Source
from onerec.data.schema import EVERY_ROW
from onerec.errors import DataError

POSITIVE = EVERY_ROW
YEARS = ("2014", "2018", "2023")

_2014 = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"


def addresses(year: str, category: str) -> tuple[str, str]:
    """Where the reviews and the metadata of a category are published."""
    if year == "2014":
        return f"{_2014}/reviews_{category}_5.json.gz", f"{_2014}/meta_{category}.json.gz"
    if year == "2018":
        return (
            f"{_UCSD}/amazon_v2/categoryFilesSmall/{category}_5.json.gz",
            f"{_UCSD}/amazon_v2/metaFiles2/meta_{category}.json.gz",
        )
    return (
        f"{_UCSD}/amazon_2023/benchmark/5core/rating_only/{category}.csv.gz",
        f"{_UCSD}/amazon_2023/raw/meta_categories/meta_{category}.jsonl.gz",
    )


def sources(folder: Path, year: str, category: str) -> dict[str, Source | None]:
    """The reviews and, where they are there, the metadata of a category in a folder."""
    reviews, meta = (_find(folder, url) for url in addresses(year, category))
    if reviews is None:
        wanted = PurePosixPath(addresses(year, category)[0]).name
        raise DataError(f"{folder}: no file {wanted}; give a folder that has it with --from")
    key = "parent_asin" if year == "2023" else "asin"
    return {
        "interactions": Source((reviews,)),
        "items": Source((meta,), known_by=key) if meta else None,
        "users": None,
    }


def _find(folder: Path, url: str) -> Path | None:
    name = PurePosixPath(url).name
    both = (folder / name, folder / name.removesuffix(".gz"))
    return next((path for path in both if path.is_file()), None)
