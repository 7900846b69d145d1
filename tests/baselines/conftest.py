"""Logs of a few rows, split by hand, in the shape that the data layer gives."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch


class Toy:
    @staticmethod
    def log(events, n_items, timestamps=None):
        """`events[u]` is the list of (item, positive) of user u, oldest first."""
        flat = [(user, item, good) for user, row in enumerate(events) for item, good in row]
        user, item, good = (np.array(column) for column in zip(*flat, strict=True))
        columns = {} if timestamps is None else {"timestamp": np.array(timestamps, dtype=np.int64)}
        return SimpleNamespace(
            user=user.astype(np.int32),
            item=item.astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum([len(row) for row in events])]).astype(np.int64),
            n_users=len(events),
            n_items=n_items,
            columns=columns,
            positive=good.astype(bool),
        )

    @staticmethod
    def cases(user, end, targets):
        """One case per user: history up to row `end`, and its targets."""
        counts = [len(each) for each in targets]
        return SimpleNamespace(
            user=np.array(user, dtype=np.int64),
            end=np.array(end, dtype=np.int64),
            target_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            target_items=np.array([item for each in targets for item in each], dtype=np.int64),
        )

    @staticmethod
    def split(log, train_end, valid, test):
        """Rows before `train_end[u]` train."""
        row = np.arange(len(log.user))
        train_end = np.array(train_end, dtype=np.int64)
        return SimpleNamespace(
            log=log, train=row < train_end[log.user], train_end=train_end, valid=valid, test=test
        )

    @staticmethod
    def leave_one_out(sequences, n_items):
        """Every row is positive; the last of each user is the test target, the one before valid."""
        the_log = Toy.log([[(item, True) for item in row] for row in sequences], n_items)
        users, ends = np.arange(len(sequences)), the_log.offsets[1:]
        return Toy.split(
            the_log,
            ends - 2,
            Toy.cases(users, ends - 2, [[row[-2]] for row in sequences]),
            Toy.cases(users, ends - 1, [[row[-1]] for row in sequences]),
        )


@pytest.fixture
def toy() -> type[Toy]:
    return Toy


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
