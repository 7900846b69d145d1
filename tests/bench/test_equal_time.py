"""Steps in equal time: by hand, with a clock that is made up, and by the schedule."""

import itertools

import pytest
import toy_routers

from onerec.bench import equal_time, routers
from onerec.bench.equal_time import EqualTime
from onerec.common import generator
from onerec.model.routers import competition_schedule


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("equal")
    return toy_routers.prepare(home, {"train.steps": "40", "routing.competition_rate": "0.5"})


def trainings(made):
    run, setting = made
    arms = ("loss_free", "competition")
    return [routers.new_training(run, routers.arm_setting(setting, a, seed=3)) for a in arms]


def test_steps_by_hand():
    found = EqualTime(base=0.10, alone=0.11, competing=0.15, layers=0.25)
    assert found.step == pytest.approx(0.12)
    assert found.steps(600) == 500
    assert EqualTime(1.0, 1.0, 2.0, 0.0).steps(7) == 7  # no layer ever competes
    assert EqualTime(0.001, 5.0, 5.0, 0.0).steps(10) == 1


def test_medians_of_turns_by_a_clock_that_is_made_up(made):
    base, other = trainings(made)
    turns = equal_time.WARM_UP * [(90.0, 90.0, 90.0)]
    turns += [(2.0, 3.0, 7.0), (50.0, 3.5, 6.0), (1.0, 2.5, 80.0)]  # something else ran beside,
    turns += [(8.0, 16.0, 16.0), (4.0, 5.0, 14.0)]  # or for longer than a turn
    ends = itertools.accumulate(itertools.chain.from_iterable((1.0, s) for t in turns for s in t))
    seen = []

    def clock():
        seen.append([mixture.router.competing for mixture in other.model.mixtures()])
        return next(ends)

    found = equal_time.measure(base, other, turns=5, clock=clock)
    assert (found.base, found.alone, found.competing) == (4.0, 4 * 1.5, 4 * 3.5)
    after = seen[1::2]  # what the routers did in the step that a clock's second reading ends
    assert after[1::3] == [[False, False]] * len(turns)
    assert after[2::3] == [[True, False]] * len(turns)


def test_the_three_of_a_turn_have_one_batch_and_turns_are_spread_over_the_training(made):
    asked = []
    both = trainings(made)
    for number, training in enumerate(both):
        made_of = training.trainee

        def trainee(batches, number=number, made_of=made_of):
            def batch(step):
                asked.append((number, step))
                return batches(step)

            return made_of(batch)

        training.trainee = trainee
    equal_time.measure(*both, turns=3)  # and five before: eight turns in forty steps
    expected = [[(0, step), (1, step), (1, step)] for step in range(0, 40, 5)]
    assert asked == [each for turn in expected for each in turn]


def test_the_schedule_says_how_many_layers_compete(made):
    _, other = trainings(made)
    plan = competition_schedule(other.model.config.router, 40, 2, generator(3))
    assert equal_time.competing_layers(other) == pytest.approx(int(plan.sum()) / 40)
    assert 0.5 < equal_time.competing_layers(other) < 1.4  # a rate of .5 in two layers


def test_the_arm_takes_the_steps_that_were_found(made, monkeypatch):
    run, setting = made
    monkeypatch.setattr(equal_time, "measure", lambda *_: EqualTime(0.1, 0.11, 0.15, 0.25))
    arm = routers.arm_setting(setting, "competition_time+shared", 0)
    cut, told = routers.in_equal_time(run, arm, "competition_time+shared")
    assert cut.recipe.train.steps == round(40 * 0.1 / 0.12) == 33
    assert cut.recipe.routing == arm.recipe.routing
    assert (told["of"], told["of_steps"]) == ("loss_free+shared", 40)
    assert told["ms"] == {"base": 100.0, "alone": 110.0, "competing": 150.0, "step": 120.0}
