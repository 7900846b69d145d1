"""The shipped demo: a small world with covers, a finished run and three streams of it.

Made by `make demo` with the same stages as any run; afterwards what only a training needs
(optimiser moments, older checkpoints, the copy that served) is left out, so that it is small
enough to travel along.
"""

import shutil
from pathlib import Path

from onerec.checkpoint import checkpoints, load_tensors, save_tensors
from onerec.data.sources.world import make_world_dataset
from onerec.pipeline.item_map import make_map
from onerec.pipeline.quantisers import compare_quantisers
from onerec.pipeline.reward_rival import make_rival
from onerec.pipeline.session import Report, quiet
from onerec.pipeline.stages import run
from onerec.recipes import recipe
from onerec.run_files import write_json
from onerec.runs import Run
from onerec.stream import StreamConfig, stream
from onerec.world import WorldConfig

DATASET, RUN = "small_world", "first_run"
SIZE_LIMIT = 10 << 20
SETTINGS = {  # a fifth of the world's events: less training, more that is hidden
    "train.steps": "150",
    "train.evaluate_every": "50",
    "train.checkpoint_every": "50",
    "model.heads": "4",
    "model.dropout": "0.2",
    "history.event_dropout": "0.2",
    "baselines.sasrec_steps": "250",
    "align.steps": "40",
    "align.weight": "0.3",
    "align.tilt": "0",  # what the papers do is what pages and notebook 06 explain
    "seed": "1",  # of 0, 1, 2 the first whose alignment keeps a later step than its first
    "align.lag": "40",  # groups of the policy as it began: ratios leave the clip's range
    "align.learning_rate": "0.0001",
    "evaluate.recommend_users": "400",
}
STREAMS = {arm: StreamConfig(arm=arm, rounds=8) for arm in ("frozen", "rsft", "rsft_ecpo")}
_ONLY_FOR_TRAINING = (  # a companion's curve stands in metrics.jsonl as well
    *("baselines/*.safetensors", "reward/curve.json", "align/served-*"),
    *("stream/*/served-*", "stream/*/checkpoint-*", "stream/*/rollouts/*"),
)


def make_demo(folder: Path, report: Report = quiet) -> Run:
    """Build `folder`/datasets and `folder`/runs anew; what stood there is replaced at the end.

    Raises:
        AssertionError: the demo outgrew what the repository may carry.
    """
    work = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    try:
        world = WorldConfig(n_items=1_200, n_users=1_000)
        make_world_dataset(DATASET, world, work, covers=True)
        settings = recipe("tiny", SETTINGS)
        run(RUN, settings, DATASET, home=work, report=report)
        make_map(RUN, work, report=report)
        compare_quantisers(RUN, work, report=report)
        make_rival(RUN, work, report=report)
        for config in STREAMS.values():  # the last one is the first that the app shows
            stream(RUN, config, home=work, report=report)
        _strip(Run(work / "runs" / RUN))
        size = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
        assert size <= SIZE_LIMIT, f"the demo has {size >> 20} MiB, the limit is 10"
        shutil.rmtree(folder, ignore_errors=True)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Run(folder / "runs" / RUN)


def _strip(finished: Run) -> None:
    """Keep the chosen checkpoints' weights alone, and no lists but those on show.

    Of a stream stays what was shown, done and measured; nobody is served by its weights.
    """
    for folder in finished.path.glob("cache/*"):
        if folder.is_dir():  # what a process was at: its result stands beside it
            shutil.rmtree(folder)
    for stage in ("pretrain", "reward", "align"):
        _strip_stage(finished.path / stage, (finished.done(stage) or {}).get("checkpoint", ""))
    for pattern in _ONLY_FOR_TRAINING:
        for path in finished.path.glob(pattern):
            path.unlink()
    for path in finished.path.glob("rollouts/*.parquet"):  # every fifth, the first and the last
        if int(path.stem.rpartition("-")[2]) % 5 and path.stem != "step-000001":
            path.unlink()


def _strip_stage(folder: Path, chosen: str) -> None:
    for checkpoint in checkpoints(folder):
        if checkpoint.path.name != chosen:
            checkpoint.path.with_suffix(".json").unlink()
            checkpoint.path.unlink()
            continue
        weights = load_tensors(checkpoint.path, "model.")
        save_tensors(checkpoint.path, {f"model.{name}": t for name, t in weights.items()})
        size = checkpoint.path.stat().st_size
        write_json(checkpoint.path.with_suffix(".json"), {**checkpoint.info, "bytes": size})
