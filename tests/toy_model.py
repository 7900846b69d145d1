"""A small model with everything in it, shared by the tests of this folder."""

import torch

from onerec.model.batch import ClusteredEvents
from onerec.model.lazy import ContextConfig, LazyConfig, LazyDecoder
from onerec.model.onerec import Batch, Events, ItemTable, OneRec, OneRecConfig, Vocabulary

SIZES = (5, 6, 4)
N_ITEMS = 40


def item_codes(n=N_ITEMS, sizes=SIZES, seed=0):
    """(n, L) codes; some items share theirs."""
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, size, (n,), generator=g) for size in sizes], dim=1)


def table(codes, seed=0):
    g = torch.Generator().manual_seed(seed)
    padded = torch.cat([torch.zeros(1, codes.shape[1], dtype=torch.int64), codes])
    features = [torch.randint(0, 4, (len(padded),), generator=g) for _ in range(3)]
    return ItemTable(padded, *features)


def make_model(seed=0, sizes=SIZES, codes=None, vocabulary=None, **settings):
    """Random weights with heads large enough that scores differ."""
    codes = item_codes(sizes=sizes) if codes is None else codes
    config = {"width": 16, "layers": 1, "decoder_layers": 2, "heads": 2, "short_length": 4}
    config = OneRecConfig(**{**config, "positive_length": 6, **settings})
    vocabulary = toy_vocabulary(len(codes), sizes, **(vocabulary or {}))
    return ready(OneRec(config, vocabulary, table(codes)), seed)


def make_lazy(seed=0, codes=None, vocabulary=None, context=None, **settings):
    """As `make_model`, with a lazy decoder."""
    codes = item_codes() if codes is None else codes
    config = {"width": 16, "decoder_layers": 2, "heads": 4, "short_length": 4, "positive_length": 6}
    config = LazyConfig(**{**config, **settings}, context=ContextConfig(**(context or {})))
    model = LazyDecoder(config, toy_vocabulary(len(codes), **(vocabulary or {})), table(codes))
    return ready(model, seed)


def toy_vocabulary(n_items=N_ITEMS, sizes=SIZES, **changes):
    features = {"n_authors": 3, "n_tags": 3, "n_time": 4, "n_play": 4, "n_duration": 3}
    features = {**features, "behaviours": 2, "user_features": (3, 2), **changes}
    return Vocabulary(sizes, n_items, **features)


def ready(model, seed=0):
    """Weights of that seed, heads large enough that scores differ, evaluation mode."""
    model.init_weights(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for head in model.heads or []:
            head.weight.mul_(30.0)
    return model.eval()


def make_events(lengths, width, n_items=N_ITEMS, seed=0):
    """Left-aligned events, `lengths[b]` of them for user b, padded to `width`."""
    g = torch.Generator().manual_seed(seed)
    exists = torch.arange(width) < torch.tensor(lengths)[:, None]
    shape = exists.shape
    return Events(
        item=torch.randint(1, n_items + 1, shape, generator=g) * exists,
        time=torch.randint(0, 5, shape, generator=g) * exists,
        play=torch.randint(0, 5, shape, generator=g) * exists,
        label=torch.randint(0, 2, (*shape, 2), generator=g).float() * exists[..., None],
    )


def make_clusters(lengths, width, n_items=N_ITEMS, seed=0):
    """Left-aligned clusters of events, whose tag and duration are their own."""
    g = torch.Generator().manual_seed(seed + 50)
    events = make_events(lengths, width, n_items, seed)
    own = [torch.randint(0, 4, events.item.shape, generator=g) * (events.item > 0) for _ in "td"]
    return ClusteredEvents(**vars(events), tag=own[0], duration=own[1])


def make_batch(lengths=(4, 0, 2), targets=3, n_items=N_ITEMS, seed=0):
    g = torch.Generator().manual_seed(seed)
    users = len(lengths)
    return Batch(
        static=torch.randint(0, 3, (users, 2), generator=g),
        short=make_events([min(n, 4) for n in lengths], 4, n_items, seed + 1),
        positive=make_events([min(n, 6) for n in lengths], 6, n_items, seed + 2),
        target=torch.randint(1, n_items + 1, (users, targets), generator=g),
    )


def rows(batch, index):
    """The batch of some of its users."""
    sides = [batch.short.rows(index), batch.positive.rows(index)]
    long = None if batch.lifelong is None else batch.lifelong.rows(index)
    return Batch(batch.static[index], *sides, batch.target[index], long)


def stream(seed=3):
    """Random numbers of one's own."""
    return torch.Generator().manual_seed(seed)
