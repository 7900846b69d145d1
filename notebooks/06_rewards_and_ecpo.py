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
# # Rewards and ECPO: from what people watched to what they would like
#
# A model that was trained on a log writes what the old platform would have shown. This notebook
# follows the argument of the OneRec report from there on: learn what an item is worth to a user,
# let the model write a group of items, and push it towards those that are worth more. Then come
# the questions that remain: too much of a kind, feedback without a reward model, how much a ranker
# adds that picks from what was written, and what happens when people answer and the model learns
# on. Every formula stands beside the numbers of a small run, and because the world is simulated,
# the end can be compared with the truth, which no real platform can do.
#
# No paper needs to be read first. *Report* is the OneRec Technical Report,
# [arXiv 2506.13695](https://arxiv.org/abs/2506.13695), section 2.4 of it; the *first paper* is
# [arXiv 2502.18965](https://arxiv.org/abs/2502.18965); *V2* is
# [arXiv 2508.20900](https://arxiv.org/abs/2508.20900); *Pantheon* is
# [arXiv 2505.13894](https://arxiv.org/abs/2505.13894). How items become codes and how the model is
# trained on the log stands in `01_from_logs_to_recommendations`.
#
# Each part ends in an `assert` that holds what the part has just claimed. Everything runs on two
# CPU cores in about two minutes; nothing is downloaded, and nothing is left behind.
#
# One small world and one training show how things work. They do not show what is better: luck in
# training is not averaged out. Where that matters, the measurement that ships with the library, on
# a larger world and with several seeds, is read beside it.

# %%
import builtins
import dataclasses
import itertools
import json
import math
import os
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import torch

os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")  # figures need no network

from onerec import Recommender, WorldConfig, beam_search, recipe, run
from onerec.assembly import load_semantic_ids, setting_of, trained_model
from onerec.bench.cascade import picked
from onerec.bench.industrial import filtered
from onerec.bench.paired import bounds, interval
from onerec.checkpoint import checkpoints, load_model
from onerec.common import evaluating
from onerec.data.sessions import kept_by_rsft, session_of
from onerec.data.sources.world import make_world_dataset, world_of
from onerec.explain import dataset as explain_dataset
from onerec.explain import measured as at_scale
from onerec.explain import objectives, online, policy, rewards
from onerec.loop import loop
from onerec.metrics import recall_at_k
from onerec.model.sample import sample, sequence_log_probs
from onerec.pipeline.align import Aligning, listed_items, policy_config
from onerec.pipeline.feedback import LoggedFeedback
from onerec.pipeline.pretrain import sample_cases
from onerec.reward.feedback import ENOUGH, duration_bucket, feedback_advantage
from onerec.reward.rules import industrial_reward
from onerec.rewards import RewardModel, raised
from onerec.rollouts import OBJECTIVES, read_rollout
from onerec.stream import StreamConfig, stream
from onerec.train.policy import dpo, ecpo, gbpo, group_advantage, grpo
from onerec.viz import online as draw_online
from onerec.viz import policy as draw_policy
from onerec.viz import rewards as draw_rewards
from onerec.viz import theme

folder = tempfile.TemporaryDirectory(prefix="onerec-notebook-")
os.environ["ONEREC_HOME"] = folder.name  # datasets and runs go here, and disappear at the end


def show(thing):
    """Draw a figure or a table where a notebook can; elsewhere say it in words."""
    if hasattr(builtins, "display"):
        builtins.display(thing)
    else:
        print(thing if isinstance(thing, pd.DataFrame) else theme.alt_text(thing))


# %% [markdown]
# ## 1. A small world and a small run
#
# A thousand videos, a thousand people, and four stages:
#
# | stage | what it learns |
# |---|---|
# | tokenize | each video's spelling, three codes long |
# | pretrain | the **policy** $\pi(o \mid u)$: how likely the model writes item $o$ for user $u$ |
# | reward | what people do with what they are shown |
# | align | the policy again, now pushed by the reward |
#
# Why is pre-training not enough? It learns from what was *shown and* liked. Whatever the old
# platform did not show cannot be in the log. In this world the probability of a long view is known
# for every pair of user and item, so one can see how much was left on the table.

# %%
world = WorldConfig(n_items=1_000, n_users=1_000, mean_history=40, seed=0)
dataset = make_world_dataset("little_world", world)
settings = recipe(
    "tiny",
    {
        "evaluate.split": "temporal",
        "evaluate.valid_users": "250",
        "tokenizer.codebook_size": "64",
        "train.steps": "100",
        "train.batch_size": "128",
        "train.warmup_steps": "20",
        "train.evaluate_every": "50",
        "train.checkpoint_every": "50",
        "reward.steps": "150",
        "reward.rounds": "3",
        "reward.valid_rows": "3000",
        "align.steps": "28",
        "align.users": "12",
        "align.group": "32",
        "align.reward": "long_view",
        "align.weight": "1.0",
        "align.tilt": "0",
        "align.learning_rate": "0.0003",
    },
)
first = run("first", settings, dataset, stages=["tokenize", "pretrain", "reward", "align"])
for stage in ("tokenize", "pretrain", "reward", "align"):
    print(f"{stage}: {first.done(stage)['seconds']:.1f} seconds")

# %%
cpu = torch.device("cpu")
setting = setting_of(first)
ids, popularity = load_semantic_ids(first)
log, split = setting.split.log, setting.split
truth = world_of(dataset)
cases = sample_cases(split.valid, 250)  # users, and the row of the log before which each one stands

rows = np.flatnonzero(split.train)[::10]
shown = truth.truth(
    log.user[rows].astype(np.int64), rows, log.item[rows].astype(np.int64)[:, None]
)["long_view"].mean()
everything = truth.truth_of_all(cases.user, cases.end)["long_view"]  # (users, items)
best_ten = np.sort(everything, axis=1)[:, -10:].mean()
print(f"true probability of a long view: {everything.mean():.3f} for an item drawn at random,")
print(f"{shown:.3f} for what was shown, {best_ten:.3f} for each user's ten best items")

assert everything.mean() < shown < best_ten
assert best_ten > 1.5 * shown, "there is room above what the log holds"

# %% [markdown]
# ## 2. What is an item worth?
#
# **P-Score** (report, section 2.4) is a second, smaller model. It reads user, item and both
# together, and has one *tower* for each behaviour: one ends in the probability of a click, one in
# that of a long view, of a like, and so on. Each tower has its own cross-entropy,
# $$\text{BCE}(y, p) = -y \ln p - (1 - y)\ln(1 - p),$$
# over what was shown, whether it was liked or not: the skipped videos teach as well.
#
# A policy only asks which of two items is better, so that is what is measured. Draw one row with
# the behaviour and one without; the **AUC** is how often the score puts them in the right order:
# $$\text{AUC} = P(s_+ > s_-) + \tfrac{1}{2} P(s_+ = s_-).$$
# 0.5 is a coin. **GAUC** is the same within each user, averaged by rows. It is usually lower, as
# telling keen users from others no longer helps, and it is the one that matters: a policy chooses
# among items *for one user*.
#
# *Question: which behaviours can be told from what the model sees?* Hollow points have too few
# positives to say.

# %%
reward = RewardModel.load(first, setting, cpu)
valid_rows = reward.exposures.valid_rows(settings.reward.valid_rows)
towers = rewards.towers(first)
show(towers[["behaviour", "rows", "positives", "auc", "gauc", "weight"]].round(3))

# %%
show(draw_rewards.towers(towers, "gauc"))

# %%
scores = reward.logged(valid_rows)
happened = log.columns["long_view"][valid_rows] == 1
liked, skipped = scores["long_view"][happened], scores["long_view"][~happened]
by_hand = (liked[:, None] > skipped).mean() + 0.5 * (liked[:, None] == skipped).mean()
known = towers.set_index("behaviour").loc["long_view"]
print(f"AUC of the long view by hand: {by_hand:.4f} from {liked.size * skipped.size:,} pairs")

assert math.isclose(by_hand, known["auc"], abs_tol=1e-6)
assert by_hand > 0.65, "much better than a coin"
assert known["gauc"] > 0.6, "also within one user"

# %% [markdown]
# ### Is a probability one?
#
# A good order is not yet a good number. If rows with a prediction near 30% end in a long view three
# times in ten, the tower is **calibrated**. Sort the rows by prediction, cut them in ten, and hold
# the mean prediction of each part against what happened.
#
# *Question: do predictions mean what they say?*

# %%
calibration = rewards.calibration(first)
show(draw_rewards.calibration(calibration, "long_view"))

# %%
order = np.argsort(scores["long_view"], kind="stable")
tenths = np.array_split(order, 10)
own = calibration[calibration["behaviour"] == "long_view"]
said = scores["long_view"].mean()
print(f"predicted {said:.3f}, happened {happened.mean():.3f} of {len(happened):,} rows")

assert np.allclose(own["predicted"], [scores["long_view"][part].mean() for part in tenths])
assert np.allclose(own["observed"], [happened[part].mean() for part in tenths])
assert abs(said - happened.mean()) < 0.08, "near in the mean"
assert own["observed"].iloc[-1] > own["observed"].iloc[0] + 0.2, "high predictions happen more"

# %% [markdown]
# ### One number out of many: the fused score
#
# Towers have to become *one* reward. Multiplying them is the old way. The report trains a last
# layer on top of the towers, which sees all labels at once:
# $$L = \frac{\sum_k w_k\,\text{BCE}(y_k, p)}{\sum_k w_k}.$$
# Its output $p$ is the P-Score. It is a blend and no longer the probability of anything.
#
# How are the weights $w_k$ found? The report says: until every AUC rises, and prints no weights.
# Pantheon prints a rule, and the rounds below follow it: train with the current weights, compare
# the GAUC on each behaviour with what there was before (here the product of the towers), and if
# some behaviour lost, raise the weight of the one that lost most. Pantheon adds $0.1/N$ each time;
# with three rounds that would move nothing, so here the weight is multiplied by 1.5.
#
# The second cell applies the rule by hand: to every round that was, and to an example in which the
# fused score has forgotten the likes.
#
# *Question: did a behaviour have to be heard louder?*

