"""Arms of what an encoder reads: what each changes; what it leaves out has no influence."""

from dataclasses import replace

import pytest
import small_world
import torch

from onerec.assembly import load_semantic_ids, setting_of
from onerec.bench import pathway_arms
from onerec.bench.pathway_arms import ABLATION, ARMS, LIFELONG, SIDE, UNREAD, arm_setting, refusal
from onerec.data.batches import case_batches
from onerec.data.sources.world import make_world_dataset
from onerec.lifelong import with_lifelong
from onerec.pipeline import run as run_stages
from onerec.recipes import recipe
from onerec.world import WorldConfig

SETTINGS = small_world.SETTINGS | {
    "model.encoder_layers": "1",
    "model.decoder_layers": "1",
    "model.experts": "0",
    "history.short_length": "4",
    "history.positive_length": "6",
    "history.lifelong_length": "12",
    "history.lifelong_limit": "8",
    "history.lifelong_queries": "3",
    "history.item_input": "both",
    "train.steps": "2",
    "evaluate.beam": "10",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with a tokenizer on a tiny world of long histories, and its setting."""
    home = tmp_path_factory.mktemp("pathways")
    make_world_dataset("long", WorldConfig(n_items=500, n_users=60, mean_history=80.0), home)
    run = run_stages("r", recipe("small", SETTINGS), "long", home=home, stages=("tokenize",))
    return run, with_lifelong(setting_of(run, home), run, torch.device("cpu"))


@pytest.fixture(scope="module")
def batch(made):
    """Valid cases with all that a model may read, and targets that do not depend on an arm."""
    _, setting = made
    contexts = setting.contexts("cpu")
    _, user, end = case_batches(contexts, setting.split.valid, 16)[0]
    target = torch.arange(1, 2 * len(user) + 1).view(-1, 2)
    found = contexts.batch(user, end, target)
    assert found.lifelong is not None
    assert bool((found.lifelong.item > 0).any())
    return found


def model_of(made, arm, experiment=ABLATION):
    run, setting = made
    ids, _ = load_semantic_ids(run)
    own = arm_setting(setting, experiment, arm, seed=1)
    return own.new_model(ids, run.codebooks(), run.vectors()).eval()


def moved(column):
    """A column of a batch in which other values stand where there were some; 0 stays padding."""
    return torch.where(column > 0, 1 + column % column.max().clamp(min=2), column)


def altered(batch, items, arm):
    """The batch, and the table of items, with what an arm leaves out changed everywhere."""
    events = {n: getattr(batch, n) for n in ("short", "positive", "lifelong")}
    if arm == "no_side":
        for name in SIDE:
            batch = altered(batch, items, f"no_{name}")
        return batch
    if arm == "no_static":
        return replace(batch, static=batch.static.roll(1, 0))
    if (name := arm.removeprefix("no_")) in events:
        return replace(batch, **{name: replace(events[name], item=moved(events[name].item))})
    if name in ("tag", "author", "duration", "content"):
        table = getattr(items, name)
        table[1:] = table[1:].roll(1, 0)
        own = {name: moved(getattr(batch.lifelong, name))} if name in batch.lifelong.own else {}
        return replace(batch, lifelong=replace(batch.lifelong, **own))
    change = (lambda label: 1 - label) if name == "label" else moved
    changed = {n: replace(e, **{name: change(getattr(e, name))}) for n, e in events.items()}
    return replace(batch, **changed)


LEFT_OUT = ("no_short", "no_positive", "no_lifelong", "no_content", *UNREAD)


@pytest.mark.parametrize("arm", LEFT_OUT)
@torch.no_grad()
def test_what_an_arm_leaves_out_moves_nothing_and_moves_the_whole_model(made, batch, arm):
    for name, same in ((arm, True), ("full", False)):
        model = model_of(made, name)
        before = model.loss(batch)[0]
        other = altered(batch, model.items, arm)
        assert torch.equal(model.loss(other)[0], before) == same, name


@torch.no_grad()
def test_what_stands_for_an_item_is_the_arms(made, batch):
    found = {arm: model_of(made, arm).pathways.features for arm in ("codes", "item", "both")}
    assert {arm: one.reads_codes for arm, one in found.items()} == {
        "codes": True,
        "item": False,
        "both": True,
    }
    assert [arm for arm, one in found.items() if "item" in one.tables] == ["item", "both"]


def test_the_rivals_of_clusters_have_their_length_and_parameters(made):
    _, base = made
    history = base.recipe.history
    found = {a: arm_setting(base, LIFELONG, a, 3).recipe for a in ARMS[LIFELONG]}
    assert {one.seed for one in found.values()} == {3}
    assert found["clusters"].history == history
    for by in ("random", "recent"):
        assert found[by].history == replace(history, lifelong_by=by)
    assert found["none"].history == replace(history, lifelong_length=0)
    assert found["more_recent"].history == replace(history, lifelong_length=0, short_length=4 + 3)
    sizes = {a: sum(p.numel() for p in model_of(made, a, LIFELONG).parameters()) for a in found}
    assert sizes["clusters"] == sizes["random"] == sizes["recent"]
    assert sizes["more_recent"] - sizes["none"] == 3 * base.recipe.model.width
    random = replace(base, recipe=replace(base.recipe, history=found["random"].history))
    assert arm_setting(random, LIFELONG, "clusters", 0).recipe.history == history


def test_an_arm_has_the_users_of_valid_that_were_asked_for(made):
    _, base = made
    found = arm_setting(base, ABLATION, "no_tag", 2, users=7)
    assert len(found.split.valid) == found.recipe.evaluate.valid_users == 7
    assert len(arm_setting(base, ABLATION, "full", 2).split.valid) == len(base.split.valid) > 7


def test_arms_that_would_say_nothing_say_why(made):
    _, base = made
    assert refusal(base, "both", 32) == "the recipe is so already"
    for arm in set(ARMS[ABLATION]) - {"both"}:
        assert refusal(base, arm, 32) == "", arm
    assert refusal(base, "codes_x4", 200) == "4 times 200 codes for 500 items"
    unlabelled = replace(base.features, event=replace(base.features.event, n_play=0))
    assert refusal(replace(base, features=unlabelled), "no_play", 32) == (
        "'long' has no such feature"
    )
    short = replace(base.recipe.history, positive_length=0, lifelong_length=0)
    alone = replace(base, recipe=replace(base.recipe, history=short))
    assert refusal(alone, "no_short", 32) == "no other pathway is left"
    assert refusal(alone, "no_lifelong", 32) == "the recipe is so already"


def test_a_part_is_reproducible_and_counts_the_positions_of_valid(made):
    run, base = made
    base = replace(base, snapshots=None)  # the training finds them in the run's cache
    told = {
        a: pathway_arms.part(run, base, LIFELONG, a, 0, 10) for a in ("clusters", "recent", "none")
    }
    again = pathway_arms.part(run, base, LIFELONG, "clusters", 0, 10)
    for name in ("loss", "recall@10", "positions"):
        assert again[name] == told["clusters"][name]
    assert told["none"]["positions"] == 0 < told["clusters"]["positions"]
    valid = arm_setting(base, LIFELONG, "recent", 0, 10).split.valid
    had = valid.end - base.split.log.offsets[valid.user]
    assert told["recent"]["positions"] == pytest.approx((12 * (had >= 16)).mean(), abs=0.01)
    assert told["clusters"]["loss"] != told["recent"]["loss"] != told["none"]["loss"]
    assert (told["none"]["users"], told["none"]["steps"]) == (10, 2)
