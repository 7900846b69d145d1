"""RoMA as a run of its own: what moves, what goes along, what is refused, and starting again."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy_home
import toy_routers
from safetensors.torch import load_file

from onerec.assembly import load_semantic_ids, setting_of, trained_model
from onerec.checkpoint import save_tensors
from onerec.errors import RecipeError, RunError
from onerec.explain import routing as explain_routing
from onerec.model.recording import TargetRouting
from onerec.pipeline import roma as pipeline_roma
from onerec.pipeline import run as run_stages
from onerec.pipeline import run_stage
from onerec.pipeline.roma import choices_kept, read_report, roma, served_stage
from onerec.pipeline.router_tuning import Tuning
from onerec.recommend import Recommender
from onerec.runs import compare, open_run

TUNING = Tuning(steps=4, rate=0.05, bank=60)
UNTIL_ALIGN = ("tokenize", "pretrain", "reward", "align")
SETTINGS = toy_routers.SETTINGS | {"train.steps": "20", "baselines.names": "popularity"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with the finished run `first`, two of four experts active, and `tuned` from it."""
    home = tmp_path_factory.mktemp("roma")
    toy_home.make_dataset(home)
    run_stages("first", toy_home.make_recipe(SETTINGS), "toy", home=home)
    roma("first", "tuned", TUNING, home=home)
    return home


@pytest.fixture
def home(made, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "home"))


def weights(run, stage="pretrain"):
    return load_file(run.path / stage / run.done(stage)["checkpoint"])


def test_routers_alone_move_and_the_checkpoint_is_the_stages_own(made):
    first, tuned = open_run("first", made), open_run("tuned", made)
    old = {n: t for n, t in weights(first).items() if n.startswith("model.")}
    new = weights(tuned)
    assert old.keys() == new.keys()
    moved = {name for name, tensor in new.items() if not tensor.equal(old[name])}
    assert moved == {f"model.decoder.{layer}.ffn.router.weight" for layer in (0, 1)}
    assert tuned.done("pretrain")["step"] == 20 + 4
    assert tuned.status().state == "done"
    assert first.status().state == "done"
    ids, _ = load_semantic_ids(tuned)
    model = trained_model(tuned, setting_of(tuned), ids)
    assert model.state_dict()["decoder.0.ffn.router.weight"].equal(
        new["model.decoder.0.ffn.router.weight"]
    )


def test_the_report_says_what_moved(made):
    first, tuned = open_run("first", made), open_run("tuned", made)
    told = read_report(tuned)
    assert told["run"] == "first"
    assert told["from"] == {"checkpoint": "checkpoint-000020.safetensors", "step": 20}
    model = Recommender.load(tuned).model
    assert told["parameters"]["moved"] == sum(m.router.weight.numel() for m in model.mixtures())
    assert told["parameters"]["all"] == sum(p.numel() for p in model.parameters())
    assert 0 < told["choices_kept"] < 1
    assert told["contexts"]["asked"] == 60
    assert 3 < told["contexts"]["answered"] <= 60
    stamp = first.done("pretrain")
    assert told["before"]["valid_recall@10"] == pytest.approx(stamp["valid"]["20"])
    facts = explain_routing.without_facts(first)
    assert told["before"]["valid_loss"] == pytest.approx(facts["loss"], abs=1e-6)
    assert told["after"].keys() == told["before"].keys()
    lines = tuned.metrics("roma")
    assert lines["step"].tolist() == [0, 1, 2, 3, 4]
    assert lines["valid_loss"].iloc[-1] == told["after"]["valid_loss"]
    assert (lines["loss"].iloc[1:] >= lines["next_token"].iloc[1:]).all()
    assert len(tuned.metrics("pretrain")) == len(first.metrics("pretrain"))
    assert read_report(first) == {}


def test_routing_is_recorded_of_the_new_weights(made):
    first, tuned = open_run("first", made), open_run("tuned", made)
    assert explain_routing.chosen_step(tuned) == 24
    assert explain_routing.recorded(tuned) == [*explain_routing.recorded(first), 24]
    facts = explain_routing.without_facts(tuned)
    assert facts["step"] == 24
    assert facts["loss"] == pytest.approx(read_report(tuned)["after"]["valid_loss"], abs=1e-6)


def test_later_stages_comparisons_and_lists_work_on_it(home):
    assert not open_run("tuned", home).is_done("evaluate")
    assert (home / "runs" / "tuned" / "baselines" / "popularity.json").is_file()
    tuned = run_stage("recommend", "tuned", home=home)
    first = open_run("first", home)
    ours, theirs = tuned.evaluate(), first.evaluate()
    assert ours["models"]["popularity"] == theirs["models"]["popularity"]
    assert ours["users"] == theirs["users"]
    assert len(tuned.recommendations()) == len(first.recommendations())
    frame = compare([first, tuned]).set_index("setting")
    assert frame.loc["roma.run"].tolist() == ["", "first"]
    assert frame.loc["roma.steps"].tolist() == ["", "4"]
    assert all(name.startswith("roma.") for name in frame.index)


@pytest.mark.slow
def test_an_aligned_run_has_its_alignment_tuned(tmp_path):
    toy_home.make_dataset(tmp_path)
    chosen = toy_home.make_recipe(SETTINGS | toy_home.ALIGNED)
    first = run_stages("first", chosen, "toy", home=tmp_path, stages=UNTIL_ALIGN)
    assert served_stage(first) == "align"
    tuned = roma("first", "tuned", TUNING, home=tmp_path)
    assert weights(tuned).keys() == weights(first).keys()
    old, new = weights(first, "align"), weights(tuned, "align")
    moved = {n for n, t in new.items() if not t.equal(old[n])}
    assert moved == {f"model.decoder.{layer}.ffn.router.weight" for layer in (0, 1)}
    assert tuned.done("align")["step"] == first.done("align")["step"] + 4
    assert tuned.done("pretrain") == first.done("pretrain")
    assert explain_routing.recorded(tuned) == explain_routing.recorded(first)
    models = run_stage("evaluate", "tuned", home=tmp_path).evaluate()["models"]
    assert {"onerec", "onerec_pretrained"} <= models.keys()


