"""A search in compiled pieces: the same lists, and weights that are cast in time."""

from dataclasses import replace

import pytest
import torch
import toy_model as toy

from onerec.model import packing, pieces
from onerec.model.generate import beam_search
from onerec.model.qformer import QFormerConfig
from onerec.model.sample import sample
from onerec.tokenizer.trie import Trie

# what torch.compile does inside torch, and hides from those who do not make errors of warnings
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*autograd.function.Function.:DeprecationWarning"),
]


def make_trie():
    return Trie(toy.item_codes(), toy.SIZES, torch.arange(toy.N_ITEMS) * 7 % 11)


COMPILED = {
    "dense": lambda: toy.make_model(experts=0),
    "experts": lambda: toy.make_model(experts=3),
    "lazy": lambda: toy.make_lazy(experts=0),
}


@pytest.fixture
def traced(monkeypatch):
    """Graphs are made as ever, and run without being turned into machine code: fast to test."""

    def reset():
        pieces.compiled_piece.cache_clear()
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()

    monkeypatch.setattr(pieces, "BACKEND", "aot_eager")
    monkeypatch.setattr(packing, "packs", lambda *_: False)  # as in a search on a GPU
    reset()
    yield torch._dynamo.utils.counters
    reset()


@pytest.mark.parametrize(
    ("kind", "constrained"),
    [
        ("dense", True),
        pytest.param("lazy", False, marks=pytest.mark.slow),
        pytest.param("experts", True, marks=pytest.mark.slow),
    ],
)
def test_compiled_pieces_find_the_same_lists(traced, kind, constrained):
    model, trie = COMPILED[kind](), make_trie()
    seen = torch.tensor([[1, 2, 0], [0, 0, 0], [5, 0, 0]])
    for seed in (0, 1):  # other histories of the same shape
        asked = {"k": 4, "beam": 6, "constrained": constrained, "exclude": seen}
        batch = toy.make_batch(seed=seed)
        plain = beam_search(model, batch, trie, **asked)
        made = beam_search(model, batch, trie, **asked, compiled=True)
        assert made.items.equal(plain.items)
        assert made.codes.equal(plain.codes)
        torch.testing.assert_close(made.scores, plain.scores, atol=1e-5, rtol=1e-5)
    assert traced["stats"]["unique_graphs"] > 0
    breaks = traced["graph_break"]  # the loop over experts, which only a CPU has
    assert all("disable" in reason for reason in breaks) if kind == "experts" else not breaks
    if kind == "dense":  # ties are decided in the pieces, too
        with torch.no_grad():
            for head in model.heads:
                head.weight.zero_()  # every code is as probable as any other
        plain = beam_search(model, batch, trie, **asked)
        assert beam_search(model, batch, trie, **asked, compiled=True).items.equal(plain.items)


@pytest.mark.parametrize("constrained", [False, True])
def test_compiled_pieces_draw_the_same_samples(traced, constrained):
    model, trie = COMPILED["dense"](), make_trie()
    for seed in (0, 1):
        batch = toy.make_batch(seed=seed)
        plain, made = (
            sample(
                model,
                batch,
                trie,
                group=5,
                generator=torch.Generator().manual_seed(seed),
                temperature=0.7,
                constrained=constrained,
                compiled=fast,
            )
            for fast in (False, True)
        )
        assert made.codes.equal(plain.codes)
        assert made.items.equal(plain.items)
        for ours, theirs in ((made.drawn, plain.drawn), (made.model, plain.model)):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert traced["stats"]["unique_graphs"] > 0
    assert not traced["graph_break"]


def test_histories_of_other_lengths_need_no_other_pieces(traced):
    """What a policy step draws for: the longest history is another one in each batch."""
    lifelong = QFormerConfig(queries=3)
    model, trie = toy.make_model(experts=0, lifelong=lifelong), make_trie()
    whole, graphs = toy.make_batch(), []
    whole.lifelong = toy.make_clusters((3, 0, 2), 3)

    def drawn(batch, compiled):
        stream = torch.Generator().manual_seed(0)
        return sample(model, batch, trie, group=5, generator=stream, compiled=compiled)

    for cut in (0, 1, 2):
        names = ("short", "positive", "lifelong")
        batch = replace(
            whole, **{n: getattr(whole, n).mapped(lambda c, cut=cut: c[:, cut:]) for n in names}
        )
        assert drawn(batch, True).codes.equal(drawn(batch, False).codes)
        graphs.append(traced["stats"]["unique_graphs"])
    assert 0 < graphs[0] == graphs[-1]


def test_users_and_left_out_items_come_in_few_sizes(traced):
    """The last batch of all users is smaller; what each has seen is another number."""
    model, trie = COMPILED["dense"](), make_trie()
    whole, graphs = toy.make_batch((4, 0, 2, 3, 1, 4, 2, 3)), []
    for users, width in ((8, 4), (5, 3), (7, 4)):
        batch, g = whole.rows(slice(0, users)), torch.Generator().manual_seed(users)
        seen = torch.randint(0, toy.N_ITEMS + 1, (users, width), generator=g)
        asked = {"k": 4, "beam": 6, "exclude": seen}
        made = beam_search(model, batch, trie, **asked, compiled=True, trace=True)
        plain = beam_search(model, batch, trie, **asked, trace=True)
        assert made.items.equal(plain.items)
        assert made.codes.equal(plain.codes)
        for ours, theirs in zip(made.trace[:-1], plain.trace[:-1], strict=True):
            assert ours.codes.equal(theirs.codes)
        graphs.append(traced["stats"]["unique_graphs"])
    assert 0 < graphs[0] == graphs[-1]


def test_weights_that_change_are_cast_again():
    mixture = toy.make_model(experts=3).mixtures()[0]
    mixture.keep(torch.bfloat16)
    before = mixture._copies[0]
    mixture.keep(torch.bfloat16)
    assert mixture._copies[0] is before
    with torch.no_grad():
        mixture.gate_up.add_(1.0)
    mixture.keep(torch.bfloat16)
    assert mixture._copies[0].equal(mixture.gate_up.bfloat16())


def test_what_is_compiled_with_gradients_does_not_ask_which_casts_are_kept(traced):
    """An asking guard would have a policy step compiled anew after each update."""
    mixture = toy.make_model(experts=3).mixtures()[0]
    made = torch.compile(type(mixture)._weights, backend="aot_eager")
    for _ in range(3):
        mixture.keep(torch.bfloat16)  # by the rollout
        gate_up, _ = made(mixture, torch.bfloat16)
        assert gate_up.equal(mixture.gate_up.bfloat16())
        with torch.no_grad():
            mixture.gate_up.add_(1.0)
    assert traced["stats"]["unique_graphs"] == 1
