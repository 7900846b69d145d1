"""Before a training starts: what it will take is what it takes, and the words hold the numbers."""

from pathlib import Path

import numpy as np
import pytest
import toy_home

from onerec.assembly import Setting, load_semantic_ids
from onerec.count import Cardinalities, Counter
from onerec.data.batches import Features, training_examples
from onerec.data.dataset import open_dataset
from onerec.errors import DataError
from onerec.explain import cost as explain
from onerec.recipes import Recipe, recipe
from onerec.runs import open_run


@pytest.fixture(scope="module")
def facts(trained: Path) -> explain.Facts:
    return explain.facts(trained / "datasets" / "toy")


@pytest.mark.parametrize("changes", [{}, {"history.content": "true", "content.text_dim": "6"}])
def test_a_dataset_counts_as_the_model_that_is_built_for_it(
    trained: Path, facts: explain.Facts, changes: dict[str, str]
) -> None:
    made = toy_home.make_recipe({"tokenizer.codebook_size": "4", **changes})
    run = open_run("first", trained)
    setting = Setting.of(made, open_dataset("toy", trained))
    ids, _ = load_semantic_ids(run)
    dim = 6 + made.content.behaviour_dim  # text and co-consumption
    model = setting.new_model(ids, vectors=np.zeros((toy_home.ITEMS, dim), dtype=np.float32))
    assert ids.sizes == (4, 4)
    assert facts.cardinalities(made) == Cardinalities.of(model.vocabulary)
    cost, _ = explain.numbers(made, facts, toy_home.ITEMS, "cpu")
    assert cost.parameters == sum(p.numel() for p in model.parameters())


def test_a_mean_context_is_that_of_all_events_before_a_positive(
    trained: Path, facts: explain.Facts
) -> None:
    """A slow count, event by event; the split would leave out each user's last two positives."""
    log = open_dataset("toy", trained).log
    short, positive, targets = [], [], []
    for user in range(log.n_users):
        rows = range(int(log.offsets[user]), int(log.offsets[user + 1]))
        for row in rows[1:]:
            if log.positive[row]:
                before = [bool(log.positive[other]) for other in rows if other < row]
                short.append(min(5, len(before)))
                positive.append(min(8, sum(before)))
                targets.append(min(2, sum(bool(log.positive[r]) for r in rows if r >= row)))
    made = toy_home.make_recipe({"history.event_dropout": "0.25"})
    expected = 0.75 * (np.mean(short) + np.mean(positive))
    assert facts.events(made) == pytest.approx(expected)
    assert facts.targets(made) == pytest.approx(np.mean(targets))
    split = Setting.of(made, open_dataset("toy", trained)).split
    held_back = len(facts.before) - len(training_examples(split, 2))
    assert 0 < held_back <= 2 * toy_home.USERS


def test_features_follow_the_columns_that_a_log_has(folder: Path) -> None:
    """The dataset by hand has play times, durations and exact times; `toy` has no durations."""
    found = explain.facts(folder)
    dataset = open_dataset(folder.name, folder.parents[1])
    made = recipe("tiny", {"history.content": "false"})
    vocabulary = Features.of(dataset, dataset.log).vocabulary((8, 8, 8), dataset.n_items)
    assert found.cardinalities(made) == Cardinalities.of(vocabulary)
    assert min(vocabulary.n_duration, vocabulary.n_play, vocabulary.n_time) > 0


def test_a_damaged_dataset_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset there"):
        explain.facts(tmp_path)


def words(made: Recipe, facts: explain.Facts | None = None) -> dict[str, explain.Number]:
    found = explain.numbers(made, facts, 1_200, "cpu")[1]
    return {number.name: number for number in found}


def test_every_number_is_computed_before_ones_eyes() -> None:
    made = recipe("tiny", {"train.batch_size": "100", "train.steps": "10"})
    cost, _ = explain.numbers(made, None, 1_200, "cpu")
    said = words(made)
    assert list(said) == [
        *("Parameters", "Active parameters"),
        *("FLOPs of a sample", "FLOPs of the training", "Memory"),
    ]
    assert said["Parameters"].how.endswith(f"= {cost.parameters:,}.")
    assert said["Active parameters"].how.startswith(f"{cost.parameters:,} - 122,880 of the experts")
    assert said["Active parameters"].how.endswith(f"= {cost.active_parameters:,}.")
    assert "2 of 4 experts" in said["Active parameters"].says
    counter = Counter(made, Cardinalities((128,) * 3, 1_200))
    assert f"a full context: {counter.default_events():.1f} events, 4.0" in (
        said["FLOPs of a sample"].how
    )
    assert "x 10 steps x 100 samples = " in said["FLOPs of the training"].how
    kept = sum(counter.activations().values())
    assert f"4 bytes x {kept:,.0f} values of a full context x 100 samples" in said["Memory"].how


def test_a_mean_context_makes_operations_fewer_and_memory_not(facts: explain.Facts) -> None:
    made = toy_home.make_recipe()
    mean, _ = explain.numbers(made, facts, toy_home.ITEMS, "cpu")
    counter = Counter(made, facts.cardinalities(made))
    assert mean.flops_per_sample < counter.training_flops()
    assert mean.sample_bytes == 4 * sum(counter.activations().values())
    assert "the mean context of this dataset" in words(made, facts)["FLOPs of a sample"].how


def test_a_dense_model_uses_all_of_itself() -> None:
    said = words(recipe("tiny", {"model.experts": "0"}))
    assert said["Active parameters"].value == said["Parameters"].value
    assert "no expert is left out" in said["Active parameters"].says


@pytest.mark.parametrize(
    ("path", "greatest"),
    [
        *((f"train.{name}", 10**18) for name in ("steps", "batch_size", "targets")),
        *((f"model.{name}", 8 * 10**16) for name in ("width", "experts")),
        ("history.short_length", 10**18),
        ("model.decoder_layers", 1_000),
        ("tokenizer.levels", 100),
    ],
)
def test_the_largest_settings_that_a_recipe_takes_can_be_counted(
    path: str, greatest: int, facts: explain.Facts
) -> None:
    made = recipe("tiny", {"train.steps": "9" * 18, path: str(greatest)})
    cost, found = explain.numbers(made, facts, 1_200, "cpu")
    assert all(number.how for number in found)
    assert cost.seconds > 1e9
