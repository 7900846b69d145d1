"""The world as a dataset: frozen, whole, and no column that a model reads is part of the truth."""

import json

import numpy as np
import pytest
import torch

from onerec.common import generator
from onerec.data.dataset import open_dataset
from onerec.data.features import item_features, user_features
from onerec.data.sources.world import FINGERPRINT, make_world_dataset, world_of
from onerec.data.split import make_split
from onerec.errors import DataError
from onerec.metrics import recall_at_k
from onerec.world import WorldConfig

LIMITS = {"author": 0.65, "tag": 0.25}  # share of the variance of hidden style
SMALL = WorldConfig(n_items=2_000, n_users=400, seed=4)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def dataset(home):
    return make_world_dataset("small", SMALL, home)


def test_the_default_world_is_frozen(tmp_path):
    made = make_world_dataset(home=tmp_path)
    assert made.fingerprint == FINGERPRINT, "the default world changed: every result is void"
    assert 200_000 <= made.info["rows"]["interactions"] <= 300_000


def test_the_same_settings_give_the_same_files(dataset, home):
    again = make_world_dataset("again", SMALL, home)
    assert again.fingerprint == dataset.fingerprint
    for name in ("interactions.parquet", "items.parquet", "users.parquet", "content.safetensors"):
        assert (again.path / name).read_bytes() == (dataset.path / name).read_bytes()
    for name in ("world.json", "world.safetensors"):
        one, two = (d.path / "truth" / name for d in (again, dataset))
        assert one.read_bytes() == two.read_bytes()


def test_another_seed_is_another_world(dataset, home):
    other = make_world_dataset("other", WorldConfig(n_items=2_000, n_users=400, seed=5), home)
    assert other.fingerprint != dataset.fingerprint


def test_the_log_is_split_in_time(dataset):
    split = make_split(dataset)
    assert split.rule == "temporal"
    assert split.counts["test_users"] > 50
    assert dataset.info["time"] == "exact"
    assert dataset.info["counts"]["time_backwards"] == 0
    assert dataset.log.positive_rule == "long_view|like|follow|comment|forward"


def test_content_stands_in_the_order_of_the_dataset(dataset):
    known = world_of(dataset)
    content = dataset.content()
    tokens, mask, _, names = known.world.content_tokens()
    assert content.names == names
    np.testing.assert_allclose(content.tokens, tokens[known.item], atol=2e-3)
    assert np.array_equal(content.mask, mask[known.item])


def test_the_truth_comes_back_from_the_folder(dataset):
    known = world_of(open_dataset(dataset.path))
    assert known.world.config == SMALL
    log = known.world.simulate()
    user, item = known.user[dataset.log.user], known.item[dataset.log.item]
    order = np.lexsort((dataset.log.columns["timestamp"], user))
    assert np.array_equal(user[order], log["user"])
    assert np.array_equal(item[order], log["item"])


