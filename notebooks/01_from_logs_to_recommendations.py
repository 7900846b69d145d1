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
# # From logs to recommendations
#
# A short-video app wrote down who watched what. This notebook turns that log into
# recommendations, step by step, with **OneRec**: a model that does not score a list of candidates
# but *writes* the next video, code by code, the way a language model writes the next word.
#
# No paper needs to be read first. Where a formula comes from one, its section is named:
# *report* is the OneRec Technical Report, [arXiv 2506.13695](https://arxiv.org/abs/2506.13695).
# Each part ends in an `assert` that holds what the part has just claimed, so this page cannot say
# something that is no longer true.
#
# Everything runs on two CPU cores in less than two minutes, on a small world that is simulated
# here: nothing is downloaded, and nothing is left behind.

# %%
import builtins
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")  # figures need no network

from onerec import WorldConfig, beam_search, make_split, recipe, run
from onerec.assembly import Setting, load_semantic_ids
from onerec.data.batches import case_batches
from onerec.data.sources.world import make_world_dataset
from onerec.explain import dataset as explain_dataset
from onerec.explain import serving, tokens, training
from onerec.recommend import Recommender
from onerec.viz import dataset as draw_dataset
from onerec.viz import serving as draw_serving
from onerec.viz import theme
from onerec.viz import tokens as draw_tokens
from onerec.viz import training as draw_training

folder = tempfile.TemporaryDirectory(prefix="onerec-notebook-")
os.environ["ONEREC_HOME"] = folder.name  # datasets and runs go here, and disappear at the end


def show(thing):
    """Draw a figure or a table where a notebook can; elsewhere say it in words."""
    if hasattr(builtins, "display"):
        builtins.display(thing)
    else:
        print(thing if isinstance(thing, pd.DataFrame) else theme.alt_text(thing))


# %% [markdown]
# ## 1. What a short-video log looks like
#
# One row for each time a video was shown to somebody: who, what, when, how long it played, and
# what the person did. Nobody says "this was a good recommendation"; that has to be read out of
# behaviour. The world here is small: a thousand videos and fifteen hundred people.
#
# *Question: do a few videos take most of the attention?* The curve gives the share of all events
# that the most frequent videos hold. For $n$ videos with $n_i$ events each, in rising order, the
# Gini coefficient is
# $$G = \frac{2\sum_i i\,n_i}{n\sum_i n_i} - \frac{n+1}{n},$$
# 0 if all are equal, 1 if one video has everything.

# %%
world = WorldConfig(n_items=1_000, n_users=1_500, mean_history=40, seed=1)
dataset = make_world_dataset("little_world", world)
facts = explain_dataset.summary(dataset.path)
print(f"{facts['interactions']:,} events of {facts['users']:,} users on {facts['items']:,} videos")

busy = int(np.diff(dataset.log.offsets).argmax())
columns = ["time", "title", "behaviours", "play_ms", "duration_ms", "positive"]
show(explain_dataset.user_history(dataset.path, busy, limit=8)[columns])

# %%
show(draw_dataset.popularity(explain_dataset.popularity(dataset.path), facts["gini"]))

# %%
counts = np.sort(np.bincount(dataset.log.item, minlength=dataset.n_items)).astype(float)
n = len(counts)
gini = 2 * (np.arange(1, n + 1) * counts).sum() / (n * counts.sum()) - (n + 1) / n
print(f"Gini by hand: {gini:.4f}")

assert math.isclose(gini, facts["gini"], abs_tol=1e-6)
assert gini > 0.2, "a few videos take most of the attention"

# %% [markdown]
# ## 2. Positives: what counts as a good answer
#
# Being shown a video is the platform's choice, watching it to the end is the person's. If a model
# learned to predict *exposures* it would learn to imitate the old recommender. So an event counts
# as **positive** when the person watched long, liked, followed, commented or forwarded:
# $$\text{positive} = \text{long view} \lor \text{like} \lor \text{follow} \lor
# \text{comment} \lor \text{forward}.$$
# Only positives are targets. The history that the model reads keeps *all* events: skipping a video
# tells something too. (The report, section 2.2, also reads both: recent events of any kind, and
# events of high engagement.)
#
# *Question: how often does each behaviour happen?* Hatched bars count as positive.

