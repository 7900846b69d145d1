"""A random log of some dozen users with its split and features, for data without a dataset folder.

Users have 0 to 40 events, of which the newest are not for training; user 3 has one, so no example.
"""

import numpy as np
import torch

from onerec.data.batches import Features
from onerec.data.features import EventFeatures, ItemFeatures, UserFeatures
from onerec.data.log import Interactions, user_offsets
from onerec.data.snapshots import Snapshots, make_snapshots
from onerec.data.split import Cases, Split

USERS, ITEMS, BEHAVIOURS = 29, 50, ("click", "like")


def make_split(seed: int = 0, timed: bool = True) -> tuple[Split, Features]:
    """A log with exact times, or none, its training rows and what a model may read of it."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 41, USERS)
    lengths[[3, 7]] = 1, 0
    user = np.repeat(np.arange(USERS, dtype=np.int32), lengths)
    offsets, n = user_offsets(user, USERS), len(user)
    time = np.concatenate([np.sort(random.integers(0, 10**9, size)) for size in lengths])
    log = Interactions(
        user=user,
        item=random.integers(0, ITEMS, n).astype(np.int32),
        offsets=offsets,
        n_users=USERS,
        n_items=ITEMS,
        columns={"timestamp": time.astype(np.int64)} if timed else {},
        positive=random.random(n) < 0.4,
        positive_rule="click",
    )
    train_end = offsets[:-1] + np.ceil(0.8 * lengths).astype(np.int64)
    none = Cases(*(np.zeros(0, dtype=np.int64),) * 2, np.zeros(1, dtype=np.int64), np.zeros(0, int))
    split = Split("given", log, train_end, none, none, np.ones(ITEMS, dtype=bool))
    labels = (random.random((n, len(BEHAVIOURS))) < 0.5).astype(np.float32)
    features = Features(
        user=UserFeatures(random.integers(0, 4, (USERS, 2)), (3, 3), ("city", "age"), ()),
        item=ItemFeatures(*(random.integers(0, 5, ITEMS) for _ in range(3)), 4, 4, 4),
        event=EventFeatures(random.integers(0, 11, n), labels, BEHAVIOURS, 10),
        timed=timed,
    )
    return split, features


def snapshots(split: Split, features: Features) -> Snapshots:
    """Whole histories, in clusters."""
    return make_snapshots(
        split.log,
        features.item,
        features.event,
        np.full(ITEMS, 20.0),
        torch.randn(ITEMS, 3, generator=torch.Generator().manual_seed(0)),
        slice(0, USERS),
        limit=40,
        length=6,
    )
