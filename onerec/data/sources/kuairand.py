"""KuaiRand: logs of Kuaishou's short-video feed, as published (Gao et al., CIKM 2022).

Read are the standard logs, the user features and the basic video features. Not read are the logs of
randomly exposed videos (they follow another policy) and `video_features_statistic` (sums over the
whole period, which know the future).
"""

from __future__ import annotations

from pathlib import Path

from onerec.data.readers import Source
from onerec.errors import DataError

PATTERNS = (
    "log_standard_*.csv",
    "user_features_*.csv",
    "video_features_basic_*.csv",
)


def sources(folder: Path) -> dict[str, Source | None]:
    """The tables among the unpacked files of KuaiRand-Pure, -1K or -27K."""
    logs, users, videos = (tuple(sorted(folder.rglob(pattern))) for pattern in PATTERNS)
    if not logs:
        raise DataError(f"{folder}: no log_standard_*.csv; is this KuaiRand?")
    return {
        "interactions": Source(logs),
        "items": Source(videos) if videos else None,
        "users": Source(users) if users else None,
    }