# %%
show(draw_dataset.behaviours(explain_dataset.behaviours(dataset.path)))

# %%
log = dataset.log
chosen = ("long_view", "like", "follow", "comment", "forward")
by_hand = np.any([log.columns[name] == 1 for name in chosen], axis=0)
print(f"{by_hand.sum():,} of {len(log):,} events are positive ({by_hand.mean():.1%})")

assert (by_hand == log.positive).all()
assert 0 < by_hand.mean() < 1, "a target that is always or never true teaches nothing"

# %% [markdown]
# ## 3. A split without leakage
#
# To know whether a model can predict, it must be asked about something that it cannot have seen.
# Two cuts in time, the same for everybody:
#
# | part | when | what for |
# |---|---|---|
# | train | the first 80% of the events | weights, semantic IDs, popularity: everything learned |
# | valid | the next 10% | choosing settings |
# | test | the last 10% | the number that is reported, looked at once |
#
# One cut for all users is stricter than "hide everybody's last video": with per-user cuts the model
# may learn on Tuesday from one user what it is asked to predict on Monday for another.
#
# *Question: where are the cuts?*

# %%
split = make_split(dataset, "temporal")
valid_from, test_from = (split.counts[name] for name in ("valid_from", "test_from"))
figure = draw_dataset.timeline(explain_dataset.timeline(dataset.path))
for when in (valid_from, test_from):
    figure.add_vline(x=pd.Timestamp(when, unit="ms"), line_dash="dash")
show(figure)

# %%
time = split.log.columns["timestamp"]
print(f"{split.train.sum():,} events to train on, {len(split.test):,} users to test")

assert time[split.train].max() < valid_from < test_from
assert (time[split.test.end - 1] < test_from).all(), "no history reaches into the test period"
assert set(split.log.item[split.train]) == set(np.flatnonzero(split.fit_items)), (
    "what is fitted on items is fitted on those of the training part"
)

# %% [markdown]
# ## 4. Items become semantic IDs
#
# A language model writes words out of a vocabulary. Giving each of a billion videos a word of its
# own would need a billion outputs, and a new video would have none. So each video is *spelled*:
# a short sequence of codes, coarse to fine, like a postal address. Videos that are alike share the
# beginning of their spelling.
#
# **Residual k-means** makes the codes (report, section 2.1). Each video has a vector $x$ of what it
# shows and says, joined with who watched it in the training part. Cluster the vectors, take each
# one's nearest centre, subtract it, and cluster what is left:
# $$r^{(1)} = x,\qquad s^l = \arg\min_k \lVert r^{(l)} - c^{(l)}_k \rVert,\qquad
# r^{(l+1)} = r^{(l)} - c^{(l)}_{s^l}.$$
# The paper has 3 levels of 8192 codes for its catalogue; for a thousand videos far fewer will do.
#
# *Question: are the codes used evenly?* The entropy $H = -\sum_k p_k \ln p_k$ of a level is at most
# $\ln N$, when all $N$ codes are equally frequent. (The paper's Table 11 prints it for 8192 codes:
# 8.9 of at most 9.0 nats at the first level.)

# %%
settings = recipe(
    "tiny",
    {
        "evaluate.split": "temporal",
        "tokenizer.codebook_size": "64",
        "train.steps": "200",
        "train.batch_size": "128",
        "train.warmup_steps": "20",
        "train.evaluate_every": "40",
        "evaluate.valid_users": "200",
        "baselines.trials": "1",
        "baselines.sasrec_trials": "1",
        "baselines.sasrec_steps": "60",
        "baselines.sasrec_width": "32",
    },
)
first = run("first", settings, dataset, stages=["tokenize"])
levels = tokens.levels(first)
show(levels[["level", "size", "used", "entropy_nats", "max_entropy_nats", "variance_explained"]])
print(tokens.collisions(first))

