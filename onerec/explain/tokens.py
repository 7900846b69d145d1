"""What a run's tokenizer made: codes per level, collisions, the tree, the map and the neighbours.

Reads tokenizer/ of a run folder. Levels count from 1. Every function returns an empty frame while
the tokenizer has not finished. The map is a principal component analysis of the vectors that were
quantised (not of their codes), so distances in it are as true as two dimensions allow.
Legend: n items, L levels, N codes per level, d width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from onerec.errors import RunError
from onerec.explain.dataset import titles
from onerec.explain.query import empty
from onerec.runs import Run

LEVEL_COLUMNS = (
    *("level", "size", "used", "utilisation", "dead_codes", "entropy_nats", "max_entropy_nats"),
    *("entropy_share", "perplexity", "residual_norm", "variance_explained"),
)
TREE_COLUMNS = (
    *("id", "parent", "label", "level", "codes", "item", "items", "weight", "other", "chosen"),
)


def code_columns(frame: pd.DataFrame) -> list[str]:
    """code_1 .. code_L of a frame of semantic ids, in order."""
    names = [name for name in frame.columns if str(name).startswith("code_")]
    return sorted(names, key=lambda name: int(name.split("_")[1]))


def levels(run: Run) -> pd.DataFrame:
    """One row per quantised level, from report.json.

    utilisation = used / size; entropy in nats of the codes over the items, at most ln size;
    perplexity = exp(entropy); residual_norm (root mean square) and variance_explained (NaN where
    the vectors do not vary) after this level.
    """
    report = run.report()
    if report is None:
        return empty(LEVEL_COLUMNS)
    rows = []
    for number, level in enumerate(report["levels"], 1):
        bound = float(level["max_entropy_nats"])
        known = {name: level[name] for name in LEVEL_COLUMNS if name in level}
        known |= {"level": number, "dead_codes": int(level["size"]) - int(level["used"])}
        known["entropy_share"] = float(level["entropy_nats"]) / bound if bound > 0 else 1.0
        rows.append(known)
    frame = pd.DataFrame(rows)[list(LEVEL_COLUMNS)]
    return frame.assign(variance_explained=frame["variance_explained"].astype(float))


def rank_frequency(run: Run) -> pd.DataFrame:
    """level, rank (from 1), code, items, share: the used codes of each level, most used first."""
    ids = run.semantic_ids()
    frames = []
    for level, name in enumerate(code_columns(ids), 1):
        counts = ids[name].value_counts().rename_axis("code").reset_index(name="items")
        counts = counts.sort_values(["items", "code"], ascending=[False, True])
        counts.insert(0, "rank", np.arange(1, len(counts) + 1))
        counts.insert(0, "level", level)
        frames.append(counts.assign(share=counts["items"] / len(ids)))
    columns = ["level", "rank", "code", "items", "share"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else empty(columns)


def dead_codes(run: Run) -> pd.DataFrame:
    """A row a level with codes that no item has: level, dead (how many), of, codes (as text)."""
    ids, rows = run.semantic_ids(), []
    for row in levels(run).to_dict("records"):
        used = set(ids[f"code_{row['level']}"])
        dead = [code for code in range(int(row["size"])) if code not in used]
        if dead:
            rows.append((row["level"], len(dead), int(row["size"]), ", ".join(map(str, dead))))
    return pd.DataFrame(rows, columns=["level", "dead", "of", "codes"])


def collisions(run: Run) -> dict[str, Any]:
    """How many items share their code with another, and by which policy that is handled."""
    return dict((run.report() or {}).get("collisions") or {})


def names(run: Run) -> dict[str, Any]:
    """Items after the policy: `words` of a name, who shares one and who was `touched`."""
    sizes, said = leaf_sizes(run), collisions(run)
    if sizes.empty:
        return {}
    words, shared = len(code_columns(run.semantic_ids())), sizes[sizes["leaf_size"] > 1]
    found = {"words": words, "share_sharing": float(shared["items"].sum() / sizes["items"].sum())}
    found |= {"largest": int(sizes["leaf_size"].max()), "touched": said.get("share_touched", 0.0)}
    return found | {"policy": said.get("policy", "share")}


def leaf_sizes(run: Run) -> pd.DataFrame:
    """leaf_size (items on one full code), leaves (codes of that size), items (on them)."""
    ids = run.semantic_ids()
    if ids.empty:
        return empty(("leaf_size", "leaves", "items"))
    sizes = ids.groupby(code_columns(ids)).size()
    frame = sizes.value_counts().rename_axis("leaf_size").reset_index(name="leaves")
    frame = frame.sort_values("leaf_size", ignore_index=True)
    return frame.assign(items=frame["leaf_size"] * frame["leaves"])


def shared_leaves(run: Run, limit: int = 50) -> pd.DataFrame:
    """The full codes that several items share, the fullest first, with what is on them."""
    columns = ("codes", "leaf_size", "popularity", "item_ids", "titles")
    ids = run.semantic_ids()
    if ids.empty:
        return empty(columns)
    names = code_columns(ids)
    sizes = ids.groupby(names, as_index=False).agg(
        leaf_size=("item", "size"), popularity=("popularity", "sum")
    )
    shared = sizes[sizes["leaf_size"] > 1]
    shared = shared.sort_values(
        ["leaf_size", "popularity", *names], ascending=[False, False] + [True] * len(names)
    )
    folder, rows = run.dataset_folder, []
    for leaf in shared.head(limit).to_dict("records"):
        prefix = [int(leaf[name]) for name in names]
        found = ids[_mask(ids, prefix)].sort_values(["popularity", "item"], ascending=[False, True])
        named = titles(folder, found["item"].tolist())
        ids_text = ", ".join(str(one) for one in found["item_id"])
        rows.append(
            (text_of(prefix), leaf["leaf_size"], leaf["popularity"], ids_text, " | ".join(named))
        )
    return pd.DataFrame(rows, columns=list(columns))


def text_of(codes: Sequence[int]) -> str:
    """Codes as people read them: (3, 1, 7) -> "3 · 1 · 7"."""
    return " · ".join(str(int(code)) for code in codes)


def code_tree(
    run: Run,
    *,
    prefix: Sequence[int] = (),
    top: int = 8,
    items: int = 6,
    weight: Literal["items", "popularity"] = "items",
    chosen: int | None = None,
) -> pd.DataFrame:
    """The tree of codes below `prefix` as rows for an icicle; small branches are joined.

    Below each node the `top` heaviest codes stand alone and the rest is one row with `other` true;
    below a full code the `items` most popular items. A row's weight is the sum of its children's.
    `level` is 0 for the root, the level of a code, or L + 1 for an item; `item` is -1 for a code.
    An item that is `chosen` is never joined: rows below the root that lead to it say so.
    """
    ids = run.semantic_ids()
    if ids.empty:
        return empty(TREE_COLUMNS)
    ids = ids[_mask(ids, prefix)].assign(chosen=lambda frame: frame["item"] == chosen)
    named = dict(zip(ids["item"], titles(run.dataset_folder, ids["item"].tolist()), strict=True))
    w = 1 if weight == "items" else ids["popularity"]
    ids = ids.assign(title=ids["item"].map(named), w=w)
    label = text_of(prefix) if prefix else "all items"
    rows: list[tuple[Any, ...]] = []
    root = "/".join(["all", *(str(int(code)) for code in prefix)])
    total = int(ids["w"].sum())
    rows.append((root, "", label, len(prefix), text_of(prefix), -1, len(ids), total, False))
    _grow(ids, list(map(int, prefix)), root, code_columns(ids), top, items, rows)
    tree = pd.DataFrame(rows, columns=list(TREE_COLUMNS[:-1]))
    end = next(iter(tree.loc[tree["item"] == chosen, "id"]), "")
    led = [f"{end}/".startswith(f"{node}/") and node != root for node in tree["id"]]
    return tree.assign(chosen=led)


def _grow(
    ids: pd.DataFrame,
    prefix: list[int],
    parent: str,
    names: list[str],
    top: int,
    items: int,
    rows: list[tuple[Any, ...]],
) -> None:
    """Append the children of one node, and theirs."""
    depth = len(prefix)
    if depth == len(names):
        _leaf(ids, prefix, parent, items, rows)
        return
    found = ids.groupby(names[depth])
    groups = found.agg(items=("item", "size"), w=("w", "sum"), chosen=("chosen", "any"))
    groups = groups.rename_axis("code").reset_index()
    groups = groups.sort_values(["w", "items", "code"], ascending=[False, False, True])
    apart = groups.pop("chosen").to_numpy() | (np.arange(len(groups)) < top)
    for code, size, weight in groups[apart].itertuples(index=False):
        codes, node = [*prefix, int(code)], f"{parent}/{int(code)}"
        rows.append(
            (
                node,
                parent,
                str(int(code)),
                depth + 1,
                text_of(codes),
                -1,
                int(size),
                int(weight),
                False,
            )
        )
        _grow(ids[ids[names[depth]] == code], codes, node, names, top, items, rows)
    rest = groups[~apart]
    if len(rest):
        own = int(rest["items"].sum())
        label = f"{len(rest)} other code{'s' * (len(rest) > 1)}: {own:,} item{'s' * (own > 1)}"
        joined = (f"{parent}/other", parent, label, depth + 1, text_of(prefix), -1, own)
        rows.append((*joined, int(rest["w"].sum()), True))


def _leaf(
    ids: pd.DataFrame, prefix: list[int], parent: str, limit: int, rows: list[tuple[Any, ...]]
) -> None:
    """Append the items of one full code."""
    ids = ids.sort_values(["chosen", "popularity", "item"], ascending=[False, False, True])
    level, text = len(prefix) + 1, text_of(prefix)
    for item, title, weight in ids.head(limit)[["item", "title", "w"]].itertuples(index=False):
        rows.append(
            (
                f"{parent}/item {item}",
                parent,
                str(title),
                level,
                text,
                int(item),
                1,
                int(weight),
                False,
            )
        )
    rest = ids.iloc[limit:]
    if len(rest):
        label = f"{len(rest)} other item{'s' if len(rest) > 1 else ''}"
        rows.append(
            (
                f"{parent}/other",
                parent,
                label,
                level,
                text,
                -1,
                len(rest),
                int(rest["w"].sum()),
                True,
            )
        )


def projection(
    run: Run, limit: int = 20_000, seed: int = 0
) -> tuple[pd.DataFrame, tuple[float, float]]:
    """The map of the items: the first two principal components of the quantised vectors.

    Returns:
        points: item, item_id, title, x, y, code_1 .. code_L, leaf_size, popularity of at most
            `limit` items, chosen by the seed; and the shares of the variance that x and y hold.
    """
    ids, vectors = run.semantic_ids(), run.vectors()
    columns = ["item", "item_id", "title", "x", "y", *code_columns(ids), "leaf_size", "popularity"]
    if ids.empty or vectors is None:
        return empty(columns), (0.0, 0.0)
    _check_rows(run, ids, vectors)
    chosen = np.arange(len(vectors))
    if len(chosen) > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(len(vectors), limit, replace=False))
    xy, shares = principal_components(vectors[chosen])  # (m, 2)
    points = ids.iloc[chosen].reset_index(drop=True)
    points = points.assign(x=xy[:, 0], y=xy[:, 1])
    points = points.assign(title=titles(run.dataset_folder, points["item"].tolist()))
    return points[columns], shares


def principal_components(x: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """(m, d) -> (m, 2) coordinates and the shares of the variance they hold.

    Signs are fixed so that the largest loading of each component is positive: the same vectors
    give the same map on every machine.
    """
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    values, basis = np.linalg.eigh(centred.T @ centred)  # ascending; (d,), (d, d)
    basis = basis[:, ::-1][:, :2]  # (d, 2)
    if basis.shape[1] < 2:
        basis = np.pad(basis, ((0, 0), (0, 2 - basis.shape[1])))
    largest = basis[np.abs(basis).argmax(0), np.arange(2)]
    xy = centred @ (basis * np.where(largest < 0, -1.0, 1.0))  # (m, 2)
    total = max(float(values.clip(0).sum()), 1e-30)
    first, second = (float((xy[:, axis] ** 2).sum() / total) for axis in (0, 1))
    return xy, (first, second)


def neighbours(run: Run, item: int, k: int = 10) -> pd.DataFrame:
    """The k items nearest to `item` among the quantised vectors, itself left out.

    Nearest by Euclidean distance, which is what the quantiser minimises; `cosine` stands beside it.
    `shared_prefix` counts the leading codes that both have: how much of the nearness survived.
    """
    ids, vectors = run.semantic_ids(), run.vectors()
    names = code_columns(ids)
    columns = ["rank", "item", "item_id", "title", "cosine", "distance", "shared_prefix", *names]
    if ids.empty or vectors is None:
        return empty(columns)
    _check_rows(run, ids, vectors)
    _check_item(item, len(ids))
    own = vectors[item]
    distance = np.linalg.norm(vectors - own, axis=1)  # (n,)
    distance[item] = np.inf
    near = np.argsort(distance, kind="stable")[: min(k, len(ids) - 1)]
    lengths = np.linalg.norm(vectors[near], axis=1) * np.linalg.norm(own)
    codes = ids[names].to_numpy()
    frame = ids.iloc[near].reset_index(drop=True)
    frame = frame.assign(
        rank=np.arange(1, len(near) + 1),
        title=titles(run.dataset_folder, near.tolist()),
        cosine=vectors[near] @ own / np.maximum(lengths, 1e-12),
        distance=distance[near],
        shared_prefix=shared_prefix(codes[near], codes[item]),
    )
    return frame[columns]


def shared_prefix(codes: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(m, L) and (L,) -> (m,): how many leading codes agree."""
    return np.asarray(np.cumprod(codes == own, axis=1).sum(1))


