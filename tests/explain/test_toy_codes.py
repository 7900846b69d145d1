"""The toy of residual k-means: numbers by hand, a slow reference, and settings in mid-run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from onerec.explain import toy_codes
from onerec.explain.toy_codes import Codes, CodesSetting, after, begin, changed, step
from onerec.tokenizer.kmeans import lloyd
from onerec.tokenizer.rq_kmeans import quantisation_report


def by_hand(x: list[list[float]], book: list[list[float]], **setting: object) -> Codes:
    """A state of one level with these points and centroids."""
    points, centroids = np.array(x), np.array(book)
    asked = replace(CodesSetting(levels=1, size=len(book)), **setting)  # type: ignore[arg-type]
    codes = toy_codes.nearest(points, centroids)[:, None]
    return Codes(asked, points, (centroids,), codes, (centroids,), (1.0,) * asked.levels)


def test_a_step_moves_each_centroid_to_the_mean_of_its_points() -> None:
    state = by_hand([[0, 0], [0, 2], [4, 0], [6, 0]], [[0, 0.5], [4, 0]])
    moved = step(state)
    assert moved.books[0].tolist() == [[0, 1], [5, 0]]
    assert moved.codes[:, 0].tolist() == [0, 0, 1, 1]
    assert not moved.settled
    assert step(moved).settled
    assert state.books[0].tolist() == [[0, 0.5], [4, 0]], "a state is never changed"
    # spread: mean (2.5, .5); left: 1 + 1 + 1 + 1
    spread = sum((a - 2.5) ** 2 + (b - 0.5) ** 2 for a, b in ((0, 0), (0, 2), (4, 0), (6, 0)))
    assert moved.history[-1]["relative_error"] == pytest.approx(4 / spread)
    assert moved.history[-1]["entropy_nats"] == pytest.approx(np.log(2))


def test_an_empty_code_stays_or_moves_to_a_point_that_is_badly_said() -> None:
    x, book = [[0, 0], [0, 2], [9, 0]], [[0, 1], [50, 50]]
    left = step(by_hand(x, book, repair=False))
    assert left.books[0][1].tolist() == [50, 50]
    assert left.repaired == ()
    moved = step(by_hand(x, book, repair=True))
    assert moved.repaired == (1,)
    assert moved.books[0][1].tolist() in x
    assert moved.counts.min() > 0


def test_a_point_on_a_centroid_is_never_drawn() -> None:
    x, book = np.array([[0.0, 0.0], [9.0, 9.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [9.0, 9.0]])
    for seed in range(9):
        drawn = toy_codes._drawn(x, book, np.random.default_rng(seed))
        assert drawn.tolist() == [1.0, 0.0]


def test_repair_goes_on_where_a_level_had_settled_with_a_code_left_empty() -> None:
    x, book = [[0, 0], [0, 2], [9, 0]], [[3, 1], [50, 50]]
    state = by_hand(x, book, repair=False)
    while not state.done:
        state = step(state)
    assert 0 in state.counts
    assert changed(state, replace(state.setting, seed=state.setting.seed)).done
    mended = step(changed(state, replace(state.setting, repair=True)))
    assert mended.repaired == (1,)
    assert mended.counts.min() > 0


@pytest.mark.parametrize("shape", ["clouds", "uniform"])
def test_the_fit_is_that_of_the_library_from_the_same_start(shape: str) -> None:
    setting = CodesSetting(shape=shape, points=120, levels=1, size=5, seed=2)
    first, last = begin(setting), after(setting, 200)
    assert last.done
    x = torch.from_numpy(first.x).float()
    generator = torch.Generator().manual_seed(0)
    start = torch.from_numpy(first.books[0]).float()
    slow = lloyd(x, start, iterations=200, generator=generator, tolerance=0.0)
    assert slow.labels.tolist() == last.codes[:, 0].tolist()
    assert np.allclose(slow.centroids.numpy(), last.books[0], atol=1e-5)


def test_levels_are_measured_as_the_library_measures_them() -> None:
    state = after(CodesSetting(levels=3, size=4, shape="ring"), 300)
    assert state.done
    assert state.level == 3
    x, codes = torch.from_numpy(state.x), torch.from_numpy(state.codes)
    report = quantisation_report(x, codes, torch.from_numpy(np.stack(state.books)))
    told = toy_codes.levels(state)
    for row, level in zip(told.to_dict("records"), report["levels"], strict=True):
        assert row["relative_error"] == pytest.approx(1 - level["variance_explained"], abs=1e-5)
        assert row["entropy_nats"] == pytest.approx(level["entropy_nats"])
        assert row["used"] == level["used"]
        assert row["perplexity"] == pytest.approx(level["perplexity"])
    assert (told["relative_error"] < told["lot_error"]).all(), "a fit beats codes drawn by lot"


def test_inertia_never_rises_within_a_level() -> None:
    told = toy_codes.history(after(CodesSetting(start="anywhere", size=10, levels=2), 100))
    for _, level in told.groupby("level"):
        assert (np.diff(level["relative_error"]) <= 1e-12).all()
    assert told["step"].tolist() == list(range(len(told)))


def test_residuals_and_the_walk_of_a_point_add_up() -> None:
    state = after(CodesSetting(levels=2), 60)
    walk = toy_codes.walk(state, 7)
    assert walk["code"].tolist() == state.codes[7].tolist()
    said = sum(book[code] for book, code in zip(state.books, state.codes[7], strict=True))
    assert np.allclose(said, walk[["said_x", "said_y"]].iloc[-1])
    left = np.linalg.norm(state.x[7] - said)
    assert walk["norm_after"].iloc[-1] == pytest.approx(left)
    assert walk["norm_before"].iloc[1] == pytest.approx(walk["norm_after"].iloc[0])
    assert toy_codes.table(state)["error"][7] == pytest.approx(left)
    assert np.allclose(toy_codes.residuals(state, 3)[7], state.x[7] - said)
    with pytest.raises(ValueError, match="0 to 239"):
        toy_codes.walk(state, 240)


def test_the_same_setting_gives_the_same_state() -> None:
    setting = CodesSetting(start="anywhere", size=12, seed=5)
    one, two = after(setting, 9), after(setting, 9)
    assert np.array_equal(one.books[-1], two.books[-1])
    assert one.history == two.history


def test_more_levels_go_on_and_fewer_are_forgotten() -> None:
    state = after(CodesSetting(levels=1), 100)
    assert state.done
    more = changed(state, replace(state.setting, levels=2))
    assert not more.done
    assert step(more).level == 2
    ended = after(CodesSetting(levels=2), 200)
    fewer = changed(ended, replace(ended.setting, levels=1))
    assert fewer.done
    assert fewer.codes.shape[1] == 1
    assert fewer.history[-1]["level"] == 1
    assert fewer.history[-1]["relative_error"] > ended.history[-1]["relative_error"]


def test_another_number_of_codes_keeps_the_centroids_that_are_used_most() -> None:
    state = after(CodesSetting(size=6), 12)
    counts = np.bincount(state.codes[:, 0], minlength=6)
    fewer = changed(state, replace(state.setting, size=4))
    kept = np.sort(np.argsort(-counts, kind="stable")[:4])
    assert np.array_equal(fewer.books[0], state.books[0][kept])
    assert (fewer.level, fewer.settled, fewer.step) == (1, False, state.step)
    more = changed(state, replace(state.setting, size=9))
    assert np.array_equal(more.books[0][:6], state.books[0])
    assert len(np.unique(more.books[0], axis=0)) == 9


def test_other_points_are_fitted_from_the_centroids_at_hand() -> None:
    state = after(CodesSetting(), 20)
    other = changed(state, replace(state.setting, shape="moons", points=100))
    assert other.x.shape == (100, 2)
    assert np.array_equal(other.books[0], state.books[0])
    assert after_steps(other, 200).done


def after_steps(state: Codes, steps: int) -> Codes:
    for _ in range(steps):
        state = step(state)
    return state


def test_done_stays_done() -> None:
    state = after(CodesSetting(levels=1, size=2), 100)
    assert step(state) is state


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shape": "star"}, "clouds, ring"),
        ({"start": "middle"}, "anywhere"),
        ({"points": 9}, "at least 16"),
        ({"levels": 4}, "1 to 3"),
        ({"size": 17}, "2 to 16"),
        ({"seed": -1}, "from 0"),
    ],
)
def test_a_setting_that_cannot_be_shown_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CodesSetting(**wrong)  # type: ignore[arg-type]


def test_what_a_walk_leaves_is_a_share_of_the_points_squared_length() -> None:
    state = after(CodesSetting(levels=2), 60)
    walk, length = toy_codes.walk(state, 7), float(np.linalg.norm(state.x[7]))
    share = (walk["norm_after"] / length) ** 2
    assert walk["share_left"].tolist() == pytest.approx(share.tolist())


def test_codes_by_lot_are_the_mean_of_several_draws_of_what_is_left() -> None:
    setting = CodesSetting(levels=2, size=5, seed=2)
    x, found = begin(setting).x, []
    for lot in range(toy_codes.LOTS):
        random, left, errors = np.random.default_rng((2, lot, 3)), x, []
        for _ in range(2):
            book = left[random.permutation(len(x))[:5]]
            left = left - book[np.square(left[:, None] - book).sum(-1).argmin(1)]
            errors.append(np.square(left).sum() / np.square(x - x.mean(0)).sum())
        found.append(errors)
    assert len(set(map(tuple, found))) == toy_codes.LOTS
    assert toy_codes.by_lot(x, setting) == pytest.approx(np.mean(found, 0))
    told = toy_codes.history(after(setting, 60)).groupby("level")["lot_error"].first()
    assert told.tolist() == pytest.approx(np.mean(found, 0))


def test_the_seed_draws_where_centroids_start() -> None:
    x, none = begin(CodesSetting()).x, np.empty((240, 0), dtype=np.int64)
    one, two = (
        toy_codes._level_begun(Codes(CodesSetting(seed=seed), x, (), none, (), (1.0, 1.0)))
        for seed in (0, 1)
    )
    assert not np.array_equal(one.books[0], two.books[0])


def test_a_changed_setting_takes_the_place_of_its_step_in_the_history() -> None:
    state = after(CodesSetting(size=6), 5)
    told = toy_codes.history(changed(state, replace(state.setting, size=4)))
    assert told["step"].tolist() == list(range(6))
    assert told["size"].tolist() == [6, 6, 6, 6, 6, 4]


def test_no_more_steps_are_made_than_a_page_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_codes, "MOST_STEPS", 3)
    assert [after(CodesSetting(), steps).step for steps in (2, 3, 99)] == [2, 3, 3]