# %%
rounds = rewards.rounds(first)
show(draw_rewards.weights(rounds))

# %%
weights = rounds.pivot(index="round", columns="behaviour", values="weight")
gaps = rounds.pivot(index="round", columns="behaviour", values="gap")
for number in range(len(weights) - 1):
    loss = gaps.loc[number].dropna()
    worst = loss.idxmin()
    print(f"round {number}: {worst} has the largest gap, {loss[worst]:+.4f}; its weight is raised")
    expected = weights.loc[number].copy()
    expected[worst] *= 1.5
    assert loss[worst] < 0
    assert np.allclose(weights.loc[number + 1], expected)
example = raised(
    {"click": 1.0, "long_view": 1.0, "like": 1.0},  # weights
    {"click": 0.70, "long_view": 0.68, "like": 0.75},  # GAUC of the product of the towers
    {"click": 0.72, "long_view": 0.67, "like": 0.70},  # GAUC of the fused score
    1.5,
)
print("the next weights of the example:", example)
print("gaps at the end:", gaps.iloc[-1].dropna().round(4).to_dict())

assert example == {"click": 1.0, "long_view": 1.0, "like": 1.5}, "the likes lost most"
assert (weights.iloc[0].drop("dislike", errors="ignore") == 1).all(), "at first all count alike"
assert len(weights) == settings.reward.rounds + 1 or (gaps.iloc[-1].dropna() >= 0).all(), (
    "it ends when nothing is lost, or when the rounds are used up"
)

# %% [markdown]
# ### Against the truth
#
# On real data this is where it ends. Here the world can be asked what it would really have done.
#
# There is a trap. The reward model learned from what was *shown*, and the old platform showed what
# it thought people would like. A policy will ask about *everything*. Below, each user's whole
# catalogue is sorted by prediction. (The truth is that of an item shown as the first of its topic.
# In the log people tire of a topic, so on what was shown the truth lies a little higher.)
#
# *Question: where does the reward model promise too much?*

# %%
few = cases.take(np.arange(0, len(cases), 4))
catalogue = np.tile(np.arange(dataset.n_items), (len(few), 1))
predicted = reward.score(few.user, few.end, torch.from_numpy(catalogue))["long_view"].numpy()
real = truth.truth_of_all(few.user, few.end)["long_view"]

sorted_by = np.argsort(-predicted, axis=1)
edges = [0, 3, 10, 30, 100, 300, dataset.n_items]
parts = [sorted_by[:, low:high] for low, high in itertools.pairwise(edges)]
promise = [np.take_along_axis(predicted, part, axis=1).mean() for part in parts]
kept = [np.take_along_axis(real, part, axis=1).mean() for part in parts]
names = [f"{low + 1} to {high}" for low, high in itertools.pairwise(edges)]

figure = theme.figure(
    title=f"Places 4 to 10 of each user's catalogue: {promise[1]:.2f} promised, {kept[1]:.2f} kept",
    alt="; ".join(
        f"places {n}: {p:.3f} promised, {k:.3f} kept"
        for n, p, k in zip(names, promise, kept, strict=True)
    ),
    how="Each user's catalogue sorted by the predicted probability of a long view; means of the "
    "prediction and of the true probability.",
    x="place in the catalogue by prediction",
    y="probability of a long view",
)
figure.add_scatter(x=names, y=promise, name="promised", mode="lines+markers", line=theme.line(0))
figure.add_scatter(x=names, y=kept, name="true", mode="lines+markers", line=theme.line(1))
show(figure)

# %%
logged_truth = truth.truth(
    log.user[valid_rows].astype(np.int64),
    valid_rows,
    log.item[valid_rows].astype(np.int64)[:, None],
)["long_view"][:, 0]
on_shown = np.corrcoef(scores["long_view"], logged_truth)[0, 1]
on_all = np.corrcoef(predicted.ravel(), real.ravel())[0, 1]
fused_on_shown = np.corrcoef(scores["pscore"], logged_truth)[0, 1]
print(f"correlation with the true probability: {on_shown:.3f} on what was shown, {on_all:.3f} on")
print(f"all pairs; of the fused score {fused_on_shown:.3f} on what was shown")
too_much_shown = (scores["long_view"] - logged_truth).mean()
too_much = (predicted - real).mean()
print(f"promised too much: {too_much_shown:+.3f} on what was shown, {too_much:+.3f} on all pairs")

assert on_shown > 0.5, "it has learned what the world does"
assert on_all > 0.3, "also where nothing was shown"
assert kept[0] > kept[-1] + 0.15, "what it likes most is really better"
assert too_much > too_much_shown + 0.02, "it promises too much where nothing was shown"

# %% [markdown]
# ## 3. A group
#
# To learn which of its own answers is good, the policy has to give several. For one user it writes
# a **group** of items, each drawn independently, code by code (the paper's system: 512 items for a
# user). Codes that belong to no item may come out. With the *trie* of all real spellings they
# cannot: at each level only codes that some item has are allowed, and their probabilities are
# scaled up to sum to one.
#
# So there are two probabilities of the same item. The model's own, $\pi(o)$, over all codes; and
# the sampler's, $q(o)$, with which it was really drawn. Under the trie,
# $$q(o) = \prod_{l} \frac{\pi(s^l \mid s^{<l})}{\sum_{\text{legal } s} \pi(s \mid s^{<l})}
# \ \ge\ \pi(o).$$

# %%
before = trained_model(first, setting, ids, stage="pretrain")
asker = Recommender(setting, ids, popularity, before, cpu)
trie = asker.trie
one = cases.take(np.array([0]))
batch = asker.contexts.batch(torch.from_numpy(one.user), torch.from_numpy(one.end))


def dice(seed):
    return torch.Generator().manual_seed(seed)


free = sample(before, batch, trie, group=8, generator=dice(1), constrained=False)
held = sample(before, batch, trie, group=8, generator=dice(1))
rows = [
    {
        "trie": trie_used,
        "title": explain_dataset.titles(dataset.path, [int(item)])[0] if item >= 0 else "(nobody)",
        "ln q (sampler)": float(q),
        "ln π (model)": float(p),
    }
    for trie_used, group in (("no", free), ("yes", held))
    for item, q, p in zip(group.items[0], group.drawn[0], group.model[0], strict=True)
]
show(pd.DataFrame(rows).round(3))

# %%
with evaluating(before), torch.no_grad():
    by_model = sequence_log_probs(before, batch, held.codes).sum(-1)
    by_sampler = sequence_log_probs(before, batch, held.codes, trie=trie).sum(-1)

assert torch.allclose(free.drawn, free.model, atol=1e-4), "without a trie they are the same"
assert torch.allclose(by_model, held.model, atol=1e-3)
assert torch.allclose(by_sampler, held.drawn, atol=1e-3)
assert (held.drawn >= held.model - 1e-4).all(), "the trie scales legal codes up"
assert held.legal.all()

# %% [markdown]
# ### Why the denominator is the sampler's
#
# Suppose we want a mean under one distribution $\pi$ and have draws from another, $q$. Each draw
# then has to be weighted by the ratio of the two:
# $$\mathbb{E}_{o \sim q}\Big[\frac{\pi(o)}{q(o)} f(o)\Big] = \sum_o q(o)\frac{\pi(o)}{q(o)} f(o)
# = \sum_o \pi(o) f(o).$$
# It holds only if $q$ is the probability with which the item was *really* drawn. That is why the
# ratio of a policy step has the sampler's own log-probability below the line, with everything that
# the sampler did.
#
# With a thousand videos it can be checked: the probability of every real spelling can be computed,
# and their sum is the share of what the model writes that is legal at all. Draws from the trie,
# weighted, must find the same number, although every single one of them is legal.
#
# **A beam is not a sample.** Beam search returns the most probable items, all different, and the
# same ones every time; none of them "was drawn with probability $q$". The mean reward of a beam is
# a mean of favourites, and no estimate of what the policy earns. (Below, nobody's spelling
# earns 0.)

# %%
with evaluating(before), torch.no_grad():
    log_prob = sequence_log_probs(before, batch, trie.leaf_codes[None]).sum(-1)[0]  # every spelling
leaf_item = trie.leaf_items[trie.leaf_start[:-1]]
chance = log_prob.double().exp()
worth = reward.score(one.user, one.end, leaf_item[None])["long_view"][0].double()
legal_mass, earned = float(chance.sum()), float((chance * worth).sum())

free = sample(before, batch, trie, group=4_000, generator=dice(2), constrained=False)
held = sample(before, batch, trie, group=4_000, generator=dice(3))
beam = beam_search(before, batch, trie, k=32, beam=32)
ratio = (held.model - held.drawn)[0].double().exp()
held_worth = reward.score(one.user, one.end, held.items)["long_view"][0].double()
beam_worth = reward.score(one.user, one.end, beam.items)["long_view"][0].double()


def mean_and_error(values):
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


checks = {
    "legal share: exact": (legal_mass, 0.0),
    "legal share: counted without the trie": mean_and_error(free.legal[0].double()),
    "legal share: trie, weighted by π/q": mean_and_error(ratio),
    "reward earned: exact": (earned, 0.0),
    "reward earned: trie, weighted by π/q": mean_and_error(ratio * held_worth),
    "reward earned: trie, not weighted": mean_and_error(held_worth),
    "reward earned: mean of a beam of 32": (float(beam_worth.mean()), math.nan),
}
show(pd.DataFrame(checks, index=["value", "standard error"]).T.round(4))
spelled = dict(zip(map(tuple, beam.codes[0].tolist()), beam.scores[0].tolist(), strict=True))
print(
    f"the beam's spellings hold {sum(math.exp(s) for s in spelled.values()):.1%} of what is drawn"
)

# %%
again = beam_search(before, batch, trie, k=32, beam=32)
for name in ("counted without the trie", "trie, weighted by π/q"):
    value, error = checks[f"legal share: {name}"]
    assert abs(value - legal_mass) < 5 * error, name
