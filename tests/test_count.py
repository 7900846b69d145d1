"""Counts from a recipe against the modules that are built from it."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
import torch
import toy_model as toy
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from onerec.assembly import model_config, new_model
from onerec.count import Cardinalities, Counter
from onerec.model import attention, packing, products
from onerec.model.onerec import Batch, ItemTable, OneRec, Vocabulary
from onerec.recipes import RECIPES, Recipe, recipe

LAZY = {"model.kind": "lazy"}
LIFELONG = {"history.lifelong_length": "6", "history.lifelong_queries": "3"}
KINDS: dict[str, dict[str, str]] = {
    "encoder-decoder": {"model.experts": "0", "model.decoder_layers": "2"},
    "experts": {"model.experts": "3", "model.encoder_layers": "2"},
    "alternate": {
        "model.experts": "3",
        "model.expert_blocks": "alternate",
        "model.encoder_layers": "2",
        "model.decoder_layers": "3",
    },
    "lifelong": {**LIFELONG, "model.experts": "0"},
    "lazy lifelong": {**LAZY, **LIFELONG, "model.experts": "0", "context.width": "18"},
    "lazy": {**LAZY, "model.experts": "0", "model.decoder_layers": "2"},
    "lazy experts": {
        **LAZY,
        "model.experts": "4",
        "routing.shared_experts": "1",
        "model.decoder_layers": "3",
        "model.expert_blocks": "late",
    },
    "lazy context": {
        **LAZY,
        "model.experts": "0",
        "model.decoder_layers": "4",
        "context.width": "24",
        "context.sets": "3",
        "context.separate_values": "true",
        "context.groups": "2",
    },
}
FEATURES: dict[str, Mapping[str, object]] = {
    "all": {
        "n_authors": 3,
        "n_tags": 3,
        "n_time": 4,
        "n_play": 4,
        "n_duration": 3,
        "behaviours": 2,
        "user_features": (3, 2),
        "content_dim": 12,
    },
    "none": {},
}


def small(**changes: str) -> Recipe:
    return recipe(
        "tiny",
        {
            "model.width": "32",
            "model.heads": "4",
            "history.item_input": "both",
            "history.short_length": "4",
            "history.positive_length": "6",
            "train.targets": "3",
            **changes,
        },
    )


def vocabulary_of(made: Recipe, features: Mapping[str, object]) -> Vocabulary:
    return Vocabulary(
        toy.SIZES,
        toy.N_ITEMS,
        item_input=made.history.item_input,  # type: ignore[arg-type]
        tied_output=made.model.tied_output,
        **features,  # type: ignore[arg-type]
    )


def build(made: Recipe, vocabulary: Vocabulary) -> OneRec:
    codes = torch.from_numpy(np.zeros((vocabulary.n_items + 1, len(vocabulary.sizes)), np.int64))
    return new_model(model_config(made), vocabulary, ItemTable(codes))


def ready(made: Recipe, features: Mapping[str, object]) -> tuple[OneRec, Batch, Counter]:
    """A real model, a batch whose every place holds an event, and the counter."""
    vocabulary = vocabulary_of(made, features)
    table = toy.table(toy.item_codes())
    dim = vocabulary.content_dim
    table.content = torch.randn(toy.N_ITEMS + 1, dim)
    model = new_model(model_config(made), vocabulary, table).train()
    batch = toy.make_batch(lengths=(6, 6), targets=made.train.targets)
    if made.history.lifelong_length:
        batch.lifelong = toy.make_clusters([6, 6], 6)
    return model, batch, Counter(made, Cardinalities.of(vocabulary))


def of(model: OneRec, *ends: str) -> int:
    """Parameters whose name ends so, the QFormer's apart."""
    named = model.named_parameters()
    return sum(p.numel() for n, p in named if n.endswith(ends) and "qformer" not in n)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_module_part_by_part(kind: str, features: str) -> None:
    for changes in ({}, {"model.tied_output": "true", "context.width": "0"}):
        made = small(**{**KINDS[kind], **changes})
        vocabulary = vocabulary_of(made, FEATURES[features])
        with torch.device("meta"):
            model = build(made, vocabulary)
        counter = Counter(made, Cardinalities.of(vocabulary))
        parts = counter.parameters()
        assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
        count = partial(of, model)
        assert parts["code_table"] == count("codes.table.weight")
        assert parts["routers"] == count("router.weight")
        assert parts["experts"] == count(
            "ffn.gate_up", "ffn.down", "shared.gate_up.weight", "shared.down.weight"
        )
        assert parts["dense"] == count("ffn.gate_up.weight", "ffn.down.weight")
        named = model.named_parameters()
        assert parts.get("qformer", 0) == sum(p.numel() for n, p in named if "qformer" in n)
        attention = count("attention.qkv.weight", "attention.out.weight", "cross.query.weight")
        attention += count("cross.key_value.weight", "cross.out.weight")
        assert parts["encoder_attention"] + parts["decoder_attention"] == attention
        idle = sum(
            (m.experts - m.router.active) * (m.gate_up[0].numel() + m.down[0].numel())
            for m in model.mixtures()
        )
        assert counter.active_total() == counter.total() - idle


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_counted_as_it_is_built(name: str) -> None:
    made = recipe(name)
    size = made.tokenizer.codebook_size
    vocabulary = Vocabulary(
        (size,) * 3, 4_000, item_input=made.history.item_input, n_tags=7, user_features=(5,)
    )
    with torch.device("meta"):
        model = build(made, vocabulary)
    counter = Counter(made, Cardinalities.of(vocabulary))
    assert counter.total() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_what_torch_counts(
    kind: str, features: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly. The counter sees matrix products alone; attention is asked to be made of them."""
    monkeypatch.setattr(packing, "packs", lambda *_: False)  # the plain path, as on a GPU
    model, batch, counter = ready(small(**KINDS[kind]), FEATURES[features])
    with FlopCounterMode(display=False) as torchs, sdpa_kernel(SDPBackend.MATH):
        model(batch)
    mine = counter.forward_flops()
    assert sum(mine.values()) * batch.size == torchs.get_total_flops()
    assert counter.training_flops() == 3 * sum(mine.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_pass_is_two_forward_passes_but_for_what_needs_no_gradient(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs that are data (labels, content) get no gradient: a part in a thousand less."""
    monkeypatch.setattr(packing, "packs", lambda *_: False)
    made = small(**{**KINDS[kind], "model.width": "64"})
    model, batch, counter = ready(made, FEATURES["all"])
    with FlopCounterMode(display=False) as torchs, sdpa_kernel(SDPBackend.MATH):
        model.loss(batch)[0].backward()
    expected = counter.training_flops() * batch.size
    assert 0.95 * expected < torchs.get_total_flops() <= expected


def test_events_that_do_not_exist_cost_nothing() -> None:
    counter = ready(small(), FEATURES["all"])[2]
    assert counter.training_flops() == counter.training_flops(10, 3)
    assert counter.training_flops(5) < counter.training_flops()
    none = counter.forward_flops(0, 1)
    assert none["encoder"] == 2 * (10 * 32**2 + 2 * 32)  # one state: 4 D^2, 6 D^2, scores


def test_a_first_position_of_ones_own_is_a_decoder_for_each_target() -> None:
    for kind in KINDS.values():
        counter = ready(small(**kind), FEATURES["all"])[2]
        alone, five = counter.forward_flops(10, 1), counter.forward_flops(10, 5, shared=False)
        assert five["decoder"] == 5 * alone["decoder"]
        assert five["context"] == alone["context"]
        assert five["heads"] == 5 * alone["heads"]
        kept_alone, kept_five = counter.activations(10, 1), counter.activations(10, 5, shared=False)
        masks = len(counter.decoder) * (11 + counter.queries)  # of the context: once
        assert kept_five["decoder"] - masks == 5 * (kept_alone["decoder"] - masks)
        assert kept_five["heads"] == 5 * kept_alone["heads"]
        assert counter.training_flops(10, 5) < counter.training_flops(10, 5, shared=False)


def test_the_first_level_of_a_search_is_read_once() -> None:
    counter = ready(small(**KINDS["lifelong"]), FEATURES["all"])[2]
    first, *later = toy.SIZES
    heads = {"heads": 2 * 32 * (first + 5 * sum(later))}
    assert counter.search_flops(5) == counter.forward_flops(targets=5) | heads
    fewer = counter.forward_flops(4, 5, clusters=2)
    assert counter.search_flops(5, events=4, clusters=2) == fewer | heads


def kept(model: OneRec, batch: Batch) -> int:
    """Floating-point values that autograd keeps: distinct storages, without weights and inputs."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}
    held = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in known:
            held.append(tensor)  # so that no address is used twice
            found[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.loss(batch)
    return sum(found.values())


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_what_autograd_keeps(
    kind: str, features: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "packs", lambda *_: False)
    monkeypatch.setattr(attention, "WRITTEN_OUT", 0)
    monkeypatch.setattr(products, "MKL_IS_FAST", True)  # torch's own linear copies rows set apart
    model, batch, counter = ready(small(**KINDS[kind]), FEATURES[features])
    levels = len(toy.SIZES)
    once = len(model.decoder) * levels * (levels - 1) + levels  # causal masks; counts of targets
    mine = sum(counter.activations().values()) * batch.size
    assert mine + once == kept(model, batch)
