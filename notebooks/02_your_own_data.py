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
# # Your own data: CSV in, recommendations out
#
# You have a table of who did what and when, and perhaps one of the items. This notebook takes two
# such files, with column names that OneRec has never seen and a mistake in them, all the way to a
# CSV of recommendations. Replace the two files by yours and it is your recommender.
#
# Everything happens in a temporary folder and takes well under a minute. Each part ends in an
# `assert` that holds what it has claimed.

# %%
import builtins
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")  # figures need no network

from onerec import DataError, Recommender, describe, import_files, recipe, run
from onerec.explain import dataset as explain_dataset
from onerec.explain import serving, training
from onerec.viz import dataset as draw_dataset
from onerec.viz import serving as draw_serving
from onerec.viz import theme
from onerec.viz import training as draw_training

folder = tempfile.TemporaryDirectory(prefix="onerec-notebook-")
home = Path(folder.name)
os.environ["ONEREC_HOME"] = folder.name  # datasets and runs go here, and disappear at the end


def show(thing):
    """Draw a figure or a table where a notebook can; elsewhere say it in words."""
    if hasattr(builtins, "display"):
        builtins.display(thing)
    else:
        print(thing if isinstance(thing, pd.DataFrame) else theme.alt_text(thing))


# %% [markdown]
# ## 1. Two files
#
# A cooking site: `cooked.csv` says which member cooked which dish on which day and whether it was
# saved to the favourites; `dishes.csv` says what the dishes are. The files are drawn here so that
# the notebook needs no download. There is a pattern to find: a member has one favourite kitchen,
# and most dishes come from it.

# %%
random = np.random.default_rng(7)
kitchens = ("Italian", "Japanese", "Mexican", "Indian", "French", "Lebanese", "Thai", "Greek")
courses = ("soup", "salad", "stew", "rice", "bread", "noodles", "grill", "cake")
n_dishes, n_members = 160, 300

kitchen = np.arange(n_dishes) % len(kitchens)
dishes = pd.DataFrame(
    {
        "dish": [f"D{number:03}" for number in range(n_dishes)],
        "headline": [
            f"{kitchens[k]} {courses[number // 8 % 8]} no. {number // 64 + 1}"
            for number, k in enumerate(kitchen)
        ],
        "kitchen": [kitchens[k] for k in kitchen],
    }
)