value, error = checks["reward earned: trie, weighted by π/q"]
assert abs(value - earned) < 5 * error, "weighted by the sampler's own, the mean is right"
value, error = checks["reward earned: trie, not weighted"]
assert abs(value - earned) > 5 * error, "without the weight it is the mean of something else"
assert len(set(beam.items[0].tolist())) == 32, "all different"
assert len(set(held.items[0, :500].tolist())) < 500, "draws repeat"
assert torch.equal(beam.items, again.items), "nothing about it is random"

# %% [markdown]
# ## 4. From reward to advantage
#
# A reward of 0.4 is good for a user who watches little and poor for one who watches everything. So
# each item is compared with the others of its group (report, eq. 32):
# $$A_i = \frac{r_i - \text{mean}(r_1 \ldots r_G)}{\text{std}(r_1 \ldots r_G)}.$$
# Above the group's mean is praise, below is blame. Adding a constant to all rewards, or doubling
# them, changes nothing. Illegal items (nobody's codes) take no part: they have no reward.
#
# The report's reward is the P-Score. In this run it is one tower of it, the long view: then what is
# promised and what the world keeps can be compared in the same unit at the end. All the others are
# recorded beside it, with weight 0.
#
# *Question: what did the policy write for one user in the first step, and which items does the
# group speak for?*

# %%
groups = policy.groups(first, 1)
spread = groups["reward_greatest"] - groups["reward_least"]
user = int(groups["user"].iloc[int(spread.argmax())])
group = policy.items(first, 1, user)
show(draw_policy.group(group, user))

# %%
counted = group[group["counted"]]
r = counted["reward"].to_numpy()
advantage = (r - r.mean()) / r.std()
top = int(r.argmax())
print(
    f"{len(group)} items, {len(counted)} of them legal; mean {r.mean():.4f}, std {r.std():.4f}\n"
    f"the best: ({r[top]:.4f} - {r.mean():.4f}) / {r.std():.4f} = {advantage[top]:+.3f}"
)
flat = torch.full((1, 8), 0.7)
some = torch.tensor(r)[None]

assert np.allclose(advantage.clip(-5, 5), counted["advantage"], atol=1e-3)
assert abs(advantage.mean()) < 1e-6, "praise and blame cancel"
assert math.isclose(advantage.std(), 1, abs_tol=1e-6)
assert torch.allclose(group_advantage(some), group_advantage(3 + 2 * some), atol=1e-4)
assert (group_advantage(flat) == 0).all(), "a group without spread teaches nothing"

# %% [markdown]
# ## 5. The ratio and its trouble
#
# Drawing a group is expensive, so in production another machine does it, with weights that are some
# updates old (the paper: sent every 1000 steps). Then the policy $\pi$ that is trained is no longer
# the $\pi_\text{old}$ that drew, and each item is weighted by the ratio
# $\rho = \pi(o \mid u) / \pi_\text{old}(o \mid u)$, one for the whole item. **GRPO** maximises
# $$\min\big(\rho A,\ \text{clip}(\rho, 1-\varepsilon, 1+\varepsilon)\,A\big).$$
# The clip says: who has moved by more than $\varepsilon$ in the right direction has had enough. The
# right direction is up for praise, down for blame.
#
# The trouble is the wrong direction. An item that was blamed but has become *more* probable since
# has a large $\rho$ and $A < 0$: the minimum takes $\rho A$, without any bound. The push on the
# model, $\partial(\rho A)/\partial \ln \pi = \rho A$, explodes with it.
#
# *Question: how does the value of a blamed item ($A = -1$) go on as its ratio grows?*

# %%
curves = objectives.curves(["ecpo", "grpo"])
show(draw_policy.value(curves, advantage=-1.0))

# %% [markdown]
# **ECPO** (*early-clipped*, report, eq. 32) repairs the denominator before the ratio is formed:
# $$\pi'_\text{old} = \max\Big(\frac{\text{sg}[\pi]}{1 + \varepsilon + \delta},\
# \pi_\text{old}\Big),\qquad \rho = \frac{\pi}{\pi'_\text{old}},\qquad \delta = 0.1.$$
# $\text{sg}$ means *stop gradient*: the number counts, its dependence on the weights does not. So
# $\rho$ never exceeds $1 + \varepsilon + \delta$. The value is then flat, and yet the gradient is
# not zero, since only the numerator is differentiated: it stays $A\,(1+\varepsilon+\delta)$. A
# bounded push, never no gradient.
#
# (The report prints no $\varepsilon$; 0.2 is the usual value.)

# %%
epsilon, delta = 0.2, 0.1
ratios = torch.tensor([0.5, 0.79, 0.9, 1.0, 1.25, 1.31, 2.0, 5.0, 20.0])
old = torch.full((1, len(ratios)), math.log(1e-4))


def push_of(objective, sign):
    """d objective / d ln π of each item, by automatic differentiation."""
    now = (old + ratios.log()).requires_grad_()
    made = objective(now, old, torch.full_like(old, sign))
    (gradient,) = torch.autograd.grad(-made.loss * old.numel(), now)
    return gradient[0]


pushes = pd.DataFrame({"ratio": ratios.numpy()})
for sign in (-1.0, 1.0):
    for name, objective in (("GRPO", grpo), ("ECPO", ecpo)):
        pushes[f"{name}, A = {sign:+.0f}"] = push_of(objective, sign).numpy()
show(pushes.round(3))

# %%
blamed = torch.where(ratios < 1 - epsilon, 0.0, -ratios.clamp(max=1 + epsilon + delta))
praised = torch.where(ratios > 1 + epsilon, 0.0, ratios)

assert torch.allclose(push_of(ecpo, -1.0), blamed, atol=1e-4), "0 below 1-ε, then A min(ρ, 1+ε+δ)"
assert torch.allclose(push_of(ecpo, 1.0), praised, atol=1e-4), "0 above 1+ε"
assert torch.allclose(push_of(grpo, 1.0), praised, atol=1e-4), "for praise, GRPO is the same"
assert math.isclose(float(push_of(grpo, -1.0)[-1]), -20, rel_tol=1e-4), "for blame, it is not"

# %% [markdown]
# ### GBPO, and why blame hardly counts in it
#
# OneRec's second paper (V2, section 3.3) has no clip at all. **GBPO** only changes the denominator:
# $$\pi'_\text{old} = \max(\pi_\text{old}, \text{sg}[\pi])\ \text{ for } A \ge 0,\qquad
# \max(\pi_\text{old}, 1 - \text{sg}[\pi])\ \text{ for } A < 0.$$
# For blame the push is at most $\pi / (1 - \pi)$, like the gradient of a cross-entropy: strong when
# the model is sure of something wrong, weak when it was unlikely anyway. But a whole item, three
# codes long, is *always* unlikely: a probability of $10^{-6}$ gives a push of $10^{-6}$. Its
# negatives hardly push, and a small gradient alone is no merit.
#
# *Question: how hard do the three push a blamed item that was drawn with probability 0.001?*

# %%
show(draw_policy.push(objectives.curves(), advantage=-1.0))

# %%
chances = torch.tensor([0.5, 0.1, 1e-3, 1e-6])
now = chances.log()[None]
blame = gbpo(now, now, -torch.ones_like(now)).push[0]
praise = gbpo(now, now, torch.ones_like(now)).push[0]
print("π:               ", [f"{value:.0e}" for value in chances.tolist()])
print("push when blamed: ", [f"{value:.1e}" for value in blame.tolist()])
print("push when praised:", [f"{value:.1e}" for value in praise.tolist()])

assert torch.allclose(blame, -chances / torch.maximum(1 - chances, chances), rtol=1e-3)
assert abs(float(blame[-1])) < 2e-6, "at a millionth, hardly a push"
assert torch.allclose(praise, torch.ones_like(praise)), "praise is not affected"

# %% [markdown]
# ### Without a lag they coincide
#
# If the policy that is trained has drawn the group itself, $\rho = 1$, nothing is clipped, and the
# gradient of all of them is that of plain REINFORCE, $A\,\nabla \ln \pi$. Below, the whole gradient
# of the real model is computed for the first recorded step, objective by objective. GBPO is the
# exception: even then it leaves the negatives out.
#
# And with a lag? The policy of the end of alignment is held against the groups that the policy of
# its beginning drew: forty updates in between.

# %%
step = read_rollout(first.path / "rollouts" / "step-000001.parquet")
context = asker.contexts.batch(step.user, step.end)
advantages, weight = step.advantage(), step.counted.float()
last = checkpoints(first.path / "align")[-1]
after = trained_model(first, setting, ids, stage="pretrain")
load_model(last.path, after)


def gradient_of(model, name, drawn=None):
    """The objective's gradient by all weights, and what it was made of."""
    model.eval()
    now = sequence_log_probs(model, context, step.codes).sum(-1)
    drawn = now.detach() if drawn is None else drawn
    made = OBJECTIVES[name](now, drawn, advantages, weight)
    used = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(made.loss, used, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None]), made, (now - drawn).exp()


plain, _, _ = gradient_of(before, "reinforce")
apart = {}
for name in ("ecpo", "grpo", "ppo_clip", "gbpo"):
    gradient, _, _ = gradient_of(before, name)
    apart[name] = float((gradient - plain).norm() / plain.norm())
    print(f"{name}: differs from A ∇ ln π by {apart[name]:.1e} of its length")

negative = step.counted & (advantages < 0)
strength = {}
for name in ("grpo", "ecpo"):
    gradient, made, moved = gradient_of(after, name, step.drawn)
    per_unit = (made.push / advantages).abs()[negative]
    strength[name] = float(per_unit.max())
    print(
        f"{name} after {last.step} updates: ratios up to {float(moved.detach().max()):.2f}; the "
        f"largest push on a blamed item is {strength[name]:.2f} |A|; gradient norm "
        f"{float(gradient.norm()):.3f}"
    )

