"""Batches of a training, from tables or as a stream: the same, and nothing is left running."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_home

from onerec import assembly
from onerec.assembly import Setting, setting_of
from onerec.data.ahead import Ahead
from onerec.data.batches import TrainingBatches
from onerec.errors import DataError
from onerec.model.batch import Batch
from onerec.pipeline.feeding import FOLDER, prepare_stream, training_batches
from onerec.runs import Run, open_run


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Run:
    """A copy of the run that a test may add to."""
    shutil.copytree(trained, tmp_path / "home")
    return open_run("first", tmp_path / "home")


def with_changes(run: Run, changes: dict[str, str]) -> Setting:
    return replace(setting_of(run), recipe=toy_home.make_recipe(changes))


def made(source: Callable[[int], Batch], steps: int) -> list[Batch]:
    """The batches of a training's first steps; torch is seeded for each as the loop does it."""
    found = []
    for step in range(steps):
        torch.manual_seed(step)
        found.append(source(step))
    return found


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for pathway in ("short", "positive"):
            for name in ("item", "time", "play", "label"):
                a, b = (getattr(getattr(batch, pathway), name) for batch in (one, other))
                assert torch.equal(a, b)
        assert torch.equal(one.static, other.static)
        assert torch.equal(one.target, other.target)


@pytest.mark.parametrize("order", ["shuffled", "length"])
def test_a_stream_of_one_pool_is_what_tables_give(own: Run, order: str) -> None:
    """Over two epochs and bit for bit, dropout of events included."""
    setting = with_changes(own, {"history.event_dropout": "0.3"})
    contexts = setting.contexts("cpu")
    prepare_stream(setting, own, order)
    assert (own.path / FOLDER / "shards.json").is_file()
    before = threading.active_count()
    with training_batches(setting, own, contexts, order=order) as tables:
        assert isinstance(tables, TrainingBatches)
        steps = 2 * len(tables.user) // setting.recipe.train.batch_size + 1
        expected = made(tables, steps)
    with training_batches(setting, own, contexts, order=order, stream=True) as stream:
        assert isinstance(stream, Ahead)
        assert_same(made(stream, steps), expected)
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_a_stream_in_the_order_of_time_is_what_tables_give(own: Run) -> None:
    """Bit for bit, dropout of events included: it needs no shards, and none are written."""
    setting = with_changes(own, {"history.event_dropout": "0.3"})
    contexts = setting.contexts("cpu")
    prepare_stream(setting, own, "time")
    assert not (own.path / FOLDER).exists()
    batches: list[list[Batch]] = []
    for stream in (False, True):
        with training_batches(
            setting, own, contexts, order="time", steps=30, share=(1, 2), stream=stream
        ) as source:
            batches.append(made(source, 30))
    assert_same(*batches)


def test_a_share_of_a_stream_and_its_dropout(own: Run) -> None:
    setting = with_changes(own, {"history.event_dropout": "0.5"})
    contexts = setting.contexts("cpu")
    prepare_stream(setting, own, "shuffled")
    found = []
    for share in ((0, 1), (0, 2), (1, 2)):
        with training_batches(
            setting, own, contexts, order="shuffled", share=share, stream=True
        ) as source:
            found.append(source(3))
    whole, *shares = found
    for rank, part in enumerate(shares):
        assert torch.equal(part.target, whole.target[rank::2])
    hidden = setting.recipe.history.event_dropout
    with training_batches(
        with_changes(own, {"history.event_dropout": "0"}),
        own,
        contexts,
        order="shuffled",
        stream=True,
    ) as source:
        full = int((source(3).short.item > 0).sum())
    assert (1 - hidden) * full * 0.7 < int((whole.short.item > 0).sum()) < full


def test_a_stream_that_is_not_prepared_is_refused(own: Run) -> None:
    setting = setting_of(own)
    contexts = setting.contexts("cpu")
    with (
        pytest.raises(DataError, match=r"cache/shards: .* not there or not whole; start"),
        training_batches(setting, own, contexts, order="shuffled", stream=True),
    ):
        pass


@pytest.mark.parametrize("order", ["shuffled", "time"])
@pytest.mark.parametrize("stream", [False, True])
def test_without_an_example_nothing_begins(own: Run, order: str, stream: bool) -> None:
    setting = setting_of(own)
    log = replace(setting.split.log, positive=np.zeros(len(setting.split.log), dtype=bool))
    setting = replace(setting, split=replace(setting.split, log=log))
    prepare_stream(setting, own, order)
    before = threading.active_count()
    with (
        pytest.raises(DataError, match="no training target has a history; give users at least 3"),
        training_batches(setting, own, setting.contexts("cpu"), order=order, stream=stream),
    ):
        pass
    assert threading.active_count() == before


def test_tables_that_take_more_than_their_share_stand_beside_the_device(
    own: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of its own kind, `meta`, stands for a GPU: what is sent there is known by it."""
    setting = setting_of(own)
    assert setting.fits("cpu")
    need = assembly.table_bytes(setting.split.log, setting.features)
    share = assembly.TABLES_SHARE
    for memory, fits in ((int(need / share) + 1, True), (int(need / share) - 1, False)):
        monkeypatch.setattr(assembly, "device_memory", lambda device, memory=memory: memory)
        assert setting.fits("meta") is fits
        contexts = setting.contexts("meta")
        assert contexts.tables.type == ("meta" if fits else "cpu")
        assert contexts.device.type == "meta"
    batch = contexts.batch(torch.tensor([0, 1]), torch.tensor([3, 12]))
    assert {batch.static.device.type, batch.short.item.device.type} == {"meta"}
    assert batch.target.device.type == "meta"
    cut = contexts.here().batch(torch.tensor([0, 1]), torch.tensor([3, 12]))
    assert cut.short.item.device.type == "cpu"
    assert torch.equal(
        cut.short.item,
        setting.contexts("cpu").batch(torch.tensor([0, 1]), torch.tensor([3, 12])).short.item,
    )
