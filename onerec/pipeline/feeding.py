"""Where the batches of next-token training come from: tables on the device, or a stream beside it.

Where the log's tables would fill the device (`Setting.fits`), batches are cut on the CPU and made
ahead. Orders that only need neighbours (shuffled, length) read shards of the log below the run's
cache/; the order of time needs all of the log and cuts from tables in the CPU's memory. Shards are
shuffled in another order than tables, so a run that goes on where the answer is another one keeps
its weights and its steps, but may see some examples of the epoch twice and others not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from onerec.assembly import Setting
from onerec.data.ahead import Ahead
from onerec.data.batches import Contexts, TrainingBatches, training_examples
from onerec.data.log_shards import LogShards, Tell, log_fingerprint
from onerec.data.stream import ShardBatches
from onerec.errors import DataError
from onerec.model.batch import Batch
from onerec.runs import Run

FOLDER = "cache/shards"  # of a run
_FROM_SHARDS = ("shuffled", "length")


def prepare_stream(
    setting: Setting, run: Run, order: str, tell: Tell = lambda done, of: None
) -> None:
    """Write what a stream in this order reads and is not there yet; one process alone does it.

    `tell(done, of)` is called after each shard.

    Raises:
        DataError, RunError: the disk is full.
    """
    if order in _FROM_SHARDS:
        split, features, fingerprint = setting.split, setting.features, _fingerprint(setting)
        LogShards.made(run.path / FOLDER, split, features, fingerprint, tell)


@contextlib.contextmanager
def training_batches(
    setting: Setting,
    run: Run,
    contexts: Contexts,
    *,
    order: str,
    steps: int = 0,
    share: tuple[int, int] = (0, 1),
    stream: bool = False,
) -> Iterator[Callable[[int], Batch]]:
    """step -> Batch on the device of `contexts`, as long as the context is open.

    `order`, `steps` and `share` are those of `TrainingBatches`. A `stream` has to be prepared.

    Raises:
        DataError: no training target has a history, or the stream is not prepared.
    """
    recipe = setting.recipe
    dropout = recipe.history.event_dropout
    with contextlib.ExitStack() as stack:
        if stream and order in _FROM_SHARDS:
            found = _shard_batches(setting, run, order, share)
            stack.callback(found.close)
            yield stack.enter_context(Ahead(found, contexts.device, event_dropout=dropout))
            return
        examples = training_examples(setting.split, recipe.train.targets)
        _refuse_none(setting, len(examples))
        batches = TrainingBatches(
            contexts.here() if stream else contexts,
            examples,
            recipe.train.batch_size,
            recipe.seed,
            event_dropout=0.0 if stream else dropout,
            order=order,
            steps=steps,
            share=share,
        )
        if stream:
            yield stack.enter_context(Ahead(batches, contexts.device, event_dropout=dropout))
        else:
            yield batches


def _shard_batches(setting: Setting, run: Run, order: str, share: tuple[int, int]) -> ShardBatches:
    recipe, folder = setting.recipe, run.path / FOLDER
    shards = LogShards.opened(folder, _fingerprint(setting))
    if shards is None:
        raise DataError(
            f"{folder}: the shards of the log are not there or not whole; start the same command "
            "again"
        )
    _refuse_none(setting, sum(shard.examples for shard in shards.shards))
    return ShardBatches(
        shards,
        setting.features,
        recipe.train.batch_size,
        recipe.seed,
        targets=recipe.train.targets,
        short_length=recipe.history.short_length,
        positive_length=recipe.history.positive_length,
        snapshots=setting.snapshots,
        deal_by_length=order == "length",
        share=share,
    )


def _fingerprint(setting: Setting) -> str:
    return log_fingerprint(setting.dataset.fingerprint, setting.split, setting.features)


def _refuse_none(setting: Setting, examples: int) -> None:
    if not examples:
        raise DataError(
            f"{setting.dataset.name!r}: no training target has a history; "
            "give users at least 3 events each, or set evaluate.split=leave_one_out"
        )
