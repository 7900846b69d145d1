"""Which experts see which tokens: lift by kind of item and level, one user's tokens, flow, absence.

Reads routing/tokens-NNNNNN.parquet (the experts of every token of some valid targets, written at
each evaluation) and routing/without.json (each expert switched off, once pre-training has ended);
see `onerec.pipeline.routing`. Runs from before have neither, and every function then returns an
empty frame. A token goes to k experts and counts once for each of them.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from onerec.errors import RunError
from onerec.explain.dataset import titles
from onerec.explain.network import whole
from onerec.explain.query import column_types, empty, fetch
from onerec.explain.tokens import code_columns
from onerec.runs import Run, read_json

FEW = 20  # tokens expected below which a lift is mostly chance; ours
GROUPS = 12  # shown of a kind, those with most tokens
KINDS = ("category", "tags", "author_id")
LEVEL = "level"
COLUMNS = {"layer", "context", "user", "target", "level", "rank", "item", "expert", "weight"}
LIFT = ("expert", "group", "tokens", "expected", "share", "base", "lift", "few")
TOKENS = (*("target", "item", "title", "level", "code", "layer", "rank", "expert", "weight"),)
FLOW = ("source_layer", "source", "layer", "expert", "tokens", "expected", "lift")
WITHOUT = (
    *("layer", "expert", "recall", "recall_change", "recall_low", "recall_high"),
    *("loss", "loss_change", "loss_low", "loss_high"),
)


def recorded(run: Run) -> list[int]:
    """The steps at which tokens were recorded, ascending."""
    files = (run.path / "routing").glob("tokens-*.parquet")
    return sorted(int(f.stem[7:]) for f in files if f.stem[7:].isdigit())


def chosen_step(run: Run) -> int | None:
    """The recorded step whose weights the run goes on with, else the last; None without any."""
    known = recorded(run)
    step = (run.done("pretrain") or {}).get("step")
    return step if step in known else known[-1] if known else None


def experts(run: Run) -> tuple[int, int]:
    """Experts of a layer, and how many of them a token sees; (0, 0) of a dense model."""
    model = (run.recipe().get("recipe") or {}).get("model") or {}
    count = int(model.get("experts") or 0)
    return (count, int(model.get("active_experts") or 0)) if count else (0, 0)


def sample(run: Run, step: int) -> dict[str, Any]:
    """What was recorded: users, targets, tokens (of one layer), levels, layers (a list)."""
    row = _ask(
        run, step,
        "SELECT count(DISTINCT context) AS users, count(DISTINCT (context, target)) AS targets, "
        "count(DISTINCT (context, target, level)) AS tokens, max(level) AS levels, "
        "list_sort(list_distinct(list(layer))) AS layers FROM read_parquet(?)",
    ).iloc[0]  # fmt: skip
    counts = {name: int(row[name]) for name in ("users", "targets", "tokens", "levels")}
    return {**counts, "layers": [int(layer) for layer in row["layers"]]}


def kinds(run: Run) -> list[str]:
    """By what lift can be asked for: columns that the items have, and `level`."""
    folder = run.dataset_folder
    types = column_types(folder / "items.parquet") if folder is not None else {}
    return [*(name for name in KINDS if name in types), LEVEL]


def lift(run: Run, step: int, layer: int, by: str = "category") -> pd.DataFrame:
    """How much more often than all tokens an expert's belong to a group; see `LIFT`.

    tokens: those of the expert in the group; expected: the expert's tokens * base; share = tokens /
    the expert's tokens; base: the group's share of all; lift = share / base, 1 is no preference;
    few: less than `FEW` expected. By `category`, `tags` or `author_id` of the target that the token
    belongs to (with several tags a token counts in each; items without any are left out; the
    `GROUPS` largest), or by the `level` of the code that it writes.

    Raises:
        RunError: the items have no such column, or the recording is damaged.
    """
    if by not in kinds(run):
        raise RunError(f"lift by {by!r}: this run has {', '.join(kinds(run))}")
    labels, values = "['level ' || t.level]", []
    if by != LEVEL:
        items = _folder(run) / "items.parquet"
        values = [items]
        kind = column_types(items)[by]
        labels = f"i.{by}" if kind.endswith("[]") else f"[i.{by}::VARCHAR]"
    join = "LEFT JOIN read_parquet(?) i USING (item) " if values else ""
    frame = _ask(
        run, step,
        f"WITH every AS (SELECT t.expert, list_distinct({labels}) AS labels FROM read_parquet(?) t "
        f"{join}WHERE t.layer = ?), "
        "known AS (SELECT expert, labels FROM every WHERE len(labels) > 0), "
        'one AS (SELECT expert, unnest(labels) AS "group" FROM known), '
        'groups AS (SELECT "group", count(*) AS n FROM one GROUP BY 1), '
        "experts AS (SELECT expert, count(*) AS n FROM known GROUP BY 1), "
        'cells AS (SELECT expert, "group", count(*) AS n FROM one GROUP BY ALL) '
        'SELECT e.expert, g."group", coalesce(c.n, 0) AS tokens, '
        "e.n * g.n / (SELECT count(*) FROM known) AS expected, coalesce(c.n, 0) / e.n AS share, "
        "g.n / (SELECT count(*) FROM known) AS base FROM experts e CROSS JOIN groups g "
        'LEFT JOIN cells c ON c.expert = e.expert AND c."group" = g."group" '
        f'ORDER BY {"" if by == LEVEL else "base DESC, "}g."group", e.expert',
        *values, layer,
    )  # fmt: skip
    shown = frame["group"].drop_duplicates().head(GROUPS)
    frame = frame[frame["group"].isin(shown)].reset_index(drop=True)
    frame = frame.assign(lift=frame["share"] / frame["base"], few=frame["expected"] < FEW)
    return frame[list(LIFT)]


def users(run: Run, step: int) -> list[int]:
    """The users whose tokens were recorded, those with most targets first."""
    found = _ask(
        run, step,
        'SELECT "user", count(DISTINCT target) AS n FROM read_parquet(?) GROUP BY 1 ORDER BY '
        'n DESC, "user"',
    )  # fmt: skip
    return [int(user) for user in found["user"]]


def tokens(run: Run, step: int, user: int) -> pd.DataFrame:
    """One row per token of a user's targets, layer and choice: `TOKENS`.

    `code` is the code that the token writes; rank 0 is the router's first choice; the weights of a
    token and layer are those by which its experts' answers are added.

    Raises:
        RunError: the user was not recorded.
    """
    frame = _ask(
        run, step,
        "SELECT target, item, level, layer, rank, expert, weight FROM read_parquet(?) "
        'WHERE "user" = ? ORDER BY target, level, layer, rank',
        user,
    )  # fmt: skip
    if frame.empty:
        raise RunError(f"user {user}: not in the sample of step {step}; choose one of its users")
    ids = run.semantic_ids()
    codes = ids[code_columns(ids)].to_numpy()
    items = frame["item"].tolist()
    frame = frame.assign(
        title=titles(run.dataset_folder, items),
        code=codes[items, frame["level"].to_numpy() - 1],
    )
    return frame[list(TOKENS)]


def flow(run: Run, step: int) -> pd.DataFrame:
    """How many tokens go from an expert of one layer to an expert of the next: `FLOW`.

    A token with k experts in each layer is k * k flows. expected: if the two layers chose
    independently; lift = tokens / expected. Where there is one layer alone, from the level whose
    code the token writes (source_layer -1, source the level) to the expert.
    """
    layers = sample(run, step)["layers"]
    source = "SELECT layer, context, target, level, expert FROM read_parquet(?) "
    if len(layers) < 2:
        frame = _ask(
            run, step,
            "SELECT -1 AS source_layer, level AS source, layer, expert, count(*) AS tokens "
            "FROM read_parquet(?) GROUP BY ALL",
        )  # fmt: skip
    else:
        following = " ".join(f"WHEN {a} THEN {b}" for a, b in pairwise(layers))
        path = _path(run, step)
        frame = _ask(
            run, step,
            f"WITH a AS ({source}), b AS ({source}) SELECT a.layer AS source_layer, "
            "a.expert AS source, b.layer AS layer, b.expert AS expert, count(*) AS tokens "
            "FROM a JOIN b USING (context, target, level) "
            f"WHERE b.layer = CASE a.layer {following} END GROUP BY ALL",
            path,
        )  # fmt: skip
    frame = frame.astype("int64").sort_values(["source_layer", "source", "expert"])
    by = frame.groupby(["source_layer", "layer"])["tokens"]
    out = frame.groupby(["source_layer", "source"])["tokens"].transform("sum")
    into = frame.groupby(["source_layer", "layer", "expert"])["tokens"].transform("sum")
    expected = out * into / by.transform("sum")
    frame = frame.assign(expected=expected, lift=frame["tokens"] / expected)
    return frame[list(FLOW)].reset_index(drop=True)


def without(run: Run) -> pd.DataFrame:
    """One row per layer and expert that was switched off; see `WITHOUT`.

    recall (@10) and loss (next-token, nats) of the sample without the expert, and their change
    against the whole model with its 95% interval (paired bootstrap over contexts).
    """
    path = run.path / "routing" / "without.json"
    if not path.is_file():
        return empty(WITHOUT)
    rows = []
    with whole(run, path):
        for one in read_json(path)["experts"]:
            row: list[Any] = [int(one["layer"]), int(one["expert"])]
            for name in ("recall@10", "loss"):
                row += [float(one[name]), *(float(value) for value in one[f"{name}_change"])]
            rows.append(row)
        return pd.DataFrame(rows, columns=list(WITHOUT)) if rows else empty(WITHOUT)


def without_facts(run: Run) -> dict[str, Any]:
    """Of the whole model: step, contexts, targets, beam, recall, loss; {} where not measured."""
    path = run.path / "routing" / "without.json"
    if not path.is_file():
        return {}
    with whole(run, path):
        known = read_json(path)
        counts = {name: int(known[name]) for name in ("step", "contexts", "targets", "beam")}
        return {**counts, "recall": float(known["recall@10"]), "loss": float(known["loss"])}


def _path(run: Run, step: int) -> Path:
    return run.path / "routing" / f"tokens-{step:06d}.parquet"


def _folder(run: Run) -> Path:
    folder = run.dataset_folder
    assert folder is not None, "`kinds` offers no column of items without a dataset"
    return folder


def _ask(run: Run, step: int, sql: str, *values: Any) -> pd.DataFrame:
    """The answer of a query whose first `?` is the recording of a step."""
    path = _path(run, step)
    with whole(run, path):
        missing = COLUMNS - column_types(path).keys()
        if missing:
            raise ValueError(f"no column {sorted(missing)[0]}")
    return fetch(sql, path, *values)
