"""What a training will take, from a recipe and a dataset's folder, with the arithmetic in words.

Counts are `onerec.count`'s and `onerec.cost`'s. What is new here is the dataset's part: how many
values its features have, and how much the contexts of a mean training sample hold. Nothing is
built and torch is not loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from onerec.cost import BYTES_KEPT, BYTES_TRAINED, Cost, code_sizes, estimate
from onerec.count import Cardinalities, Counter
from onerec.data.dataset import Dataset
from onerec.data.features import GAP_BUCKETS, PLAY_BUCKETS, item_features, user_features
from onerec.data.log import Interactions
from onerec.data.schema import BEHAVIOURS
from onerec.errors import DataError
from onerec.explain.folder import LOG, info, positive_sql
from onerec.explain.query import column_types, fetch
from onerec.recipes import Recipe
from onerec.units import byte_text, count_text, flop_text

Ints = NDArray[np.int64]

_SAMPLED = 100_000  # events, of whole users, whose contexts stand for all


@dataclass(frozen=True)
class Facts:
    """A dataset's part of a cost.

    `features` are the cardinalities but for what a recipe decides. Of each training target of a
    sample of users: `before` (E,) events and `positives_before` (E,) positives that stand before
    it, `left` (E,) positives from it on.
    """

    n_items: int
    features: dict[str, Any]
    content_tokens: int
    before: Ints
    positives_before: Ints
    left: Ints

    def cardinalities(self, recipe: Recipe) -> Cardinalities:
        """What the model will be built for."""
        content = recipe.content
        text = 0 if content.text == "none" or content.text_weight <= 0 else content.text_dim
        dim = self.content_tokens if self.content_tokens and content.tokens_weight > 0 else text
        dim += content.behaviour_dim if content.behaviour_weight > 0 else 0
        return Cardinalities(
            code_sizes(recipe, self.n_items),
            self.n_items,
            content_dim=dim if recipe.history.content else 0,
            **self.features,
        )

    def events(self, recipe: Recipe) -> float | None:
        """Events of a mean training context, short and positive pathway together; None: unknown."""
        if not len(self.before):
            return None
        history = recipe.history
        short = np.minimum(self.before, history.short_length).mean()
        positive = np.minimum(self.positives_before, history.positive_length).mean()
        return float(short + positive) * (1 - history.event_dropout)

    def targets(self, recipe: Recipe) -> float | None:
        """Targets of a mean training sample."""
        if not len(self.left):
            return None
        return float(np.minimum(self.left, recipe.train.targets).mean())


def facts(folder: Path) -> Facts:
    """What `Facts` says of a dataset's folder.

    Close to what training will see, not equal: what the split holds back is counted too.

    Raises:
        DataError: a file of the dataset is missing or damaged.
    """
    about, log = info(folder), folder / "interactions.parquet"
    types = column_types(log)
    dataset = Dataset(folder.name, folder, about, _durations(log, types, about["rows"]["items"]))
    items = item_features(dataset)
    timed = "timestamp" in types and about.get("time") == "exact"
    before, positives_before, left = _contexts(folder, log, about["rows"]["interactions"])
    return Facts(
        n_items=int(about["rows"]["items"]),
        features={
            "user_features": user_features(dataset).sizes,
            "n_authors": items.n_authors,
            "n_tags": items.n_tags,
            "n_duration": items.n_durations,
            "n_time": GAP_BUCKETS if timed else 0,
            "n_play": PLAY_BUCKETS if _plays(log, types) else 0,
            "behaviours": _varying(log, types),
        },
        content_tokens=_content_width(folder / "content.safetensors"),
        before=before,
        positives_before=positives_before,
        left=left,
    )


def _varying(log: Path, types: dict[str, str]) -> int:
    """How many behaviours some events have and some have not."""
    known = [name for name in BEHAVIOURS if name in types]
    if not known:
        return 0
    rates = ", ".join(f'avg(coalesce("{name}", false)::INT) AS "{name}"' for name in known)
    row = fetch(f"SELECT {rates} FROM {LOG}", log).iloc[0]
    return sum(0 < float(row[name]) < 1 for name in known)


def _plays(log: Path, types: dict[str, str]) -> bool:
    """Whether any event falls above the lowest bucket of `features.play_bucket`."""
    if "play_ms" in types and "duration_ms" in types:
        above = "duration_ms > 0 AND play_ms / duration_ms * 5 >= 1"
    elif "rating" in types:
        above = "rating * 2 > 0.5"
    else:
        return False
    return bool(fetch(f"SELECT count(*) AS n FROM {LOG} WHERE {above}", log)["n"][0])


def _durations(log: Path, types: dict[str, str], n_items: int) -> Interactions:
    """A log of one event an item that holds its median duration, where events have one."""
    item, columns = np.zeros(0, dtype=np.int32), {}
    if "duration_ms" in types:
        rows = fetch(f"SELECT item, median(duration_ms) AS ms FROM {LOG} GROUP BY item", log)
        item = rows["item"].to_numpy(dtype=np.int32)
        columns = {"duration_ms": rows["ms"].to_numpy(dtype=np.float32, na_value=np.nan)}
    user, none = np.zeros(len(item), dtype=np.int32), np.zeros(len(item), dtype=bool)
    return Interactions(user, item, np.array([0, len(item)]), 1, n_items, columns, none, "")


def _contexts(folder: Path, log: Path, events: int) -> tuple[Ints, Ints, Ints]:
    """before, positives_before and left of `Facts`; the log is in the order of its users."""
    every = max(1, events // _SAMPLED)
    frame = fetch(
        f'SELECT "user", {positive_sql(folder)} AS positive FROM {LOG} WHERE "user" % ? = 0',
        log,
        every,
    )
    of_user = frame["positive"].astype("int64").groupby(frame["user"])
    before, counted = of_user.cumcount(), of_user.cumsum()
    target = frame["positive"].to_numpy(dtype=bool) & (before.to_numpy() > 0)
    chosen = [before, counted - 1, of_user.transform("sum") - counted + 1]
    first, second, third = (column.to_numpy(dtype=np.int64)[target] for column in chosen)
    return first, second, third


def _content_width(path: Path) -> int:
    """The width of a dataset's own content tokens; 0 without any."""
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="numpy") as file:
            return int(file.get_slice("tokens").get_shape()[-1])
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({error}); make the dataset again") from None


