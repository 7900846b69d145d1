"""T5 beside ours: the same samples, and a search that finds what was learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from onerec.bench import generate, train_peer
from onerec.loop import loop
from onerec.world import WorldConfig

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def data():
    """Eight items in a circle: the next one follows."""
    codes = torch.tensor([[i // 4, i % 4, i] for i in range(8)])
    taken = [(np.arange(6) + start) % 8 for start in range(8)]
    return train_peer.Sequences(codes, [each.astype(np.int64) for each in taken])


def test_a_history_ends_before_its_item(data):
    history, target = data.cut(np.array([2, 0]), np.array([3, 1]))
    assert history[0, -3:].tolist() == [2, 3, 4]
    assert history[0, :-3].eq(-1).all()
    assert history[1, -1] == 0
    assert target.tolist() == [5, 1]


def test_what_is_held_out_is_never_drawn(data, monkeypatch):
    drawn = train_peer.Drawn(data, 2, seed=0)
    assert drawn.end.max() == 3  # of six: the last two are held out
    assert torch.equal(drawn(4)[1], train_peer.Drawn(data, 2, seed=0)(4)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", train_peer.ROWS)
def test_every_row_learns_and_finds_the_next_item(data, name, monkeypatch):
    for constant, value in (("BATCH", 16), ("BEAM", 8), ("LAYERS", 1), ("WIDTH", 64)):
        monkeypatch.setattr(train_peer, constant, value)
        monkeypatch.setattr(generate, constant, value, raising=False)
    row = train_peer.make_row(name, data, seed=0)
    losses = [s.loss for s in loop(train_peer.trainee(row, data, 3e-3, 0), steps=60, seed=0)]
    assert losses[-1] < 0.5 * losses[0]
    history, target = data.cut(np.arange(8), np.full(8, 5))
    found = row.search(history, 3)
    assert found.shape == (8, 3)
    assert (found == target.numpy()[:, None]).any(1).mean() > 0.7


def test_codes_and_items_are_the_same_history_to_both(data):
    ours = train_peer.make_row("same_tokens", data, seed=0)
    peer = train_peer.make_row("t5", data, seed=0)
    history, target = data.cut(np.array([2]), np.array([3]))
    mine = ours._batch(history, target)
    assert torch.equal(mine.short.item, peer._tokens(history))
    assert ours.model.items.codes[mine.target[0, 0]].tolist() == data.codes[5].tolist()


def test_rows_take_turns_and_ratios_are_of_rounds(data, monkeypatch):
    monkeypatch.setattr(train_peer, "STEPS", 1)
    for module in (train_peer, generate):
        monkeypatch.setattr(module, "LAYERS", 1)
    found = train_peer.speeds(data, rounds=2)
    assert found["t5"]["times_t5"] == 1
    assert len(found["one_position"]["times_t5_of_rounds"]) == 2
    assert found["same_tokens"]["parameters"] > 0


def test_a_world_gives_sequences():
    made = train_peer.world_sequences(WorldConfig(n_items=500, n_users=60))
    assert made.codes.shape == (500, 3)
    assert made.codebooks.shape[:2] == (3, 256)
    assert not made.codebooks[:, 125:].any()  # codes that nothing has
    assert all(len(each) > 3 for each in made.taken)


def test_what_stands_for_a_code_starts_at_its_centroid_in_every_row(data):
    centroids = torch.randn(3, 256, 160, generator=torch.Generator().manual_seed(0))
    started = replace(data, codebooks=centroids)
    rows = {name: train_peer.make_row(name, started, seed=0) for name in train_peer.ROWS}
    tokens, item = rows["same_tokens"].model, rows["one_position"].model
    read = {
        "t5": rows["t5"].model.shared.weight[1:],
        "same_tokens": tokens.pathways.features.tables["item"].weight[1:],
        "one_position": item.codes.table.weight,
    }
    for name, rows_of in read.items():
        for level in range(3):
            mine = rows_of[256 * level : 256 * (level + 1)].detach()
            apart = [torch.pdist(each) for each in (mine, centroids[level])]
            assert float(torch.corrcoef(torch.stack(apart))[0, 1]) > 0.6, (name, level)
    assert float(rows["t5"].model.shared.weight.detach().std()) == pytest.approx(
        float(train_peer.make_row("t5", data, seed=0).model.shared.weight.detach().std()), rel=0.01
    )