assert max(apart[name] for name in ("ecpo", "grpo", "ppo_clip")) < 1e-4
assert apart["gbpo"] > 0.1, "GBPO leaves the negatives out"
assert strength["ecpo"] <= 1 + epsilon + delta + 1e-4, "bounded, whatever the lag"
assert strength["grpo"] >= strength["ecpo"] - 1e-6

# %% [markdown]
# ### IPA: the best against the worst
#
# The first paper had no ratio at all. Its **IPA** (*iterative preference alignment*) writes a
# group, has the reward model score it, takes the best $w$ and the worst $l$ (there whole sessions
# of five items, here items), and asks only that the two move apart. That is the loss of **DPO**
# (*direct preference optimisation*). With $\sigma(x) = 1 / (1 + e^{-x})$ and $\pi_\text{ref}$ the
# policy as it was before this round, it is
# $$L = -\ln \sigma(\beta m),\qquad m = \ln\frac{\pi(w)}{\pi_\text{ref}(w)} -
# \ln\frac{\pi(l)}{\pi_\text{ref}(l)}.$$
# Differentiate it: the best is pushed up by $\beta\,\sigma(-\beta m)$, the worst down by the same,
# and nobody else is touched. So the push is bounded without any clip, and it fades as $m$ grows.
# The probability with which an item was drawn is not needed, so a beam will do as the group; the
# paper takes one of 128. The price: of a whole group only two items teach anything, in ECPO every
# one does. (The paper prints no $\beta$; here it is 0.1.)
#
# *Question: which items of the group of part 4 does each of the two push, and how hard?*

# %%
beta = 0.1
place = int((step.user == user).nonzero()[0, 0])  # the group's row in the step
now, own = step.log_prob[[place]], weight[[place]]
pushed = {
    "ECPO": ecpo(now, now, advantages[[place]], own).push[0] / int(own.numel()),
    "DPO": dpo(now, now, advantages[[place]], own, beta=beta).push[0],
}
moved = {name: int((push != 0).sum()) for name, push in pushed.items()}

figure = theme.figure(
    title=f"ECPO pushes {moved['ECPO']} items of the group, DPO {moved['DPO']}",
    alt="; ".join(
        f"{name}: {moved[name]} items, from {float(push.min()):+.3f} to {float(push.max()):+.3f}"
        for name, push in pushed.items()
    ),
    how="What the group's part of the objective gains when ln π of an item rises: A / G in ECPO "
    f"without a lag, ± β/2 = {beta / 2} for the best and the worst in DPO before its first update.",
    x="reward of the item",
    y="push on ln π of the item",
)
for index, (name, push) in enumerate(pushed.items()):
    figure.add_scatter(
        x=step.reward()[place][step.counted[place]],
        y=push[step.counted[place]],
        name=name,
        mode="markers",
        marker={"color": theme.COLOURS[index], "symbol": theme.SYMBOLS[index], "size": 9},
    )
show(figure)

# %%
lengths = {name: float(gradient_of(before, name)[0].norm()) for name in ("ecpo", "dpo")}
as_strong = lengths["ecpo"] / lengths["dpo"]  # a weight that makes the two gradients equally long
print(f"gradient of the step: ECPO {lengths['ecpo']:.3f}, DPO {lengths['dpo']:.3f};")
print(f"with a weight of {as_strong:.1f} DPO's is as long as ECPO's")

with evaluating(after), torch.no_grad():
    later = sequence_log_probs(after, context, step.codes).sum(-1)
apart_by = later - step.log_prob  # ln of π now over π before alignment
best = advantages.masked_fill(~step.counted, -math.inf).argmax(1, keepdim=True)
worst = advantages.masked_fill(~step.counted, math.inf).argmin(1, keepdim=True)
m = (apart_by.gather(1, best) - apart_by.gather(1, worst))[:, 0]
made = dpo(later, step.log_prob, advantages, weight, beta=beta)
faded = float(made.push.max(1).values.mean())
print(f"{last.step} updates by ECPO have moved best and worst of {len(m)} groups apart: m is")
print(f"{float(m.mean()):.2f} in the mean; DPO's push, at first {beta / 2}, would be {faded:.4f}")

assert moved["DPO"] == 2 < moved["ECPO"]
assert math.isclose(float(pushed["DPO"].max()), beta / 2, rel_tol=1e-4)
assert math.isclose(float(pushed["DPO"].sum()), 0, abs_tol=1e-6), "up as much as down"
assert math.isclose(float(made.loss), float(-torch.sigmoid(beta * m).log().mean()), rel_tol=1e-4)
assert torch.allclose(made.push.max(1).values, beta * torch.sigmoid(-beta * m), atol=1e-5)
assert faded < beta / 2, "the farther apart, the weaker"

# %% [markdown]
# ## 6. The format reward: writing what exists
#
# A policy that is pushed around forgets how to spell. The report measures *legality*, the share of
# written code triples that are an item's: below 50% with ECPO alone. Its remedy: choose $K$ items
# of each group at random (5 of 128 in its experiment); a legal one has advantage 1, an illegal one
# is **dropped**. It is not punished.
#
# Who got it is recorded with each step.

# %%
files = [
    first.path / "rollouts" / f"step-{number:06d}.parquet" for number in policy.recorded(first)
]
steps = [read_rollout(file) for file in files]
given = torch.cat([one.format for one in steps])  # (groups, items)
legal = torch.cat([one.item for one in steps]) >= 0
choose = settings.align.format_items
share = float(legal.double().mean())
print(f"{len(given):,} groups of {given.shape[1]} items; legal: {share:.1%}")
print(f"a group has {float((given != 0).double().sum(1).mean()):.2f} items with a format reward,")
print(f"of {choose} chosen; chance says {choose * share:.2f}")

assert set(given.unique().tolist()) <= {0.0, 1.0}, "nobody is punished"
assert not bool(((given == 1) & ~legal).any()), "only legal items get it"
assert int((given != 0).sum(1).max()) <= choose
assert abs(float((given != 0).double().sum(1).mean()) - choose * share) < 0.25

# %% [markdown]
# ### Why not punish?
#
# Take a single choice among codes with logits $z_i$ and $p = \text{softmax}(z)$. Pushing code $j$
# down by a gradient step of size $\eta$ moves every other code by
# $$\Delta \ln p_i = \eta\,\big(p_i + p_j - \textstyle\sum_k p_k^2\big),\qquad i \ne j.$$
# The first term says who gets what $j$ loses: those that are likely already. Every code with
# $p_i < \sum_k p_k^2 - p_j$ *loses*, although nobody has punished it. This is the **squeezing** of
# which the report warns. In the toy below one illegal code is likely, and many legal ones are not:
# punish a single unlikely illegal code, and the legal ones lose as well.
#
# Two things have to be said. With *fresh* draws, punishing illegal codes and praising legal ones is
# the same on average, as the two differ by a constant reward for everybody, and
# $\mathbb{E}_{o \sim \pi}[\nabla \ln \pi(o)] = 0$. It is with *old* draws that the two part:
# praise ends by itself as what was drawn becomes likely; blame never has enough, and squeezes
# everything into one code, legal or not. (The toy has no clip. That of a blamed item at
# $1-\varepsilon$ helps as well, item by item.)
#
# *Question: how legal does each make the toy, with fresh and with old draws?*

# %%
n_codes, n_legal, size, choose = 200, 60, 32, 5
real_code = torch.arange(n_codes) < n_legal


def toy_start(seed):
    z = torch.randn(n_codes, generator=dice(seed), dtype=torch.float64)
    z[-1] = z.max() + 1.5  # the most likely code is illegal
    return z


def toy(kind, fresh, seed, updates=400, rate=0.5):
    """Policy gradient on one softmax: K of a group, drawn for each update or once for all."""
    z, chooser = toy_start(seed), dice(seed + 100)
    for update in range(updates):
        p = z.softmax(0)
        if fresh or update == 0:
            drawn = torch.multinomial(p, size, replacement=True, generator=chooser)
        picked = drawn[torch.randperm(size, generator=chooser)[:choose]]
        is_legal = real_code[picked].double()
        a = is_legal if kind == "praise the legal" else is_legal - 1
        # the gradient of ln p_j by z is 1 at j, minus p
        z = z + rate * (-a.mean() * p).index_add(0, picked, a / choose)
    p = z.softmax(0)
    return float(p[real_code].sum()), float(p.max())


kinds, seeds = ("praise the legal", "punish the illegal"), range(8)
draws = {"fresh draws": True, "old draws": False}
ends = {
    (kind, age): np.mean([toy(kind, fresh, seed) for seed in seeds], axis=0)
    for kind in kinds
    for age, fresh in draws.items()
}
starts = [toy_start(seed).softmax(0) for seed in seeds]
print(f"legal share before: {np.mean([float(p[real_code].sum()) for p in starts]):.2f}")
for (kind, age), (end, most) in ends.items():
    print(f"{kind}, {age}: legal share {end:.2f}; the most likely code has {most:.2f}")

figure = theme.figure(
    title=f"With old draws, praise makes {ends[kinds[0], 'old draws'][0]:.0%} legal and punishment "
    f"{ends[kinds[1], 'old draws'][0]:.0%}",
    alt="; ".join(f"{kind}, {age}: {end[0]:.2f}" for (kind, age), end in ends.items()),
    how=f"Probability of all legal codes after 400 updates of one softmax over {n_codes} codes, "
    f"{n_legal} of them legal; mean of {len(seeds)} starts.",
    y="legal share",
)
for index, kind in enumerate(kinds):
    figure.add_bar(
        x=list(draws),
        y=[ends[kind, age][0] for age in draws],
        name=kind,
        marker={"color": theme.COLOURS[index], "pattern": {"shape": ("", "/")[index]}},
    )
figure.update_layout(barmode="group")
show(figure)