# ---------------------------------------------------------------------- in words


@dataclass(frozen=True)
class Number:
    """One number of a cost: its name and value, what it means, and how it is computed."""

    name: str
    value: str
    says: str
    how: str


def numbers(
    recipe: Recipe, known: Facts | None, n_items: int, device: str
) -> tuple[Cost, list[Number]]:
    """What pre-training `recipe` takes, on a dataset of `n_items` where no facts are known."""
    of_data = known.cardinalities(recipe) if known else None
    events, targets = (known.events(recipe), known.targets(recipe)) if known else (None, None)
    cost = estimate(recipe, n_items, device, of_data, events, targets)
    counter = Counter(recipe, of_data or Cardinalities(code_sizes(recipe, n_items), n_items))
    mean = "a full context" if events is None else "the mean context of this dataset"
    events = counter.default_events() if events is None else events
    targets = recipe.train.targets if targets is None else targets
    return cost, [
        _parameters(counter, cost),
        _active(recipe, cost),
        _sample(counter, cost, events, targets, mean),
        _training(recipe, cost),
        _memory(counter, cost),
    ]


def _parameters(counter: Counter, cost: Cost) -> Number:
    return Number(
        "Parameters",
        count_text(cost.parameters),
        f"The numbers that training sets; {count_text(cost.embeddings)} of them are embeddings, "
        "which are looked up and cost no arithmetic.",
        f"{_sum(counter.parameters(), count_text)} = {cost.parameters:,}.",
    )


def _active(recipe: Recipe, cost: Cost) -> Number:
    idle, model = cost.parameters - cost.active_parameters, recipe.model
    says = "What one token goes through: "
    if idle:
        says += f"{model.active_experts:,} of {model.experts:,} experts of a block, and the rest."
    else:
        says += "all of the model, for no expert is left out."
    how = f"{cost.parameters:,} - {idle:,} of the experts that a token does not go through = "
    how += f"{cost.active_parameters:,}."
    return Number("Active parameters", count_text(cost.active_parameters), says, how)


def _sample(counter: Counter, cost: Cost, events: float, targets: float, mean: str) -> Number:
    forward = counter.forward_flops(events, targets)
    return Number(
        "FLOPs of a sample",
        flop_text(cost.flops_per_sample),
        "Additions and multiplications to learn once from what one person did and watched next.",
        f"3 x forward pass (one forward, two backward) = 3 x ({_sum(forward, flop_text)}), for "
        f"{mean}: {events:.1f} events, {targets:.1f} targets. Matrix products alone, two "
        "operations for each multiply-add; padding counts nothing.",
    )


def _training(recipe: Recipe, cost: Cost) -> Number:
    steps, batch = recipe.train.steps, recipe.train.batch_size
    return Number(
        "FLOPs of the training",
        flop_text(cost.flops),
        f"All of its arithmetic: {steps:,} steps, each on {batch:,} samples.",
        f"{flop_text(cost.flops_per_sample)} x {steps:,} steps x {batch:,} samples = "
        f"{flop_text(cost.flops)}. At {flop_text(cost.rate)}/s, measured once on such a device, "
        f"that takes {cost.seconds:,.0f} s.",
    )


def _memory(counter: Counter, cost: Cost) -> Number:
    batch = cost.batch_size * cost.sample_bytes
    kept = sum(counter.activations().values())
    return Number(
        "Memory",
        byte_text(cost.memory_bytes),
        f"{byte_text(cost.state_bytes)} for weights, gradients and AdamW's two moments, up to "
        f"{byte_text(batch)} for what a batch keeps for its backward pass; the program and the "
        "data come on top.",
        f"{BYTES_TRAINED} bytes (weight 4, gradient 4, two moments 8) x {cost.parameters:,} "
        f"parameters = {byte_text(cost.state_bytes)}; {BYTES_KEPT} bytes x {kept:,.0f} values of a "
        f"full context x {cost.batch_size:,} samples = {byte_text(batch)}; together "
        f"{byte_text(cost.memory_bytes)}.",
    )


def _sum(parts: Mapping[str, float], text: Callable[[float], str]) -> str:
    """The parts that are not 0, the largest first."""
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return " + ".join(f"{name.replace('_', ' ')} {text(n)}" for name, n in ordered if n)
