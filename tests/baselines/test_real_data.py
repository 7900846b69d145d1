"""The baselines on MovieLens-100K, where their rough numbers are known."""

import duckdb
import numpy as np
import pytest
import torch

from onerec.baselines import item_knn, popularity
from onerec.data.log import Interactions
from onerec.data.split import Split, make_split
from onerec.evaluate import evaluate, tune


@pytest.fixture(scope="module")
def movielens(real_data) -> Split:
    path = real_data / "ml-100k" / "interactions.parquet"
    if not path.is_file():
        pytest.skip(
            f"no MovieLens 100K at {path}; ONEREC_TEST_DATA names the folder of real datasets"
        )
    # Ratings of one second are put in a random order: sorted by item they would leak the ids.
    query = f"SELECT * FROM '{path}' ORDER BY user_id, timestamp, md5(item_id::VARCHAR)"
    table = duckdb.connect().execute(query).fetchnumpy()
    user, item = (np.unique(table[name], return_inverse=True)[1] for name in ("user_id", "item_id"))
    n_users, n_items = user.max() + 1, item.max() + 1
    log = Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        offsets=np.searchsorted(user, np.arange(n_users + 1)),
        n_users=n_users,
        n_items=n_items,
        columns={"timestamp": np.asarray(table["timestamp"], dtype=np.int64) * 1000},
        positive=np.asarray(table["rating"] >= 4),
        positive_rule="rating>=4",
    )
    return make_split(log, "leave_one_out")


def test_item_knn_beats_popularity_beyond_chance(movielens):
    lists = {}
    for module in (popularity, item_knn):

        def fit(config, module=module):
            return module.fit(movielens, config, torch.Generator().manual_seed(0))

        model = tune(module.GRID, fit, movielens, trials=3).model
        lists[model.name] = model.recommend(movielens, movielens.test, 10)
    result = evaluate(lists, movielens.test, movielens.log.n_items, reference="item_knn")
    assert 0.03 < result["models"]["popularity"]["recall@10"] < 0.09
    assert 0.10 < result["models"]["item_knn"]["recall@10"] < 0.18
    low, _ = result["differences"]["popularity"]["recall@10"]["ci"]
    assert low > 0.02