# %%
p, eta = starts[0], 1e-4
unlikely = n_legal + int(p[n_legal:].argmin())
z = toy_start(0).requires_grad_()
(gradient,) = torch.autograd.grad(z.log_softmax(0)[unlikely], z)
pushed = (z.detach() - eta * gradient).softmax(0)
formula = eta * (p + p[unlikely] - p.square().sum())
others = torch.arange(n_codes) != unlikely
gain = {kind: real_code.double() - float(kind == kinds[1]) for kind in kinds}
exact = {}
for kind in kinds:  # the mean step over all fresh draws: sum of p A grad ln p
    z = toy_start(0).requires_grad_()
    (exact[kind],) = torch.autograd.grad((p * gain[kind] * z.log_softmax(0)).sum(), z)
lost = float(pushed[real_code].sum() - p[real_code].sum())
print(f"one unlikely illegal code is punished: the legal share changes by {lost:+.1e}, the most")
print(f"likely code by {float(pushed.max() - p.max()):+.1e}")

assert torch.allclose((pushed / p).log()[others], formula[others], atol=1e-7)
assert lost < 0, "legal codes lose, though none was punished"
assert pushed.max() > p.max(), "what was likely gains"
assert torch.allclose(exact[kinds[0]], exact[kinds[1]]), "fresh draws: the same on average"
assert abs(ends[kinds[0], "fresh draws"][0] - ends[kinds[1], "fresh draws"][0]) < 0.05
assert ends[kinds[0], "old draws"][0] > ends[kinds[1], "old draws"][0] + 0.1
assert ends[kinds[1], "old draws"][1] > 0.9 > 0.5 > ends[kinds[0], "old draws"][1], (
    "old draws: punishment has squeezed everything into one code"
)

# %% [markdown]
# ## 7. RSFT: the log is read again, without its worse half
#
# Next-token training goes on beside the policy's objective; it keeps the policy a model of this
# log, which is why the report needs no other tie (no KL term). But it reads better examples:
# *rejection-sampling fine-tuning* sorts all **sessions**, stretches of watching without a pause of
# half an hour, by how long they lasted, and drops the lower half (report, section 3).
#
# *Question: how much of all watching stands in the longer half of the sessions?*

# %%
session = session_of(log)
train = split.train
kept_rows = kept_by_rsft(log, train)
play = np.where(train, np.nan_to_num(log.columns["play_ms"].astype(float)), 0.0)
minutes = np.bincount(session, play) / 60_000
in_train = np.bincount(session, train) > 0
is_kept = np.bincount(session, kept_rows) > 0
lasting = np.sort(minutes[in_train])[::-1]
watched = lasting.cumsum() / lasting.sum()
half = len(lasting) // 2

figure = theme.figure(
    title=f"The longer half of the sessions holds {watched[half - 1]:.0%} of all play time",
    alt=f"Share of play time by share of sessions, longest first: a tenth of the sessions hold "
    f"{watched[len(lasting) // 10]:.0%}, half of them {watched[half - 1]:.0%}.",
    how=f"{len(lasting):,} sessions of the training rows, sorted by play time, longest first.",
    x="share of the sessions, longest first",
    y="share of the play time",
    legend=False,
)
figure.add_scatter(x=np.linspace(0, 1, len(lasting)), y=watched, mode="lines", line=theme.line(0))
figure.add_vline(x=0.5, line_dash="dash")
show(figure)

# %%
long_view = log.columns["long_view"] == 1
kept_share = long_view[kept_rows].mean()
dropped_share = long_view[train & ~kept_rows].mean()
print(f"kept: {is_kept.sum():,} of {in_train.sum():,} sessions, {kept_rows.sum():,} events")
print(f"long views: {kept_share:.1%} of the events kept, {dropped_share:.1%} of those dropped")

assert is_kept.sum() == in_train.sum() - in_train.sum() // 2, "the lower half goes"
assert minutes[is_kept].min() >= minutes[in_train & ~is_kept].max(), "by play time"
assert not (kept_rows & ~train).any(), "nothing but training rows"
assert kept_share > dropped_share

# %% [markdown]
# ## 8. What alignment did
#
# Both run together in each step: next-token loss on what RSFT kept, and the objective on fresh
# groups, $L = L_\text{next token} + \lambda\,L_\text{ECPO}$. (The report prints no $\lambda$; here
# it is 1.)
#
# Rewards of single steps vary, as each has other users. The line on valid is measured on the same
# users each time: the lists that would be served.
#
# *Question: does the reward of what the policy writes rise?*

# %%
curves = policy.reward_curves(first)
shown_curves = curves[curves["metric"].isin(["reward", "valid_reward"])]
show(draw_policy.reward_curves(shown_curves, "reward"))

# %%
metrics = first.metrics("align").set_index("step")
on_valid = metrics["valid_reward"].dropna()
print(on_valid.round(4).to_dict())

assert on_valid.iloc[-1] > on_valid.iloc[0], "the reward model likes the lists better"
assert (metrics["ratio_max"].dropna() == 1).all(), "no lag in this run: no ratio but 1"

# %% [markdown]
# ### Still legal?
#
# *Question: how much of what is written is an item, step by step?*

# %%
show(draw_policy.reward_curves(curves[curves["metric"].isin(["legality"])], "share"))


# %%
def legal_share(model, some):
    """Exactly: the probability of all real spellings together, mean over users."""
    contexts = asker.contexts.batch(torch.from_numpy(some.user), torch.from_numpy(some.end))
    every = trie.leaf_codes.expand(len(some), -1, -1)
    with evaluating(model), torch.no_grad():
        found = sequence_log_probs(model, contexts, every).sum(-1)
    return float(found.double().exp().sum(1).mean())


legal_before, legal_after = (
    legal_share(model, cases.take(np.arange(0, len(cases), 8))) for model in (before, after)
)
print(f"legal share on valid users: {legal_before:.1%} before, {legal_after:.1%} after")

assert legal_after > legal_before - 0.02, "alignment has not cost the spelling"

# %% [markdown]
# ### Against the truth
#
# Now the question that no real platform can answer. The first ten items of each valid user's list,
# before and after: what does the reward model promise, and what would people really do?
#
# Next-token training went on at the same time, and could be the cause by itself. So there is a
# third model: the same steps on the same examples, without any reward.
#
# What the prediction gained and the truth did not is **reward hacking**: the policy has found where
# the reward model is wrong. Recall, the share of the log's next positives on the list, stands
# beside it. It need not rise: it asks what the *old platform* showed next, and the policy has been
# told to do something else.
#
# *Question: how much of the promised gain is real?*


# %%
def align_again(seen=None, recipe=settings, **changed):
    """As many steps from the same beginning, with other settings; `seen` gets each rollout."""
    aligning = Aligning(
        first,
        dataclasses.replace(setting, recipe=recipe),
        cpu,
        policy=dataclasses.replace(policy_config(recipe, dataset), **changed),
    )
    for _ in loop(
        aligning.trainee(),
        steps=settings.align.steps,
        clip=aligning.optim.clip,
        seed=settings.seed,
        device=cpu,
    ):
        if seen is not None:
            seen(aligning.alignment.last)
    return aligning


def lists_of(model, k=10, beam=settings.evaluate.beam):
    """The first k items for each valid user: (users, k)."""
    wide = dataclasses.replace(settings.evaluate, beam=beam)
    reading = dataclasses.replace(setting, recipe=dataclasses.replace(settings, evaluate=wide))
    return Recommender(reading, ids, popularity, model, cpu).lists(cases, k).items


def by_user(lists):
    """What ten items are worth to each valid user, as promised and in truth."""
    true = truth.truth(cases.user, cases.end, lists)
    promised = reward.score(cases.user, cases.end, torch.from_numpy(lists))["long_view"]
    return pd.DataFrame(
        {
            "promised": promised.mean(1),
            "true": true["long_view"].mean(1),
            "true watch (s)": true["play_ms"].sum(1) / 1000,
            "recall@10": recall_at_k(lists, cases.target_offsets, cases.target_items, 10),
        }
    )


without = align_again(weight=0.0).alignment.model
worth_of = {
    "before": by_user(lists_of(before)),
    "without a reward": by_user(lists_of(without)),
    "aligned": by_user(lists_of(after)),
}


def means(names):
    return pd.DataFrame({name: worth_of[name].mean() for name in names}).T


measured = means(worth_of)
show(measured.round(4))

# %%
gained = measured.loc["aligned"] - measured.loc["before"]
hacked = gained["promised"] - gained["true"]
headroom = gained["true"] / (best_ten - measured.loc["before", "true"])
figure = theme.figure(
    title=f"Promised {gained['promised']:+.3f}, true {gained['true']:+.3f}: reward hacking of "
    f"{hacked:+.3f}",
    alt="; ".join(
        f"{name}: {row['promised']:.3f} promised, {row['true']:.3f} true"
        for name, row in measured.iterrows()
    ),
    how="Mean predicted and true probability of a long view of the first ten items of "
    f"{len(cases)} valid users. Of the way to each user's ten best items ({best_ten:.3f}), "
    f"{headroom:.0%} was gone.",
    y="probability of a long view",
)
for index, name in enumerate(("promised", "true")):
    figure.add_bar(
        x=list(measured.index),
        y=measured[name],
        name=name,
        marker={"color": theme.COLOURS[index], "pattern": {"shape": ("", "/")[index]}},
    )
figure.update_layout(barmode="group")
show(figure)

# %%
print(f"predicted gain {gained['promised']:+.4f} - true gain {gained['true']:+.4f} = {hacked:+.4f}")
print(f"recall@10: {gained['recall@10']:+.4f}")
chosen = first.done("align")["step"]
print(f"the step that the stage keeps, by its rule on recall: {chosen} of {last.step}")

assert gained["promised"] > 0.01
assert gained["true"] > 0.01, "people would really watch more"
assert measured.loc["aligned", "true"] > measured.loc["without a reward", "true"], (
    "and that is the reward's doing"
)

# %% [markdown]
# The stage itself is careful: it keeps the step with the highest reward *among those whose recall
# has hardly fallen*, and that may be the beginning. Where recall does fall, the log cannot tell
# whether that is a loss or a change of aim; on a real platform an online test has to decide.

