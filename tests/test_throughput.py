"""Rates of the last steps: what is counted, what time is, and what they multiply to."""

import pytest
import torch
import toy_model as toy

from onerec import throughput
from onerec.count import Cardinalities, Counter
from onerec.loop import Trainee, loop
from onerec.model.onerec import Batch
from onerec.recipes import recipe
from onerec.throughput import WINDOW, Throughput, counts
from onerec.train.optim import OptimConfig, make_adamw


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def made(peak: float | None = None, processes: int = 1) -> Throughput:
    known = Cardinalities(toy.SIZES, toy.N_ITEMS)
    counter = Counter(recipe("tiny", {"history.content": "false"}), known)
    return Throughput(counter, peak, processes)


def train(rates: Throughput, batches: list[Batch], clock: Clock, seconds: list[float]) -> None:
    """One step a batch; ten minutes pass between two of them."""
    model = toy.make_model().train()

    def loss(batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clock.now += seconds.pop(0)
        return model.loss(batch)

    trainee = Trainee(
        model=model,
        optimizer=make_adamw(model, OptimConfig()),
        loss=loss,
        batch=rates.batch(lambda step: batches[step]),
        learning_rate=lambda step: 1e-3,
    )
    for _ in loop(trainee, steps=len(batches)):
        rates.stepped()
        clock.now += 600.0


def test_what_exists_is_counted_and_padding_is_not() -> None:
    batch = toy.make_batch(lengths=(4, 0, 2), targets=3)
    batch.target[0, 1:] = 0
    found = {name: int(value) for name, value in counts(batch).items()}
    assert found == {"events": 4 + 4 + 2 + 2, "clusters": 0, "histories": 0, "targets": 7}
    batch.lifelong = toy.make_clusters([6, 0, 1], 6)
    assert [int(counts(batch)[name]) for name in ("clusters", "histories")] == [7, 2]


def test_rates_by_hand(clock: Clock) -> None:
    """Two steps of 3 and 1 contexts in 2 and 3 seconds; what passes between steps is no step."""
    three = toy.make_batch(lengths=(4, 0, 2), targets=3)
    one = toy.make_batch(lengths=(6,), targets=3)
    rates = made(peak=1e9)
    train(rates, [three, one], clock, [2.0, 3.0])
    found = rates.rates()
    assert found["samples_per_second"] == pytest.approx(4 / 5)
    events = (12 + int(counts(one)["events"])) / 4
    flops = rates.counter.training_flops(events, 3.0, clusters=0)
    assert found["flops_per_second"] == pytest.approx(flops * 4 / 5)
    assert found["mfu"] == pytest.approx(flops * 4 / 5 / 1e9)


def test_contexts_without_a_lifelong_history_have_no_queries() -> None:
    """A batch of half full and half empty histories is the mean of both, in all that is linear."""
    counter = Counter(recipe("onerec_0_015b"), Cardinalities(toy.SIZES, toy.N_ITEMS))
    full, none = counter.forward_flops(100, 2), counter.forward_flops(100, 2, clusters=0)
    half = counter.forward_flops(100, 2, clusters=counter.clusters / 2, long_share=0.5)
    for part in ("pathways", "qformer", "context"):
        assert half[part] == pytest.approx((full[part] + none.get(part, 0.0)) / 2)
    assert half["encoder"] < (full["encoder"] + none["encoder"]) / 2  # squares of the mean length


def test_without_a_peak_there_is_no_utilisation(clock: Clock) -> None:
    rates = made()
    train(rates, [toy.make_batch()], clock, [1.0])
    assert set(rates.rates()) == {"samples_per_second", "flops_per_second"}


def test_slow_first_steps_are_forgotten(clock: Clock) -> None:
    rates = made()
    batch = toy.make_batch(lengths=(4, 0, 2))
    train(rates, [batch] * (WINDOW + 2), clock, [60.0, 60.0] + [0.5] * WINDOW)
    assert rates.rates()["samples_per_second"] == pytest.approx(3 / 0.5)


def test_processes_that_share_a_batch_do_so_many_times_as_much(clock: Clock) -> None:
    alone, two = made(peak=1e9), made(peak=1e9, processes=2)
    for rates in (alone, two):
        train(rates, [toy.make_batch()], clock, [2.0])
    one, both = alone.rates(), two.rates()
    assert both["samples_per_second"] == pytest.approx(2 * one["samples_per_second"])
    assert both["flops_per_second"] == pytest.approx(2 * one["flops_per_second"])
    assert both["mfu"] == pytest.approx(one["mfu"]), "of two devices"
