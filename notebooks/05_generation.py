# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Generation: from code probabilities to a list, and why each item is in it
#
# A generative recommender has no index to look items up in. It writes an item code by code, and a
# search decides which items it would write most probably. This notebook does that search by hand,
# asks when it is exact, counts what it costs, measures what a wider one buys, draws items instead
# of searching for them, and takes apart why one item was recommended.
#
# No paper needs to be read first. *Report* is the OneRec Technical Report,
# [arXiv 2506.13695](https://arxiv.org/abs/2506.13695). How items become codes and how the model is
# trained on the log stands in `01_from_logs_to_recommendations`; what is pushed by a reward in
# `06_rewards_and_ecpo`.
#
# Each part ends in an `assert` that holds what the part has just claimed. Everything runs on two
# CPU cores in about a minute; nothing is downloaded, and nothing is left behind.

# %%
import builtins
import itertools
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")  # figures need no network

from onerec import Recommender, WorldConfig, beam_search, recipe, run
from onerec.bench import sizes
from onerec.bench.lazy import cardinalities
from onerec.business_rules import Rules
from onerec.count import Counter
from onerec.data.sources.world import make_world_dataset, world_of
from onerec.explain import dataset as explain_dataset
from onerec.explanation import explain, tree
from onerec.metrics import coverage_at_k, hit_at_k, recall_at_k
from onerec.model.diverse import diverse_beam_search
from onerec.model.power import power_distribution
from onerec.model.sample import sample, sequence_log_probs
from onerec.model.trace import beam_tree
from onerec.paper_recipes import onerec_0_935b
from onerec.pipeline.pretrain import sample_cases
from onerec.tokenizer.trie import Trie
from onerec.viz import beam as draw_beam
from onerec.viz import influence as draw_influence
from onerec.viz import serving as draw_serving
from onerec.viz import theme

folder = tempfile.TemporaryDirectory(prefix="onerec-notebook-")
os.environ["ONEREC_HOME"] = folder.name  # datasets and runs go here, and disappear at the end


def show(thing):
    """Draw a figure or a table where a notebook can; elsewhere say it in words."""
    if hasattr(builtins, "display"):
        builtins.display(thing)
    else:
        print(thing if isinstance(thing, pd.DataFrame) else theme.alt_text(thing))


