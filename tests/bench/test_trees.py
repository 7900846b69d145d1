"""Trees as a peer: they learn what the features tell, and read no test label."""

import numpy as np
import pytest

from onerec.bench import trees

pytest.importorskip("lightgbm")


class Fake:
    """A table by hand: the label is whether the first feature is positive."""

    def __init__(self, seed, rows=600):
        random = np.random.default_rng(seed)
        self.x = np.concatenate(
            [random.normal(size=(rows, 2)), random.integers(0, 3, size=(rows, 3))], axis=1
        )
        self.yes = (self.x[:, :1] + 0.3 * random.normal(size=(rows, 1))) > 0
        self.known = np.ones((rows, 1), dtype=bool)

    label = trees.Table.label
    weighted = trees.Table.weighted


def make(trials=2):
    tuning = {"train": Fake(0), "valid": Fake(1)}
    return trees.Trees(tuning, {"train": Fake(2), "test": Fake(3)}, trials)


def test_they_learn_what_the_features_tell():
    from onerec.metrics import auc

    made = make()
    assert auc(made.final["test"].yes[:, 0], made.scores(made.of(0))) > 0.9
    assert made.tried["0"]["trees"] >= 1


def test_the_label_of_the_test_rows_moves_nothing():
    one, two = make(), make()
    two.final["test"].yes = ~two.final["test"].yes
    assert np.array_equal(one.scores(one.of(0)), two.scores(two.of(0)))


def test_a_share_is_learned_by_cross_entropy():
    made = make(trials=1)
    for table in (*made.tuning.values(), *made.final.values()):
        table.yes = np.concatenate([table.yes, ~table.yes], axis=1)
        table.known = np.ones_like(table.yes)
    weights = np.array([3.0, 1.0])
    scores = made.scores(made.fitted("share", lambda table: table.weighted(weights)))
    share = made.final["test"].weighted(weights)[0]
    assert set(np.unique(share)) == {0.25, 0.75}
    assert ((scores > 0.2) & (scores < 0.8)).all()
    assert np.corrcoef(scores, share)[0, 1] > 0.8