def test_a_damaged_truth_says_what_to_do(home):
    made = make_world_dataset("damaged", SMALL, home)
    (made.path / "truth" / "world.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="make it again with `onerec data delete damaged`"):
        world_of(made)


def test_other_datasets_have_no_truth(dataset, tmp_path):
    for file in dataset.path.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert world_of(open_dataset(tmp_path)) is None


def test_covers_are_written_when_asked_for(home):
    made = make_world_dataset("drawn", SMALL, home, covers=True)
    pictures = sorted((made.path / "images").glob("*.png"))
    assert len(pictures) == SMALL.n_items
    assert pictures[0].read_bytes().startswith(b"\x89PNG")


def explained(column, latent):
    """How much of the variance of a latent the groups of a column explain beyond chance."""
    groups, inverse = np.unique(column, return_inverse=True)
    if len(groups) < 2 or len(groups) > len(column) / 3:
        return abs(np.corrcoef(np.argsort(np.argsort(column)), latent)[0, 1]) ** 2
    count = np.bincount(inverse)
    mean = np.bincount(inverse, weights=latent) / count
    between = ((mean - latent.mean()) ** 2 * count).sum() / ((latent - latent.mean()) ** 2).sum()
    chance = (len(groups) - 1) / (len(column) - 1)
    return max(0.0, (between - chance) / (1 - chance))


def same_partition(one, two):
    """Whether two columns are the same up to names."""
    pairs = len(set(zip(one.tolist(), two.tolist(), strict=True)))
    return pairs == len(np.unique(one)) == len(np.unique(two))


def test_no_latent_of_the_response_model_is_a_column_that_a_model_reads(dataset):
    known = world_of(dataset)
    catalogue, people = known.world.catalogue, known.world.people
    features = item_features(dataset)
    read = {"author": features.author, "tag": features.tag, "duration": features.duration}
    read["index"] = np.arange(dataset.n_items)
    read["published"] = dataset.items["published_at"].to_numpy()
    latents = {
        "quality": catalogue.quality,
        "weight": np.log(catalogue.weight),
        **{f"hidden {h}": catalogue.hidden[:, h] for h in range(catalogue.hidden.shape[1])},
    }
    for name, column in read.items():
        for latent, values in latents.items():
            # Authors have a style, half of it their own, and a topic has few authors.
            limit = LIMITS.get(name, 0.1) if latent.startswith("hidden") else 0.1
            assert explained(column, values[known.item]) < limit, (name, latent)
        for latent in (catalogue.topic, catalogue.category, catalogue.style):
            assert not same_partition(np.asarray(column), latent[known.item]), name
    users = user_features(dataset)
    for name, column in zip(users.names, users.codes.T, strict=True):
        for latent in (people.bias, people.like_bias, *people.hidden.T):
            assert explained(column, latent[known.user].astype(np.float64)) < 0.25, name
    held = people.interests(known.user, np.zeros(dataset.n_users))
    for name, column in zip(users.names, users.codes.T, strict=True):
        assert not same_partition(column, catalogue.category[held[:, 0]]), name


def test_no_table_holds_more_than_the_platform_could_show(dataset):
    assert set(dataset.items.columns) == {
        *("item", "item_id", "caption", "category", "tags", "author_id"),
        *("duration_ms", "published_at"),
    }
    assert set(dataset.users.columns) == {
        *("user", "user_id", "age_band", "gender", "device", "city_tier"),
        *("active_degree", "declared_category"),
    }
    assert set(dataset.log.columns) <= {
        *("timestamp", "click", "long_view", "like", "follow", "comment", "forward", "dislike"),
        *("play_ms", "duration_ms"),
    }
    text = json.dumps(dataset.info)
    assert "truth" not in text


def test_oracle_and_random_speak_of_the_dataset(dataset):
    known = world_of(dataset)
    cases = make_split(dataset).test
    lists = {
        "oracle": known.oracle(cases.user, 10, cases.end),
        "random": known.random(cases.user, 10, generator(0)),
    }
    recall = {
        name: recall_at_k(ranked, cases.target_offsets, cases.target_items, 10).mean()
        for name, ranked in lists.items()
    }
    assert recall["oracle"] > 0.1
    assert recall["random"] < 0.05
    assert np.array_equal(lists["random"], known.random(cases.user, 10, generator(0)))
    assert isinstance(generator(0), torch.Generator)
    # Without rows the last tenth of the log is what is asked for, as the temporal split has it.
    assert np.array_equal(known.oracle(cases.user, 10), lists["oracle"])


def test_truth_speaks_of_the_dataset_and_counts_repeats(dataset):
    known = world_of(dataset)
    log = dataset.log
    users = np.flatnonzero(np.diff(log.offsets) > 3)[:5]
    ends = log.offsets[users] + 3
    had = log.item[ends - 1].astype(np.int64)
    items = np.stack([had, (had + 1) % dataset.n_items, np.full(5, -1)], axis=1)
    truth = known.truth(users, ends, items)
    assert (truth["long_view"][:, 2] == 0).all()
    day = (log.columns["timestamp"][ends] - known.world.config.start_ms) / 86_400_000
    repeats = np.array(
        [
            [(log.item[log.offsets[u] : e] == i).sum() for i in row]
            for u, e, row in zip(users, ends, items, strict=True)
        ]
    )
    assert (repeats[:, 0] >= 1).all()
    expected = known.world.truth(known.user[users], known.item[items[:, :2]], day, repeats[:, :2])
    for name, value in expected.items():
        np.testing.assert_allclose(truth[name][:, :2], value)


def test_the_truth_of_all_is_that_of_each(dataset):
    known = world_of(dataset)
    users = np.flatnonzero(np.diff(dataset.log.offsets) > 3)[:3]
    ends = dataset.log.offsets[users] + 3
    every = known.truth_of_all(users, ends)
    items = np.tile(np.arange(0, dataset.n_items, 7), (3, 1))
    some = known.truth(users, ends, items)
    for name, value in some.items():
        np.testing.assert_allclose(every[name][:, ::7], value, rtol=2e-3, atol=2e-4)