def dice(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## 1. From a model to a list
#
# A thousand videos, a thousand people. The tokenizer spells each video with $L = 3$ codes, each one
# of $N = 64$; the model learns to write the spelling of what a user takes next.

# %%
dataset = make_world_dataset(
    "little_world", WorldConfig(n_items=1_000, n_users=1_000, mean_history=40, seed=0)
)
settings = recipe(
    "tiny",
    {
        "evaluate.split": "temporal",
        "evaluate.valid_users": "250",
        "tokenizer.codebook_size": "64",
        "train.steps": "160",
        "train.batch_size": "128",
        "train.warmup_steps": "20",
        "train.evaluate_every": "160",
        "train.checkpoint_every": "160",
        "train.keep": "last",
        "reward.steps": "0",
        "align.steps": "0",
    },
)
first = run("first", settings, dataset, stages=["tokenize", "pretrain", "reward", "align"])
for stage in ("tokenize", "pretrain"):
    print(f"{stage}: {first.done(stage)['seconds']:.1f} seconds")

recommender = Recommender.load(first, device="cpu")
model, trie, ids = recommender.model.eval(), recommender.trie, recommender.ids
model.requires_grad_(False)  # nothing is trained from here on
cases = sample_cases(recommender.setting.split.valid, 250)  # users, each at a row of the log


def contexts(some):
    """What the model reads of cases, and what they have seen before (items + 1)."""
    user, end = torch.from_numpy(some.user), torch.from_numpy(some.end)
    return recommender.contexts.batch(user, end), recommender.seen(user, end)


def titles(items):
    return explain_dataset.titles(dataset.path, [int(item) for item in items])


# %% [markdown]
# Given the history $u$, the model gives every first code a probability, given that code every
# second one, and so on. An item's probability is the product along its spelling:
# $$p(o \mid u) = \prod_{l=1}^{L} p(s^l \mid s^{1} \ldots s^{l-1}, u).$$
# Products of small numbers get tiny, so they are kept as sums of logarithms, in **nats**:
# $\ln p = -2.3$ is a probability of $.1$, and each further nat divides it by 2.7. Below, the list
# of one user, and the chain of its first item, code by code.
#
# *Question: which of the codes is the model unsure of?*

# %%
length = cases.end - recommender.setting.split.log.offsets[cases.user]
one = cases.take(np.array([length.argmax()]))  # the user with the longest history
batch, seen = contexts(one)
found = beam_search(model, batch, trie, k=8, beam=40, exclude=seen)
wanted = set(one.target_items.tolist())
rows = [
    (rank + 1, int(item), title, level + 1, int(code), float(lp), math.exp(lp), int(item) in wanted)
    for rank, (item, title) in enumerate(
        zip(found.items[0].tolist(), titles(found.items[0]), strict=True)
    )
    for level, (code, lp) in enumerate(
        zip(found.codes[0, rank], found.code_log_probs[0, rank], strict=True)
    )
]
names = ["rank", "item", "title", "level", "code", "log_prob", "probability", "hit"]
show(draw_serving.code_log_probs(pd.DataFrame(rows, columns=names)))


# %%
@torch.no_grad()
def next_codes(prefix, memory):
    """ln p of every code that could come after `prefix`: (N,)."""
    written = torch.tensor(prefix, dtype=torch.int64).view(1, 1, -1)
    logits, _ = model.decode_step(len(prefix), written, memory)
    return logits[0, 0].log_softmax(-1)


with torch.no_grad():
    memory = model.encode(batch)
spelling = found.codes[0, 0].tolist()
chain = [float(next_codes(spelling[:level], memory)[spelling[level]].exp()) for level in range(3)]
print(" x ".join(f"{p:.4f}" for p in chain), f"= {math.prod(chain):.5f}")
print(f"the search says e^{found.scores[0, 0]:.4f} = {found.scores[0, 0].exp():.5f}")

assert math.isclose(math.log(math.prod(chain)), float(found.scores[0, 0]), abs_tol=1e-3)
assert torch.allclose(found.code_log_probs.sum(-1), found.scores, atol=1e-4)
assert (found.scores[0].diff() <= 0).all(), "best first"
assert not set(found.items[0].tolist()) & set((seen[0] - 1).tolist()), "nothing was seen before"

# %% [markdown]
# ## 2. The trie: which codes exist
#
# Three codes of 64 spell 262,144 sequences, and there are a thousand videos. The legal spellings
# form a tree, the **trie**: a node for each prefix that some item has. At level $l$ a beam at a
# node may go on only to the node's children.
#
# In the report's system $N = 8192$: $5.5 \cdot 10^{11}$ sequences, of which ten million items
# would be one in 55,000.

# %%
possible = [64**level for level in range(4)]
table = pd.DataFrame(
    {
        "prefixes that can be written": possible,
        "of which some item has": trie.nodes_per_level,
        "children of a node, mean": [
            after / before for before, after in itertools.pairwise(trie.nodes_per_level)
        ]
        + [math.nan],
    },
    index=pd.Index(range(4), name="codes written"),
)
show(table.round(3))
share = trie.n_leaves / possible[-1]
print(f"{trie.n_leaves} spellings of {trie.n_items} items: {share:.2%} of all sequences")

# %% [markdown]
# A model that knew nothing would write an item once in some 260 times. How often does the trained
# one? The sum of $p$ over all legal spellings is the answer, and with so few items it can be worked
# out; drawing without the trie must find the same share.
#
# What does the trie do to scores? **Nothing.** $\ln p$ stays normalised over all 64 codes; illegal
# continuations are removed from the search, and what is left is not scaled up. So scores of
# different users, and with and without the trie, are comparable, and the trie costs one gather.


# %%
@torch.no_grad()
def exhaustive(batch):
    """ln p of every legal spelling, by teacher forcing: (B, leaves)."""
    every = trie.leaf_codes.expand(batch.size, -1, -1)
    return sequence_log_probs(model, batch, every).sum(-1)


some = cases.take(np.arange(40))
some_batch, some_seen = contexts(some)
log_p = exhaustive(some_batch)  # (40, leaves)
legal_mass = log_p.double().exp().sum(1)

draws = 250
free = sample(model, some_batch, trie, group=draws, generator=dice(0), constrained=False)
counted = float(free.legal.double().mean())
error = float((legal_mass * (1 - legal_mass) / draws).sum().sqrt()) / len(some)
print(f"legal, summed over all items: {legal_mass.mean():.4f}")
print(f"legal, of {draws * len(some):,} draws:  {counted:.4f}, standard error {error:.4f}")

open_beam = beam_search(model, some_batch, trie, k=120, beam=120, constrained=False)
with_trie = beam_search(model, some_batch, trie, k=120, beam=120)
by_rank = open_beam.legal.double().mean(0)
show(
    pd.DataFrame(
        {
            "legal, beam without the trie": [
                float(part.mean()) for part in by_rank.split([10, 30, 80])
            ]
        },
        index=["ranks 1 to 10", "11 to 40", "41 to 120"],
    ).round(3)
)

# %%
same = total = 0
for user in range(len(some)):
    one_way, other_way = (
        dict(zip(map(tuple, way.codes[user].tolist()), way.scores[user].tolist(), strict=True))
        for way in (open_beam, with_trie)
    )
    both = one_way.keys() & other_way.keys()
    total += len(both)
    same += sum(math.isclose(one_way[c], other_way[c], abs_tol=1e-3) for c in both)
print(f"{total:,} spellings found both ways; {same:,} have the same score")

assert abs(counted - float(legal_mass.mean())) < 5 * error
assert legal_mass.min() > 50 * share, "the model has learned which spellings exist"
assert legal_mass.max() < 1, "and not perfectly"
assert same == total > 1_000, "the trie changes no score"
assert by_rank[:10].mean() > by_rank[40:].mean(), "what it is surest of is an item"
assert with_trie.legal.all()

# %% [markdown]
# ## 3. Beam search
#
# Scoring every item is exact and hopeless for ten million of them. **Beam search** keeps the $K$
# most probable prefixes of each level and goes on from those alone:
#
# 1. start with the empty prefix;
# 2. of all legal continuations of all kept prefixes, keep the $K$ with the largest $\ln p$;
# 3. after $L$ levels the best of what is left is the list.
#
# In words that cannot be misread, on a catalogue of forty items:

# %%
small_codes = ids.codes[:40]
small = Trie(small_codes, ids.sizes)


def beam_by_hand(memory, codes, width, k):
    """The k best spellings of `codes`, keeping `width` prefixes at each level but the last."""
    legal = {tuple(row[:length]) for row in codes.tolist() for length in range(4)}
    beams = [(0.0, ())]
    for level in range(3):
        options = []
        for score, prefix in beams:
            log_prob = next_codes(prefix, memory)
            options += [
                (score + float(log_prob[code]), (*prefix, code))
                for code in range(64)
                if (*prefix, code) in legal
            ]
        beams = sorted(options, reverse=True)[: width if level < 2 else k]
    return beams


truth = sorted(
    (
        sum(float(next_codes(row[:level], memory)[row[level]]) for level in range(3))
        for row in np.unique(small_codes, axis=0).tolist()
    ),
    reverse=True,
)
agree, lost = [], []
for width in (1, 2, 4, 8, 40):
    hand = beam_by_hand(memory, small_codes, width, 5)
    library = beam_search(model, batch, small, k=5, beam=width)
    spelled = dict.fromkeys(tuple(c) for c in library.codes[0].tolist() if c[0] >= 0)
    agree.append(list(spelled) == [prefix for _, prefix in hand[: len(spelled)]])
    lost.append(truth[0] - hand[0][0])
    print(f"beam {width:>2}: best ln p {hand[0][0]:7.3f}, of all items {truth[0]:7.3f}")

assert all(agree), "the library does what is written above"
assert math.isclose(lost[-1], 0, abs_tol=1e-4), "a beam as wide as the catalogue is exact"
assert min(lost) > -1e-4, "no beam finds more than there is"

# %% [markdown]
# ### The beam as a tree
#
# The whole catalogue again, and a beam too narrow to be exact. Whatever falls out of the beam takes
# all items below it along. What was kept at the end, what was pruned and what leads to no item add
# up to one.
#
# *Question: where does the probability go that the list does not have?*

# %%
history = recommender.prompts.before(int(one.user[0]), int(one.end[0]))
branches = tree(recommender, history, k=10, beam=10, few=3)
leaves = branches.loc[branches["item"] >= 0, "item"].tolist()
show(draw_beam.beam_tree(branches, dict(zip(leaves, titles(leaves), strict=True)), top=6))

# %%
last = branches["level"] == 3
kept = branches[last & (branches["state"] == "kept")]["probability"].sum()
gone = branches.groupby("state")["lost"].sum()
print(f"kept {kept:.4f} + pruned {gone['pruned']:.4f} + illegal {gone['illegal']:.4f} = ", end="")
print(f"{kept + gone['pruned'] + gone['illegal']:.4f}")

assert math.isclose(kept + gone["pruned"] + gone["illegal"], 1, abs_tol=1e-3)

# %% [markdown]
# ### When is the beam exact?
#
# Always, if it keeps every prefix: here that takes a beam of the size of the second level. But
# often much sooner, and the search can *prove* it. An item is never more probable than any prefix
# of it, as each further factor is at most 1. So if the best prefix that was pruned, at any level,
# has less probability than the $k$-th item of the list, nothing below a pruned prefix belongs into
# the list:
# $$\max_{\text{pruned } s^{1..l}} p(s^{1..l}) < p(o_k) \ \Rightarrow\ \text{the list is exact.}$$
#
# *Question: how wide must a beam be for the ten best of all items, and how often does it know?*

# %%
leaf = trie.leaf_of(torch.from_numpy(ids.codes))  # (items,)
best_ten = log_p[:, leaf].topk(10).values  # (40, 10), of all items
rows = []
for width in (4, 8, 12, 16, 24, 32, 64, max(trie.nodes_per_level[:-1])):
    ten, levels = beam_tree(model, some_batch, trie, k=10, beam=width, few=1)
    exact = torch.isclose(ten.scores, best_ten, atol=1e-3).all(1)
    pruned = torch.stack([level.pruned.scores[:, 0] for level in levels[:-1]]).amax(0)
    proved = pruned < ten.scores[:, -1] - 1e-4
    inside = (ten.scores[:, None] - best_ten[:, :, None]).abs().amin(-1) < 1e-3
    rows.append((width, exact, proved, float(inside.double().mean())))
exactness = pd.DataFrame(
    [(w, float(e.double().mean()), float(p.double().mean()), i) for w, e, p, i in rows],
    columns=["beam", "exact", "proved", "of the ten best"],
)
figure = theme.figure(
    title=f"A beam of {rows[4][0]} is exact for {theme.percent(exactness['exact'][4])} of users "
    f"and proves it for {theme.percent(exactness['proved'][4])}",
    alt="; ".join(
        f"beam {r.beam}: exact {r.exact:.2f}, proved {r.proved:.2f}" for r in exactness.itertuples()
    ),
    how="Exact: the ten scores are those of the ten best of all items. Proved: the best pruned "
    "prefix is less probable than the tenth item.",
    x="beam (log scale)",
    y="share of users",
)
theme.add_lines(figure, exactness["beam"], exactness[["exact", "proved", "of the ten best"]])
show(figure)

# %%
show(exactness.round(3))

assert exactness["exact"].iloc[-1] == 1, "every prefix is kept"
assert exactness["proved"].iloc[-1] == 1, "and nothing was pruned, so it is known"
assert all((exact | ~proved).all() for _, exact, proved, _ in rows), "what is proved is so"
assert (exactness["proved"] <= exactness["exact"]).all(), "it may be exact and not know"
assert exactness["exact"].iloc[0] < 0.5, "a beam narrower than the list is not"
assert exactness["of the ten best"].iloc[-1] > exactness["of the ten best"].iloc[0] + 0.2

# %% [markdown]
# ## 4. Why it can be fast
#
# The plain way to search with any sequence model: a beam is a row of a batch, every row holds the
# user's history, and for each further code all rows are run from the start. A serving engine does
# the same arithmetic once:
#
# | | plain loop | here |
# |---|---|---|
# | read the history (encoder) | every beam, every code | once for each user |
# | keys and values of cross-attention | every beam, every code | once, never copied to beams |
# | decoder | all positions anew | one new position: keys and values of earlier ones are kept |
# | legal codes | a Python call for each beam | one gather |
#
# (The report's system writes 512 items a request. That it reads the history once and shares keys
# and values among beams stands in a survey of it, not in the report.)
#
# Below, both for one user. The lists must be the same. Operations are what torch counts while it
# runs, two for each multiply-add; the library's own count, by formula, stands beside it. So small a
# model is short of work, so it saves less time than operations.


# %%
@torch.no_grad()
def plain_loop(batch, width, k):
    """Beam search in which every beam is a user of its own and everything is worked out anew."""
    codes = torch.zeros(1, 0, dtype=torch.int64)
    score, node = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    for level in range(3):
        rows = batch.mapped(lambda table: table.expand(len(codes), *table.shape[1:]))  # noqa: B023
        memory = model.encode(rows)  # the history again, for every beam
        logits, _ = model.decode_step(level, codes[:, None], memory)  # no cache
        log_prob = logits[:, 0].log_softmax(-1).masked_fill(~trie.legal(level, node), -torch.inf)
        total = (score[:, None] + log_prob).flatten()
        score, pick = total.topk(min(width if level < 2 else k, int(total.isfinite().sum())))
        parent, code = pick // 64, pick % 64
        codes = torch.cat((codes[parent], code[:, None]), dim=1)
        node = trie.step(level, node[parent], code).long()
    return codes, score


def operations(function):
    """What torch counts while the function runs."""
    with FlopCounterMode(display=False) as counted:
        function()
    return counted.get_total_flops()


def seconds(functions, rounds=9):
    """The shortest time of each, in turns: what else the machine does only ever adds."""
    taken = np.zeros((rounds, len(functions)))
    for turn, (place, function) in itertools.product(range(rounds), enumerate(functions)):
        begun = time.perf_counter()
        function()
        taken[turn, place] = time.perf_counter() - begun
    return taken.min(0)


known = cardinalities(recommender.setting, first)
counter = Counter(recommender.setting.recipe, known)
events = sum(
    int((getattr(batch, side).item > 0).sum())
    for side in ("short", "positive")
    if getattr(batch, side) is not None
)
rows = []
for width in (8, 32, 64):
    _, plain_score = plain_loop(batch, width, 10)
    ours = beam_search(model, batch, trie, k=10, beam=width)
    spelled = dict(zip(map(tuple, ours.codes[0].tolist()), ours.scores[0].tolist(), strict=True))
    spelled.pop((-1, -1, -1), None)  # a rank without an item
    both = (
        lambda width=width: plain_loop(batch, width, 10),
        lambda width=width: beam_search(model, batch, trie, k=10, beam=width),
    )
    plain_flops, flops = map(operations, both)
    plain_seconds, own_seconds = seconds(both)
    rows.append(
        {
            "beam": width,
            "plain, MFLOP": plain_flops / 1e6,
            "here, MFLOP": flops / 1e6,
            "by formula": sum(counter.search_flops(width, events).values()) / 1e6,
            "operations, ratio": plain_flops / flops,
            "time, ratio": plain_seconds / own_seconds,
            "same scores": np.allclose(
                list(spelled.values()), plain_score[: len(spelled)], atol=1e-3
            ),
        }
    )
costs = pd.DataFrame(rows).set_index("beam")
show(costs.round(2))
print(f"one history is {events} events in both pathways")

# %%
print(f"beam 64: 1/{costs['operations, ratio'][64]:.1f} of the operations and ", end="")
print(f"1/{costs['time, ratio'][64]:.1f} of the time of the plain loop, on this machine")

assert costs["same scores"].all(), "nothing is approximated"
assert costs["operations, ratio"].is_monotonic_increasing, "the wider the beam, the more is shared"
assert costs["operations, ratio"][64] > 10
assert costs["time, ratio"][64] > 1.2, "how much depends on the machine"
assert (abs(costs["here, MFLOP"] / costs["by formula"] - 1) < 0.15).all(), "as counted by formula"

# %% [markdown]
# ### The same at the report's size
#
# No weights are needed to count. The 0.935B model of the report (4 + 4 blocks of width 1024, 24
# experts of which 2 are active, 3 x 8192 codes, a full context) with a beam $K$: each part of a
# forward pass, times how often a search runs it. The plain loop reads the history $1 + 2K$ times
# (once for the empty prefix, then for each of the $K$ beams at two levels) and decodes
# $1 + 2K + 3K$ positions; the shared search reads once and decodes $1 + K + K$.
#
# *Question: what does a wider beam cost?*

# %%
large = sizes.counter(onerec_0_935b())
once = large.search_flops(1)
reading = ("pathways", "encoder", "context", "qformer")
read_once = sum(value for name, value in once.items() if name in reading)
rows = []
for width in (1, 8, 32, 128, 512, 1024):
    parts = large.search_flops(width)
    shared = sum(parts.values())
    anew = (1 + 5 * width) / (1 + 2 * width)  # positions decoded without a cache
    plain = read_once * (1 + 2 * width) + parts["decoder"] * anew + parts["heads"]
    rows.append((width, shared / 1e12, plain / 1e12, read_once / shared))
report = pd.DataFrame(rows, columns=["beam", "shared", "plain loop", "reading"])
at = report.set_index("beam").loc[512]
figure = theme.figure(
    title=f"At a beam of 512 the plain loop costs {at['plain loop'] / at['shared']:.0f} times the "
    f"operations of the shared search",
    alt="; ".join(
        f"beam {r.beam}: {r.shared:.3f} TFLOP shared, {r[3]:.3f} in the plain loop"
        for r in report.itertuples()
    ),
    how="Operations of one user, two per multiply-add, counted from the recipe.",
    x="beam (log scale)",
    y="TFLOP a user (log scale)",
)
theme.add_lines(figure, report["beam"], report[["shared", "plain loop"]])
drawn = report[["shared", "plain loop"]].to_numpy()
figure.update_yaxes(**theme.log_axis(drawn.min(), drawn.max()))
show(figure)

# %%
show(report.round(4))
print(f"at beam 512: {at['shared']:.3f} TFLOP a user, {at['reading']:.0%} of it for the history")

assert at["plain loop"] > 50 * at["shared"]
assert report["shared"].iloc[3] < 3 * report["shared"].iloc[0], "128 beams cost little beside one"

# %% [markdown]
# ## 5. What a wider beam buys
#
# Two questions that are easily taken for one:
#
# - **recall@10**: are the ten best of the list what the user took next? A wider beam only mends
#   what the search missed.
# - **pass@K**: is *any* of all $K$ written items something the user took? A wider beam writes more,
#   and something else may then choose among them, as the report's reward model does.
#
# Users of the valid split, seen items left out. (So a narrow beam may end with fewer than $K$
# items, column *filled*: the search has nothing left. `Recommender` widens it then.)
#
# *Question: from which beam on does the list not get better, and the pool does?*

# %%
batches, hidden = contexts(cases)
pools, rows = {}, []
for width in (8, 16, 32, 64, 128):
    pool = beam_search(model, batches, trie, k=max(width, 10), beam=width, exclude=hidden)
    pools[width] = pool.items[:, :width].numpy()
    asked = cases.target_offsets, cases.target_items
    recall = recall_at_k(pool.items.numpy(), *asked, 10)
    passed = hit_at_k(pools[width], *asked)
    rows.append(
        {
            "beam": width,
            "recall@10": recall.mean(),
            "recall, error": recall.std() / math.sqrt(len(recall)),
            "pass@K": passed.mean(),
            "pass, error": passed.std() / math.sqrt(len(passed)),
            "filled": (pools[width] >= 0).mean(),
            "MFLOP": sum(counter.search_flops(width).values()) / 1e6,
        }
    )
quality = pd.DataFrame(rows).set_index("beam")
figure = theme.figure(
    title=f"From a beam of 16 to 128 recall@10 goes from {quality['recall@10'][16]:.3f} to "
    f"{quality['recall@10'][128]:.3f}, pass@K from {quality['pass@K'][16]:.2f} to "
    f"{quality['pass@K'][128]:.2f}",
    alt="; ".join(
        f"beam {beam}: recall@10 {r['recall@10']:.3f}, pass@K {r['pass@K']:.3f}"
        for beam, r in quality.iterrows()
    ),
    how="Means over users of the valid split, bars are one standard error. pass@K counts a hit "
    "among all K items that the beam wrote.",
    x="beam K (log scale)",
    y="share",
)
theme.add_lines(
    figure,
    quality.index,
    quality[["recall@10", "pass@K"]],
    quality[["recall, error", "pass, error"]].set_axis(["recall@10", "pass@K"], axis=1),
)
show(figure)

# %%
show(quality.round(4))

assert abs(quality["recall@10"][128] - quality["recall@10"][32]) < 0.02, "the list is settled"
assert quality["pass@K"].is_monotonic_increasing
assert quality["pass@K"][128] > quality["pass@K"][8] + 0.1, "the pool is not"
assert quality["recall@10"][128] > 0.03, "a random list would have 10 / 1000"

# %% [markdown]
# ### Best of K
#
# The report judges a pool by its best item: by what the deployed ranker predicts for it. Its
# probability of a long view rises from .3675 at $K = 8$ to .5443 at 1024 (its table 4), which is
# 48% more for 128 times the items. In a simulated world the *true* probability can be asked for.
# The best of $K$ is chosen with the truth in hand, so it is a ceiling: what a perfect ranker would
# make of the pool. Beside it, the best of $K$ items drawn at random.
#
# *Question: how much does the best of a larger pool have over that of a small one?*

# %%
world = world_of(dataset)
whole = world.truth_of_all(cases.user, cases.end)["long_view"]  # (users, items)
stream = np.random.default_rng(0)
anyhow = np.argsort(stream.random(whole.shape), axis=1)
rows = []
for width, items in pools.items():
    there = np.take_along_axis(whole, items.clip(min=0), axis=1)
    ours = np.ma.masked_where(items < 0, there)
    drawn = np.take_along_axis(whole, anyhow[:, :width], axis=1)
    rows.append((width, ours.max(1).mean(), ours.mean(), drawn.max(1).mean()))
best_of = pd.DataFrame(rows, columns=["K", "best of K", "mean of K", "best of K at random"])
ceiling = whole.max(1).mean()
gain = best_of["best of K"].iloc[-1] / best_of["best of K"].iloc[0] - 1
middle = best_of["mean of K"].tolist()
figure = theme.figure(
    title=f"The best of 128 has a true long view {theme.percent(gain)} more often than the best of "
    f"8; the mean of the pool goes from {middle[0]:.3f} to {middle[-1]:.3f}",
    alt="; ".join(
        f"K {r.K}: best {r[2]:.3f}, mean {r[3]:.3f}, best at random {r[4]:.3f}"
        for r in best_of.itertuples()
    ),
    how=f"True probability of a long view, mean over users. Best of the whole catalogue: "
    f"{ceiling:.3f}.",
    x="items K in the pool (log scale)",
    y="probability of a long view",
)
theme.add_lines(figure, best_of["K"], best_of.set_index("K"))
show(figure)

# %%
show(best_of.set_index("K").round(4))
print(f"the best of the whole catalogue: {ceiling:.4f}")
paper = {8: 0.3675, 64: 0.4927, 512: 0.5351, 1024: 0.5443}
print(f"report, best of K by its ranker: {paper}, {paper[1024] / paper[8] - 1:+.0%}")

assert best_of["best of K"].is_monotonic_increasing, "a larger pool has a better best"
assert (best_of["best of K"] > best_of["best of K at random"]).all(), "it beats luck"
assert best_of["mean of K"].iloc[-1] < best_of["mean of K"].iloc[0], "its mean falls"
assert best_of["best of K"].iloc[-1] < ceiling + 1e-9

# %% [markdown]
# ### Other ways to make a list, and how much they differ
#
# A beam returns what is most probable, which may be ten videos of one kind. Other ways:
#
# - **diverse beams**: the beam in groups; at the first level a code costs `penalty` nats for each
#   beam of an earlier group that holds it
# - **sampling**: draw items, keep the first ten different ones
# - **power sampling**: the same from $p^\alpha$ (part 6)
#
# *Categories* are how many different ones a list of ten shows, *first codes* how many of those;
# *coverage* is the share of the catalogue that all lists together show. The two are not the same:
# a list can be varied and yet be the list that everybody gets.

# %%
DRAWS = 96
category = np.array([cell[0] for cell in recommender.items["category"]])


def first_ten(drawn):
    """The first ten different unseen items of each row of draws (B, G), -1 where there are none."""
    lists = np.full((len(drawn), 10), -1)
    for row, (items, before) in enumerate(zip(drawn.tolist(), hidden.tolist(), strict=True)):
        left_out = set(before)
        fresh = list(dict.fromkeys(item for item in items if item + 1 not in left_out))[:10]
        lists[row, : len(fresh)] = fresh
    return lists


chances = power_distribution(model, batches, trie, alpha=2.0, beam=256)
lists = {
    "beam 40": beam_search(model, batches, trie, k=10, beam=40, exclude=hidden).items.numpy(),
    "diverse, 5 groups, penalty 1": diverse_beam_search(
        model, batches, trie, k=10, beam=40, groups=5, penalty=1.0, exclude=hidden
    ).items.numpy(),
    "diverse, 5 groups, penalty 10": diverse_beam_search(
        model, batches, trie, k=10, beam=40, groups=5, penalty=10.0, exclude=hidden
    ).items.numpy(),
    "sampling": first_ten(sample(model, batches, trie, group=DRAWS, generator=dice(1)).items),
    "sampling, temperature .5": first_ten(
        sample(model, batches, trie, group=DRAWS, generator=dice(2), temperature=0.5).items
    ),
    "power, p^2": first_ten(chances.sample(DRAWS, dice(3)).items),
}
rows = []
for name, ranked in lists.items():
    rows.append(
        {
            "list": name,
            "recall@10": recall_at_k(ranked, cases.target_offsets, cases.target_items).mean(),
            "categories": np.mean([len(set(category[row[row >= 0]])) for row in ranked]),
            "first codes": np.mean([len(set(ids.codes[row[row >= 0], 0])) for row in ranked]),
            "coverage": coverage_at_k(ranked, dataset.n_items),
            "true long view": np.take_along_axis(whole, ranked.clip(min=0), axis=1).mean(),
            "filled": (ranked >= 0).mean(),
        }
    )
compared = pd.DataFrame(rows).set_index("list")
show(compared.round(4))

# %%
plain, diverse = compared.loc["beam 40"], compared.loc["diverse, 5 groups, penalty 10"]
drawn = compared.loc["sampling"]
print(f"first codes of a list: {plain['first codes']:.1f} of a beam, ", end="")
print(f"{diverse['first codes']:.1f} of diverse beams")
print(f"standard error of recall@10: about {quality['recall, error'].mean():.3f}")

assert diverse["first codes"] > plain["first codes"] + 0.5
assert drawn["coverage"] > plain["coverage"], "drawing shows more of the catalogue"
assert compared.loc["sampling, temperature .5", "coverage"] < drawn["coverage"]
assert plain["true long view"] > drawn["true long view"], "and what it shows is worth less"
assert (compared["filled"] > 0.95).all()

# %% [markdown]
# ## 6. Drawing instead of searching
#
# A beam returns the most probable items, always the same ones. To explore, or to learn from its own
# answers, a model has to **draw**: item $o$ with a probability that is known. Three dials:
#
# - **temperature** $T$: logits are divided by it at each level; below 1 is bolder, above 1 is more
#   varied
# - **top-p**: at each level only the most probable codes that together reach $p$
# - **power** $p(o)^\alpha$: whole *items* are weighed, not codes
#
# Does the sampler draw what it says? Everything is worked out here by hand for one user, item by
# item, and 20,000 draws are held against it. The distance is the **total variation**,
# $$\text{TV}(f, q) = \tfrac{1}{2}\sum_o |f(o) - q(o)|,$$
# 0 for equal and 1 for disjoint. It is never 0 for draws: $n$ draws of an outcome with probability
# $q$ miss $nq$ by this much on average (De Moivre, 1730; $m = \lfloor nq \rfloor + 1$):
# $$\mathbb{E}\,|X - nq| = 2\,m \binom{n}{m} q^m (1 - q)^{n - m + 1}.$$
# So the distance that a *right* sampler has is known too.


# %%
@torch.no_grad()
def item_chances(temperature=1.0, top_p=1.0):
    """The probability of each leaf, level by level over legal codes, by hand: (leaves,)."""
    codes = torch.zeros(1, 1, 0, dtype=torch.int64)
    node, q = torch.zeros(1, dtype=torch.int64), np.ones(1)
    for level in range(3):
        logits, _ = model.decode_step(level, codes, memory)
        legal = trie.legal(level, node)  # (prefixes, N)
        raised = logits[0].double() / temperature
        chance = raised.masked_fill(~legal, -torch.inf).softmax(-1).numpy()
        if top_p < 1:
            for row in chance:
                order = np.argsort(-row, kind="stable")
                enough = int((np.cumsum(row[order]) < top_p).sum()) + 1
                row[order[enough:]] = 0
            chance /= chance.sum(1, keepdims=True)
        parent, code = legal.nonzero(as_tuple=True)  # in the order of the trie's nodes
        q = q[parent] * chance[parent, code]
        codes = torch.cat((codes[:, parent], code[None, :, None]), dim=-1)
        node = torch.arange(len(parent))
    return q


def expected_distance(q, n):
    """The total variation that n draws from q have to q on average."""
    q = q[(q > 0) & (q < 1)]
    m = np.floor(n * q) + 1
    log_choose = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in m]
    off = 2 * m * np.exp(log_choose + m * np.log(q) + (n - m + 1) * np.log1p(-q))
    return off.sum() / (2 * n)


