"""The loop: it trains, it repeats itself exactly, and it stops before a bad update."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from onerec.errors import RunError
from onerec.loop import EpochRows, Trainee, loop


def _regression(seed: int = 0, dropout: float = 0.0) -> Trainee[tuple[Tensor, Tensor]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout), nn.Linear(8, 1))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        return x, x.sum(1, keepdim=True)

    def loss(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        error = (model(pair[0]) - pair[1]).square().mean()
        return error, {"doubled": 2 * error.detach()}

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Trainee(model, optimizer, loss, batch, learning_rate=lambda step: 0.01)


def test_the_loss_falls_and_every_step_is_reported() -> None:
    results = list(loop(_regression(), steps=200))
    assert [r.step for r in results] == list(range(1, 201))
    assert results[-1].loss < 0.05 * results[0].loss
    assert all(r.values["doubled"] == pytest.approx(2 * r.loss, rel=1e-5) for r in results)


def test_stopping_and_going_on_gives_the_same_weights_as_never_stopping() -> None:
    whole = _regression(dropout=0.5)
    list(loop(whole, steps=10, seed=3))
    halves = _regression(dropout=0.5)
    list(loop(halves, steps=4, seed=3))
    torch.randn(100)  # whatever happens between the two must not matter
    list(loop(halves, steps=10, start=4, seed=3))
    for left, right in zip(whole.model.parameters(), halves.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_seed_may_be_as_large_as_a_recipe_takes() -> None:
    """Times the step's factor it is beyond 64 bits, at which torch stopped with an overflow."""
    first, other = (
        [r.loss for r in loop(_regression(dropout=0.5), steps=2, seed=seed)]
        for seed in (10**18, 10**18 - 1)
    )
    assert first != other
    assert EpochRows(8, 2, 10**18)(0).tolist() != EpochRows(8, 2, 10**18 - 1)(0).tolist()


def test_clipping_bounds_the_update_but_reports_the_norm_before_it() -> None:
    trainee = _regression()
    trainee.optimizer = torch.optim.SGD(trainee.model.parameters(), lr=1.0)
    trainee.learning_rate = lambda step: 1.0
    before = torch.cat([p.detach().flatten().clone() for p in trainee.model.parameters()])
    result = next(loop(trainee, steps=1, clip=1e-3))
    after = torch.cat([p.detach().flatten() for p in trainee.model.parameters()])
    assert result.grad_norm > 1e-2
    assert (after - before).norm() == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_batch() -> None:
    trainee = _regression()
    sound = trainee.batch
    trainee.batch = lambda step: (
        sound(step)[0] * (float("nan") if step == 2 else 1),
        sound(step)[1],
    )
    steps = loop(trainee, steps=5)
    next(steps), next(steps)
    before = [p.detach().clone() for p in trainee.model.parameters()]
    with pytest.raises(RunError, match="loss of batch 2 is nan"):
        next(steps)
    for old, now in zip(before, trainee.model.parameters(), strict=True):
        assert torch.equal(old, now)


def test_rows_that_are_no_numbers_are_named() -> None:
    trainee = _regression()
    sound, least = trainee.batch, 0

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = sound(step)
        x = x.clone()
        x[least:7] = float("inf")
        return x, y

    trainee.batch = batch
    trainee.each = lambda batch: (trainee.model(batch[0]) - batch[1]).square().sum(-1).detach()
    rows = len(sound(0)[0])
    with pytest.raises(RunError, match=rf"\(rows 0, 1, 2, 3, 4 and 2 more of {rows}\).*these rows"):
        next(loop(trainee, steps=1))
    least = 5
    with pytest.raises(RunError, match=rf"\(rows 5, 6 of {rows}\)"):
        next(loop(trainee, steps=1))
    trainee.loss = lambda batch: (trainee.model(batch[0] * 0).sum() * float("nan"), {})
    least = 7
    with pytest.raises(RunError, match=r"is nan; weights.*learning_rate$"):
        next(loop(trainee, steps=1))


@pytest.mark.parametrize(
    ("times", "said"),
    [(9, r"nan \(of \d\.bias\); weights"), (1, "nan and finite when worked out again;")],
)
def test_a_gradient_that_is_not_finite_names_its_parameter(times: int, said: str) -> None:
    trainee = _regression()
    name, parameter = list(trainee.model.named_parameters())[-1]
    assert name.endswith("bias")
    calls: list[int] = []

    def spoilt(gradient: Tensor) -> Tensor:
        calls.append(1)
        return gradient * float("nan") if len(calls) <= times else gradient

    parameter.register_hook(spoilt)  # type: ignore[no-untyped-call]
    with pytest.raises(RunError, match=r"the gradient norm of batch 0 is " + said):
        next(loop(trainee, steps=1))
    assert len(calls) == 2


