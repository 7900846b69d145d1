"""P-Score by hand and against slow loops: its losses, its cross features, whom gradients reach."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from onerec.checkpoint import load_model, save_tensors
from onerec.errors import RunError
from onerec.model.pathways import Batch, Events, ItemTable
from onerec.reward.cross import CROSS, cross_features
from onerec.reward.pscore import Pairs, PScore, PScoreConfig, PScoreVocabulary

N_ITEMS, CONTENT = 12, 5
BEHAVIOURS = ("click", "like", "dislike")
STATISTICS = 1 + len(BEHAVIOURS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def table():
    g = generator(1)
    features = [torch.randint(0, 4, (N_ITEMS + 1,), generator=g) for _ in range(3)]
    content = torch.randn(N_ITEMS + 1, CONTENT, generator=g)
    for column in (*features, content):
        column[0] = 0  # padding
    codes = torch.zeros(N_ITEMS + 1, 1, dtype=torch.int64)
    return ItemTable(codes, *features, content=content)


def events(lengths, width, seed):
    g = generator(seed)
    there = torch.arange(width) < torch.tensor(lengths)[:, None]
    return Events(
        item=torch.randint(1, N_ITEMS + 1, there.shape, generator=g) * there,
        time=torch.randint(0, 4, there.shape, generator=g) * there,
        play=torch.randint(0, 4, there.shape, generator=g) * there,
        label=torch.rand(*there.shape, 2, generator=g).round() * there[..., None],
    )


def make_pairs(candidates=4, users=3, seed=2):
    g = generator(seed)
    batch = Batch(
        static=torch.randint(0, 3, (users, 2), generator=g),
        short=events([4, 0, 2][:users], 4, seed + 1),
        positive=events([3, 1, 0][:users], 3, seed + 2),
        target=torch.zeros(users, 1, dtype=torch.int64),
    )
    shape = (users, candidates)
    return Pairs(
        batch=batch,
        items=torch.randint(1, N_ITEMS + 1, shape, generator=g),
        user_statistics=torch.randn(users, STATISTICS, generator=g),
        item_statistics=torch.randn(*shape, STATISTICS, generator=g),
        label=torch.rand(*shape, len(BEHAVIOURS), generator=g).round(),
        known=torch.rand(*shape, len(BEHAVIOURS), generator=g) > 0.2,
    )


def make_model(**config):
    vocabulary = PScoreVocabulary(
        behaviours=BEHAVIOURS,
        statistics=STATISTICS,
        history_labels=2,
        user_features=(2, 2),
        n_authors=3,
        n_tags=3,
        n_duration=3,
        n_time=3,
        n_play=3,
        content_dim=CONTENT,
    )
    model = PScore(PScoreConfig(width=8, tower=4, dropout=0.0, **config), vocabulary, table())
    model.init_weights(generator())
    return model.eval()


def test_the_loss_by_hand():
    model, pairs = make_model(), make_pairs()
    model.weights.copy_(torch.tensor([1.0, 3.0, 0.0]))
    model.loudness.copy_(torch.tensor([1.0, 2.0, 4.0]))
    loss, parts = model.loss(pairs)
    scores = model(pairs)
    towers, fused = [], []
    for k, name in enumerate(BEHAVIOURS):
        there = pairs.known[..., k]
        y = pairs.label[..., k][there]
        p = torch.sigmoid(scores.towers[..., k][there])
        towers.append(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
        q = torch.sigmoid(scores.fused[there])
        fused.append(-(y * q.log() + (1 - y) * (1 - q).log()).mean())
        torch.testing.assert_close(parts[name], towers[-1])
    expected = (1 * fused[0] + 3 * fused[1]) / 4
    torch.testing.assert_close(parts["fused"], expected)
    torch.testing.assert_close(loss, towers[0] + 2 * towers[1] + 4 * towers[2] + expected)


def test_a_tower_is_as_loud_as_its_behaviour_is_rare():
    """By hand: the root of the largest entropy of a behaviour over its own."""
    model, pairs = make_model(), make_pairs(candidates=40)
    assert model.loudness.tolist() == [1, 1, 1]
    pairs.known[:] = True
    pairs.label[:] = 0.0
    pairs.label[:, :20, 0] = 1.0  # 60 of 120
    pairs.label[:, :2, 1] = 1.0  # 6
    pairs.label[0, 0, 2] = 1.0  # 1
    model.standardise(pairs)
    usual = [60.5 / 121, 6.5 / 121, 1.5 / 121]
    entropy = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in usual]
    expected = [math.sqrt(entropy[0] / own) for own in entropy]
    torch.testing.assert_close(model.loudness, torch.tensor(expected))
    assert "loudness" not in model.state_dict()


def test_author_tag_and_duration_add_up_in_every_tower():
    model, pairs = make_model(), make_pairs()
    without = model(pairs).towers
    g = generator(7)
    for worth in model.wide.values():
        assert not worth.weight.any()  # it begins with nothing
        torch.nn.init.normal_(worth.weight, generator=g)
    towers = model(pairs).towers
    for b, m, k in itertools.product(*map(range, towers.shape)):
        item = pairs.items[b, m]
        more = sum(
            model.wide[name].weight[getattr(model.items, name)[item], k]
            for name in ("author", "tag", "duration")
        )
        torch.testing.assert_close(towers[b, m, k], without[b, m, k] + more)
    model.standardise(pairs)
    model.init_weights(g)
    assert not any(worth.weight.any() for worth in model.wide.values())


def test_a_model_from_before_the_wide_part_scores_as_it_did(tmp_path):
    model, pairs = make_model(), make_pairs()
    before = model.nothing_wide()
    assert before.keys() == {f"wide.{name}.weight" for name in ("author", "tag", "duration")}
    old = {n: t for n, t in model.state_dict().items() if n not in before}
    file = tmp_path / "old.safetensors"
    save_tensors(file, {f"model.{name}": tensor for name, tensor in old.items()})
    other = make_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7.0)
    load_model(file, other, before=other.nothing_wide())
    torch.testing.assert_close(other(pairs), model(pairs))
    with pytest.raises(RunError, match="wide"):
        load_model(file, other)
    half = {**old, "wide.tag.weight": before["wide.tag.weight"]}
    save_tensors(file, {f"model.{name}": tensor for name, tensor in half.items()})
    with pytest.raises(RunError, match=r"wide\.author\.weight"):
        load_model(file, other, before=other.nothing_wide())


def moved(model, loss):
    """Names of parameters that a loss reaches."""
    model.zero_grad()
    loss.backward()
    named = model.named_parameters()
    return {n for n, p in named if p.grad is not None and bool(p.grad.abs().sum() > 0)}


def test_the_fusion_does_not_train_the_towers_unless_it_may():
    pairs = make_pairs()
    own = moved(make_model(), make_model().fused_loss(pairs)[0])
    assert own == set()  # another model's loss
    model = make_model()
    reached = moved(model, model.fused_loss(pairs)[0])
    assert reached
    assert {name.split(".")[0] for name in reached} == {"own_user", "own_item", "fusion"}
    model = make_model()
    scores = model(pairs)
    assert not any(n.startswith("tower") for n in moved(model, scores.fused.sum()))
    for loss in (lambda m: m(pairs).fused.sum(), lambda m: m.fused_loss(pairs)[0]):
        model = make_model(stop_gradient=False)
        assert {"tower.first", "shared.0.weight"} <= moved(model, loss(model))


def test_candidates_do_not_see_each_other_and_padding_says_nothing():
    model, pairs = make_model(), make_pairs()
    together = model(pairs)
    for m in range(pairs.items.shape[1]):
        one = Pairs(
            pairs.batch,
            pairs.items[:, m : m + 1],
            pairs.user_statistics,
            pairs.item_statistics[:, m : m + 1],
            pairs.label[:, m : m + 1],
            pairs.known[:, m : m + 1],
        )
        alone = model(one)
        torch.testing.assert_close(alone.towers[:, 0], together.towers[:, m])
        torch.testing.assert_close(alone.fused[:, 0], together.fused[:, m])
    longer = {
        name: F.pad(getattr(pairs.batch.short, name), (0, 3)) for name in ("item", "time", "play")
    }
    longer["label"] = F.pad(pairs.batch.short.label, (0, 0, 0, 3))
    pairs.batch.short = Events(**longer)
    torch.testing.assert_close(model(pairs), together)


def test_scores_are_summed_in_float32_where_products_are_not():
    """As on a GPU, where 512 candidates had shared some 240 scores."""
    model, pairs = make_model().eval(), make_pairs(candidates=512)
    whole = model(pairs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model(pairs)
    for found, wanted in zip(scores, whole, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)
        for user in found:
            assert len(user.reshape(512, -1)[:, 0].unique()) > 500
        assert not torch.equal(found, found.bfloat16().float())


def test_numbers_are_standardised_and_cut():
    model, pairs = make_model(), make_pairs(candidates=8)
    model.standardise(pairs)
    numbers = model.numbers(pairs).flatten(0, 1)
    spread = numbers.std(0, correction=0)
    torch.testing.assert_close(numbers.mean(0), torch.zeros(len(spread)), atol=1e-4, rtol=0)
    assert ((spread - 1).abs() < 1e-3)[spread > 0].all()
    pairs.item_statistics = pairs.item_statistics + 1e6
    assert model.numbers(pairs).abs().max() <= 5


def test_it_begins_where_log_odds_add_up():
    """By hand: what is usual, half of the user's own and half of the item's, and nothing else."""
    model, pairs = make_model(), make_pairs(candidates=8)
    model.standardise(pairs)
    with torch.no_grad():
        model.tower.last.zero_()
        model.fusion.get_parameter("1.weight").zero_()
    model.weights.copy_(torch.tensor([1.0, 3.0, 0.0]))
    scores = model(pairs)
    centre = lambda column: column - column.mean()  # noqa: E731
    for k in range(len(BEHAVIOURS)):
        there = pairs.known[..., k]
        rate = (pairs.label[..., k][there].sum() + 0.5) / (there.sum() + 1)
        user = pairs.user_statistics[:, None, 1 + k].expand_as(there)
        own = 0.5 * centre(user) + 0.5 * centre(pairs.item_statistics[..., 1 + k])
        torch.testing.assert_close(scores.towers[..., k], rate.logit() + own, atol=1e-4, rtol=1e-4)
    p = scores.towers.sigmoid()
    torch.testing.assert_close(scores.fused.sigmoid(), (p[..., 0] + 3 * p[..., 1]) / 4)


def test_it_learns_which_items_are_liked():
    """Whether an item is even decides everything; content tells, since it is the item's own."""
    model, pairs = make_model().train(), make_pairs(candidates=40)
    pairs.label = (pairs.items % 2 == 0).float()[..., None].expand(-1, -1, 3).clone()
    pairs.known = torch.ones_like(pairs.known)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(80):
        loss, _ = model.loss(pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = model.eval()(pairs)
    even = pairs.items % 2 == 0
    assert scores.fused[even].min() > scores.fused[~even].max()
    assert scores.towers[even].min() > scores.towers[~even].max()


def test_the_numbers_are_statistics_of_the_user_of_the_item_and_what_lies_between():
    model, pairs = make_model(), make_pairs()
    between = torch.stack(
        cross_features(pairs.items, pairs.batch.short, pairs.batch.positive, model.items), dim=-1
    )
    assert (between.flatten(0, 1) != 0).any(0).sum() > 3, "features that say something"
    user = pairs.user_statistics[:, None].expand(-1, pairs.items.shape[1], -1)
    wanted = torch.cat((user, pairs.item_statistics, between), -1)
    torch.testing.assert_close(model.numbers(pairs), wanted.clamp(-10, 10))  # mean 0, deviation 1
    assert wanted.shape[-1] == 2 * STATISTICS + len(CROSS)


def test_it_works_without_any_feature():
    vocabulary = PScoreVocabulary(behaviours=("click",), statistics=2, history_labels=0)
    codes = torch.zeros(N_ITEMS + 1, 1, dtype=torch.int64)
    model = PScore(PScoreConfig(width=8, tower=4), vocabulary, ItemTable(codes)).eval()
    pairs = make_pairs()
    pairs.user_statistics = pairs.user_statistics[:, :2]
    pairs.item_statistics = pairs.item_statistics[..., :2]
    assert model(pairs).towers.shape == (3, 4, 1)
    assert model(pairs).fused.isfinite().all()


def test_no_behaviour_is_refused():
    with pytest.raises(ValueError, match="at least one behaviour"):
        PScore(PScoreConfig(), PScoreVocabulary((), 1, 0), table())
    with pytest.raises(ValueError, match="statistics=3: one more than behaviours"):
        PScore(PScoreConfig(), PScoreVocabulary(("click",), 3, 0), table())