member = np.repeat(np.arange(n_members), random.integers(6, 40, n_members))
wanted = np.where(random.random(len(member)) < 0.9, member % 8, random.integers(0, 8, len(member)))
cooked_dish = wanted + 8 * random.integers(0, n_dishes // 8, len(member))
day = random.integers(0, 365, len(member))
cooked = pd.DataFrame(
    {
        "cook": [f"member-{number}" for number in member],
        "dish": dishes["dish"].to_numpy()[cooked_dish],
        "cooked_on": (pd.Timestamp("2025-01-01") + pd.to_timedelta(day, unit="D")).strftime(
            "%Y-%m-%d"
        ),
        "saved": (random.random(len(member)) < 0.6).astype(int),
    }
)
cooked.loc[41, "cooked_on"] = "2025-13-45"  # a mistake, as there is one in every file

dishes.to_csv(home / "dishes.csv", index=False)
cooked.to_csv(home / "cooked.csv", index=False)
show(cooked.head(3))
show(dishes.head(3))

# %%
assert set(cooked["dish"]) <= set(dishes["dish"])
assert pd.read_csv(home / "cooked.csv")["cook"].nunique() == n_members

# %% [markdown]
# ## 2. Import: what cannot be read is refused in one line
#
# Many names are known already (`userId`, `movieId`, `unixReviewTime`, ...; `data/README.md` has
# the table). `cook` and `dish` are not among them. Nothing is guessed: the import stops and says
# where, what it found, and what to do.

# %%
try:
    import_files(home / "cooked.csv", home / "dishes.csv", name="kitchen")
except DataError as error:
    unknown = str(error)
print(unknown)

# %% [markdown]
# So we say which of our names is which of theirs: *ours -> theirs*. On the command line the same is
# `onerec data import ... --column user_id=cook --column item_id=dish`. `saved` is what this site
# has for a *like*. A prefix such as `items.` speaks of one table only.

# %%
columns = {
    "user_id": "cook",
    "item_id": "dish",
    "timestamp": "cooked_on",
    "like": "saved",
    "items.title": "headline",
    "items.category": "kitchen",
}
try:
    import_files(home / "cooked.csv", home / "dishes.csv", name="kitchen", columns=columns)
except DataError as error:
    wrong_day = str(error)
print(wrong_day)

# %% [markdown]
# Now the names are understood, and the mistake in the file is found: file, row, column, value. It
# is mended in the file, where it belongs.

# %%
cooked.loc[41, "cooked_on"] = cooked.loc[40, "cooked_on"]
cooked.to_csv(home / "cooked.csv", index=False)
dataset = import_files(home / "cooked.csv", home / "dishes.csv", name="kitchen", columns=columns)
print(f"{len(dataset.log):,} events, {dataset.n_users} members, {dataset.n_items} dishes")

# %%
assert "\n" not in unknown
assert "user_id" in unknown
assert "cooked.csv" in wrong_day
assert "row 42" in wrong_day
assert "2025-13-45" in wrong_day
assert (dataset.n_users, dataset.n_items) == (n_members, n_dishes)

# %% [markdown]
# ## 3. Describe: what was understood
#
# Read this once for every dataset of yours, before any training. It shows which column became what,
# what was ignored and counted (the same member, dish and day twice is one event, and the sum is
# said), how often each behaviour happens, and by which rule an event counts as
# **positive**: here a like, since that is the strongest sign the data have. Only positives are
# targets; the history keeps every event.
#
# *Question: how long are the histories?* A model that reads what somebody did needs somebody to
# have done something.

# %%
facts = describe(dataset)
for name in ("columns", "ignored", "counts", "behaviours", "positive", "time"):
    print(f"{name}: {facts[name]}")
show(draw_dataset.history_lengths(explain_dataset.history_lengths(dataset.path)))

# %%
likes = facts["behaviours"]["like"]
assert likes["known"] == len(dataset.log), "no row has lost its like on the way"
assert likes["true"] == int(dataset.log.positive.sum())
assert dataset.log.positive_rule == "like"

# %% [markdown]
# ## 4. Train
#
# A *recipe* is a whole configuration. `tiny` takes a minute; `small` is the one to begin with for
# data of your own. Any setting can be changed by its path. `leave_one_out` tests on each member's
# last like, and holds back the last but one for choosing settings.
#
# *Question: does it learn?* The loss is the surprise over the codes of the next dish, in nats
# (OneRec Technical Report, [arXiv 2506.13695](https://arxiv.org/abs/2506.13695), section 2.3):
# $L = -\sum_l \ln P(s^l \mid s^1 \ldots s^{l-1}, \text{user})$.

# %%
settings = recipe(
    "tiny",
    {
        "evaluate.split": "leave_one_out",
        "train.steps": "80",
        "train.batch_size": "128",
        "train.warmup_steps": "20",
        "baselines.trials": "1",
        "baselines.sasrec_trials": "1",
        "evaluate.filter_seen": "false",  # people cook a dish again
        "baselines.sasrec_steps": "40",
        "baselines.sasrec_width": "32",
    },
)
first = run("kitchen-first", settings, dataset)
curves = training.curves(first)
show(draw_training.losses(curves))

# %%
loss = curves.loc[curves["metric"] == "loss", "value"]
assert first.status().state == "done"
assert loss.iloc[-10:].mean() < loss.iloc[0], "it has learned something"

# %% [markdown]
# ## 5. Evaluate
#
# Recall@10: the share of members whose held-out dish stands among the ten that are recommended, out
# of all dishes. A list at random would reach $10 / n$ for $n$ dishes. The baselines are tuned and
# measured on the same members; if a simple one leads on your data, that is good to know.
#
# *Question: who finds more, and can the intervals tell them apart?*

# %%
show(draw_serving.metric_bars(serving.metrics(first)))

# %%
ours = first.evaluate()["models"]["onerec"]
by_chance = 10 / dataset.n_items
print(f"recall@10 {ours['recall@10']:.3f}, interval {ours['recall@10_ci']}, chance {by_chance:.3f}")

assert ours["recall@10_ci"][0] > by_chance, "better than chance, with certainty"
assert first.evaluate()["split"] == "leave_one_out"

# %% [markdown]
# ## 6. Recommend
#
# `Recommender.load` takes the name of a run. Ask for people by *your* ids. Every item has the
# log-probability of its whole code (`score`) and of each code after the ones before it (`lp_1`,
# `lp_2`, ...): $\text{score} = \sum_l \text{lp}_l$.
#
# `member-3` was drawn with a taste for the fourth kitchen, the Indian one. Nobody told the model.
#
# *Question: why these dishes?* The figure shows the past dishes nearest to the first one.

# %%
recommender = Recommender.load("kitchen-first")
asked = ["member-3", "member-4"]
lists = recommender.recommend(asked, k=10)
lists = lists.merge(dataset.items[["item_id", "title", "category"]], on="item_id")
lists = lists.sort_values(["user_id", "rank"], ignore_index=True)
show(lists[["user_id", "rank", "title", "score", "lp_1", "lp_2", "lp_3"]])

# %%
user, dish = int(dataset.user_index(asked[:1])[0]), int(lists["item"].iloc[0])
show(draw_serving.why(serving.why(first, user, dish, limit=6), lists["title"].iloc[0]))

# %%
parts = lists[["lp_1", "lp_2", "lp_3"]].sum(axis=1)
assert (lists.groupby("user_id").size() == 10).all()
assert not lists.duplicated(["user_id", "item_id"]).any(), "no dish twice"
assert (lists["category"].iloc[:10] == kitchens[3]).mean() > 0.5, "it found the favourite kitchen"
assert np.allclose(parts, lists["score"], atol=1e-4), "the codes' logs add up"

# %% [markdown]
# ## 7. Export
#
# One CSV for all members, with their own ids.

# %%
everybody = recommender.recommend(dataset.users["user_id"].tolist(), k=5)
everybody[["user_id", "rank", "item_id", "score"]].to_csv(home / "lists.csv", index=False)
back = pd.read_csv(home / "lists.csv")
show(back.head())

# %%
assert len(back) == 5 * n_members
assert set(back["item_id"]) <= set(dishes["dish"]), "only dishes that exist"
assert set(back["user_id"]) == set(cooked["cook"])

# %% [markdown]
# ## The same on the command line
#
# ```
# onerec data import --interactions cooked.csv --items dishes.csv --name kitchen \
#     --column user_id=cook --column item_id=dish --column timestamp=cooked_on \
#     --column like=saved --column items.title=headline --column items.category=kitchen
# onerec data describe kitchen
# onerec run --recipe small --dataset kitchen --run kitchen-first
# onerec recommend --run kitchen-first --user member-3
# ```

# %%
folder.cleanup()
assert not home.exists(), "nothing is left behind"