def distance(a, b):
    return float(np.abs(a - b).sum() / 2)


def frequency(drawn):
    """How often each leaf was drawn: (leaves,)."""
    return np.bincount(trie.leaf_of(drawn.codes[0]), minlength=trie.n_leaves) / drawn.codes.shape[1]


with torch.no_grad():
    memory = model.encode(batch)
NUMBER = 20_000
p = exhaustive(batch)[0].double().exp().numpy()  # ln p of the model, not renormalised
squared = p**2 / (p**2).sum()
powered = power_distribution(model, batch, trie, alpha=2.0)
ways = {
    "T = 1": (item_chances(), {}),
    "T = .5": (item_chances(temperature=0.5), {"temperature": 0.5}),
    "T = 2": (item_chances(temperature=2.0), {"temperature": 2.0}),
    "top-p .8": (item_chances(top_p=0.8), {"top_p": 0.8}),
    "p^2": (squared, None),
}
rows = []
for seed, (name, (q, dials)) in enumerate(ways.items()):
    if dials is None:
        draws = powered.sample(NUMBER, dice(seed))
    else:
        draws = sample(model, batch, trie, group=NUMBER, generator=dice(seed), **dials)
    own = torch.from_numpy(q)[trie.leaf_of(draws.codes[0])].log()
    rows.append(
        {
            "drawn by": name,
            "distance": distance(frequency(draws), q),
            "expected": expected_distance(q, NUMBER),
            "log q wrong by": float((own - draws.drawn[0].double()).abs().max()),
            "entropy": float(-(q[q > 0] * np.log(q[q > 0])).sum()),
            "10 best have": np.sort(q)[-10:].sum(),
        }
    )
