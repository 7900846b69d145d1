"""The names, units and kinds of column that a dataset may have: one table, no files, no arrays.

Each of our columns stands once, with the names under which other datasets publish it, the name that
wins first. Names are compared without case, punctuation and a `:type` ending, so `userId`,
`USER-ID` and `user_id:token` are one name. A source column that is in no row of the table is
ignored in the interactions and kept as it is in the items and users.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from onerec.errors import DataError

BEHAVIOURS = (
    "click",
    "long_view",
    "like",
    "follow",
    "comment",
    "forward",
    "profile_enter",
    "dislike",
)
POSITIVE = "positive"  # the only behaviour of data that has none, such as ratings
SPLITS = ("train", "valid", "test")
POSITIVE_BEHAVIOURS = ("long_view", "like", "follow", "comment", "forward")
EVERY_ROW = "every row"

Table = Literal["interactions", "items", "users"]
Kind = Literal["id", "time", "order", "flag", "ms", "number", "text", "key", "list", "split"]


@dataclass(frozen=True)
class Field:
    """One of our columns: its kind (how values are read) and the names it is published under."""

    name: str
    kind: Kind
    aliases: tuple[str, ...] = ()
    required: bool = False


_USER = Field(
    "user_id",
    "id",
    ("userid", "uid", "reviewerid", "customerid", "visitorid", "memberid", "viewerid", "user"),
    required=True,
)
_ITEM = Field(
    "item_id",
    "id",
    (
        *("itemid", "videoid", "movieid", "parentasin", "asin", "productid", "photoid"),
        *("isbn", "articleid", "newsid", "songid", "trackid", "artistid", "bookid", "businessid"),
        *("postid", "goodsid", "gameid", "recipeid", "gmapid", "iid", "vid", "pid", "sku", "item"),
    ),
    required=True,
)
_DURATION = Field("duration_ms", "ms", ("videoduration", "videodurationms", "duration"))

INTERACTIONS = (
    _USER,
    _ITEM,
    Field(
        "timestamp",
        "time",
        (
            *("timems", "timestampms", "unixreviewtime", "unixtime", "eventtime", "eventtimestamp"),
            *("datetime", "ts", "time", "createdat", "reviewtime", "ratedat", "tdat", "date"),
        ),
    ),
    Field("position", "order", ("pos", "sequencenumber", "eventindex", "step")),
    Field("exact_time", "flag"),
    Field("click", "flag", ("isclick", "clicked")),
    Field("long_view", "flag", ("islongview", "longviewed")),
    Field("like", "flag", ("islike", "liked")),
    Field("follow", "flag", ("isfollow", "followed")),
    Field("comment", "flag", ("iscomment", "commented")),
    Field("forward", "flag", ("isforward", "forwarded", "share", "isshare", "shared")),
    Field("profile_enter", "flag", ("isprofileenter",)),
    Field("dislike", "flag", ("isdislike", "disliked", "ishate", "hate")),
    Field(
        "play_ms",
        "ms",
        (
            *("playtimems", "playtime", "playduration", "playdurationms", "watchtime"),
            *("watchtimems", "playingtime", "viewtime", "dwelltime"),
        ),
    ),
    _DURATION,
    Field("rating", "number", ("overall", "stars", "bookrating", "reviewrating")),
    Field("split", "split", ("subset",)),
)

ITEMS = (
    _ITEM,
    Field(
        "title", "text", ("name", "itemname", "productname", "prodname", "videotitle", "movietitle")
    ),
    Field("caption", "text", ("description", "overview", "plot", "omdbplot", "abstract", "text")),
    Field("category", "list", ("categories", "genres", "genre", "categoryid", "maincategory")),
    Field("tags", "list", ("tag", "keywords", "labels", "topictag")),
    Field("author_id", "key", ("author", "brand", "store", "creatorid", "creator", "artist")),
    _DURATION,
    Field(
        "published_at",
        "time",
        ("uploaddt", "uploaddate", "uploadtime", "releasedate", "published", "publishdate"),
    ),
    Field("image", "text", ("imagepath",)),
)

USERS = (_USER,)

TABLES: Mapping[Table, tuple[Field, ...]] = {
    "interactions": INTERACTIONS,
    "items": ITEMS,
    "users": USERS,
}

# Columns that know the future (sums over the whole period) or another model's output. They are
# never read, whatever table they stand in, and are listed among the ignored ones.
FORBIDDEN = frozenset(
    (
        *("averagerating", "avgrating", "ratingnumber", "ratingcount", "numratings", "stars"),
        *("reviewcount", "numreviews", "salesrank", "salesrankings", "rank", "popularity"),
        *("voteaverage", "votecount", "related", "alsobuy", "alsobought", "alsoview"),
        *("alsoviewed", "alsobuyalsoview", "boughttogether", "similaritem", "similarbooks"),
        *("buyafterviewing", "semanticid", "semanticids", "sid", "itememb", "itemembedding"),
    )
)
_FORBIDDEN_ENDINGS = ("cnt", "usernum")
_RESERVED = frozenset(("user", "item", "row"))


def simplify(name: str) -> str:
    """A column name as it is compared: `user_id:token`, `User-ID` and `userId` are `userid`."""
    return re.sub(r"[\W_]+", "", name.split(":")[0].strip().lower())


def knows_the_future(table: Table, name: str) -> bool:
    """Whether an item column is an aggregate over the whole period or another model's output."""
    plain = simplify(name)
    return table == "items" and (plain in FORBIDDEN or plain.endswith(_FORBIDDEN_ENDINGS))


