"""An untouched history gives the log's own batch; an edited one gives what the edit says."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import toy_home

from onerec.assembly import Setting
from onerec.data.histories import (
    NEW,
    History,
    Typical,
    contexts_of,
    log_of,
    places,
    static_codes,
)
from onerec.errors import DataError

SHORT, POSITIVE = 5, 8


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    dataset = toy_home.make_dataset(tmp_path_factory.mktemp("histories"))
    return Setting.of(toy_home.make_recipe(), dataset)


def batch_of(setting, histories):
    contexts, log = contexts_of(
        histories, setting.split.log, setting.features, short_length=SHORT, positive_length=POSITIVE
    )
    user = torch.arange(len(histories))
    return contexts.batch(user, torch.from_numpy(log.offsets)[user + 1]), log


def same(one, other):
    for side in ("short", "positive"):
        for column in fields(getattr(one, side)):
            a, b = (
                getattr(getattr(one, side), column.name),
                getattr(getattr(other, side), column.name),
            )
            assert torch.equal(a, b), (side, column.name)
    assert torch.equal(one.static, other.static)


def own(setting, user, back=0):
    log = setting.split.log
    return History.of_user(log, setting.features, user, int(log.offsets[user + 1]) - back)


def test_an_untouched_history_gives_the_batch_of_the_log(setting):
    log = setting.split.log
    users, back = [3, 0, 17], [0, 2, 5]
    histories = [own(setting, u, b) for u, b in zip(users, back, strict=True)]
    made, _ = batch_of(setting, histories)
    end = log.offsets[np.array(users) + 1] - np.array(back)
    expected = setting.contexts("cpu").batch(torch.tensor(users), torch.from_numpy(end))
    same(made, expected)


def test_taking_an_event_out_moves_the_window(setting):
    whole = own(setting, 3)
    rest = whole.take([p for p in range(len(whole)) if p != len(whole) - 2])
    batch, _ = batch_of(setting, [whole, rest])
    kept = [*whole.item[-6:-2], whole.item[-1]]
    assert (batch.short.item[1] - 1).tolist() == kept
    assert rest.number.tolist() == [*range(len(whole) - 2), len(whole) - 1]


def test_another_order_keeps_the_times_in_their_places(setting):
    whole = own(setting, 3)
    turned = whole.take(np.arange(len(whole))[::-1])
    assert turned.item.tolist() == whole.item[::-1].tolist()
    assert turned.time.tolist() == whole.time.tolist()
    batch, _ = batch_of(setting, [whole, turned])
    assert torch.equal(batch.short.time[0], batch.short.time[1])
    assert (batch.short.item[1] - 1).tolist() == whole.item[:5][::-1].tolist()
    assert batch.short.label[1, -1].tolist() == setting.features.event.labels[whole.row[0]].tolist()


def test_a_typed_event_does_what_is_typical(setting):
    typical = Typical.of(setting.split.log, setting.features)
    log, event = setting.split.log, setting.features.event
    assert log.positive[typical.row]
    rows = np.flatnonzero(log.positive)
    pairs = [(int(event.play[r]), tuple(event.labels[r])) for r in rows]
    commonest = max(set(pairs), key=pairs.count)
    assert pairs[list(rows).index(typical.row)] == commonest
    assert typical.gap_ms == 50 * toy_home.HOUR_MS
    history = History.typed([4, 9, 2], typical, setting.features.user.codes[0])
    assert history.number.tolist() == [NEW] * 3
    assert np.diff(history.time).tolist() == [typical.gap_ms] * 2
    batch, made = batch_of(setting, [history])
    assert batch.short.item[0].tolist() == [5, 10, 3, 0, 0]
    assert batch.positive.item[0, :3].tolist() == [5, 10, 3]
    assert (batch.short.label[0, :3] == torch.tensor(event.labels[typical.row])).all()
    assert made.positive.all()


def test_items_put_in_stand_behind_the_newest(setting):
    typical = Typical.of(setting.split.log, setting.features)
    whole = own(setting, 3)
    longer = whole.plus([7, 8], typical)
    assert longer.item[-2:].tolist() == [7, 8]
    assert longer.time[-1] == whole.time[-1] + 2 * typical.gap_ms
    assert longer.number[-3:].tolist() == [len(whole) - 1, NEW, NEW]


def test_places_are_where_the_batch_has_the_events(setting):
    for history in (own(setting, 3), own(setting, 8, back=14), own(setting, 5, back=11)):
        batch, log = batch_of(setting, [history])
        short, positive = places(history, log.positive, SHORT, POSITIVE)
        for side, where in ((batch.short, short), (batch.positive, positive)):
            expected = (
                np.where(where >= 0, history.item[where] + 1, 0) if len(history) else where * 0
            )
            assert side.item[0].tolist() == expected.tolist()


def test_nobody_and_nothing(setting):
    typical = Typical.of(setting.split.log, setting.features)
    cold = History.typed([], typical, np.zeros(1, dtype=np.int64))
    batch, _ = batch_of(setting, [cold, own(setting, 2)])
    assert (batch.short.item[0] == 0).all()
    assert (batch.short.item[1] > 0).any()
    alone, _ = batch_of(setting, [cold])
    assert (alone.short.item[0] == 0).all()
    made, features = log_of([], setting.split.log, setting.features)
    assert len(made) == 0
    assert made.offsets.tolist() == [0]
    assert len(features.event.play) == 0


def test_static_features_of_somebody_new(setting):
    features, dataset = setting.features.user, setting.dataset
    assert features.names == ("city",)
    for city in ("north", "south"):
        user = int(np.flatnonzero(dataset.users["city"] == city)[0])
        assert (
            static_codes(dataset, features, {"city": city}).tolist()
            == features.codes[user].tolist()
        )
    assert static_codes(dataset, features, {}).tolist() == [1]  # known of all: the commonest
    some = replace(features, codes=np.array([[0], [2], [2]]))
    assert static_codes(dataset, some, {}).tolist() == [0]
    with pytest.raises(DataError, match="no user has city='west'; there are north, south"):
        static_codes(dataset, features, {"city": "west"})
    with pytest.raises(DataError, match="'age' is no user feature of dataset 'toy'; it has city"):
        static_codes(dataset, features, {"age": 3})


def test_a_number_takes_the_nearest_bin_and_none_at_all_is_refused():
    """NaN was once nearest to whoever came first."""
    dataset = SimpleNamespace(name="some", users=pd.DataFrame({"age": [10.0, np.nan, 40.0]}))
    features = SimpleNamespace(names=("age",), codes=np.array([[1], [0], [2]]))
    assert static_codes(dataset, features, {"age": 31}).tolist() == [2]
    with pytest.raises(DataError, match="no user has age=nan"):
        static_codes(dataset, features, {"age": float("nan")})


def test_yes_and_no_of_somebody_new():
    """numpy knows no difference of two truths, so features={"student": True} was a traceback."""
    users = pd.DataFrame({"user_id": range(4), "student": [True, False, False, False]})
    features = SimpleNamespace(names=("student",), codes=np.array([[2], [1], [1], [1]]))
    dataset = SimpleNamespace(name="toy", users=users)
    assert static_codes(dataset, features, {"student": True}).tolist() == [2]
    assert static_codes(dataset, features, {"student": False}).tolist() == [1]