checked = pd.DataFrame(rows).set_index("drawn by")
show(checked.round(4))

# %% [markdown]
# Entropy is in nats; $\ln 991 = 6.9$ would be every spelling alike.

# %%
again = sample(model, batch, trie, group=100, generator=dice(7))
same = sample(model, batch, trie, group=100, generator=dice(7))
other = sample(model, batch, trie, group=100, generator=dice(8))
wrong = distance(item_chances(temperature=0.5), ways["T = 1"][0])
print(f"a sampler that forgot its temperature would be off by {wrong:.3f}")

ratio = checked["distance"] / checked["expected"]
assert ((ratio > 0.6) & (ratio < 1.5)).all(), "as far off as a right sampler is, not more"
assert wrong > 3 * checked["expected"].max(), "and the test would see a wrong one"
assert (checked["log q wrong by"] < 1e-2).all(), "each draw knows its own probability"
assert checked.loc["T = .5", "entropy"] < checked.loc["T = 1", "entropy"]
assert checked.loc["T = 2", "entropy"] > checked.loc["T = 1", "entropy"]
assert torch.equal(again.codes, same.codes), "a seed is a draw"
assert not torch.equal(again.codes, other.codes)

# %% [markdown]
# ### Power is not temperature
#
# Both sharpen, and $T = 1/2$ squares each code's probability just as $\alpha = 2$ squares the
# item's. Yet they differ. Temperature decides on the first code by that code alone:
# $$q_T(s^1) \propto p(s^1)^{\alpha}, \qquad
# q_\alpha(s^1) \propto p(s^1)^{\alpha} \sum_{s^2, s^3} p(s^2, s^3 \mid s^1)^{\alpha}.$$
# The sum is large where one item has nearly all of its first code's probability, small where many
# share it. Power prefers first codes that lead somewhere definite; temperature does not know.
# (For long texts it takes a Markov chain, see [arXiv 2510.14901](https://arxiv.org/abs/2510.14901).
# An item is three codes long and the legal ones are a list, so here it is exact, or from a beam
# with a bound on what is lost.)
#
# *Question: which items gain by power, and which by temperature?*