# %% [markdown]
# ### Where does a push end?
#
# $(r - \text{mean}) / \text{std}$ does not become smaller when the policy follows: it pushes until
# something else holds it, here next-token training. One can name a place to arrive at instead: the
# policy before alignment times $r^\gamma$. The advantage that is 0 there is
# $$A_i = \gamma \log r_i - \log \frac{\pi(i)}{\pi_\text{before}(i)} - \text{mean},$$
# the gradient of $\gamma\, E[\log r] - KL(\pi \,\|\, \pi_\text{before})$. The report has no such
# term; here it is the setting `align.tilt`, and the recipe `tiny` uses it.
#
# As many steps, with an aim:

# %%
aimed = align_again(tilt=2.0)
worth_of["with an aim"] = by_user(lists_of(aimed.alignment.model))
measured = means(worth_of)
show(measured.round(4))

# %%
apart = aimed.alignment.last.log_prob - aimed.alignment.last.reference
print(f"log(probability now / before) of the last groups' items: at most {apart.abs().max():.2f}")

assert measured.loc["with an aim", "true"] > measured.loc["without a reward", "true"]

# %% [markdown]
# ### ECPO, GRPO and IPA beside one another
#
# So far no step had a lag, and then ECPO and GRPO are the same. Now the groups come from weights
# that are up to 20 updates old. IPA takes beams as its groups, DPO as its loss, and the weight with
# which the gradients of part 5 are equally long (the first paper prints none). Its reference is the
# policy before alignment, so these steps are one round of it; its beams are those of the current
# policy. So it differs from the others in more than the loss.
#
# *Question: do people get more from one objective than from another?*

# %%
arms = {
    "ECPO": {"objective": "ecpo", "lag": 20},
    "GRPO": {"objective": "grpo", "lag": 20},
    "IPA": {"objective": "dpo", "search": "beam", "weight": as_strong, "format_items": 0},
}
hardest = dict.fromkeys(arms, 0.0)
for name, change in arms.items():

    def look(rollout, name=name):
        """Remember the hardest push on a blamed item, by the unit of its advantage."""
        blamed = (rollout.advantage() < 0) & (rollout.format == 0)
        found = (rollout.step().push / rollout.advantage())[blamed]
        hardest[name] = max(hardest[name], float(found.max()))

    changed = dataclasses.replace(settings.align, **change)
    trained = align_again(look, dataclasses.replace(settings, align=changed))
    worth_of[name] = by_user(lists_of(trained.alignment.model))

start = worth_of["without a reward"]["true"]
gain = {name: interval(worth_of[name]["true"] - start) for name in arms}
table = means(["without a reward", *arms]).round(4)
table["gained in truth"] = pd.Series(
    {name: f"{found['mean']:+.4f} {bounds(found)}" for name, found in gain.items()}
)
show(table.fillna(""))

# %%
values = pd.DataFrame(gain).T.rename(columns={"mean": "value"})
figure = theme.figure(
    title="True gain over no reward: "
    + ", ".join(f"{name} {found['mean']:+.3f}" for name, found in gain.items()),
    alt="; ".join(f"{name}: {found['mean']:+.4f} {bounds(found)}" for name, found in gain.items()),
    how="Mean true probability of a long view of ten items, minus that of the model that was "
    f"trained without a reward, over {len(cases)} users; 95% intervals over users, who are the "
    "same in both. Luck in training is not in them.",
    y="gain in the probability of a long view",
    legend=False,
)
theme.add_bars(figure, list(values.index), values, group="gain", marker={"color": theme.BLUE})
figure.update_layout(barmode="group")
show(figure)


# %%
def verdict(found):
    """What an interval says, in words."""
    return "may be chance" if found["low"] <= 0 <= found["high"] else "more than luck with users"


for name in ("GRPO", "IPA"):
    two = interval(worth_of["ECPO"]["true"] - worth_of[name]["true"])
    print(f"ECPO - {name}: {two['mean']:+.4f} {bounds(two)}: {verdict(two)}")
for name in ("ECPO", "GRPO"):
    print(f"{name}: the hardest push on a blamed item was {hardest[name]:.2f} |A|")
stable = at_scale.stability()
grown = stable.pivot_table(index="lag", columns="objective", values="growth", aggfunc="max")
show(grown)

assert all(found["low"] > 0 for found in gain.values()), "each of them gains"
assert hardest["ECPO"] <= 1 + epsilon + delta + 1e-3 < hardest["GRPO"], "only ECPO is bounded"
assert (grown["ecpo"] < 3).all(), "at scale, ECPO's gradient hardly grows"
assert (grown[["grpo", "grpo_kl"]].max() > 50).all(), "one seed's is enough"
assert not stable["explodes"].any(), "in the median of the seeds none passes fifty times"

# %% [markdown]
# The last table ships with the library (`python -m onerec.bench.stability`, lags up to the paper's
# 1000 updates): how many times as long as at first the gradient of the objective ever became, the
# worst of all seeds and rates. ECPO's hardly grows. GRPO has one large step in three trainings.
# With the KL term of its own paper, whose estimate has an exponential too, every training has some
# from a lag of 250 on, a few above fifty times. In the median of the seeds neither "explodes" by
# the fifty that were set beforehand; from another start KL did. (Without a lag, GRPO is ECPO and
# was not run.)

# %% [markdown]
# ## 9. Too much of a kind: the industrial reward
#
# A reward made of what people watch can fill the platform with one kind of video. The report tells
# of "viral farms", of whose videos too many were shown. Its remedy is a factor on the reward of the
# items $I$ of that kind, as long as their share passes a limit $f$ (report, section 4.3.3; here
# their share of what is written in a step):
# $$r'_i = \begin{cases}\alpha\, r_i & \text{if } i \in I \text{ and share}(I) > f\\
# r_i & \text{else}\end{cases},\qquad 0 \le \alpha < 1.$$
# Their exposure fell by 9.6%, and people watched as long as before. ($\alpha$ and $f$ are not
# printed.) Nothing else changes: the advantage of part 4 is made of $r'$ in place of $r$.
#
# Here the kind is the category that aligned lists show most. The policy is aligned again from the
# same beginning, with other values of $\alpha$ and $f$. What would a plain **filter** cost? It
# leaves the model alone and throws out some of these items by lot; the next item moves up.
#
# *Question: what does it cost to show less of a kind, by the reward and by a filter?*

# %%
aligned_lists = lists_of(after, 32)
kinds = {
    name: listed_items(dataset, "category", name)
    for name in sorted(set(dataset.items["category"].explode()))
}
share_of = {name: float(of[aligned_lists[:, :10]].float().mean()) for name, of in kinds.items()}
kind = max(share_of, key=share_of.get)
listed = kinds[kind]
print(f"{kind}: {float(listed.float().mean()):.1%} of the catalogue,")
print(f"{share_of[kind]:.1%} of the first ten items of aligned lists")


def share_in(rollout):
    """The kind's share of the items that a step wrote."""
    return float(listed[rollout.item[rollout.item >= 0]].float().mean())


usual = float(np.mean([share_in(one) for one in steps]))  # of the first alignment's steps
exposed, watched_s = {1.0: share_of[kind]}, {1.0: worth_of["aligned"]["true watch (s)"]}
acted = []  # of each step with f: the kind's share, and the factor of its rewards
for alpha, limit in ((0.8, 0.0), (0.5, 0.0), (0.5, usual)):

    def look(rollout, limit=limit):
        there = listed[rollout.item.clamp(min=0)] & (rollout.item >= 0)
        if limit and there.any():
            acted.append((share_in(rollout), float(rollout.factor[there].mean())))

    lists = lists_of(align_again(look, listed=listed, alpha=alpha, limit=limit).alignment.model)
    case = "with f" if limit else alpha
    exposed[case] = float(listed[lists].float().mean())
    watched_s[case] = by_user(lists)["true watch (s)"]

by_lot = []
for dropped in (0.2, 0.5, 0.8):
    lists = filtered(aligned_lists, listed.numpy(), dropped, np.random.default_rng(0))
    lists = np.ascontiguousarray(lists)
    by_lot.append((float(listed[lists].float().mean()), by_user(lists)["true watch (s)"]))

# %%
base = watched_s[1.0]
lines = {
    "α = 1, 0.8, 0.5": [(exposed[case], watched_s[case]) for case in (1.0, 0.8, 0.5)],
    f"α = 0.5, f = {usual:.2f}": [(exposed["with f"], watched_s["with f"])],
    "filter": by_lot,
}
figure = theme.figure(
    title=f"α = 0.8 shows {1 - exposed[0.8] / exposed[1.0]:.0%} less of {kind}; true watch "
    f"time {watched_s[0.8].mean() / base.mean() - 1:+.1%}",
    alt="; ".join(
        f"{name}: " + ", ".join(f"{x:.1%} shown, {y.mean():.0f} s" for x, y in points)
        for name, points in lines.items()
    ),
    how=f"Share of {kind} in the first ten items of {len(cases)} valid users, and the true "
    "watch time of these ten against that of α = 1; 95% intervals over the same users.",
    x=f"share of {kind} in the lists",
    y="change of true watch time",
)
for index, (name, points) in enumerate(lines.items()):
    change = [interval((y - base) / base.mean()) for _, y in points]
    figure.add_scatter(
        x=[x for x, _ in points],
        y=[found["mean"] for found in change],
        error_y={"array": [found["high"] - found["mean"] for found in change]},
        name=name,
        mode="lines+markers",
        line=theme.line(index),
        marker={"symbol": theme.SYMBOLS[index], "size": 9},
    )
figure.update_xaxes(tickformat=".0%")
figure.update_yaxes(tickformat="+.1%")
show(figure)

