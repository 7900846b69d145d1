"""What benchmarks of arms share: seconds of steps, differences by seed, and what is refused."""

from onerec.bench import trained
from onerec.loop import StepResult


def test_seconds_of_steps_are_told_in_quarters(capsys):
    results = [StepResult(s, 2.5, {}, 0.0, 0.0, 0.0) for s in range(1, 9)]
    taken = trained.watch(results, 8, "softmax:1")
    assert len(taken) == 8
    assert all(second >= 0 for second in taken)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines] == ["2/8", "4/8", "6/8", "8/8"]


def test_differences_are_of_the_seeds_that_both_have():
    parts = [
        {"arm": arm, "seed": seed, "loss": loss, "recall@10": loss / 10}
        for arm, seed, loss in (("a", 0, 1.0), ("a", 1, 2.0), ("b", 1, 2.5), ("b", 2, 9.0))
    ]
    found = trained.by_seed(parts)
    assert {arm: list(seeds) for arm, seeds in found.items()} == {"a": [0, 1], "b": [1, 2]}
    told = trained.differences(found["b"], found["a"])
    assert {name: value["mean"] for name, value in told.items()} == {"loss": 0.5, "recall@10": 0.05}
    assert list(trained.differences(found["b"], found["a"], ("loss",))) == ["loss"]
    line = trained.apart({"loss": {"mean": 0.5, "low": -0.25, "high": 1.25}})
    assert line == "+0.5000 [-0.2500, +1.2500]"
    told = trained.differences(found["b"], found["a"], ("loss",))
    assert trained.apart(told) == "+0.5000 [-, -]"  # of one seed


def test_a_digest_tells_contents_apart_and_not_their_order():
    assert trained.digest({"a": 1, "b": 2}) == trained.digest({"b": 2, "a": 1})
    assert trained.digest({"a": 1}, 2) != trained.digest({"a": 1}, 3)