# %%
sharp = ways["T = .5"][0]
top = np.argsort(-np.maximum(sharp, squared), kind="stable")[:14]
top = top[np.argsort(-squared[top], kind="stable")]
apart = distance(sharp, squared)
labels = ["-".join(map(str, code)) for code in trie.leaf_codes[top].tolist()]
figure = theme.figure(
    title=f"T = 1/2 and p squared disagree about {theme.percent(apart)} of the probability",
    alt="; ".join(
        f"{label}: model {p[place] / p.sum():.3f}, temperature {sharp[place]:.3f}, "
        f"power {squared[place]:.3f}"
        for label, place in zip(labels, top, strict=True)
    ),
    how="Probability of the most probable spellings of one user, over all legal ones.",
    x="codes of the item",
    y="probability",
)
for index, (name, q) in enumerate(
    (("the model", p / p.sum()), ("T = 1/2", sharp), ("p squared", squared))
):
    figure.add_bar(
        x=labels,
        y=q[top],
        name=name,
        marker={"color": theme.COLOURS[index], "pattern": {"shape": theme.PATTERNS[index]}},
    )
figure.update_xaxes(type="category")
show(figure)

# %%
first_code = trie.leaf_codes[:, 0].numpy()
by_first = pd.DataFrame({"code": first_code, "p": p, "p2": p**2, "T": sharp, "power": squared})
by_first = by_first.groupby("code").sum()
alone = next_codes((), memory).double().exp().numpy()[by_first.index]  # p of each first code
definite = by_first["p2"] / alone**2  # the sum above; 1 where one item has all of a first code
gains = np.log(by_first["power"] / by_first["T"])
print(f"total variation between the two: {apart:.3f}")
table = pd.DataFrame({"p of the code": alone, "the sum": definite, "T = 1/2": by_first["T"]})
table["p squared"] = by_first["power"]
show(table.sort_values("the sum").iloc[[0, 1, 2, -3, -2, -1]].round(4))