# %%
cost = interval((watched_s[0.8] - base) / base.mean())
print(f"α = 0.8: watch time {cost['mean']:+.2%} {bounds(cost, '+.2%')}: {verdict(cost)}")
acting = np.mean([factor < 1 for _, factor in acted])
print(f"with f = {usual:.3f} the factor acted in {acting:.0%} of the steps")
print("at scale, where 9.6% less is shown, true watch time changes by")
large = json.loads((at_scale.RESULTS / "industrial.json").read_text())["at_the_papers_cut"]
for name, found in large.items():
    if found["seeds"]:
        change = found["watch_s"]
        print(f"{name}: {change['mean']:+.2%} {bounds(change, '+.2%')}, {found['seeds']} seeds")

by_hand = industrial_reward(
    torch.tensor([[0.6, 0.4]]), torch.tensor([[True, False]]), alpha=0.5, limit=0.4
)
assert torch.allclose(by_hand, torch.tensor([[0.3, 0.4]])), "half of all is above 0.4: 0.5 · 0.6"
for share, factor in acted:
    assert math.isclose(factor, 0.5 if share > usual else 1.0), "it acts where f is passed"
assert exposed[0.5] < exposed[0.8] < exposed[1.0], "the smaller α, the less is shown"
assert exposed[0.5] < exposed["with f"] < exposed[1.0], "f lets some of it stay"
assert cost["low"] > -0.05, "and people go on watching"

# %% [markdown]
# ## 10. Without a reward model: what people really did
#
# A policy can fool a reward model, as part 8 has shown. V2 (section 3.3) goes back to what people
# did with what they were shown. Is a play of a minute a good one? Of a video of an hour it is not.
# So a play is compared with what the *same user* has played before of videos *about as long*.
# Videos of about the same duration $d$ (in seconds) share a bucket $b$, and $q$ is the share of the
# user's earlier plays in it, $P_{u,b}$, that were not longer than this play $p_i$:
# $$b(i) = \lfloor \log_2(d_i + 1) \rfloor,\qquad q_i = \frac{|\{p \in P_{u,b(i)} : p \le p_i\}|}
# {|P_{u,b(i)}|},$$
# $$A_i = \begin{cases}+1 & q_i \text{ in the top quarter of the batch, and no dislike}\\
# -1 & \text{a dislike}\\ 0 & \text{else.}\end{cases}$$
# No mean is taken off, so a group may be praised as a whole. And praise is relative: who skips
# nearly everything gives it with a few seconds. (V2 prints neither the base 2 nor the 1 second.
# Where a user has played fewer than 20 of the bucket, everybody's plays stand in; ours.) To look at
# it, let the whole log be the batch.
#
# *Question: which videos would be praised if just the longest plays were?*

# %%
feedback = LoggedFeedback.of(dataset, split)
readable = feedback.rows  # the rows of the log that it may read
duration, played = (
    log.columns[name][readable].astype(float) for name in ("duration_ms", "play_ms")
)
bucket = duration_bucket(duration)
given_a = feedback_advantage(feedback.quantile, feedback.dislike)
ways = {
    "longest plays": played > np.quantile(played, 0.75),
    "longest for their duration": given_a == 1,
}
praised_share = pd.DataFrame(ways).groupby(bucket).mean()
seconds = [f"{2 ** int(b) - 1} to {2 ** (int(b) + 1) - 1} s" for b in praised_share.index]

figure = theme.figure(
    title=f"Of videos of {seconds[0]}, play time alone would praise "
    f"{praised_share.iloc[0, 0]:.0%}, the place among plays of their like "
    f"{praised_share.iloc[0, 1]:.0%}",
    alt="; ".join(
        f"{name}: " + ", ".join(f"{s} {v:.2f}" for s, v in zip(seconds, values, strict=True))
        for name, values in praised_share.items()
    ),
    how=f"{len(readable):,} plays of the training rows, by the duration of the video; the share "
    "that is in the top quarter of all, by play time and by q.",
    x="duration of the video",
    y="share praised",
)
for index, (name, values) in enumerate(praised_share.items()):
    figure.add_scatter(x=seconds, y=values, name=name, mode="lines+markers", line=theme.line(index))
figure.update_yaxes(tickformat=".0%", rangemode="tozero")
show(figure)

# %%
cell = pd.DataFrame({"user": log.user[readable], "bucket": bucket})
earlier = cell.groupby(["user", "bucket"]).cumcount()  # a user's rows stand in the order of time
row = int(earlier.argmax())  # the play with most of its like before it
same = (cell.iloc[:row] == cell.iloc[row]).all(axis=1).to_numpy()
by_hand = (played[:row][same] <= played[row]).mean()
print(f"a play of {played[row] / 1000:.0f} s of a video of {duration[row] / 1000:.0f} s:")
print(f"{by_hand:.1%} of this user's {same.sum()} earlier plays of such videos were not longer,")
print(f"so A = {given_a[row]:.0f}")
print(f"praised are {(given_a == 1).mean():.1%} of {len(readable):,} plays; dislikes:", end=" ")
print(feedback.dislike.sum())

assert earlier[row] >= ENOUGH, "enough to be compared with oneself"
assert math.isclose(by_hand, feedback.quantile[row], abs_tol=1e-12)
spreads = praised_share.max() - praised_share.min()
assert spreads["longest for their duration"] < 0.1 < spreads["longest plays"], "duration is out"

# %% [markdown]
# ### Trained on it
#
# The group is now a user's own next 32 plays: nothing is written, and no reward model is asked.
# None of our policies drew them: V2 sets $\pi_\text{old} = \text{sg}[\pi]$, so that $\rho = 1$ for
# praise, and the objective is GBPO. In the library it is the search `log` with the reward
# `feedback`.
#
# Is it worth it here? The table sets the praised plays beside what next-token training has as its
# targets anyway, both by the true probability that they end in a long view.

# %%
told = dataclasses.replace(settings.align, search="log", reward="feedback", objective="gbpo")
listened = align_again(recipe=dataclasses.replace(settings, align=told))
worth_of["feedback of the log"] = by_user(lists_of(listened.alignment.model))
show(means(["before", "without a reward", "feedback of the log", "aligned"]).round(4))

shown_truth = truth.truth(
    log.user[readable].astype(np.int64), readable, log.item[readable].astype(np.int64)[:, None]
)["long_view"][:, 0]
targets = (kept_rows & log.positive)[readable]  # positives of the sessions that RSFT keeps
quality = {
    "shown": shown_truth.mean(),
    "praised by the feedback": shown_truth[given_a == 1].mean(),
    "targets of next-token training": shown_truth[targets].mean(),
}
show(pd.DataFrame({"true probability of a long view": quality}).round(4))

# %%
known = log.positive[readable][given_a == 1].mean()
print(f"{known:.1%} of the praised plays are positives of the log: targets already")
change = interval(worth_of["feedback of the log"]["true"] - worth_of["without a reward"]["true"])
print(f"what the feedback adds: {change['mean']:+.4f} {bounds(change)}: {verdict(change)}")

assert quality["praised by the feedback"] > quality["shown"] + 0.1, "it praises good items"
assert known > 0.8, "but such as next-token training has for targets"
assert change["mean"] < gain["ECPO"]["mean"] / 2, "here it adds far less than a reward model"

# %% [markdown]
# So on this log the feedback says once more what the targets have said, and it can say nothing
# about an item that was not shown. The reward model can, and there lies its worth and its danger.
# Where its own lists are among what was shown, V2 gains more of most things (its table 6: stay
# time, likes, comments; not watch time), for then people answer to what the *model* wants to show.
# That is the loop of part 12.

# %% [markdown]
# ## 11. Many are written, ten are shown: selection
#
# The report's system writes 512 items for a request, and its reward model picks those that are
# shown. In its online test the model alone gains almost nothing (+0.01% of stay time), and with
# the picking +0.54%. How much does each do? Take the first $K$ of the list, let P-Score (the fused
# score of part 2) pick ten, and ask the truth:
# $$V(K) = \frac{1}{10} \sum_{i \in \text{top ten of } K \text{ by P-Score}} p^\text{true}_i,\qquad
# V(10) = \text{the policy's own ten}.$$
# Three others stand beside it: candidates drawn at random, to see what writing is good for; the
# policy before alignment; and the truth itself as the one who picks, to see what is lost by
# P-Score's mistakes.
#
# *Question: how much is gained when a ranker picks ten of the K candidates?*

# %%
sizes = [10, 32, 128, 512]
lot = np.argsort(np.random.default_rng(0).random(everything.shape), axis=1)[:, :512]
candidates = {
    "random": lot,
    "before alignment": lists_of(before, 512, beam=512),
    "aligned": lists_of(after, 512, beam=512),
}


def true_of(lists):
    """The mean true probability of a long view of each list: (users,)."""
    return np.take_along_axis(everything, lists, axis=1).mean(axis=1)


chosen_of = {
    (name, size): true_of(picked(reward, cases, lists[:, :size]))
    for name, lists in candidates.items()
    for size in sizes
}
for size in sizes:
    of_these = np.take_along_axis(everything, candidates["aligned"][:, :size], axis=1)
    chosen_of["aligned, the truth picks", size] = np.sort(of_these, axis=1)[:, -10:].mean(axis=1)
curves = pd.Series({key: value.mean() for key, value in chosen_of.items()}).unstack(0)

figure = theme.figure(
    title=f"P-Score picks ten of 512 written: {curves.loc[512, 'aligned']:.3f}; the policy's own "
    f"ten: {curves.loc[10, 'aligned']:.3f}",
    alt="; ".join(
        f"{name}: " + ", ".join(f"{size}: {value:.3f}" for size, value in line.items())
        for name, line in curves.items()
    ),
    how=f"Mean true probability of a long view of ten items for {len(cases)} valid users. A beam "
    "of 512 is cut after K items; with K = 10 there is nothing to pick.",
    x="candidates K",
    y="true probability of a long view",
)
theme.add_lines(figure, sizes, curves)
show(figure)

# %%
own_ten = chosen_of["before alignment", 10]
aligning = chosen_of["aligned", 10] - own_ten
picking = chosen_of["before alignment", 128] - own_ten
both = chosen_of["aligned", 128] - own_ten
perfect = chosen_of["aligned, the truth picks", 128] - own_ten
for name, found in {
    "alignment alone": aligning,
    "picking ten of 128 alone": picking,
    "both": both,
    "alignment and a perfect ranker of the 128": perfect,
}.items():
    print(f"{name}: {found.mean():+.4f} {bounds(interval(found))}")
