"""Batches made ahead: in order, as many as are allowed, and nothing hangs when something ends."""

import threading
import time
from collections.abc import Callable

import pytest
import torch
import toy_model

from onerec.data.ahead import Ahead
from onerec.errors import DataError
from onerec.model.batch import Batch


def numbered(step: int) -> Batch:
    """A batch whose targets say its step."""
    batch = toy_model.make_batch((2, 1))
    batch.target[:] = step
    return batch


def step_of(batch: Batch) -> int:
    return int(batch.target[0, 0])


def until(true: Callable[[], bool]) -> None:
    """Wait for it, five seconds at most."""
    end = time.monotonic() + 5
    while not true() and time.monotonic() < end:
        time.sleep(0.001)
    assert true()


def test_batches_come_in_the_order_in_which_they_are_asked_for() -> None:
    """Also where one that is made later is ready sooner."""

    def uneven(step: int) -> Batch:
        time.sleep(0.004 * (step % 3 == 0))
        return numbered(step)

    with Ahead(uneven, workers=3, depth=4) as made:
        assert [step_of(made(step)) for step in range(5, 17)] == list(range(5, 17))


def test_no_more_than_so_many_are_made_before_they_are_asked_for() -> None:
    asked: list[int] = []

    def counted(step: int) -> Batch:
        asked.append(step)
        return numbered(step)

    with Ahead(counted, workers=2, depth=3) as made:
        made(0)
        until(lambda: len(asked) == 4)
        time.sleep(0.02)
        assert sorted(asked) == [0, 1, 2, 3]
        made(1)
        until(lambda: len(asked) == 5)
        time.sleep(0.02)
        assert sorted(asked) == [0, 1, 2, 3, 4]


def test_two_workers_make_two_batches_at_once() -> None:
    both = threading.Barrier(2, timeout=5)

    def together(step: int) -> Batch:
        both.wait()
        return numbered(step)

    with Ahead(together, workers=2, depth=3) as made:
        assert step_of(made(0)) == 0


def test_another_step_than_the_next_starts_anew_from_it() -> None:
    with Ahead(numbered, workers=2, depth=3) as made:
        assert [step_of(made(step)) for step in (0, 1, 7, 8, 2, 2)] == [0, 1, 7, 8, 2, 2]


def test_what_a_worker_raises_reaches_the_step_that_it_belongs_to() -> None:
    wrong = DataError("shard-00002.parquet: cannot be read")

    def failing(step: int) -> Batch:
        if step == 2:
            raise wrong
        return numbered(step)

    before = threading.active_count()
    with pytest.raises(DataError) as caught, Ahead(failing, workers=2, depth=4) as made:
        assert [step_of(made(step)) for step in range(3)] == [0, 1]
    assert caught.value is wrong
    assert threading.active_count() == before


def test_no_thread_is_left_when_the_consumer_stops_early() -> None:
    before = threading.active_count()
    asked: list[int] = []

    def slow(step: int) -> Batch:
        asked.append(step)
        time.sleep(0.02)
        return numbered(step)

    def interrupted() -> None:
        with Ahead(slow, workers=2, depth=50) as made:
            made(0)
            assert threading.active_count() == before + 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threading.active_count() == before
    assert len(asked) <= 5  # what was waiting is not made any more


def test_a_consumer_that_forgets_to_close_leaves_no_thread() -> None:
    before = threading.active_count()
    made = Ahead(numbered, workers=2, depth=2)
    made(0)
    assert threading.active_count() > before
    del made
    until(lambda: threading.active_count() == before)


def test_events_are_hidden_when_a_batch_is_handed_over() -> None:
    """By the consumer's random stream, so that it does not matter who made the batch, or when."""
    with Ahead(numbered, event_dropout=0.5, workers=2, depth=2) as made:
        for step in range(3):
            torch.manual_seed(step)
            batch = made(step)
            torch.manual_seed(step)
            assert torch.equal(batch.short.item, numbered(step).thinned(0.5).short.item)


def test_workers_leave_the_number_of_torchs_threads_alone() -> None:
    before = torch.get_num_threads()
    threads: list[int] = []

    def seen(step: int) -> Batch:
        threads.append(torch.get_num_threads())
        return numbered(step)

    with Ahead(seen, workers=2, depth=2) as made:
        made(0)
    assert set(threads) == {1}
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_batch_is_there_when_it_is_used() -> None:
    """Copies of 100 MB are long under way when the first kernel is started."""

    def large(step: int) -> Batch:
        batch = toy_model.make_batch((2, 1))
        batch.target = torch.full((100_000, 128), step)
        return batch

    with Ahead(large, "cuda", workers=2, depth=3) as made:
        for step in range(20):
            batch = made(step)
            assert batch.target.device.type == batch.short.item.device.type == "cuda"
            assert int((batch.target != step).sum()) == 0
            del batch