rows = []
for width in (8, 16, 32, 64, 128):
    part = power_distribution(model, batch, trie, alpha=2.0, beam=width)
    have = trie.leaf_of(part.codes[0][part.items[0] >= 0])
    rows.append((width, 1 - squared[have].sum(), float(part.lost[0])))
missed = pd.DataFrame(rows, columns=["beam", "p^2 that is lost", "bound"]).set_index("beam")
show(missed.round(5))

assert np.allclose(np.sort(powered.power[0].double().exp().numpy()), np.sort(squared), atol=1e-4)
assert float(powered.lost[0]) < 1e-6, "all legal codes were scored"
assert apart > 0.02, "they are not the same"
assert (gains - np.log(definite)).std() < 1e-3, "a first code gains by the sum, and only by it"
assert (missed["bound"] > missed["p^2 that is lost"] - 1e-4).all(), "the bound holds"
assert missed["bound"].iloc[-1] < missed["bound"].iloc[0], "and closes"

# %% [markdown]
# ## 7. Why this item?
#
# Take an event out of the history, run the model again, and see what $\ln p$ of the item does:
# $$\Delta_e = \ln p(o \mid \text{all events}) - \ln p(o \mid \text{all but } e).$$
# This **leave-one-out** is what the event did, by definition (alone; two events that say the same
# stand in for one another). It costs a run of the model for each event, so cheaper hints are in
# use: the **attention** that the decoder pays to the event, and **input × gradient**. Hints can be
# wrong. Attention reads states that have read one another before, and it has no sign: it cannot
# say that an event speaks *against* an item.
#
# *Question: which event put the first item on the list, and would attention have told?*