# %%
show(draw_tokens.entropy(levels))

# %%
report = first.report()
assert (levels["entropy_nats"] <= levels["max_entropy_nats"] + 1e-9).all()
assert levels["variance_explained"].is_monotonic_increasing, "each level explains more"
assert (levels["utilisation"] > 0.5).all(), "most codes are in use"

# %% [markdown]
# ### One video, spelled by hand
#
# The walk below computes every distance live: three times, take the nearest centre and subtract it.
#
# *Question: how much of the video is left unsaid after each code?*

# %%
ids, vectors, books = first.semantic_ids(), first.vectors(), first.codebooks()
item = int(ids["popularity"].argmax())
print(explain_dataset.titles(dataset.path, [item])[0])

residual, spelled = vectors[item], []
for level, book in enumerate(books, start=1):
    distance = np.linalg.norm(book - residual, axis=1)  # to every centre of this level
    nearest, second = distance.argsort()[:2]
    print(
        f"level {level}: |r| = {np.linalg.norm(residual):.3f}; nearest is code {nearest} "
        f"at {distance[nearest]:.3f}, next code {second} at {distance[second]:.3f}"
    )
    spelled.append(int(nearest))
    residual = residual - book[nearest]
print("the code:", tokens.text_of(spelled))

# %%
walk = tokens.residual_walk(first, item)
show(draw_tokens.residual_walk(walk))

# %%
assert tuple(spelled) == tokens.codes_of(first, item)
assert math.isclose(np.linalg.norm(residual), walk["norm_after"].iloc[-1], rel_tol=1e-3)
assert walk["share_left"].iloc[-1] < 1, "the codes say something about the video"

# %% [markdown]
# ### The tree of codes
#
# All spellings together form a tree, the **trie**: from the root by the first code, then the
# second, then the third, to a leaf with one or a few videos. Later it keeps the model from spelling
# a video that does not exist.
#
# *Question: do videos on one branch belong together?*

# %%
show(draw_tokens.code_tree(tokens.code_tree(first, top=6, items=3)))
near = tokens.neighbours(first, item, k=8)
show(near[["rank", "title", "distance", "shared_prefix"]])

# %%
codes = ids[tokens.code_columns(ids)].to_numpy()
same = vectors[codes[:, 0] == codes[item, 0]]
inside = np.linalg.norm(same - same.mean(0), axis=1).mean()
outside = np.linalg.norm(vectors - vectors.mean(0), axis=1).mean()
print(f"mean distance to the middle: {inside:.3f} on its branch, {outside:.3f} over all videos")

assert len(np.unique(codes[:, 0])) <= levels["size"].iloc[0]
assert inside < outside, "videos that share a code are nearer to one another"

# %% [markdown]
# ## 5. The model: pathways in, codes out
#
# The **encoder** reads what is known of a user, by separate *pathways* (report, section 2.2):
#
# | pathway | what it reads |
# |---|---|
# | static | who the user is: age band, device, ... |
# | short-term | the 20 most recent events of any kind |
# | positive | the most recent positives, more of them |
#
# The paper has a fourth, for a lifetime of history. Each pathway ends in two dense layers,
# $h = \text{Dense}(\text{LeakyReLU}(\text{Dense}(\cdot)))$, and all states meet in bidirectional
# attention: $z \leftarrow z + \text{Attn}(\text{RMSNorm}(z))$,
# $z \leftarrow z + \text{FFN}(\text{RMSNorm}(z))$.
#
# The **decoder** (section 2.3) starts from a learned *begin* vector and writes one code after
# another. Each looks at the codes before it and at the encoder's states, and passes through a few
# of several *experts*: $\text{MoE}(x) = \sum_{j \le k} g_j(x)\,E_j(x)$.
#
# *Question: where do the parameters sit?*

# %%
setting = Setting.of(settings, dataset)
semantic_ids, popularity = load_semantic_ids(first)
fresh = setting.new_model(semantic_ids, vectors=first.vectors())
sizes = {"begin": fresh.begin.numel()}
for name, part in fresh.named_children():
    sizes[name] = sum(parameter.numel() for parameter in part.parameters())
