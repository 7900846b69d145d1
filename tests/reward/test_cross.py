"""Cross features against slow loops."""

import math

import torch
import torch.nn.functional as F

from onerec.model.pathways import Events, ItemTable
from onerec.reward.cross import CROSS, cross_features

N_ITEMS = 12


def generator(seed):
    return torch.Generator().manual_seed(seed)


def table():
    g = generator(1)
    features = [torch.randint(0, 4, (N_ITEMS + 1,), generator=g) for _ in range(3)]
    content = torch.randn(N_ITEMS + 1, 5, generator=g)
    for column in (*features, content):
        column[0] = 0  # padding
    codes = torch.zeros(N_ITEMS + 1, 1, dtype=torch.int64)
    return ItemTable(codes, *features, content=content)


def events(lengths, width, seed):
    there = torch.arange(width) < torch.tensor(lengths)[:, None]
    item = torch.randint(1, N_ITEMS + 1, there.shape, generator=generator(seed)) * there
    nothing = torch.zeros_like(item)
    return Events(item=item, time=nothing, play=nothing, label=torch.zeros(*there.shape, 0))


def test_cross_features_equal_slow_loops():
    short, positive, items = events([4, 0, 2], 4, 3), events([3, 1, 0], 3, 4), table()
    offered = torch.randint(1, N_ITEMS + 1, (3, 4), generator=generator(2))
    fast = torch.stack(cross_features(offered, short, positive, items), -1)
    assert fast.shape[-1] == len(CROSS)
    for b in range(len(offered)):
        for m, item in enumerate(offered[b].tolist()):
            past = [i for i in short.item[b].tolist() if i]
            liked = [i for i in positive.item[b].tolist() if i]

            def alike(other, item=item):
                return F.cosine_similarity(items.content[item], items.content[other], dim=0).item()

            def same(column, others, item=item):
                mine = int(column[item])
                return math.log1p(sum(mine > 0 and int(column[o]) == mine for o in others))

            mean = lambda found: sum(found) / len(found) if found else 0.0  # noqa: E731
            slow = [
                max(map(alike, past), default=0.0),
                mean([alike(o) for o in past]),
                mean([alike(o) for o in liked]),
                max(map(alike, liked), default=0.0),
                same(items.author, past),
                same(items.author, liked),
                same(items.tag, past),
                same(items.tag, liked),
                math.log1p(past.count(item)),
            ]
            torch.testing.assert_close(fast[b, m], torch.tensor(slow), atol=1e-5, rtol=1e-5)
