"""How people answer: the probability of each behaviour, and the play time.

One number, the readiness to watch, carries everything: the user's bias, the item's quality, the
affinity between them, and how much of the same there was before. Watching is one draw from a
logistic distribution around it: above a first threshold it is a click, above a second a long view,
and its place within the class says how long was played. The buttons are pressed on top of a click.
Legend: B pairs of user and item, S slots, C and H widths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onerec.world.catalogue import Catalogue
from onerec.world.people import SLOT_WEIGHTS, People

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BEHAVIOURS = ("click", "long_view", "like", "follow", "comment", "forward", "dislike")
POSITIVES = ("long_view", "like", "follow", "comment", "forward")

USER_WEIGHT = 1.0
QUALITY_WEIGHT = 1.0
AFFINITY_WEIGHT = 0.9
REPEAT_WEIGHT = 1.2  # per earlier showing of the same item, at most three count
SAME_TOPIC_WEIGHT = 0.12  # per earlier showing of its topic in the session, at most five count
CLICK_OFFSET = -1.67
LONG_VIEW_OFFSET = -2.55
CONTENT_SHARPNESS = 6.0  # of the maximum over the interests a person holds

# Buttons, given a click: offset, weight of the person's readiness, of affinity and of quality.
BUTTONS = {
    "like": (-6.2, 2.4, 0.35, 0.45),
    "follow": (-7.85, 1.2, 0.6, 0.3),
    "comment": (-6.6, 1.2, 0.3, 0.3),
    "forward": (-7.75, 1.2, 0.3, 0.4),
}
DISLIKE = (-6.4, 0.6, -0.6, -0.3)  # the same, given no click

CLICK_S = 7.0  # a click on this platform is this much watched, or the whole video
LONG_VIEW_S = 18.0  # a long view this much, or the whole video
NOT_STARTED = 0.17  # share of the showings without a click that play nothing
COMPLETED = 0.43  # share of the long views that see the end
AGAIN_SCALE = 0.115  # of what is played again after the end, in lengths of the video


@dataclass(frozen=True)
class Response:
    """Answers to B showings: probabilities and draws by behaviour (B,), play_ms (B,) int64."""

    probabilities: dict[str, Doubles]
    draws: dict[str, NDArray[np.bool_]]
    play_ms: Ints


class ResponseModel:
    """Who answers how. `standard` (4,) holds mean and deviation of the two parts of affinity."""

    def __init__(
        self,
        catalogue: Catalogue,
        people: People,
        off_content_share: float,
        standard: Doubles | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.people = people
        # Column by column in memory, for `_dot`.
        self._content = np.ascontiguousarray(catalogue.content.T)  # (C, n)
        self._item_hidden = np.ascontiguousarray(catalogue.hidden.T)  # (H, n)
        self._user_hidden = np.ascontiguousarray(people.hidden.T)  # (H, U)
        self.shares = np.sqrt([1 - off_content_share, off_content_share])
        self.standard = np.array([0.0, 1.0, 0.0, 1.0])
        if standard is not None:
            self.standard = standard
        elif rng is not None:
            self.standard = self._standard(rng)

    def affinity(self, users: Ints, items: Ints, held: Ints) -> Doubles:
        """(B,), unit variance over pairs drawn at random; `held` (B, S) exemplars of that day."""
        content, hidden = self.parts(users, items, held)
        both: Doubles = self.shares[0] * content + self.shares[1] * hidden
        return both

    def parts(self, users: Ints, items: Ints, held: Ints) -> tuple[Doubles, Doubles]:
        """Affinity by content and by what content does not tell, both standardised, (B,), (B,)."""
        content = self._content
        fits = np.stack([_dot(content, slot, content, items) for slot in held.T], axis=1)  # (B, S)
        return self._standardise(self._mixture(fits), self._hidden(users, items))

    def all_affinities(self, users: Ints, held: Ints) -> Doubles:
        """Of each user to every item, (B, n)."""
        fits = self.catalogue.content[held] @ self.catalogue.content.T  # (B, S, n)
        hidden = self.people.hidden[users] @ self.catalogue.hidden.T  # (B, n)
        content, other = self._standardise(self._mixture(fits.swapaxes(1, 2)), hidden)
        both: Doubles = self.shares[0] * content + self.shares[1] * other
        return both

    def readiness(
        self, users: Ints, items: Ints, affinity: Doubles, repeats: Ints, same_topic: Ints
    ) -> Doubles:
        """The centre of the logistic draw that decides how long is watched, (B,) or (B, n)."""
        liking = AFFINITY_WEIGHT * affinity + QUALITY_WEIGHT * self.catalogue.quality[items]
        tired = REPEAT_WEIGHT * np.minimum(repeats, 3) + SAME_TOPIC_WEIGHT * np.minimum(
            same_topic, 5
        )
        return USER_WEIGHT * self.people.bias[users] + liking - tired

    def probabilities(
        self, users: Ints, items: Ints, affinity: Doubles, repeats: Ints, same_topic: Ints
    ) -> dict[str, Doubles]:
        """P(behaviour) of each showing, unconditional, by name."""
        ready = self.readiness(users, items, affinity, repeats, same_topic)
        click = _sigmoid(ready + CLICK_OFFSET)
        found = {"click": click, "long_view": _sigmoid(ready + LONG_VIEW_OFFSET)}
        for name in BUTTONS:
            found[name] = click * self._press(BUTTONS[name], users, items, affinity)
        found["dislike"] = (1 - click) * self._press(DISLIKE, users, items, affinity)
        return found

    def positive(
        self, users: Ints, items: Ints, affinity: Doubles, repeats: Ints, same_topic: Ints
    ) -> Doubles:
        """P(long view, like, follow, comment or forward)."""
        p = self.probabilities(users, items, affinity, repeats, same_topic)
        none = np.ones_like(p["click"])
        for name in BUTTONS:
            none = none * (1 - p[name] / np.maximum(p["click"], 1e-12))
        # A long view is a click; a click without one is positive when a button is pressed.
        return p["long_view"] + (p["click"] - p["long_view"]) * (1 - none)

    def answer(
        self,
        rng: np.random.Generator,
        users: Ints,
        items: Ints,
        held: Ints,
        repeats: Ints,
        same_topic: Ints,
    ) -> Response:
        """Draw what happens at each showing, (B,)."""
        affinity = self.affinity(users, items, held)
        p = self.probabilities(users, items, affinity, repeats, same_topic)
        watched = rng.random(len(users))
        draws = {"click": watched < p["click"], "long_view": watched < p["long_view"]}
        for name in BUTTONS:
            given = p[name] / np.maximum(p["click"], 1e-12)
            draws[name] = draws["click"] & (rng.random(len(users)) < given)
        given = p["dislike"] / np.maximum(1 - p["click"], 1e-12)
        draws["dislike"] = ~draws["click"] & (rng.random(len(users)) < given)
        play_ms = _play_ms(rng, watched, p, self.catalogue.duration_ms[items])
        return Response(p, draws, play_ms)

    def _press(
        self, button: tuple[float, float, float, float], users: Ints, items: Ints, affinity: Doubles
    ) -> Doubles:
        offset, person, fit, quality = button
        return _sigmoid(
            offset
            + person * self.people.like_bias[users]
            + fit * affinity
            + quality * self.catalogue.quality[items]
        )

    def _mixture(self, fits: Floats) -> Doubles:
        """One fit from the fits to each interest (..., S) -> (...): a soft maximum by weight."""
        k = CONTENT_SHARPNESS
        grown = np.exp(k * fits.astype(np.float64)) @ np.asarray(SLOT_WEIGHTS)
        mixed: Doubles = np.log(grown) / k
        return mixed

    def _hidden(self, users: Ints, items: Ints) -> Floats:
        return _dot(self._user_hidden, users, self._item_hidden, items)

    def _standardise(self, content: Doubles, hidden: Floats) -> tuple[Doubles, Doubles]:
        mean_c, sd_c, mean_h, sd_h = self.standard
        return (content - mean_c) / sd_c, (hidden - mean_h) / sd_h

    def _standard(self, rng: np.random.Generator) -> Doubles:
        """Mean and deviation of both parts over random users, days and items."""
        users = rng.integers(self.people.n_users, size=20_000)
        items = rng.integers(self.catalogue.n_items, size=20_000)
        last = float(
            np.nanmax(self.people.start_day[np.isfinite(self.people.start_day)], initial=1)
        )
        held = self.people.interests(users, rng.random(20_000) * last)
        content, hidden = self.parts(users, items, held)
        return np.array([content.mean(), content.std(), hidden.mean(), hidden.std()])


def _play_ms(
    rng: np.random.Generator, watched: Doubles, p: dict[str, Doubles], duration_ms: Ints
) -> Ints:
    """Play time from the draw that decided the class: the lower `watched`, the longer."""
    seconds = duration_ms / 1000.0
    click_s = np.minimum(CLICK_S, seconds)
    long_s = np.minimum(LONG_VIEW_S, seconds)
    click, long_view = p["click"], p["long_view"]
    # No click: a share plays nothing, the rest a little.
    place = (1 - watched) / np.maximum(1 - click, 1e-12)  # (0, 1), 1 next to the click
    started = np.maximum(place - NOT_STARTED, 0) / (1 - NOT_STARTED)
    play = 0.98 * click_s * started**1.6
    # A click: from the threshold of a click to that of a long view.
    place = (click - watched) / np.maximum(click - long_view, 1e-12)
    play = np.where(watched < click, click_s + (long_s - click_s) * np.clip(place, 0, 1), play)
    # A long view: up to the end, and over it.
    place = np.clip((long_view - watched) / np.maximum(long_view, 1e-12), 0, 1)
    partly = long_s + (seconds - long_s) * (place / (1 - COMPLETED)) ** 2.2
    again = seconds * (1 + AGAIN_SCALE * rng.exponential(size=len(seconds)) ** 2.2)
    finished = (place > 1 - COMPLETED) | (seconds <= LONG_VIEW_S)
    play = np.where(watched < long_view, np.where(finished, again, partly), play)
    return (1000 * play).astype(np.int64)


def expected_play_ms(p: dict[str, Doubles], duration_ms: Ints) -> Doubles:
    """The mean of the play time that `_play_ms` draws, in closed form, for any shape."""
    seconds = duration_ms / 1000.0
    click_s = np.minimum(CLICK_S, seconds)
    long_s = np.minimum(LONG_VIEW_S, seconds)
    click, long_view = p["click"], p["long_view"]
    skipped = 0.98 * click_s * (1 - NOT_STARTED) / 2.6
    clicked = (click_s + long_s) / 2
    partly = long_s + (seconds - long_s) / 3.2
    again = seconds * (1 + AGAIN_SCALE * math.gamma(3.2))
    viewed = np.where(seconds <= LONG_VIEW_S, again, (1 - COMPLETED) * partly + COMPLETED * again)
    mean: Doubles = (1 - click) * skipped + (click - long_view) * clicked + long_view * viewed
    return 1000.0 * mean


def _dot(one: Floats, i: Ints, other: Floats, j: Ints) -> Floats:
    """Inner products of columns i (B,) of `one` (W, .) and j (B,) of `other` (W, .), (B,).

    One product is added after another: an inner product of a library sums in an order that depends
    on the processor, and the same seed would not give the same bytes everywhere.
    """
    total: Floats = one[0][i] * other[0][j]
    for a, b in zip(one[1:], other[1:], strict=True):
        total += a[i] * b[j]
    return total


def _sigmoid(x: Doubles) -> Doubles:
    return 1.0 / (1.0 + np.exp(-x))
