"""Everything that can be said of one recommended item, as tables: `explain(recommender, ...)`.

The numbers are those of `onerec.attribution`, `onerec.model.trace` and `onerec.model.recording`;
here they get the names of events, items and experts. What is drawn of them is in `onerec.viz`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from onerec.attribution import (
    Places,
    attention,
    deletion_curves,
    gradient,
    leave_one_out,
    steps,
)
from onerec.common import evaluating
from onerec.data.histories import History
from onerec.errors import DataError
from onerec.lists import at_least_one
from onerec.model.batch import Batch
from onerec.model.recording import TargetRouting, decoder_mixtures, recording
from onerec.model.trace import beam_tree, columns, places_in_beam
from onerec.recommend import Recommender

METHODS = ("leave_one_out", "attention", "gradient")  # the first is the truth


@dataclass(frozen=True)
class Explanation:
    """Why an item was, or was not, generated for a history.

    events: a row for each event, oldest first: event (its place in the history), item, item_id,
        read (the model sees it), and for each of `METHODS` its influence, attention as a share,
        the others in nats of the item's log-probability.
    elsewhere: shares of the attention that no event has: `static` features and `lifelong` states.
    curves: method (`METHODS`, random, recent), deleted, log_prob: what is left of it after the
        events that a method names first are deleted.
    codes: level, code, probability, chosen, legal, rank among all codes of the level, beam (the
        place of the item's prefix in the beam, 0 where it fell out): for each level the chosen code
        and the most probable others.
    experts: layer, level, rank, expert, weight, of the tokens that write the item's codes; empty
        for a dense model.
    """

    item: int
    log_prob: float
    events: pd.DataFrame
    elsewhere: dict[str, float]
    curves: pd.DataFrame
    codes: pd.DataFrame
    experts: pd.DataFrame


def explain(
    recommender: Recommender,
    history: History,
    item: int,
    *,
    beam: int | None = None,
    few: int = 5,
    most: int = 20,
) -> Explanation:
    """Explain one item (by its index) for one history.

    Args:
        beam: of the search in which the item's place is looked up; the recipe's unless given.
        few: codes of each level beside the chosen one.
        most: events that the deletion curves delete at most.

    Raises:
        DataError: the index is no item's, or a number is below 1.
    """
    at_least_one(beam=1 if beam is None else beam, few=few)
    last = len(recommender.ids.codes) - 1
    if not isinstance(item, int | np.integer) or isinstance(item, bool) or not 0 <= item <= last:
        raise DataError(f"item {item!r}: give its index, a whole number from 0 to {last}")
    model, device = recommender.model, recommender.device
    codes = torch.from_numpy(recommender.ids.codes[item]).to(device)
    batch = recommender.prompts.batch([history])
    places = _places(recommender, history, batch)
    found = {
        "leave_one_out": leave_one_out(model, batch, places, codes),
        "attention": (looked := attention(model, batch, places, codes)).events,
        "gradient": gradient(model, batch, places, codes),
    }
    totals = {name: value.mean(1) if name == "attention" else value.sum(1)
              for name, value in found.items()}  # fmt: skip
    curves = deletion_curves(model, batch, places, codes, totals, most=most)
    events = pd.DataFrame(
        {
            "event": np.arange(len(history)),
            "item": history.item,
            "item_id": recommender.items["item_id"].astype(str).to_numpy()[history.item],
            "read": places.seen(model)[: len(history)].numpy(),
        }
        | {name: _array(value)[: len(history)] for name, value in totals.items()}
    )
    rows = [
        (name, deleted, float(value))
        for name, curve in curves.items()
        for deleted, value in enumerate(curve.tolist())
    ]
    table = _codes(recommender, batch, codes, beam, few)
    return Explanation(
        item=item,
        log_prob=float(curves["recent"][0]),
        events=events,
        elsewhere={one: float(getattr(looked, one).mean()) for one in ("static", "lifelong")},
        curves=pd.DataFrame(rows, columns=["method", "deleted", "log_prob"]),
        codes=table,
        experts=_experts(recommender, batch, codes, item),
    )


def tree(
    recommender: Recommender, history: History, *, k: int, beam: int, few: int = 3
) -> pd.DataFrame:
    """The search for a history as a table; see `onerec.model.trace.columns`.

    Beside its columns: code, the last of the prefix; probability of the prefix; lost, on the best
    pruned or illegal row of a level, the probability of all such prefixes together; item and
    item_id of a leaf that was kept, or that stands below the list (pruned, at the last level), -1
    and empty elsewhere; place of that item in the list, 0 where there is none; items, how many of
    the list's the leaf holds; seen, a kept leaf that the list leaves out, since the user has had
    all that it holds and the run filters what was seen.

    Raises:
        DataError: k, beam or few is below 1.
    """
    at_least_one(k=k, beam=beam, few=few)
    batch = recommender.prompts.batch([history])
    filters = recommender.setting.recipe.evaluate.filter_seen
    seen = {int(item) for item in history.item} if filters else set()
    left_out = torch.tensor([[item + 1 for item in sorted(seen)]], device=recommender.device)
    _, levels = beam_tree(
        *(recommender.model, batch, recommender.trie),
        k=k, beam=beam, few=few, exclude=left_out if seen else None,
    )  # fmt: skip
    frame = pd.DataFrame(columns(levels))
    frame["probability"] = np.exp(frame["log_prob"].astype(float))
    frame["lost"] = np.nan
    for depth, level in enumerate(levels, start=1):
        for state in ("pruned", "illegal"):
            first = (frame["level"] == depth) & (frame["state"] == state) & (frame["rank"] == 1)
            frame.loc[first, "lost"] = float(getattr(level, f"{state}_probability")[0])
    frame = _with_leaves(recommender, frame, k, seen)
    frame = _ended(frame, len(levels), few)
    frame = _below(recommender, frame, len(levels), seen)
    frame["code"] = [codes[-1] for codes in frame["codes"]]
    ids = recommender.items["item_id"].astype(str).to_numpy()
    frame["item_id"] = [ids[item] if item >= 0 else "" for item in frame["item"]]
    return frame


def _with_leaves(
    recommender: Recommender, frame: pd.DataFrame, k: int, seen: set[int]
) -> pd.DataFrame:
    """What the leaves that were kept hold, as far as the list of k items goes."""
    trie, depth = recommender.trie, len(recommender.ids.sizes)
    frame = frame.assign(item=-1, place=0, items=0, seen=False)
    rows = frame.index[(frame["level"] == depth) & (frame["state"] == "kept")]
    if not len(rows):
        return frame
    codes = torch.tensor(frame.loc[rows, "codes"].tolist(), device=recommender.device)
    listed = 0
    for row, leaf in zip(rows, trie.leaf_of(codes).tolist(), strict=True):
        held = trie.items_of(leaf).tolist()
        left = [item for item in held if item not in seen][: k - listed]
        if listed < k:
            place, all_seen = (listed + 1, False) if left else (0, True)
            known = [left[0] if left else held[0], place, len(left), all_seen]
            frame.loc[row, ["item", "place", "items", "seen"]] = known
        listed += len(left)
    return frame


def _below(
    recommender: Recommender, frame: pd.DataFrame, depth: int, seen: set[int]
) -> pd.DataFrame:
    """An item of each leaf that is pruned at the last level: a longer list would have it."""
    rows = frame.index[frame["level"].eq(depth) & frame["state"].eq("pruned")]
    if len(rows):
        codes = torch.tensor(frame.loc[rows, "codes"].tolist(), device=recommender.device)
        for row, leaf in zip(rows, recommender.trie.leaf_of(codes).tolist(), strict=True):
            held = recommender.trie.items_of(leaf).tolist()
            frame.loc[row, "item"] = next((item for item in held if item not in seen), held[0])
    return frame


def _ended(frame: pd.DataFrame, depth: int, few: int) -> pd.DataFrame:
    """Leaves behind the end of the list, which the search held in reserve, are pruned ones."""
    last = frame["level"].eq(depth)
    spare = last & frame["state"].eq("kept") & frame["item"].lt(0)
    if not spare.any():
        return frame
    pruned = last & frame["state"].eq("pruned")
    lost = frame.loc[pruned, "lost"].sum() + frame.loc[spare, "probability"].sum()
    own = frame[spare | pruned].sort_values("log_prob", ascending=False, kind="stable").head(few)
    sums = [lost, *[np.nan] * (len(own) - 1)]
    own = own.assign(state="pruned", rank=range(1, len(own) + 1), lost=sums)
    kept = last & frame["state"].eq("kept") & ~spare
    rest = last & frame["state"].eq("illegal")
    parts = [frame[~last], frame[kept], own, frame[rest]]
    return pd.concat(parts, ignore_index=True)


def _places(recommender: Recommender, history: History, batch: Batch) -> Places:
    """Where events stand; clusters of the lifelong pathway are units behind them."""
    short, positive = recommender.prompts.places(history)
    if batch.lifelong is None:
        return Places(len(history), short, positive)
    exists = batch.lifelong.item[0].cpu() > 0
    clusters = torch.arange(len(exists)) + len(history)
    long = torch.where(exists, clusters, -1)
    return Places(len(history) + len(exists), short, positive, long)


def _codes(
    recommender: Recommender, batch: Batch, codes: Tensor, beam: int | None, few: int
) -> pd.DataFrame:
    """The chosen code of each level and the most probable others."""
    found = steps(recommender.model, batch, recommender.trie, codes, few=few)
    wide = recommender.setting.recipe.evaluate.beam if beam is None else beam
    _, levels = beam_tree(recommender.model, batch, recommender.trie, k=wide, beam=wide, few=1)
    kept = places_in_beam(levels, codes[None])[0].tolist()
    rows = []
    for level, chosen in enumerate(codes.tolist()):
        own = (chosen, float(found.probability[level]), True, True, int(found.rank[level]))
        rows.append((level + 1, *own, kept[level]))
        others = zip(
            found.code[level].tolist(),
            found.alternative[level].tolist(),
            found.legal[level].tolist(),
            strict=True,
        )
        for rank, (code, probability, legal) in enumerate(others, start=1):
            if code != chosen:
                rows.append((level + 1, code, probability, False, legal, rank, -1))
    names = ["level", "code", "probability", "chosen", "legal", "rank", "beam"]
    return pd.DataFrame(rows, columns=names)


def _experts(recommender: Recommender, batch: Batch, codes: Tensor, item: int) -> pd.DataFrame:
    """Which experts the tokens of the item took; see `onerec.model.recording`."""
    model, names = recommender.model, ["layer", "level", "rank", "expert", "weight"]
    if not decoder_mixtures(model):
        return pd.DataFrame(columns=names)
    with evaluating(model):
        memory = model.encode(batch)
        with recording(model) as layers:
            model.decode(codes[None, None, :-1], memory)
    target = torch.tensor([[item + 1]])
    table = pd.DataFrame(TargetRouting.of([passes[0] for passes in layers], target).columns())
    table["layer"] = np.asarray(list(decoder_mixtures(model)))[table["layer"]]
    return table[names]


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().float().cpu().numpy()
    return array
