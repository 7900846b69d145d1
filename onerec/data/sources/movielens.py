"""MovieLens as published by GroupLens: 100k (u.data), 1m (.dat with ::) and 25m, 32m (.csv).

Tags are not read: users wrote them over the whole period, so they know the future.
"""

from __future__ import annotations

from pathlib import Path

from onerec.data.readers import Source
from onerec.errors import DataError

PATTERNS = (
    *("u.data", "u.item", "u.user"),
    *("ratings.dat", "movies.dat", "users.dat"),
    *("ratings.csv", "movies.csv"),
)

_RATING = ("user_id", "item_id", "rating", "timestamp")
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
_NO_GENRES = "(no genres listed)"
_CSV_MOVIES = f"SELECT * REPLACE (nullif(genres, '{_NO_GENRES}') AS genres) FROM {{raw}}"


def sources(folder: Path) -> dict[str, Source | None]:
    """The tables among the unpacked files of one of the archives."""
    found = {path.name: path for path in sorted(folder.rglob("*")) if path.name in PATTERNS}
    if "u.data" in found:
        return _small(found)
    if "ratings.dat" in found:
        return _dat(found)
    if "ratings.csv" not in found:
        raise DataError(f"{folder}: no u.data, ratings.dat or ratings.csv; is this MovieLens?")
    movies = found.get("movies.csv")
    return {
        "interactions": Source((found["ratings.csv"],)),
        "items": Source((movies,), select=_CSV_MOVIES) if movies else None,
        "users": None,
    }


def _small(found: dict[str, Path]) -> dict[str, Source | None]:
    flags = ", ".join(f"g{place} = '1'" for place in range(len(_GENRES)))
    names = ", ".join("'" + genre.replace("'", "''") + "'" for genre in _GENRES)
    genres = f"list_filter([{names}], lambda name, i: [{flags}][i])"
    return {
        "interactions": Source((found["u.data"],), names=_RATING, delimiter="\t"),
        "items": Source(
            (found["u.item"],),
            names=(
                *("item_id", "title", "release_date", "video_release_date", "imdb_url"),
                *(f"g{place}" for place in range(len(_GENRES))),
            ),
            delimiter="|",
            select=f"SELECT item_id, title, release_date, {genres} AS genres FROM {{raw}}",
        ),
        "users": Source(
            (found["u.user"],),
            names=("user_id", "age", "gender", "occupation", "zip"),
            delimiter="|",
        ),
    }


def _dat(found: dict[str, Path]) -> dict[str, Source | None]:
    users = found.get("users.dat")
    names = ("user_id", "gender", "age", "occupation", "zip")
    return {
        "interactions": Source((found["ratings.dat"],), names=_RATING, delimiter="::"),
        "items": Source(
            (found["movies.dat"],), names=("item_id", "title", "genres"), delimiter="::"
        ),
        "users": Source((users,), names=names, delimiter="::") if users else None,
    }
