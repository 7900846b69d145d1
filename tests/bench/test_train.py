"""Training measured through the real path: what is printed, and that it is counted right."""

import json

import pytest
import torch
import toy_model as toy

from onerec.bench import train
from onerec.errors import RecipeError
from onerec.world import WorldConfig

TINY = {
    "model.width": "16",
    "model.heads": "2",
    "tokenizer.codebook_size": "16",
    "train.batch_size": "16",
    "align.users": "4",
    "history.lifelong_length": "20",
    "history.lifelong_limit": "8",
    "history.lifelong_queries": "3",
}


@pytest.mark.parametrize("stream", [False, True], ids=["tables", "stream"])
def test_a_recipe_is_measured(tmp_path, stream, capsys, monkeypatch):
    out, made = tmp_path / "train.json", []
    make = train.make_world_dataset

    def watched(name, world, home):
        made.append(world)
        return make(name, world, home)

    monkeypatch.setattr(train, "make_world_dataset", watched)
    words = ["--json", "--items", "500", "--users", "60", "--history", "50", "--steps", "3"]
    words += ["--stream"] * stream + ["--out", str(out)]
    words += ["--set", *(f"{name}={value}" for name, value in TINY.items())]
    assert train.main(words) == 0
    found = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert made == [WorldConfig(n_items=500, n_users=60, mean_history=50.0)]
    assert found["recipe"] == "small"
    assert found["parameters"] > found["active_parameters"] > 0
    assert found["mfu"] is None  # no peak is known of a CPU
    assert 0 < found["events_per_sample"] <= 20 + 32
    assert 1 <= found["targets_per_sample"] <= 4
    rate = found["samples_per_second"] * found["flops_per_sample"]
    assert found["flops_per_second"] == pytest.approx(rate, rel=0.01)
    assert found["peak_memory_bytes"] > 1e7
    assert 0 < found["data_wait"] < 1
    assert found["command"] == "python -m onerec.bench.train " + " ".join(words)
    assert found["loss"]["first"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.:DeprecationWarning")
def test_compiled_training_is_measured_beside_the_plain_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.compiled, "BACKEND", "aot_eager")
    train.compiled._compiled.cache_clear()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # graphs are counted by process
    world = ["--items", "500", "--users", "60", "--history", "20", "--steps", "1"]
    changes = TINY | {"history.lifelong_length": "0", "model.experts": "0"}
    words = ["--json", *world, "--set", *(f"{name}={value}" for name, value in changes.items())]
    assert train.main(words) == 0
    plain = json.loads(capsys.readouterr().out)
    assert train.main([*words, "--compile"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert plain["torch_compile"] is None
    assert found["torch_compile"]["graphs"] > 0
    assert found["torch_compile"]["breaks"] == 0
    assert found["loss"]["first"] == pytest.approx(plain["loss"]["first"], rel=1e-4)
    assert found["warm_up_seconds"] > plain["warm_up_seconds"] > 0
    train.compiled._compiled.cache_clear()


@pytest.mark.slow
def test_micro_batches_train_alike_and_what_is_ready_is_not_counted():
    world, few = WorldConfig(n_items=500, n_users=60), {"model.dropout": "0", **TINY}
    given = {"name": "tiny", "steps": 2, "changes": few, "world": world}
    whole = train.run(**given)
    parts = train.run(**given, micro_batches=4)
    ready = train.run(**given, micro_batches=2, ready=True)
    assert parts["micro_batches"] == 4
    assert parts["loss"]["first"] == pytest.approx(whole["loss"]["first"], abs=2e-4)
    assert parts["loss"]["last"] == pytest.approx(whole["loss"]["last"], abs=2e-2)
    assert parts["flops_per_sample"] == whole["flops_per_sample"]
    assert ready["encoder_input_ready"]
    assert ready["loss"]["first"] == pytest.approx(whole["loss"]["first"], abs=2e-4)
    assert ready["flops_per_sample"] < 0.9 * whole["flops_per_sample"]
    with pytest.raises(RecipeError, match="--micro-batches 17"):
        train.run(**given, micro_batches=17)


def test_events_and_targets_that_exist_are_counted():
    batch = toy.make_batch(lengths=(4, 0, 2), targets=3)
    batch.target[0, 1:] = 0
    counted = train.Counted(lambda step: batch)
    for step in range(3):
        assert counted(step) is batch
    assert len(counted.waited) == 3
    events, clusters, histories, targets = counted.means(1)
    assert events == pytest.approx((4 + 4 + 2 + 2) / 3)
    assert clusters == histories == 0
    assert targets == pytest.approx(7 / 3)