sizes = {name: count for name, count in sizes.items() if count}
total = sum(parameter.numel() for parameter in fresh.parameters())

figure = theme.figure(
    title=f"{total:,} parameters; most of them in {max(sizes, key=sizes.get)}",
    alt="; ".join(f"{name}: {count:,}" for name, count in sizes.items()),
    how="Sum of the sizes of each part's weights.",
    x="parameters",
    legend=False,
)
ordered = sorted(sizes, key=sizes.get)
figure.add_bar(x=[sizes[name] for name in ordered], y=ordered, orientation="h")
show(figure)

# %%
history = settings.history
print(f"{len(fresh.encoder)} encoder and {len(fresh.decoder)} decoder layers")
print(f"input states: 1 + {history.short_length} + {history.positive_length}")

assert sum(sizes.values()) == total, "nothing is counted twice or forgotten"
assert set(fresh.pathways.dense) == {"short", "positive"}
assert fresh.levels == len(semantic_ids.sizes)

# %% [markdown]
# ## 6. Training: guess the next code
#
# For each positive event the model sees what came before it and guesses the codes of the video, one
# after another, each time knowing the true codes before (report, section 2.3):
# $$L = -\sum_{l=1}^{3} \ln P(s^l \mid \text{begin}, s^1 \ldots s^{l-1}, \text{user}).$$
# A model that knows nothing gives each of $N$ codes the probability $1/N$, so each level starts at
# $-\ln(1/N) = \ln N$ nats. Whatever it is below that, it has learned.
#
# *Question: which code is the hardest to guess?*

# %%
first = run("first", stages=["tokenize", "pretrain"])
curves = training.curves(first)
show(draw_training.losses(curves))

# %%
by_metric = curves.pivot(index="step", columns="metric", values="value")
for level, size in enumerate(semantic_ids.sizes, start=1):
    loss = by_metric[f"loss_{level}"]
    start, end = loss.iloc[0], loss.tail(20).mean()
    print(f"level {level}: ln {size} = {math.log(size):.3f}, loss from {start:.3f} to {end:.3f}")
    assert abs(start - math.log(size)) < 0.1, "at first it knows nothing"
    assert end < math.log(size), "then it has learned"

# %% [markdown]
# ## 7. Beam search: writing the most probable videos
#
# The probability of a video is the product of its codes' probabilities, so its logarithm is a sum:
# $$\ln P(\text{video} \mid \text{user}) = \sum_l \ln P(s^l \mid s^1 \ldots s^{l-1}, \text{user}).$$
# There are too many spellings to try them all. **Beam search** keeps the best few beginnings,
# extends each by every code *that the trie allows*, keeps the best of those, and so on. (The
# paper's system generates 512 videos for a request.)
#
# The trace below follows one user: at each level the five best beginnings, which beginning of the
# level before each one extends, and its log-probability so far.

# %%
recommender = Recommender.load(first)
case = split.test.take(np.array([0]))
[(_, user, end)] = case_batches(recommender.contexts, case, 1)
batch = recommender.contexts.batch(user, end)
found = beam_search(recommender.model, batch, recommender.trie, k=10, beam=50, trace=True)

rows = [
    {
        "level": level,
        "rank": rank + 1,
        "codes": tokens.text_of(kept.codes[0, rank].tolist()),
        "extends rank": int(kept.parents[0, rank]) + 1 if level > 1 else 0,
        "ln P": float(kept.scores[0, rank]),
        "legal": bool(kept.legal[0, rank]),
    }
    for level, kept in enumerate(found.trace, start=1)
    for rank in range(5)
]
show(pd.DataFrame(rows))

# %% [markdown]
# *Question: which code of a spelling is the model least sure of?* Each bar is one video of the
# list, as long as the model is surprised by it: $-\ln P$, level by level.