def test_after_step_runs_once_a_step_after_the_update() -> None:
    trainee = _regression()
    calls: list[int] = []
    trainee.after_step = lambda: calls.append(1)
    list(loop(trainee, steps=3))
    assert len(calls) == 3


def test_before_step_knows_the_number_of_each_step_before_its_batch() -> None:
    trainee = _regression()
    calls: list[tuple[str, int]] = []
    plain = trainee.batch

    def batch(step: int) -> tuple[Tensor, Tensor]:
        calls.append(("batch", step))
        return plain(step)

    trainee.batch = batch
    trainee.before_step = lambda step: calls.append(("before", step))
    list(loop(trainee, steps=4, start=2))
    assert calls == [("before", 2), ("batch", 2), ("before", 3), ("batch", 3)]


def _with_another(seed: int = 0) -> Trainee[tuple[Tensor, Tensor]]:
    """The regression, and beside it a penalty that some parameters do not enter."""
    trainee = _regression(seed)
    first = trainee.model.get_parameter("0.weight")

    def penalty(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        value = 0.1 * first.square().sum()
        return value, {"penalty": value.detach()}

    trainee.beside = penalty
    return trainee


def test_a_loss_beside_the_other_is_added_to_it() -> None:
    beside = _with_another()
    summed = _regression()
    plain, first = summed.loss, summed.model.get_parameter("0.weight")

    def both(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, values = plain(pair)
        return loss + 0.1 * first.square().sum(), dict(values)

    summed.loss = both
    for one, other in zip(loop(beside, steps=20), loop(summed, steps=20), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)
        assert set(one.values) == {"doubled", "penalty"}


def test_two_threads_do_what_one_does_bit_for_bit() -> None:
    trainees = [_with_another(), _with_another()]
    for number, trainee in enumerate(trainees, start=1):
        list(loop(trainee, steps=10, workers=lambda number=number: number))
    one, two = (trainee.model.parameters() for trainee in trainees)
    for left, right in zip(one, two, strict=True):
        assert torch.equal(left, right)


def test_a_loss_without_gradients_is_allowed_beside_one_with_them() -> None:
    trainee = _with_another()
    trainee.loss = lambda pair: (torch.zeros(()), {})
    result = list(loop(trainee, steps=30))[-1]
    assert result.loss < 0.5


def test_a_batch_may_be_worked_out_by_something_else_and_clipped_there() -> None:
    """What `train.distributed` does: the loop asks it in place of its own backward pass."""
    trainee = _regression()
    limits: list[float] = []

    class Halves:
        """Each half of the batch with half of the weight."""

        def gradients(
            self,
            loss: Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Mapping[str, Tensor]]],
            batch: tuple[Tensor, Tensor],
            device: torch.device,
        ) -> tuple[Tensor, dict[str, Tensor]]:
            total = torch.zeros(())
            for part in (slice(0, 8), slice(8, 16)):
                value = 0.5 * loss((batch[0][part], batch[1][part]))[0]
                value.backward()
                total += value.detach()
            return total, {"doubled": 2 * total}

        def clip(self, limit: float) -> Tensor:
            limits.append(limit)
            return nn.utils.clip_grad_norm_(trainee.model.parameters(), limit)

    trainee.parallel = Halves()
    for one, other in zip(loop(trainee, steps=5), loop(_regression(), steps=5), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)
        assert one.values == pytest.approx(other.values, rel=1e-5)
    assert limits == [1.0] * 5


def test_epoch_rows_are_every_row_once_in_an_order_of_the_seed_and_the_epoch() -> None:
    rows = EpochRows(10, 4, seed=3)
    first = torch.cat([rows(0), rows(1)])  # two rows of the epoch are left over
    assert len(set(first.tolist())) == 8
    assert not torch.equal(torch.cat([rows(2), rows(3)]), first)
    assert torch.equal(rows(1), first[4:])  # a step that is asked for again
    assert torch.equal(EpochRows(10, 4, seed=3)(1), first[4:])
    assert not torch.equal(EpochRows(10, 4, seed=4)(1), first[4:])
    assert EpochRows(3, 4, seed=0)(7).tolist() == [0, 1, 2]