print(f"if the two added up: {(aligning + picking).mean():+.4f}")

assert abs(curves.loc[10, "aligned"] - measured.loc["aligned", "true"]) < 0.01, "the same ten"
assert interval(picking)["low"] > 0, "picking helps"
assert curves.loc[32, "before alignment"] > curves.loc[32, "random"] + 0.1, (
    "of few candidates a ranker can make little: they have to be written well"
)
assert abs(curves.loc[512, "aligned"] - curves.loc[32, "aligned"]) < 0.04, "32 were enough for it"
assert curves.loc[512, "aligned, the truth picks"] > curves.loc[512, "aligned"] + 0.1, (
    "what is left on the table is the ranker's mistakes"
)
assert both.mean() < (aligning + picking).mean() - 0.02, "the two do not add up"

# %% [markdown]
# From 32 candidates on, more of them bring P-Score next to nothing here. They hold better items, as
# the perfect ranker shows, but also more of those that P-Score promises too much of (part 2). And
# alignment and picking gain much of the same thing: the policy was pushed towards what a tower of
# the same reward model likes.

# %% [markdown]
# ### At scale, beside a cascade
#
# A thousand videos are few, and 512 of them are half of all. On 50,000, a cascade stands beside:
# *two towers*, which turn user and item into a vector each and take the nearest; the same P-Score
# picks (*ranked*). `python -m onerec.bench.cascade` has measured it with five seeds; this is its
# file, and its note of how it was done.

# %%
beside = json.loads((at_scale.RESULTS / "cascade_large.json").read_text())
rows = {
    name: {
        "true long views": found["long_view"]["mean"],
        "interval": bounds(found["long_view"], ".3f"),
        "recall@10": found["recall@10"]["mean"],
    }
    for name, found in beside["arms"].items()
}
show(pd.DataFrame(rows).T)
print(textwrap.fill(beside["note"], 90))
picking, writing = (
    beside["differences"][name]["long_view"]
    for name in ("onerec_ranked - onerec", "onerec_ranked - two_tower_ranked")
)
print(f"picking ten of 512: {picking['mean']:+.4f} {bounds(picking)}")
print(f"writing in place of retrieving, then picking: {writing['mean']:+.4f} {bounds(writing)}")

assert picking["low"] > 0.1, "picking is worth a lot"
assert abs(writing["mean"]) < 0.01, "who finds the 512 candidates, hardly anything"

# %% [markdown]
# ## 12. The loop: people answer, and the model learns on
#
# Up to here the log was given. On a platform it grows, and what grows is what the model itself has
# shown. A round (a day) of the library's `stream` has four steps:
#
# 1. the served policy makes a list for everyone who comes;
# 2. they answer, as the world says, and the answers join the log;
# 3. the policy makes a few updates on the sessions of the last three rounds: *frozen* none, *rsft*
#    next-token training on the longer half of the sessions, *rsft_ecpo* that and groups;
# 4. every so many updates the server gets the new weights (the report: every 1000; here 5).
#
# What counts is the **true watch time** $W$ of a visit, as the world expects it of the list. Two
# streams $a$ and $b$ of one seed have the same visitors $v$ with the same luck, so each visitor is
# compared with himself:
# $$D = \frac{1}{V}\sum_{v=1}^{V} (W^a_v - W^b_v),\qquad
# W_v = \sum_{i \text{ in the list}} \mathbb{E}[\text{play time of item } i].$$
# The interval draws whole users again and again, with all their visits (a *bootstrap*).
#
# *Question: is a policy that learns on ahead of one that stays as it was?*

# %%
rounds_asked = 3
loop_seeds = (0, 1, 2)
for arm, seeds_of_arm in {"frozen": loop_seeds, "rsft": loop_seeds, "rsft_ecpo": (0,)}.items():
    for seed in seeds_of_arm:
        asked = StreamConfig(arm=arm, rounds=rounds_asked, steps=10, lag=5, seed=seed)
        stream(first.name, asked, name=f"{arm}-{seed}")

ab = online.compared(first, "rsft-0", "frozen-0")
show(draw_online.compared(ab, "rsft", "frozen"))

# %%
visits = online.streams(first).set_index("stream")
events = [online.round_of(first, "rsft-0", number) for number in range(1, rounds_asked + 1)]
print(f"{len(online.visitors(first, 'rsft-0', 1))} visitors in the first round; it brought")
print(f"{len(events[0])} events, {events[0]['play_s'].sum() / 3600:.1f} hours of play")
print(f"new weights were sent {visits.loc['rsft-0', 'sent']:.0f} times")

assert ab["difference"].iloc[0] == 0, "round 1 is served by the same weights to the same people"
assert online.learning(first, "frozen-0").empty, "one has learned nothing"
assert len(online.learning(first, "rsft-0")), "the other has"

# %% [markdown]
# ### How sure is that?
#
# The interval above knows that other *visitors* might have come. It does not know that the training
# itself might have gone otherwise: other visitors leave other sessions to learn from, in another
# order. So the same is done with three seeds, and the interval of their mean is taken over seeds,
# by Student's t: $\bar D \pm t_{0.975,\,2}\; s / \sqrt{3}$.

# %%
overall = {
    f"rsft - frozen, seed {seed}": online.compared(first, f"rsft-{seed}", f"frozen-{seed}").iloc[-1]
    for seed in loop_seeds
}
overall["rsft_ecpo - rsft, seed 0"] = online.compared(first, "rsft_ecpo-0", "rsft-0").iloc[-1]
show(pd.DataFrame(overall).T[["visits", "users", "difference", "low", "high"]])

by_seed = [float(overall[f"rsft - frozen, seed {seed}"]["difference"]) for seed in loop_seeds]
over_seeds = interval(by_seed)
spread = bounds(over_seeds, "+.1f")
print(f"rsft - frozen over {len(by_seed)} seeds: {over_seeds['mean']:+.1f} s {spread}:")
sure = over_seeds["low"] > 0
print("more than luck" if sure else "so few rounds, visitors and seeds cannot tell")

large = json.loads((at_scale.RESULTS / "stream.json").read_text())
begin, end = large["rounds_compared"]
print(f"\nat scale, {large['seeds']} seeds, rounds {begin} to {end}, seconds of true watch time:")
for name in ("rsft - frozen", "rsft - all", "rsft_ecpo - rsft"):
    found = large["differences"][name]
    print(f"{name}: {found['mean']:+.0f} {bounds(found, '+.0f')}")

assert math.isclose(over_seeds["mean"], np.mean(by_seed), abs_tol=1e-4)
one = overall["rsft - frozen, seed 0"]
assert over_seeds["high"] - over_seeds["low"] > one["high"] - one["low"], (
    "three trainings leave more open than the visitors of one"
)
assert large["differences"]["rsft - frozen"]["low"] > 0, "many rounds and seeds do tell"

# %% [markdown]
# What a few rounds and seeds leave open, many tell: learning on is worth a lot, and so is the
# choice of sessions (*all* trains on every one). Groups with ECPO have brought nothing on top of it
# there that could be told from luck. They followed P-Score at a small weight; in this notebook they
# follow the long view at a large one. So the two rows are not the same experiment, and one seed is
# no answer.

# %% [markdown]
# ## 13. Replay
#
# A step that cannot be repeated cannot be understood. Each recorded step is one Parquet file, one
# row per item: codes, both log-probabilities, every reward. The loss is a function of what stands
# in it, and comes out the same to the last digit.
#
# By hand it is two terms, one for the group's advantages and one for the format reward, each
# $-\frac{1}{BG}\sum_i \min(\rho_i A_i, \text{clip}(\rho_i, 1-\varepsilon, 1+\varepsilon) A_i)$:

# %%
number = policy.recorded(first)[-1]
path = first.path / "rollouts" / f"step-{number:06d}.parquet"
replayed = read_rollout(path).step().loss.item()
table = pd.read_parquet(path)
table["reward"] = table["reward_long_view"] * table["factor"]
table["group"] = np.arange(len(table)) // (int(table["place"].max()) + 1)


def advantages_of(group):
    own = group.loc[group["counted"], "reward"].astype(float)
    result = pd.Series(0.0, index=group.index)
    if len(own) > 1 and own.std(ddof=0) > 1e-6:
        result[own.index] = ((own - own.mean()) / own.std(ddof=0)).clip(-5, 5)
    return result


table["advantage"] = pd.concat([advantages_of(group) for _, group in table.groupby("group")])
rho = np.exp(np.minimum(table["log_prob"] - table["drawn"], math.log(1 + epsilon + delta)))
by_hand = 0.0
for a in (table["advantage"], table["format"]):
    by_hand -= np.minimum(rho * a, rho.clip(1 - epsilon, 1 + epsilon) * a).mean()
recorded_loss = float(metrics.loc[number, "policy"])
print(f"step {number}: recorded {recorded_loss!r}\n         replayed {replayed!r}")
print(f"         by hand  {by_hand:.7f}")

assert replayed == recorded_loss, "to the last digit"
assert math.isclose(by_hand, recorded_loss, abs_tol=1e-4)

# %% [markdown]
# ## Where to go from here
#
# - `onerec align --run NAME`, with `--set align.objective=grpo` or `--set align.lag=100`: other
#   objectives, and a serving copy that lags behind; with `--set align.search=log --set
#   align.reward=feedback` what people did; with `--set industrial.column=category --set
#   industrial.value=cars` less of a kind.
# - `onerec stream --run NAME --arm rsft`: the loop, also on a log of yours, whose days are played
#   back.
# - `python -m onerec.bench.stability`, `industrial`, `cascade`, `stream`: the four measurements at
#   scale that were read above.
# - `make app`: groups, items and objectives of a run, live.

# %%
folder.cleanup()
assert not Path(folder.name).exists(), "nothing is left behind"