# %%
items, parts = found.items[0].tolist(), found.code_log_probs[0].tolist()
titles = explain_dataset.titles(dataset.path, items)
spellings = found.codes[0].tolist()
unfolded = pd.DataFrame(
    {
        "rank": np.repeat(np.arange(1, 11), 3),
        "item": np.repeat(items, 3),
        "title": np.repeat(titles, 3),
        "level": np.tile([1, 2, 3], 10),
        "code": np.ravel(spellings),
        "log_prob": np.ravel(parts),
        "probability": np.exp(np.ravel(parts)),
        "hit": False,
    }
)
show(draw_serving.code_log_probs(unfolded))

# %%
scores = found.scores[0].tolist()
assert found.legal.all(), "every spelling is a video that exists"
assert len(set(items)) == len(items), "no video twice"
assert scores == sorted(scores, reverse=True), "best first"
assert np.allclose(np.sum(parts, axis=1), scores, atol=1e-4), "the codes' logs add up"

# %% [markdown]
# ## 8. Evaluation beside baselines
#
# Every model ranks the whole catalogue for the same test users. **Recall@10** of a user is the
# share of what he really took next that stands among the first ten:
# $$\text{recall@10} = \frac{|\text{list} \cap \text{targets}|}{|\text{targets}|},$$
# averaged over users. The whiskers are 95% bootstrap intervals: draw the users again with
# replacement, a thousand times, and see how far the average moves.
#
# Beside OneRec stand three baselines that are easy to underrate: *popularity*, *item-KNN* (people
# who watched this also watched that) and *SASRec* (a transformer over item ids). As the world is
# simulated, two more are known: a *random* list, and an *oracle* that reads the truth, the most
# that anybody could reach. A minute of training on a toy world is no benchmark: whether OneRec
# leads here says little.
#
# *Question: is it better than chance, and how far is the end of the scale?*

# %%
first = run("first")  # the rest: evaluate and recommend
metrics = serving.metrics(first)
wide = metrics.pivot(index="model", columns="metric", values="value")
show(wide[["recall@5", "recall@10", "ndcg@10", "coverage@10"]].sort_values("recall@10"))
print(serving.evaluation(first)["users"], "test users")

# %%
show(draw_serving.metric_bars(metrics))

# %%
models = first.evaluate()["models"]
for name, values in models.items():
    low, high = values["recall@10_ci"]
    assert low <= values["recall@10"] <= high, name
assert models["onerec"]["recall@10_ci"][0] > models["random"]["recall@10_ci"][1], (
    "better than chance, with certainty"
)
assert models["oracle"]["recall@10"] == max(one["recall@10"] for one in models.values())

# %% [markdown]
# ## 9. One user's list
#
# What all of it was for. `hit` says whether the user really took that video in the test period, the
# codes show how it was spelled. The user below is the one with the most hits: a flattering choice,
# made so that there is something to see.
#
# *Question: what in the past speaks for the first recommendation?* Nearness is the cosine of two
# videos' vectors, $\cos(i, j) = v_i \cdot v_j / (\lVert v_i \rVert \lVert v_j \rVert)$. It is a
# hint and not the cause: what the model used inside is another question.

# %%
somebody = int(serving.users(first)["user"].iloc[0])
show(serving.history(first, somebody, limit=6)[["title", "behaviours", "positive"]])
best = serving.recommendations(first, somebody, k=10)
show(best[["rank", "hit", "title", "category", "score", "code_1", "code_2", "code_3"]])

# %%
reasons = serving.why(first, somebody, int(best["item"].iloc[0]), limit=6)
show(draw_serving.why(reasons, best["title"].iloc[0]))

# %%
legal = {tuple(row) for row in codes.tolist()}
assert len(best) == 10
assert best["score"].is_monotonic_decreasing
assert all(row in legal for row in best[["code_1", "code_2", "code_3"]].itertuples(False, None))
assert best["title"].str.len().min() > 0, "every video has a caption to read"

# %% [markdown]
# ## Where to go from here
#
# - `02_your_own_data`: the same path with a CSV file.
# - `onerec run --recipe small --dataset world --run mine`: a larger run on the full world.
# - `make app`: see inside a run, live.

# %%
folder.cleanup()
assert not Path(folder.name).exists(), "nothing is left behind"
