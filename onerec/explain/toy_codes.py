"""Residual k-means in the plane, one Lloyd iteration at a time: small enough to watch.

    state = begin(CodesSetting(size=6))
    state = step(state)  # or `after(setting, steps)`

Level by level as `onerec.tokenizer.rq_kmeans` does it: r_1 = x, s_l = argmin_k |r_l - c_k|,
r_{l+1} = r_l - c_{s_l}; an empty code moves to a point drawn by its squared error, the rule of
`onerec.tokenizer.kmeans`. A state is never changed: a step returns a new one. In each state the
codes are those of the centroids as they lie now. The toy's own: the shapes, a start of centroids
anywhere in the square, codes that may stay empty, and settings that change between two steps.
Left out: the greedy choice among several seeds of k-means++; here each is drawn once.

Shapes: n points, N codes a level, L levels. numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onerec.explain.toy_points import SHAPES, points
from onerec.metrics import entropy_nats, perplexity, utilisation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STARTS = ("k-means++", "anywhere")
MOST_POINTS, MOST_LEVELS, MOST_CODES, MOST_STEPS = 400, 3, 16, 300
STILL = 1e-9  # centroids that move less have settled
LOTS = 8  # codebooks drawn by lot, over which the comparison is averaged
HISTORY_COLUMNS = (
    *("step", "level", "iteration", "used", "size", "utilisation", "entropy_nats"),
    *("max_entropy_nats", "relative_error", "lot_error", "moved", "repaired"),
)


@dataclass(frozen=True)
class CodesSetting:
    """What is quantised and how.

    Raises:
        ValueError: a shape or start that is not there, or a number outside what a page can show.
    """

    shape: str = "clouds"
    points: int = 240
    levels: int = 2
    size: int = 6
    start: str = "k-means++"
    repair: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES or self.start not in STARTS:
            raise ValueError(
                f"shape={self.shape!r}, start={self.start!r}: shapes are {', '.join(SHAPES)}, "
                f"starts {', '.join(STARTS)}"
            )
        fits = MOST_CODES <= self.points <= MOST_POINTS and 1 <= self.levels <= MOST_LEVELS
        if not (fits and 2 <= self.size <= MOST_CODES and self.seed >= 0):
            raise ValueError(
                f"points={self.points}, levels={self.levels}, size={self.size}, seed={self.seed}: "
                f"at most {MOST_POINTS} points (at least {MOST_CODES}), 1 to {MOST_LEVELS} levels, "
                f"2 to {MOST_CODES} codes, a seed from 0"
            )


@dataclass(frozen=True)
class Codes:
    """A moment of the fit. The last of `books` is the level that is being fitted.

    x (n, 2); books, each (N, 2); codes (n, levels begun); `trail`: where the centroids of the
    present level were in each of its iterations, (N, 2) each; `settled`: they no longer move;
    `repaired`: the codes that the last step moved because they were empty.
    """

    setting: CodesSetting
    x: Floats
    books: tuple[Floats, ...]
    codes: Ints
    trail: tuple[Floats, ...]
    lot_errors: tuple[float, ...]
    step: int = 0
    iteration: int = 0
    settled: bool = False
    repaired: tuple[int, ...] = ()
    history: tuple[dict[str, Any], ...] = ()

    @property
    def level(self) -> int:
        """The level that is being fitted, from 1."""
        return len(self.books)

    @property
    def done(self) -> bool:
        return self.settled and self.level == self.setting.levels

    @property
    def counts(self) -> Ints:
        """(N,) points on each code of the present level."""
        return np.bincount(self.codes[:, -1], minlength=self.setting.size)


# ------------------------------------------------------------------------- steps


def begin(setting: CodesSetting) -> Codes:
    """Step 0: the centroids of level 1 lie where they start, and no point has moved them yet."""
    x = points(setting.shape, setting.points, setting.seed)
    return _level_begun(
        Codes(setting, x, (), np.empty((len(x), 0), np.int64), (), by_lot(x, setting))
    )


def step(state: Codes) -> Codes:
    """One Lloyd iteration, or the start of the next level where the present one has settled.

    Done, it returns the state unchanged.
    """
    if state.done:
        return state
    if state.settled:
        return _level_begun(replace(state, step=state.step + 1))
    residual, before = residuals(state, state.level), state.books[-1]
    labels, counts = state.codes[:, -1], state.counts
    sums = np.zeros_like(before)
    np.add.at(sums, labels, residual)
    book = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], before)
    repaired = _repair(state, residual, book, before) if state.setting.repair else ()
    moved = float(np.linalg.norm(book - before, axis=1).max())
    return _told(
        replace(
            state,
            books=(*state.books[:-1], book),
            codes=np.column_stack([state.codes[:, :-1], nearest(residual, book)]),
            trail=(*state.trail, book),
            step=state.step + 1,
            iteration=state.iteration + 1,
            settled=moved < STILL,
            repaired=repaired,
        ),
        moved,
    )


def after(setting: CodesSetting, steps: int) -> Codes:
    """The state after so many steps (fewer where it is done before)."""
    state = begin(setting)
    for _ in range(min(steps, MOST_STEPS)):
        state = step(state)
    return state


def changed(state: Codes, setting: CodesSetting) -> Codes:
    """The fit goes on under another setting, from the centroids that it has.

    More levels are fitted next, those above fewer levels are forgotten. Other points or another
    number of codes are fitted from level 1, which keeps its centroids: the least used go, new ones
    start at points drawn by squared error. `start` counts where the next level begins.
    """
    old = state.setting
    same_data = (old.shape, old.points, old.seed) == (setting.shape, setting.points, setting.seed)
    if same_data and old.size == setting.size:
        state = replace(state, setting=setting, lot_errors=by_lot(state.x, setting))
        if state.level <= setting.levels:
            unused = setting.repair and bool((state.counts == 0).any())
            return replace(state, settled=False) if unused else state
        kept = setting.levels
        shown = replace(state, books=state.books[:kept], codes=state.codes[:, :kept])
        return _told(
            replace(shown, trail=(shown.books[-1],), settled=True, repaired=(), iteration=0), 0.0
        )
    x = state.x if same_data else points(setting.shape, setting.points, setting.seed)
    book = _resized(state.books[0], state.codes[:, 0], x, setting, state.step)
    moved = replace(
        state,
        setting=setting,
        x=x,
        books=(book,),
        codes=nearest(x, book)[:, None],
        trail=(book,),
        lot_errors=by_lot(x, setting),
        iteration=0,
        settled=False,
        repaired=(),
    )
    return _told(moved, 0.0)


def nearest(x: Floats, book: Floats) -> Ints:
    """The nearest centroid of each row: x (n, 2), book (N, 2) -> (n,); ties give the lowest."""
    return np.asarray(((x[:, None] - book) ** 2).sum(-1).argmin(1))


def residuals(state: Codes, level: int) -> Floats:
    """(n, 2): what the levels before `level` (from 1, to one above those begun) left, r_level."""
    left = state.x
    for number in range(level - 1):
        left = left - state.books[number][state.codes[:, number]]
    return left


def _level_begun(state: Codes) -> Codes:
    """Place the centroids of the next level."""
    residual = residuals(state, state.level + 1)
    random = np.random.default_rng((state.setting.seed, state.level))
    book = _start(residual, state.setting, random)
    begun = replace(
        state,
        books=(*state.books, book),
        codes=np.column_stack([state.codes, nearest(residual, book)]),
        trail=(book,),
        iteration=0,
        settled=False,
        repaired=(),
    )
    return _told(begun, 0.0)


def _start(residual: Floats, setting: CodesSetting, random: np.random.Generator) -> Floats:
    """(N, 2) centroids: seeds of k-means++, or anywhere in the square around the points."""
    if setting.start == "anywhere":
        least, greatest = residual.min(0), residual.max(0)
        return random.uniform(least, greatest, (setting.size, 2))
    seeds = [residual[random.integers(len(residual))]]
    while len(seeds) < setting.size:
        seeds.append(_drawn(residual, np.array(seeds), random))
    return np.array(seeds)


def _drawn(residual: Floats, book: Floats, random: np.random.Generator) -> Floats:
    """A point drawn with a probability proportional to its squared distance to the book."""
    weight = ((residual[:, None] - book) ** 2).sum(-1).min(1)
    total = weight.sum()
    chance = weight / total if total > 0 else None
    row: Floats = residual[random.choice(len(residual), p=chance)]
    return row


def _repair(state: Codes, residual: Floats, book: Floats, before: Floats) -> tuple[int, ...]:
    """Move, in place, the codes that were empty to points drawn by squared error."""
    empty = np.flatnonzero(state.counts == 0)
    random = np.random.default_rng((state.setting.seed, state.step, 1))
    for code in empty:
        book[code] = _drawn(residual, before, random)
    return tuple(int(code) for code in empty)


def _resized(book: Floats, labels: Ints, x: Floats, setting: CodesSetting, step_: int) -> Floats:
    """The most used centroids of a book in their order, and new ones where they are too few."""
    counts = np.bincount(labels, minlength=len(book))
    kept = book[np.sort(np.argsort(-counts, kind="stable")[: setting.size])]
    random = np.random.default_rng((setting.seed, step_, 2))
    while len(kept) < setting.size:
        kept = np.vstack([kept, _drawn(x, kept, random)])
    return kept


# ---------------------------------------------------------------------- measures


def relative_errors(x: Floats, books: tuple[Floats, ...], codes: Ints) -> list[float]:
    """After each level: sum of |residual|^2 over that of |x - mean|^2."""
    spread, left, found = float(((x - x.mean(0)) ** 2).sum()), x, []
    for level, book in enumerate(books):
        left = left - book[codes[:, level]]
        found.append(float((left**2).sum()) / spread)
    return found


def by_lot(x: Floats, setting: CodesSetting) -> tuple[float, ...]:
    """The relative error after each level of codebooks that nobody fitted, the mean of some.

    Their codes are points drawn by lot of what the levels before left, as in `bench.tokenizer`.
    """
    found = []
    for lot in range(LOTS):
        random, left = np.random.default_rng((setting.seed, lot, 3)), x
        books, codes = [], []
        for _ in range(setting.levels):
            book = left[random.permutation(len(x))[: setting.size]]
            codes.append(nearest(left, book))
            books.append(book)
            left = left - book[codes[-1]]
        found.append(relative_errors(x, tuple(books), np.column_stack(codes)))
    return tuple(float(value) for value in np.mean(found, 0))


def _told(state: Codes, moved: float) -> Codes:
    """With this moment in its history; a later one of the same step takes its place."""
    counts = state.counts
    row = {
        "step": state.step,
        "level": state.level,
        "iteration": state.iteration,
        "used": int((counts > 0).sum()),
        "size": state.setting.size,
        "utilisation": utilisation(counts),
        "entropy_nats": entropy_nats(counts),
        "max_entropy_nats": float(np.log(state.setting.size)),
        "relative_error": relative_errors(state.x, state.books, state.codes)[-1],
        "lot_error": state.lot_errors[state.level - 1],
        "moved": moved,
        "repaired": len(state.repaired),
    }
    past = tuple(one for one in state.history if one["step"] != state.step)
    return replace(state, history=(*past, row))


def history(state: Codes) -> pd.DataFrame:
    """A row a step: `HISTORY_COLUMNS`. `moved`: how far the centroid went that went farthest."""
    return pd.DataFrame(list(state.history), columns=list(HISTORY_COLUMNS))


def levels(state: Codes) -> pd.DataFrame:
    """A row a level begun: level, used, size, utilisation, entropy_nats, max_entropy_nats,
    perplexity, unused (the codes no point has), relative_error, lot_error."""
    errors = relative_errors(state.x, state.books, state.codes)
    rows = []
    for number, error in enumerate(errors):
        counts = np.bincount(state.codes[:, number], minlength=state.setting.size)
        rows.append(
            {
                "level": number + 1,
                "used": int((counts > 0).sum()),
                "size": state.setting.size,
                "utilisation": utilisation(counts),
                "entropy_nats": entropy_nats(counts),
                "max_entropy_nats": float(np.log(state.setting.size)),
                "perplexity": perplexity(counts),
                "unused": ", ".join(str(code) for code in np.flatnonzero(counts == 0)),
                "relative_error": error,
                "lot_error": state.lot_errors[number],
            }
        )
    return pd.DataFrame(rows)


def table(state: Codes) -> pd.DataFrame:
    """A row a point: point, x, y, code_1 .., its reconstruction said_x, said_y, and error.

    `error` is the distance to the reconstruction.
    """
    left = residuals(state, state.level + 1)
    said = state.x - left
    frame = pd.DataFrame({"point": np.arange(len(left)), "x": state.x[:, 0], "y": state.x[:, 1]})
    for number in range(state.level):
        frame[f"code_{number + 1}"] = state.codes[:, number]
    return frame.assign(said_x=said[:, 0], said_y=said[:, 1], error=np.linalg.norm(left, axis=1))


def walk(state: Codes, point: int) -> pd.DataFrame:
    """How one point is said: level, code, centroid_x, centroid_y, said_x, said_y (the sum so far),
    norm_before, norm_after of the residual, share_left = |r|^2 / |x|^2.

    Raises:
        ValueError: no such point.
    """
    if not 0 <= point < len(state.x):
        raise ValueError(f"point {point}: there are 0 to {len(state.x) - 1}")
    own, said, rows = state.x[point], np.zeros(2), []
    whole = max(float(own @ own), 1e-30)
    for number, book in enumerate(state.books):
        code = int(state.codes[point, number])
        before = float(np.linalg.norm(own - said))
        said = said + book[code]
        left = float(np.linalg.norm(own - said))
        rows.append((number + 1, code, *book[code], *said, before, left, left**2 / whole))
    names = ("level", "code", "centroid_x", "centroid_y", "said_x", "said_y", "norm_before")
    return pd.DataFrame(rows, columns=[*names, "norm_after", "share_left"])