# %%
item = int(found.items[0, 0])
explained = explain(recommender, history, item, beam=40)
events_read = explained.events.assign(title=titles(explained.events["item"]))
show(draw_influence.influence(events_read, titles([item])[0]))

# %%
without = events_read.loc[events_read["leave_one_out"].idxmax()]
kept = history.take([e for e in range(len(history)) if e != without["event"]])
spelled = torch.from_numpy(ids.codes[item])[None, None]
with torch.no_grad():
    less = float(sequence_log_probs(model, recommender.prompts.batch([kept]), spelled).sum())
print(f"ln p {explained.log_prob:.3f} with everything; without event #{without['event'] + 1} ")
print(f"masked in place: {explained.log_prob - without['leave_one_out']:.3f}; ", end="")
print(f"never there, older ones moving up: {less:.3f}")
seen_events = events_read[events_read["read"]]
against = 0
for place, each in enumerate(found.items[0, :5].tolist()):
    one = explain(recommender, history, each, beam=40).events
    speak = one.loc[one["read"], "leave_one_out"]
    print(f"item {place + 1}: {(speak < 0).sum()} of {len(speak)} events speak against it")
    against += int((speak < 0).sum())
share_of = seen_events["attention"].sum()
print(f"attention: {share_of:.2f} on events, {explained.elsewhere['static']:.2f} on the user")

assert math.isclose(explained.log_prob, float(found.scores[0, 0]), abs_tol=1e-3)
assert math.isclose(share_of + explained.elsewhere["static"], 1, abs_tol=1e-3)
assert against > 0, "some speak against what is listed all the same"
assert (seen_events["attention"] >= 0).all(), "which attention cannot say"
assert (events_read.loc[~events_read["read"], "leave_one_out"] == 0).all()

# %% [markdown]
# ### The deletion test
#
# Who is right can be tested without asking anybody. Delete first what a method names first, then
# the second, and so on: the faster $\ln p$ falls, the better the method found what mattered. A
# method that is no better than deleting at random knows nothing. (Leave-one-out judges events one
# at a time, so for several at once even its order need not be the best there is.)
#
# *Question: which order of deleting takes the item off the list soonest?*

# %%
show(draw_influence.deletion(explained.curves))

# %%
area = explained.curves.groupby("method")["log_prob"].mean().sort_values()
print(area.round(3).to_dict())
assert area["leave_one_out"] < area["random"], "what it names first matters"

# %% [markdown]
# ### Not one item but many
#
# One item is an anecdote. The same for the first item of each of forty users, with standard errors:
# rank correlation with leave-one-out, and how far below random deleting brings $\ln p$, on average
# over the first ten deletions. (*recent* is the newest first.)

# %%
METHODS = ("leave_one_out", "attention", "gradient", "recent")
rows = []
lists_of = beam_search(model, some_batch, trie, k=1, beam=40, exclude=some_seen).items[:, 0]
for user, end, item_of in zip(some.user, some.end, lists_of.tolist(), strict=True):
    asked = recommender.prompts.before(int(user), int(end))
    if len(asked) < 8:
        continue
    said = explain(recommender, asked, item_of, beam=8, few=1, most=10)
    fall = said.curves.groupby("method")["log_prob"].mean()
    told = said.events.assign(recent=said.events["event"])
    rows.append(
        {f"{m}: rank correlation": draw_influence.agreement(told, m) for m in METHODS[1:]}
        | {f"{m}: below random": fall["random"] - fall[m] for m in METHODS}
    )
