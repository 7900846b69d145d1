"""Training that is paused, stopped, killed or damaged ends with the weights of one that was not."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_home
import toy_model
from safetensors.torch import load_file, save_file

from onerec import assembly
from onerec.assembly import Setting, load_semantic_ids, setting_of
from onerec.checkpoint import Checkpoint
from onerec.common import generator
from onerec.count import Cardinalities, Counter
from onerec.data import log_shards, stream
from onerec.data.batches import Contexts, TrainingBatches, training_examples
from onerec.data.dataset import open_dataset
from onerec.data.split import Cases
from onerec.errors import DataError, RecipeError, RunError
from onerec.loop import StepResult
from onerec.metrics import recall_at_k
from onerec.model.batch import Batch
from onerec.model.routers import RouterConfig, competition_schedule
from onerec.pipeline import run, run_stage
from onerec.pipeline.pretrain import Pretraining, _values, sample_cases
from onerec.recommend import Recommender
from onerec.runs import Run, open_run
from onerec.throughput import counts
from onerec.train import compiled

LAST = f"checkpoint-{toy_home.STEPS:06d}.safetensors"


def weights(run: Run, name: str = LAST) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint: weights and the optimiser's moments."""
    return load_file(run.path / "pretrain" / name)


def assert_same_weights(ours: Run, theirs: Run, name: str = LAST) -> None:
    a, b = weights(ours, name), weights(theirs, name)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def at_step(
    step: int, do: Callable[[], object]
) -> Callable[[str, int, int, Mapping[str, Any]], None]:
    """A listener that does something once training has reached a step."""

    def report(stage: str, now: int, of: int, values: Mapping[str, Any]) -> None:
        if stage == "pretrain" and now == step:
            do()

    return report


def stopped_at(home: Path, step: int, changes: Mapping[str, str] | None = None) -> Run:
    """A run that was asked to stop at a step."""
    path = home / "runs" / "x"
    stop = at_step(step, lambda: Run(path).control(stop=True))
    recipe = toy_home.make_recipe(changes)
    return run_stage("pretrain", "x", recipe=recipe, dataset="toy", home=home, report=stop)


def test_metrics_have_a_line_a_step_and_valid_numbers_where_they_were_measured(
    trained: Path,
) -> None:
    metrics = open_run("first", trained).metrics("pretrain")
    assert metrics["step"].tolist() == list(range(1, toy_home.STEPS + 1))
    assert set(metrics["of"]) == {toy_home.STEPS}
    levels = metrics[["loss_1", "loss_2"]].sum(axis=1)
    assert np.allclose(metrics["loss"], levels, atol=1e-5)  # the sum over levels
    assert metrics["loss"].iloc[-5:].mean() < metrics["loss"].iloc[:5].mean()
    assert metrics["lr"].iloc[0] < metrics["lr"].max() > metrics["lr"].iloc[-1]  # warm-up, decay
    measured = metrics.dropna(subset="valid_recall@10")
    assert measured["step"].tolist() == [10, 20, 30]
    assert (metrics["grad_norm"] > 0).all()


def test_rates_are_told_with_every_line_and_agree_with_the_formula(trained: Path) -> None:
    """Operations per sample are those of a context of the batches: more than of one without any
    event, less than of one that is full; toy batches are alike, so they hardly move."""
    run = open_run("first", trained)
    metrics = run.metrics("pretrain")
    assert "mfu" not in metrics, "no peak is known of a CPU"
    setting = setting_of(run, trained)
    model = setting.new_model(load_semantic_ids(run)[0])
    counter = Counter(setting.recipe, Cardinalities.of(model.vocabulary))
    flops = metrics["flops_per_second"] / metrics["samples_per_second"]
    assert flops.between(counter.training_flops(0, 1), counter.training_flops(13, 2)).all()
    examples = training_examples(setting.split, 2)
    batches = TrainingBatches(setting.contexts("cpu"), examples, 32, setting.recipe.seed)
    dropped = setting.recipe.history.event_dropout
    seen = [counts(batches(step)) for step in range(toy_home.STEPS - 20, toy_home.STEPS)]
    events, targets = (sum(int(c[name]) for c in seen) / 640 for name in ("events", "targets"))
    expected = counter.training_flops(events * (1 - dropped), targets)
    assert flops.iloc[-1] == pytest.approx(expected, rel=0.02)