def items_of_code(run: Run, prefix: Sequence[int], limit: int = 200) -> pd.DataFrame:
    """The items whose codes begin with `prefix`, the most popular first."""
    ids = run.semantic_ids()
    names = code_columns(ids)
    columns = ["item", "item_id", "title", *names, "leaf_size", "popularity"]
    if ids.empty:
        return empty(columns)
    found = ids[_mask(ids, prefix)].sort_values(["popularity", "item"], ascending=[False, True])
    found = found.head(limit).reset_index(drop=True)
    return found.assign(title=titles(run.dataset_folder, found["item"].tolist()))[columns]


def codes_of(run: Run, item: int) -> tuple[int, ...]:
    """The semantic id of one item; () while there is none."""
    ids = run.semantic_ids()
    if ids.empty:
        return ()
    _check_item(item, len(ids))
    return tuple(int(code) for code in ids[code_columns(ids)].to_numpy()[item])


def residual_walk(run: Run, item: int) -> pd.DataFrame:
    """How one item is quantised: level, code, norm_before, norm_after, share_left.

    r_1 = x and r_{l+1} = r_l - C_l[code_l]; `share_left` is |r_{l+1}|^2 / |x|^2. x is what the
    codebooks quantise: the item's content, or an RQ-VAE's latent of it.
    """
    ids, vectors, books = run.semantic_ids(), run.encoded(), run.codebooks()
    columns = ("level", "code", "norm_before", "norm_after", "share_left")
    if ids.empty or vectors is None or books is None:
        return empty(columns)
    _check_rows(run, ids, vectors, books.shape[2])
    _check_item(item, len(ids))
    codes = ids[code_columns(ids)].to_numpy()[item][: len(books)]
    residual = vectors[item].astype(np.float64)
    whole, rows = max(float(residual @ residual), 1e-30), []
    for level, (book, code) in enumerate(zip(books, codes, strict=True), 1):
        before = float(np.linalg.norm(residual))
        residual = residual - book[code]
        after = float(np.linalg.norm(residual))
        rows.append((level, int(code), before, after, after**2 / whole))
    return pd.DataFrame(rows, columns=list(columns))


def _mask(ids: pd.DataFrame, prefix: Sequence[int]) -> np.ndarray:
    """(n,) bool: the items whose codes begin with `prefix`."""
    names = code_columns(ids)
    if len(prefix) > len(names):
        raise RunError(f"code {text_of(prefix)!r} has {len(prefix)} levels, this run {len(names)}")
    mask = np.ones(len(ids), dtype=bool)
    for name, code in zip(names, prefix, strict=False):
        mask &= ids[name].to_numpy() == code
    return mask


def _check_item(item: int, n: int) -> None:
    if not 0 <= item < n:
        raise RunError(f"item {item}: this run knows the items 0 to {n - 1}")


def _check_rows(run: Run, ids: pd.DataFrame, vectors: np.ndarray, width: int = 0) -> None:
    told = f"{len(ids)} semantic ids but {len(vectors)} vectors"
    if len(ids) == len(vectors):
        told = f"codebooks of width {width} but vectors of width {vectors.shape[1]}"
        if width in (0, vectors.shape[1]):
            return
    raise RunError(f"{run.path}/tokenizer: {told}; run `onerec tokenize --run {run.name}` again")