judged = pd.DataFrame(rows)
summary = pd.DataFrame(
    {"mean": judged.mean(), "standard error": judged.std() / math.sqrt(len(judged))}
)
print(f"{len(judged)} users with at least eight events")
show(summary.round(3))

# %%
below = {m: summary.loc[f"{m}: below random", "mean"] for m in METHODS}
error = {m: summary.loc[f"{m}: below random", "standard error"] for m in METHODS}
best_hint = max(METHODS[1:], key=below.get)
print(f"leave-one-out {below['leave_one_out']:.2f} nats below random; the best hint is ", end="")
print(f"{best_hint} with {below[best_hint]:.2f}")

assert below["leave_one_out"] > 3 * error["leave_one_out"], "the truth beats chance clearly"
assert below["leave_one_out"] > below["attention"] + 0.1, "and attention"
assert below["leave_one_out"] > below["recent"] + 0.1, "and what was last"
correlation = summary["mean"].filter(like="correlation")
assert correlation["gradient: rank correlation"] > correlation["attention: rank correlation"]
assert correlation.max() < 0.8, "no hint is the truth"

# %% [markdown]
# ## 8. Rules and new items
#
# Because a list is a walk through the trie, much can be changed without training: take a leaf out,
# and the item cannot be written; put one in, and it can.
#
# - **A rule for everybody** (a category that is off) removes leaves, so no place of the beam is
#   spent on what may not be shown.
# - **A rule on the list** (at most one video of an author, nothing seen) chooses among what the
#   search finds; if that is too little, more is asked for. That is still a beam: far down the list
#   an item may be missed.
#
# (The recipe leaves out seen items already, so that rule changes nothing here.)
#
# Scores stay the model's own, so the list under a rule is the old one without what the rule forbids
# and with what comes next. `Recommender` is what evaluation, app and command line call.

# %%
off = category[item]  # the category of the first item
asked = {
    "no rule": Rules(),
    f"without {off}": Rules(without={"category": [off]}),
    "one of each author": Rules(per_author=1),
    "nothing seen": Rules(seen=False),
}
author = recommender.items["author_id"].to_numpy()
frames = {name: recommender.recommend_for(history, 12, rules=r) for name, r in asked.items()}
show(
    pd.DataFrame(
        {
            name: [
                f"{theme.short(title, 22)} ({category[i]}, {author[i]})"
                for i, title in zip(frame["item"], titles(frame["item"]), strict=True)
            ]
            for name, frame in frames.items()
        },
        index=pd.RangeIndex(1, 13, name="rank"),
    )
)
everything_off = sorted(set(category))
empty = recommender.recommend_for(history, 12, rules=Rules(without={"category": everything_off}))
print("all categories off:", empty.attrs["notes"][-1])

# %%
score_of = exhaustive(batch)[0][leaf].double().numpy()  # of every item, by part 3
before = {int(item) for item in (seen[0] - 1).tolist() if item >= 0}


def by_hand(allowed, most=10**9):
    """The scores of the best allowed items, at most so many of an author."""
    chosen, count = [], {}
    for best in np.argsort(-score_of, kind="stable").tolist():
        if allowed(best) and count.get(author[best], 0) < most and best not in before:
            chosen.append(best)
            count[author[best]] = count.get(author[best], 0) + 1
    return score_of[chosen]


def same_scores(name, expected, first=8):
    return np.allclose(frames[name]["score"][:first], expected[:first], atol=1e-3)


assert same_scores("no rule", by_hand(lambda item: True))
assert same_scores(f"without {off}", by_hand(lambda item: category[item] != off))
assert same_scores("one of each author", by_hand(lambda item: True, most=1), first=5)
assert same_scores("nothing seen", by_hand(lambda item: True)), "the recipe leaves out seen items"
assert off not in set(category[frames[f"without {off}"]["item"]])
assert len(set(author[frames["one of each author"]["item"]])) == 12
assert len(empty) == 0
assert empty.attrs["notes"], "an empty list says why"

# %% [markdown]
# ### An item that did not exist
#
# A video is uploaded. Its content goes through the tokenizer that is there, gets three codes, and
# joins the trie. No weight changes. Two cases: a video just like the first item of the list, and
# one between two others. The model was never shown them; they come up as far as their codes are
# likely. Where an item with the same codes exists, the new one stands behind it, as nobody has
# watched it yet.

# %%
vectors = first.vectors()
other = int(frames["no rule"]["item"].iloc[1])
content = np.stack([vectors[item], (vectors[item] + vectors[other]) / 2])
uploads = pd.DataFrame({"item_id": ["a twin", "between two"]})
grown = recommender.with_items(uploads, content)
longer = grown.recommend_for(history, 12)
new_codes = grown.ids.codes[-2:].tolist()
print(f"the first item {ids.codes[item].tolist()}, its twin {new_codes[0]}, ", end="")
print(f"between two {new_codes[1]}, the other {ids.codes[other].tolist()}")
longer["title"] = [
    titles([i])[0] if i < dataset.n_items else f"NEW: {name}"
    for i, name in zip(longer["item"], longer["item_id"], strict=True)
]
show(longer[["rank", "title", "score", "lp_1", "lp_2", "lp_3"]].round(3))

# %%
twin = dataset.n_items
places = longer.set_index("item")["rank"]
old = longer[longer["item"] < dataset.n_items]
print(f"{trie.n_leaves} spellings before, {grown.trie.n_leaves} after; ", end="")
print(f"the twin enters at place {places[twin]}")

assert new_codes[0] == ids.codes[item].tolist()
own = longer.set_index("item")["score"]
assert math.isclose(own[twin], own[item], abs_tol=1e-4), "the same codes, the same score"
assert places[twin] > places[item], "and behind the one that people know"
assert np.allclose(old["score"], frames["no rule"]["score"].iloc[: len(old)], atol=1e-4), (
    "nobody else's score has changed"
)
assert grown.model is recommender.model, "and no weight"

# %% [markdown]
# ## Where to go from here
#
# - `onerec recommend --run NAME --user U` prints a list, `--all --out F` writes those of everybody;
#   the page *Recommend* of `make app` has the beam, the draws and the explanations of this notebook
#   for a run of your own.
# - `python -m onerec.bench.serving`: users a second at any size, with and without the trie.
# - `06_rewards_and_ecpo`: what is done with the draws of part 6.

# %%
folder.cleanup()
assert not Path(folder.name).exists(), "nothing is left behind"