def test_utilisation_is_told_where_the_devices_peak_is_known(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("onerec.pipeline.pretrain")
    monkeypatch.setattr(module, "device_name", lambda device: "NVIDIA H200")
    steps = {"train.steps": "2"}
    run = run_stage("pretrain", "x", recipe=toy_home.make_recipe(steps), dataset="toy", home=home)
    metrics = run.metrics("pretrain")
    assert np.allclose(metrics["mfu"], metrics["flops_per_second"] / 989e12, rtol=1e-12)


def test_done_json_names_the_chosen_checkpoint(trained: Path) -> None:
    run = open_run("first", trained)
    done = run.done("pretrain")
    assert done is not None
    assert (done["checkpoint"], done["step"]) == (LAST, toy_home.STEPS)
    model = [v for k, v in weights(run).items() if k.startswith("model.") and "bias" not in k]
    assert done["parameters"] >= sum(tensor.numel() for tensor in model)
    measured = run.metrics("pretrain").dropna(subset="valid_recall@10").set_index("step")
    assert {int(k): v for k, v in done["valid"].items()} == dict(measured["valid_recall@10"])


def test_valid_recall_is_that_of_the_weights_at_that_step(trained: Path) -> None:
    """The number in the curve, measured again from the checkpoint on disk."""
    run = open_run("first", trained)
    recommender = Recommender.load(run, device="cpu")
    valid = recommender.setting.split.valid
    items = recommender.lists(valid, 10).items
    recall = recall_at_k(items, valid.target_offsets, valid.target_items, 10).mean()
    assert run.metrics("pretrain")["valid_recall@10"].iloc[-1] == recall


def test_only_the_last_two_checkpoints_and_the_best_stay(trained: Path) -> None:
    run = open_run("first", trained)
    valid = {int(k): v for k, v in (run.done("pretrain") or {})["valid"].items()}
    best = max(valid, key=lambda step: (valid[step], -step))
    assert run.checkpoints()["step"].tolist() == sorted({20, 30, best})


def test_keep_best_chooses_by_valid(home: Path) -> None:
    changes = {"train.keep": "best", "train.learning_rate": "0.05"}
    run = run_stage("pretrain", "b", recipe=toy_home.make_recipe(changes), dataset="toy", home=home)
    done = run.done("pretrain")
    assert done is not None
    valid = {int(k): v for k, v in done["valid"].items()}
    assert valid[done["step"]] == max(valid.values())
    assert (run.path / "pretrain" / done["checkpoint"]).is_file()


def test_the_best_step_is_there_also_where_no_checkpoint_is_due(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where steps are measured and saved at different times the last one was taken in its place."""

    def measured(self: Pretraining, step: int) -> dict[str, float]:
        self.valid[step] = 1.0 / step
        return {}

    monkeypatch.setattr(Pretraining, "evaluate", measured)
    changes = {"train.steps": "6", "train.evaluate_every": "2", "train.checkpoint_every": "5"}
    recipe = toy_home.make_recipe({**changes, "train.keep": "best"})
    run = run_stage("pretrain", "b", recipe=recipe, dataset="toy", home=home)
    assert (run.done("pretrain") or {})["checkpoint"] == "checkpoint-000002.safetensors"
    assert run.checkpoints()["step"].tolist() == [2, 5, 6]


def test_the_load_of_every_expert_is_recorded(trained: Path) -> None:
    import duckdb

    path = open_run("first", trained).path / "routing" / "load.parquet"
    rows = duckdb.connect().execute("FROM read_parquet(?)", [str(path)]).df()
    assert list(rows.columns) == ["step", "layer", "expert", "load"]
    assert sorted(set(rows["step"])) == list(range(1, toy_home.STEPS + 1))
    assert set(rows["expert"]) == {0, 1}
    # One of two experts for each decoder position: at most 32 contexts x 2 targets x 2 levels.
    total = rows.groupby(["step", "layer"])["load"].sum()
    assert (total % 2 == 0).all()
    assert 0 < total.min() <= total.max() <= 32 * 2 * 2


def test_a_stop_is_obeyed_at_once_and_the_rest_is_as_if_it_had_not_been(
    trained: Path, home: Path
) -> None:
    run = stopped_at(home, 13)
    assert run.status().state == "stopped"
    assert run.status().step == 13
    assert not run.is_done("pretrain")
    assert run.checkpoints()["step"].tolist()[-1] == 13
    run_stage("pretrain", "x", home=home)
    assert run.status().state == "done"
    first = open_run("first", trained)
    assert_same_weights(run, first)
    # Metrics hold each step once, though the run was made in two parts.
    assert run.metrics("pretrain")["step"].tolist() == list(range(1, toy_home.STEPS + 1))
    assert run.metrics("pretrain")["loss"].equals(first.metrics("pretrain")["loss"])


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose memory the log would fill, shards of at most 60 rows, and pools of two."""
    monkeypatch.setattr(assembly, "device_memory", lambda device: 1)
    monkeypatch.setattr(log_shards, "ROWS", 60)
    monkeypatch.setattr(stream, "POOLED", 2)


def test_a_log_that_would_fill_the_device_is_streamed_and_a_stop_changes_nothing(
    home: Path, streamed: None
) -> None:
    changes = {"train.steps": "10", "train.checkpoint_every": "5"}
    before = threading.active_count()
    run = stopped_at(home, 6, changes)
    assert threading.active_count() == before
    assert "as a stream" in (run.path / "log.txt").read_text()
    assert len(list((run.path / "cache" / "shards").glob("shard-*.parquet"))) > 4
    run_stage("pretrain", "x", home=home)
    recipe = toy_home.make_recipe(changes)
    whole = run_stage("pretrain", "y", recipe=recipe, dataset="toy", home=home)
    assert_same_weights(run, whole, "checkpoint-000010.safetensors")
    assert threading.active_count() == before


def test_a_stream_of_a_small_log_trains_the_weights_that_tables_train(
    trained: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "device_memory", lambda device: 1)
    run = run_stage("pretrain", "x", recipe=toy_home.make_recipe(), dataset="toy", home=home)
    assert (run.path / "cache" / "shards" / "shards.json").is_file()
    assert_same_weights(run, open_run("first", trained))


def test_a_shard_that_goes_missing_stops_the_training_in_one_line_and_is_made_again(
    home: Path, streamed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(home / "runs" / "x")

    def lose() -> None:
        for path in (run.path / "cache" / "shards").glob("shard-*.parquet"):
            path.unlink()

    recipe, report = toy_home.make_recipe({"train.steps": "20"}), at_step(1, lose)
    before = threading.active_count()
    with pytest.raises(DataError, match=r"shard-\d+\.parquet: cannot be read .*start the same"):
        run_stage("pretrain", "x", recipe=recipe, dataset="toy", home=home, report=report)
    assert threading.active_count() == before
    run_stage("pretrain", "x", home=home)
    assert run.is_done("pretrain")


COMPETING = {
    "routing.router": "competition",
    "routing.shared_experts": "1",
    "routing.competition_rate": "0.3",
    "routing.competition_layers": "1",
    "routing.competition_warmup": "0.2",
    "model.active_experts": "2",
    "model.experts": "3",
}


@pytest.mark.slow
def test_competition_keeps_its_schedule_and_a_resumed_one_is_the_uninterrupted_one(
    home: Path,
) -> None:
    recipe = toy_home.make_recipe(COMPETING)
    whole = run_stage("pretrain", "whole", recipe=recipe, dataset="toy", home=home)
    metrics = whole.metrics("pretrain").set_index("step")
    layers = recipe.model.decoder_layers
    model = Setting.of(recipe, open_dataset("toy", home)).new_model(load_semantic_ids(whole)[0])
    plan = competition_schedule(
        model.config.router, toy_home.STEPS, layers, generator(recipe.seed)
    ).sum(1)
    assert 0 < plan.sum() < toy_home.STEPS
    for name in ("aux_distillation", "aux_diversity"):
        assert metrics[name].notna().tolist() == plan.bool().tolist()
    assert metrics["aux_z"].notna().tolist() == (plan < layers).tolist()
    assert metrics["aux_balance"].notna().all()
    levels = metrics[["loss_1", "loss_2"]].sum(axis=1)
    assert np.allclose(metrics["loss"], levels, atol=1e-6)  # next-token alone
    stop = at_step(13, lambda: Run(home / "runs" / "x").control(stop=True))
    run_stage("pretrain", "x", recipe=recipe, dataset="toy", home=home, report=stop)
    resumed = run_stage("pretrain", "x", home=home)
    assert_same_weights(resumed, whole)


def test_a_pause_holds_single_steps_pass_and_the_weights_do_not_mind(
    trained: Path, home: Path
) -> None:
    run = Run(home / "runs" / "x")
    arguments = {"recipe": toy_home.make_recipe(), "dataset": "toy", "home": home}
    pause = at_step(5, lambda: run.control(pause=True))
    thread = threading.Thread(
        target=run_stage, args=("pretrain", "x"), kwargs={**arguments, "report": pause}
    )
    thread.start()
    try:
        wait(lambda: run.status().state == "paused")
        assert run.status().step == 5
        time.sleep(0.15)
        assert run.metrics("pretrain")["step"].max() == 5
        run.control(steps=2)
        wait(lambda: run.metrics("pretrain")["step"].max() == 7)
        wait(lambda: run.status().state == "paused")
        with pytest.raises(RunError, match="'x' is held by process"):
            run_stage("pretrain", "x", **arguments)
    finally:
        run.control(pause=False)
        thread.join(60)
    assert run.status().state == "done"
    assert_same_weights(run, open_run("first", trained))


def wait(until: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_kill_9_in_the_middle_then_resume_gives_the_same_bits(home: Path) -> None:
    steps = {"train.steps": "120"}
    command = [sys.executable, "-m", "onerec", "pretrain", "--run", "x", "--dataset", "toy"]
    process = subprocess.Popen(
        [*command, *toy_home.set_options(steps)],
        env={**os.environ, "ONEREC_HOME": str(home)},
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(lambda: (home / "runs/x/pretrain/checkpoint-000020.json").exists(), 120)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run = open_run("x", home)
    assert run.status().state == "interrupted"
    assert not run.is_done("pretrain")
    assert (run.path / "writer.json").exists()  # a dead claim, which the next start takes over
    assert run.checkpoints()["step"].max() < 120
    run_stage("pretrain", "x", home=home)
    whole = run_stage(
        "pretrain", "whole", recipe=toy_home.make_recipe(steps), dataset="toy", home=home
    )
    assert_same_weights(run, whole, "checkpoint-000120.safetensors")
    assert run.metrics("pretrain")["loss"].equals(whole.metrics("pretrain")["loss"])


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)  # as long as it should be, and wrong


def belong_to_another_model(path: Path) -> None:
    """A whole file of the right length whose tensors are not ours."""
    save_file({"model.other": torch.zeros(1)}, path)
    about = path.with_suffix(".json")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"bytes": path.stat().st_size}))


@pytest.mark.parametrize(
    ("half", "damage", "logged"),
    [
        ("safetensors", cut_in_half, ""),
        ("safetensors", scribble, "passed over: "),
        ("safetensors", belong_to_another_model, "passed over: "),
        ("json", cut_in_half, ""),
        ("json", scribble, ""),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    trained: Path, home: Path, half: str, damage: Callable[[Path], None], logged: str
) -> None:
    run = stopped_at(home, 23)
    assert run.checkpoints()["step"].tolist()[-2:] == [20, 23]
    damage(run.path / "pretrain" / f"checkpoint-000023.{half}")
    begun: list[int] = []
    run_stage("pretrain", "x", home=home, report=lambda _, step, *rest: begun.append(step))
    assert begun[1] == 21
    assert_same_weights(run, open_run("first", trained))
    assert logged in run.log_tail()


def test_checkpoints_that_are_all_of_another_model_are_refused_and_stay(home: Path) -> None:
    run = stopped_at(home, 7)
    file = run.path / "pretrain" / "checkpoint-000007.safetensors"
    belong_to_another_model(file)
    before = file.read_bytes()
    with pytest.raises(
        RunError, match=r"tensor .*another recipe or tokenizer wrote it; start a run"
    ):
        run_stage("pretrain", "x", home=home)
    assert file.read_bytes() == before


def test_a_context_whose_loss_is_no_number_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Contexts.batch

    def batch(contexts: Contexts, *rows: Any, **more: Any) -> Batch:
        found = real(contexts, *rows, **more)
        found.short.label[1] = float("nan")
        return found

    monkeypatch.setattr(Contexts, "batch", batch)
    with pytest.raises(RunError, match=r"the loss of batch 0 is nan \(rows 1 of \d+\)"):
        run("x", toy_home.make_recipe(), "toy", home=home, stages=("tokenize", "pretrain"))


def test_no_readable_checkpoint_means_from_the_start(trained: Path, home: Path) -> None:
    run = stopped_at(home, 7)
    scribble(run.path / "pretrain" / "checkpoint-000007.safetensors")
    run_stage("pretrain", "x", home=home)
    assert_same_weights(run, open_run("first", trained))
    assert run.metrics("pretrain")["step"].tolist() == list(range(1, toy_home.STEPS + 1))


def test_weights_without_their_moments_are_not_gone_on_from(trained: Path, home: Path) -> None:
    run = stopped_at(home, 7)
    toy_home.spoil_moments(run.path / "pretrain")
    run_stage("pretrain", "x", home=home)
    assert "passed over: checkpoint-000007.safetensors: the optimiser's" in run.log_tail()
    assert_same_weights(run, open_run("first", trained))


def test_what_is_written_before_damaged_checkpoints_is_kept(home: Path) -> None:
    """They count as newer until training comes to their steps again."""
    run = stopped_at(home, 13)
    assert run.checkpoints()["step"].tolist() == [10, 13]
    toy_home.spoil_moments(run.path / "pretrain")
    stopped_at(home, 3)
    begun: list[int] = []
    run_stage("pretrain", "x", home=home, report=lambda _, step, *rest: begun.append(step))
    assert begun[1] == 4


def test_shards_that_nobody_needs_may_be_damaged_at_the_end(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is served must be whole."""
    module = importlib.import_module("onerec.pipeline.pretrain")

    def put_together(checkpoint: Checkpoint) -> Checkpoint:
        if checkpoint.step == damaged:
            raise RunError(f"shards-{damaged:06d}: damaged")
        return checkpoint

    monkeypatch.setattr(module, "consolidate", put_together)
    damaged = 20
    run = run_stage("pretrain", "x", recipe=toy_home.make_recipe(), dataset="toy", home=home)
    assert run.done("pretrain")["step"] == toy_home.STEPS
    assert "passed over: shards-000020: damaged" in run.log_tail()
    damaged = toy_home.STEPS
    with pytest.raises(RunError, match="shards-000030: damaged"):
        run_stage("pretrain", "y", recipe=toy_home.make_recipe(), dataset="toy", home=home)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_do(home: Path) -> None:
    changes = {"train.learning_rate": "1e30", "train.warmup_steps": "1"}
    with pytest.raises(RunError, match=r"batch \d+ is (nan|inf).*lower train\.learning_rate"):
        run_stage("pretrain", "x", recipe=toy_home.make_recipe(changes), dataset="toy", home=home)
    run = open_run("x", home)
    assert run.status().state == "failed"
    assert "training stopped" in run.status().message
    assert not run.is_done("pretrain")


def test_training_without_any_history_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("onerec.pipeline.feeding")
    found = module.training_examples
    monkeypatch.setattr(
        module,
        "training_examples",
        lambda *a: replace(found(*a), user=np.zeros(0, int), end=np.zeros(0, int)),
    )
    with pytest.raises(DataError, match="no training target has a history"):
        run_stage("pretrain", "x", recipe=toy_home.make_recipe(), dataset="toy", home=home)


def test_a_sample_is_spread_over_all_cases_and_always_the_same() -> None:
    offsets = np.arange(0, 22, 2)
    cases = Cases(np.arange(10), np.arange(10), offsets, np.arange(20))
    assert sample_cases(cases, 10) is cases
    taken = sample_cases(cases, 4)
    assert taken.user.tolist() == [0, 2, 5, 7]
    assert taken.target_items.tolist() == [0, 1, 4, 5, 10, 11, 14, 15]


def test_seconds_count_every_process_that_worked_at_it(home: Path) -> None:
    run = stopped_at(home, 20)
    path = run.path / "pretrain" / "checkpoint-000020.json"
    info = json.loads(path.read_text())
    assert 0 < info["seconds"] < 60
    path.write_text(json.dumps({**info, "seconds": 1_000.0}))
    done = run_stage("pretrain", "x", home=home).done("pretrain")
    assert done is not None
    assert 1_000 < done["seconds"] < 1_060


def test_a_lazy_models_loss_is_told_as_it_is_minimised_without_what_routers_add() -> None:
    """The mean over levels, where an encoder-decoder has the sum."""
    model = toy_model.make_lazy(experts=3, router=RouterConfig("softmax"))
    batch = toy_model.make_batch()
    plain, _ = model.eval().loss(batch)
    loss, parts = model.train().loss(batch)
    assert loss > plain
    values = {name: float(value) for name, value in parts.items()}
    step = StepResult(1, loss.item(), values, grad_norm=1.0, lr=0.1, seconds=1.0)
    told = _values(model, step)["loss"]
    assert told == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.:DeprecationWarning")
def test_compiled_pretraining_leaves_the_checkpoints_of_the_plain_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    compiled._compiled.cache_clear()
    short = {"train.steps": "4", "train.evaluate_every": "2", "train.checkpoint_every": "2"}
    weights = {}
    for name, wanted in (("plain", "false"), ("fast", "true")):
        recipe = toy_home.make_recipe(short | {"train.compile": wanted})
        run = run_stage("pretrain", name, recipe=recipe, dataset="toy", home=home)
        weights[name] = load_file(run.path / "pretrain" / "checkpoint-000004.safetensors")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert weights["fast"].keys() == weights["plain"].keys()
    for key, tensor in weights["plain"].items():
        torch.testing.assert_close(weights["fast"][key], tensor, atol=2e-3, rtol=1e-2)
    compiled._compiled.cache_clear()


def test_a_compiler_that_is_missing_is_said_before_a_run_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    recipe = toy_home.make_recipe({"train.compile": "true"})
    with pytest.raises(RecipeError, match="'no-such-compiler' is not found"):
        run_stage("pretrain", "fast", recipe=recipe, dataset="toy", home=home)
    assert not (home / "runs" / "fast").exists()