@dataclass(frozen=True)
class Mapped:
    """Which source column each of ours is read from, which are kept as they are, which not."""

    columns: dict[str, str]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]


def map_columns(
    table: Table, names: Iterable[str], overrides: Mapping[str, str], where: str
) -> Mapped:
    """Match the columns of a source to ours.

    Args:
        table: which of the three tables is read.
        names: the source's columns, in its order.
        overrides: ours -> theirs, which wins over the table; an empty `theirs` leaves ours out.
        where: the file, for messages.

    Raises:
        DataError: a required column is missing, or an override names what is not there.
    """
    names = list(names)
    there = f"it has {', '.join(names)}"
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(simplify(name), name)
    columns: dict[str, str] = {}
    for field in TABLES[table]:
        spelled = (simplify(field.name), *field.aliases)
        if table != "interactions" and field.required:
            spelled = (*spelled, "id")
        if field.name in overrides:
            theirs = overrides[field.name]
            if theirs and theirs not in names:
                raise DataError(
                    f"{where}: no column {theirs!r} (asked for as {field.name}); {there}"
                )
            if theirs:
                columns[field.name] = theirs
        else:
            free = (by_plain[s] for s in spelled if s in by_plain)
            found = next((name for name in free if name not in columns.values()), None)
            if found is not None:
                columns[field.name] = found
        if field.required and field.name not in columns:
            raise DataError(
                f"{where}: no column {field.name} (nor another name of it); {there}; "
                f"name it with --column {field.name}=THEIRS"
            )
    used = set(columns.values())
    rest = [name for name in names if name not in used]
    if table == "interactions":
        return Mapped(columns, (), tuple(rest))
    return Mapped(columns, *_keep(table, rest, columns))


def _keep(
    table: Table, rest: list[str], columns: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Further columns of items and users: kept unless the name is taken or knows the future."""
    taken = {*_RESERVED, *columns}
    kept, ignored = [], []
    for name in rest:
        if knows_the_future(table, name):
            ignored.append(f"{name} (knows the future)")
        elif name.lower() in taken or not name.strip():
            ignored.append(name)
        else:
            kept.append(name)
            taken.add(name.lower())
    return tuple(kept), tuple(ignored)
