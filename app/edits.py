"""Edits of a history as a line of text that lives in the URL: `-3,+17,5>1`.

Read from left to right, each at the history as it is by then, places counted from 1 for the oldest:
`-3` takes the event at place 3 out, `+17` adds item 17 as the newest, `5>1` moves the event at
place 5 to place 1. Undo takes the last one away; a link brings the same history back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from onerec import plain

MOST = 200  # edits that are read; a line of text is no upload
EDIT = re.compile(
    r"^(?:-(?P<gone>\d{1,6})|\+(?P<item>\d{1,9})|(?P<place>\d{1,6})>(?P<to>\d{1,6}))$"
)


@dataclass(frozen=True)
class Edited:
    """`order`: what stands at each place: a number from 0 is an event of the history as it was,
    and from `events` on one of `added`, item indices. `notices`: edits that could not be followed.
    """

    events: int
    order: tuple[int, ...]
    added: tuple[int, ...]
    notices: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether it is another history than before."""
        return self.order != tuple(range(self.events))


def apply(text: str, events: int, items: int) -> Edited:
    """The edits of a history of `events` events over a catalogue of `items` items."""
    order, added, notices = list(range(events)), [], []
    words = [word for word in text.replace(" ", "").split(",") if word]
    if len(words) > MOST:
        notices.append(f"The link has {len(words):,} edits; the first {MOST} are followed.")
    for word in words[:MOST]:
        found = EDIT.match(word)
        if found is None:
            notices.append(
                f"Edit “{plain.text(word[:20])}” is not understood (write -3, +17 or 5>1)."
            )
        elif found["item"] is not None:
            if int(found["item"]) < items:
                order.append(events + len(added))
                added.append(int(found["item"]))
            else:
                notices.append(f"Edit “{word}”: items are 0 to {items - 1:,}; it is ignored.")
        else:
            places = [int(found[name]) for name in ("gone", "place", "to") if found[name]]
            if not all(1 <= place <= len(order) for place in places):
                notices.append(f"Edit “{word}”: places are 1 to {len(order)}; it is ignored.")
            elif found["gone"]:
                del order[places[0] - 1]
            else:
                order.insert(places[1] - 1, order.pop(places[0] - 1))
    return Edited(events, tuple(order), tuple(added), tuple(notices))


def more(text: str, *edits: str) -> str:
    """The line with edits behind it."""
    return ",".join([*(word for word in text.split(",") if word), *edits])


def less(text: str) -> str:
    """The line without its last edit."""
    return ",".join([word for word in text.split(",") if word][:-1])


def removal(places: list[int]) -> list[str]:
    """Edits that take several places (from 1) out: the newest first, so that none moves before."""
    return [f"-{place}" for place in sorted(places, reverse=True)]
