"""Two towers: the correction by hand, what is left out, and that they learn."""

import torch
import toy_model as toy

from onerec.baselines.two_tower import TwoTower, TwoTowerConfig, fit
from onerec.model.onerec import Vocabulary

VOCABULARY = Vocabulary(
    toy.SIZES,
    toy.N_ITEMS,
    user_features=(3, 2),
    n_authors=3,
    n_tags=3,
    n_duration=3,
    behaviours=2,
)


def make(**changes):
    torch.manual_seed(0)
    config = TwoTowerConfig(width=16, **changes)
    return TwoTower(config, VOCABULARY, toy.table(toy.item_codes()))


def test_vectors_have_length_one_and_padding_does_not_matter():
    model, batch = make(), toy.make_batch(lengths=(4, 0, 2))
    user = model.user(batch)
    assert user.shape == (3, 16)
    torch.testing.assert_close(user.norm(dim=-1), torch.ones(3))
    batch.short.label[2, 3] = 7.0  # behind the last event
    torch.testing.assert_close(model.user(batch), user)


def test_the_loss_is_a_softmax_over_the_batch_with_the_share_of_each_item_taken_off():
    model, batch = make(), toy.make_batch(lengths=(4, 3, 2), targets=1)
    batch.target[:, 0] = torch.tensor([5, 9, 5])
    share = torch.full((toy.N_ITEMS + 1,), 0.01)
    share[9] = 0.2
    loss, _ = model.loss(batch, share.log())
    cosine = model.user(batch) @ model.item(torch.tensor([5, 9, 5])).T / 0.05
    corrected = cosine - torch.tensor([0.01, 0.2, 0.01]).log()
    kept = [corrected[0, :2], corrected[1], corrected[2, 1:]]  # 5 is no negative of itself
    own = [0, 1, 1]
    expected = torch.stack([-row.log_softmax(0)[i] for row, i in zip(kept, own, strict=True)])
    torch.testing.assert_close(loss, expected.mean())


def test_what_is_excluded_never_comes():
    model, batch = make(), toy.make_batch(lengths=(4, 3, 2))
    first = model.ranked(batch, 3)
    exclude = torch.cat([first + 1, torch.zeros(3, 1, dtype=torch.int64)], dim=1)
    later = model.ranked(batch, toy.N_ITEMS - 3, exclude)
    for row in range(3):
        assert not set(first[row].tolist()) & set(later[row].tolist())


def test_where_fewer_items_are_left_there_is_nothing():
    """Excluded items filled the list up, and a catalogue smaller than the list was an error."""
    model, batch = make(), toy.make_batch(lengths=(4, 3, 2))
    exclude = model.ranked(batch, 3) + 1
    ranked = model.ranked(batch, toy.N_ITEMS + 2, exclude)
    assert (ranked[:, -5:] == -1).all()
    left = [sorted(set(range(toy.N_ITEMS)) - set((row - 1).tolist())) for row in exclude]
    assert ranked[:, :-5].sort().values.tolist() == left


def test_it_learns_to_find_an_item_again():
    model = make(steps=150, learning_rate=1e-2)

    def batches(step):
        batch = toy.make_batch(lengths=(1,) * 32, targets=1, seed=step)
        batch.target[:, 0] = batch.short.item[:, 0]  # the one event again
        return batch

    losses = fit(model, batches, torch.ones(toy.N_ITEMS))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    fresh = batches(10_000)
    hits = (model.ranked(fresh, 5) + 1 == fresh.target[:, :1]).any(1).float().mean()
    assert hits > 0.9
