"""Sessions of a log, and which of them rejection-sampling fine-tuning keeps (V1 section 3).

A session ends with a pause of 30 minutes (the papers print none; the first OneRec paper has
sessions of five to ten videos). RSFT drops the half of the sessions with the least play time.

Shapes: N rows of the log.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onerec.data.log import Interactions
from onerec.errors import DataError

PAUSE_MS = 30 * 60 * 1000
DROPPED = 0.5  # V1: the bottom 50%


def session_of(log: Interactions) -> NDArray[np.int64]:
    """The number of each row's session (N,), counted over all users in the order of the log.

    Raises:
        DataError: the log has no times to tell sessions by.
    """
    if "timestamp" not in log.columns:
        raise DataError("sessions need timestamps, which this log does not have")
    time = log.columns["timestamp"]
    opens = np.ones(len(log), dtype=bool)
    opens[1:] = (log.user[1:] != log.user[:-1]) | (np.diff(time) > PAUSE_MS)
    return np.cumsum(opens) - 1


def kept_by_rsft(
    log: Interactions, rows: NDArray[np.bool_], dropped: float = DROPPED
) -> NDArray[np.bool_]:
    """Which rows stand in sessions that RSFT trains on: (N,) bool, a subset of `rows`.

    Sessions of all users are ranked together by the play time that their chosen rows add up to;
    of equal ones the later is kept.

    Args:
        rows: (N,) bool, the rows to choose from; a session counts by these alone.
        dropped: share of the sessions to leave out, from 0 to below 1.

    Raises:
        DataError: the log has no play times, or no times.
        ValueError: the share is out of range.
    """
    if not 0 <= dropped < 1:
        raise ValueError(f"dropped={dropped}: needs a share from 0 to below 1")
    if "play_ms" not in log.columns:
        raise DataError("RSFT ranks sessions by play time, and this log has no play_ms")
    session = session_of(log)
    play = np.where(rows, np.nan_to_num(log.columns["play_ms"].astype(np.float64)), 0.0)
    there = np.bincount(session, rows) > 0
    total = np.bincount(session, play)
    numbers = np.flatnonzero(there)
    order = numbers[np.argsort(total[numbers], kind="stable")]
    keep = np.zeros(len(total), dtype=bool)
    keep[order[int(np.floor(dropped * len(order))) :]] = True
    return rows & keep[session]