def test_an_interrupted_tuning_begins_anew_and_ends_with_the_same_weights(home, monkeypatch):
    def broken(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_roma, "_finish", broken)
        with pytest.raises(KeyboardInterrupt):
            roma("first", "again", replace(TUNING, steps=2), home=home)
    again = open_run("again", home)
    assert again.status().state == "stopped"
    with pytest.raises(RunError, match=r"RoMA of 'first' that has not finished; `onerec roma"):
        run_stage("pretrain", "again", home=home)
    with pytest.raises(RunError, match="has not finished"):
        roma("again", "third", TUNING, home=home)
    roma("first", "again", TUNING, home=home)
    tuned = open_run("tuned", home)
    assert all(t.equal(weights(tuned)[n]) for n, t in weights(again).items())
    assert again.recipe()["roma"]["steps"] == 4
    assert len(again.metrics("roma")) == 5


def test_a_stop_that_is_asked_for_ends_it(home):
    def stop(stage, step, of, values):
        if step == 2:
            open_run("again", home).control(stop=True)

    stopped = roma("first", "again", TUNING, home=home, report=stop)
    assert stopped.status().state == "stopped"
    assert not stopped.is_done("pretrain")


@pytest.mark.parametrize(
    ("into", "tuning", "error", "said"),
    [
        ("tuned", TUNING, RunError, "a run 'tuned' is already there; choose another --into"),
        ("first", TUNING, RunError, "a run 'first' is already there"),
        ("a/b", TUNING, RunError, "run name 'a/b'"),
        ("x", replace(TUNING, steps=0), RecipeError, "--steps 0: needs at least 1"),
        ("x", replace(TUNING, rate=0.0), RecipeError, "--learning-rate 0: needs more than 0"),
        ("x", replace(TUNING, rate=math.nan), RecipeError, "--learning-rate nan: needs a finite"),
        ("x", replace(TUNING, weight=math.inf), RecipeError, "--weight inf: needs a finite number"),
        ("x", replace(TUNING, weight=-1.0), RecipeError, "--weight -1: needs at least 0"),
        ("x", replace(TUNING, bank=0), RecipeError, "--bank 0: needs at least 1"),
    ],
)
def test_what_is_there_or_out_of_range_is_refused(made, into, tuning, error, said):
    with pytest.raises(error, match=said):
        roma("first", into, tuning, home=made)
    assert not (made / "runs" / "x").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.experts": "0"}, r"dense \(model.experts=0\): RoMA moves routers"),
        (
            {"model.active_experts": "1", "routing.router": "competition"},
            r"model.active_experts=1 and routing.router=competition",
        ),
        (
            {"model.expert_blocks": "alternate", "model.decoder_layers": "1"}
            | {"model.encoder_layers": "2"},
            "experts in its encoder alone",
        ),
    ],
)
def test_a_run_without_routers_that_can_move_is_refused(tmp_path, changes, said):
    toy_home.make_dataset(tmp_path)
    chosen = toy_home.make_recipe(SETTINGS | {"train.steps": "1"} | changes)
    run_stages("first", chosen, "toy", home=tmp_path, stages=UNTIL_ALIGN)
    with pytest.raises(RunError, match=said):
        roma("first", "tuned", TUNING, home=tmp_path)
    assert not (tmp_path / "runs" / "tuned" / "pretrain" / "done.json").exists()


def test_an_unfinished_run_is_refused(tmp_path):
    toy_routers.prepare(tmp_path)
    with pytest.raises(RunError, match="has not finished pretrain; `onerec pretrain --run routed`"):
        roma("routed", "tuned", TUNING, home=tmp_path)


def test_a_lazy_decoder_is_tuned_too(tmp_path):
    toy_home.make_dataset(tmp_path)
    chosen = toy_home.make_recipe(SETTINGS | {"model.kind": "lazy"})
    first = run_stages("first", chosen, "toy", home=tmp_path, stages=UNTIL_ALIGN)
    tuned = roma("first", "tuned", TUNING, home=tmp_path)
    old = weights(first)
    moved = {n for n, t in weights(tuned).items() if not t.equal(old[n])}
    assert moved == {f"model.decoder.{layer}.ffn.router.weight" for layer in (0, 1)}


def test_choices_kept_counts_the_same_experts_in_any_order():
    before = torch.tensor([[[[[0, 1]], [[2, 3]]]]])  # (1, 1, 2, 1, 2): a target that is not there
    after = torch.tensor([[[[[1, 2]], [[0, 1]]]]])
    target = torch.tensor([[7, 0]])
    weight = torch.ones(1, 1, 2, 1, 2)
    old, new = (TargetRouting(expert, weight, target) for expert in (before, after))
    assert choices_kept(old, new) == 0.5
    assert choices_kept(old, old) == 1.0


def test_a_damaged_checkpoint_is_named(home):
    first = open_run("first", home)
    path = first.path / "pretrain" / first.done("pretrain")["checkpoint"]
    save_tensors(path, {"model.nothing": torch.zeros(1)})
    with pytest.raises(RunError, match="another recipe or tokenizer wrote it"):
        roma("first", "x", TUNING, home=home)
