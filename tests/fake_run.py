"""A tiny dataset folder and a finished run folder, written by hand in the formats of the project.

For tests of what reads folders (explain, viz, runs, app): numpy, duckdb and safetensors only, well
under a second. The numbers are consistent with one another (the report is computed from the codes,
the metrics from the lists) but nothing is trained. As a program: `python tests/fake_run.py HOME`.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from onerec.run_files import cursor

USERS, ITEMS, LEVELS, CODES, DIM, K = 24, 48, 3, 4, 6, 10
TOPICS = ("cooking", "football", "travel", "music")
DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
STEPS = 60


@dataclass(frozen=True)
class Fake:
    home: Path
    dataset: Path
    run: Path


def build(home: Path, *, dataset: str = "toy", run: str = "toy_run", seed: int = 0) -> Fake:
    """Write `home/datasets/<dataset>` and `home/runs/<run>`; the folders must not exist yet."""
    random = np.random.default_rng(seed)
    fake = Fake(home, home / "datasets" / dataset, home / "runs" / run)
    items = _items()
    log = _log(random)
    _write_dataset(fake.dataset, log, items)
    _write_run(fake.run, log, items, dataset, random, seed)
    return fake


def _items() -> pd.DataFrame:
    index = np.arange(ITEMS)
    return pd.DataFrame(
        {
            "item": index.astype("int32"),
            "item_id": [f"v{1000 + i}" for i in index],
            "title": [f"{TOPICS[i % 4]} clip {i}" for i in index],
            "category": [[TOPICS[i % 4]] for i in index],
            "tags": [[TOPICS[i % 4], f"tag{i % 6}"] for i in index],
            "author_id": [f"a{i % 7}" for i in index],
            "duration_ms": ((index % 5 + 1) * 10_000).astype("int64"),
        }
    )


def _log(random: np.random.Generator) -> pd.DataFrame:
    """6 to 29 events per user in time order; items of low number are popular; follow has NULLs."""
    rows = []
    weight = 1.0 / np.arange(1, ITEMS + 1)
    for user in range(USERS):
        length = 6 + user
        favourite = user % 4
        taste = weight * np.where(np.arange(ITEMS) % 4 == favourite, 6.0, 1.0)
        chosen = random.choice(ITEMS, size=min(length, ITEMS), replace=False, p=taste / taste.sum())
        for place, item in enumerate(chosen):
            liked = item % 4 == favourite
            duration = (int(item) % 5 + 1) * 10_000
            share = 0.9 if liked else 0.2
            rows.append(
                {
                    "user_id": f"u{user:02d}",
                    "item_id": f"v{1000 + item}",
                    "user": user,
                    "item": int(item),
                    "timestamp": START_MS + place * DAY_MS // 2 + user * 60_000,
                    "exact_time": True,
                    "click": True,
                    "long_view": bool(liked or place >= len(chosen) - 2),
                    "like": bool(liked and place % 3 == 0),
                    "follow": bool(place % 5 == 0) if user % 2 else None,
                    "play_ms": int(duration * share),
                    "duration_ms": duration,
                }
            )
    return pd.DataFrame(rows)


def _parquet(frame: pd.DataFrame, path: Path, columns: str = "*") -> None:
    connection = cursor()
    connection.register("frame", frame)
    connection.execute(f"COPY (SELECT {columns} FROM frame) TO '{path}' (FORMAT parquet)")
    connection.close()


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _write_dataset(folder: Path, log: pd.DataFrame, items: pd.DataFrame) -> None:
    folder.mkdir(parents=True)
    _parquet(
        log,
        folder / "interactions.parquet",
        """user_id, item_id, "user"::INTEGER AS "user", item::INTEGER AS item, timestamp::BIGINT AS
        timestamp, exact_time::BOOLEAN AS exact_time, click::BOOLEAN AS click, long_view::BOOLEAN AS
        long_view, "like"::BOOLEAN AS "like", follow::BOOLEAN AS follow, play_ms::BIGINT AS play_ms,
        duration_ms::BIGINT AS duration_ms""",
    )
    _parquet(items, folder / "items.parquet")
    users = pd.DataFrame(
        {
            "user": np.arange(USERS, dtype="int32"),
            "user_id": [f"u{u:02d}" for u in range(USERS)],
            "age_range": ["18-24" if u % 3 else "25-34" for u in range(USERS)],
        }
    )
    _parquet(users, folder / "users.parquet")
    described: dict[str, Any] = {
        "format": 1,
        "name": folder.name,
        "source": "written by hand for tests",
        "licence": "none",
        "rows": {"interactions": len(log), "items": ITEMS, "users": USERS},
        "columns": {"interactions": {"click": "is_click", "play_ms": "play_time_ms"}},
        "ignored": {"interactions": ["tab"], "items": [], "users": []},
        "counts": {"duplicates": 2, "unknown_items": 0, "time_backwards": 0},
        "unknown_items_rule": "drop",
        "time": "exact",
        "positive": "long_view|like|follow",
        "fingerprint": hashlib.sha256(log.to_csv().encode()).hexdigest(),
    }
    _json(folder / "dataset.json", described)


def _split(log: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leave one out: the last positive of a user is the target, the rows before it the history."""
    positive = log["long_view"] | log["like"] | (log["follow"] == True)  # noqa: E712
    last = log[positive].groupby("user").tail(1)
    cut = dict(zip(last["user"], last["timestamp"], strict=True))
    history = log[log["timestamp"] < log["user"].map(cut)]
    return last[["user", "item"]].reset_index(drop=True), history


def _quantise(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residual assignment to codebooks of data points: (n, d) -> (n, L), (L, N, d)."""
    residual = vectors.astype(np.float32).copy()
    codes, books = [], []
    for level in range(LEVELS):
        book = residual[level : level + CODES * 7 : 7][:CODES] if level else residual[:CODES]
        distance = ((residual[:, None] - book[None]) ** 2).sum(-1)
        code = distance.argmin(1)
        residual = residual - book[code]
        codes.append(code)
        books.append(book)
    return np.stack(codes, 1), np.stack(books)


def _report(vectors: np.ndarray, codes: np.ndarray, books: np.ndarray) -> dict[str, Any]:
    residual, levels = vectors.astype(np.float64), []
    total = ((vectors - vectors.mean(0)) ** 2).sum()
    for level in range(LEVELS):
        counts = np.bincount(codes[:, level], minlength=CODES)
        share = counts[counts > 0] / counts.sum()
        residual = residual - books[level][codes[:, level]]
        entropy = float(-(share * np.log(share)).sum())
        levels.append(
            {
                "level": level + 1,
                "size": CODES,
                "used": int((counts > 0).sum()),
                "utilisation": float((counts > 0).mean()),
                "entropy_nats": entropy,
                "max_entropy_nats": float(np.log(CODES)),
                "perplexity": float(np.exp(entropy)),
                "dead_codes": int((counts == 0).sum()),
                "residual_norm": float(np.linalg.norm(residual, axis=1).mean()),
                "variance_explained": float(1 - (residual**2).sum() / total),
            }
        )
    leaves = pd.Series([tuple(row) for row in codes]).value_counts()
    sharing = int(leaves[leaves > 1].sum())
    return {
        "content": [
            {
                "part": "hashed text",
                "dim": 8,
                "weight": 1.0,
                "tokens": 45,
                "items_without": 3,
                "columns": ["title", "tags"],
            },
        ],
        "fit_items": len(codes),
        "reconstruction_loss": float((residual**2).sum(1).mean()),
        "relative_reconstruction_loss": float((residual**2).sum() / total),
        "levels": levels,
        "collisions": {
            "policy": "share",
            "items": len(codes),
            "distinct": len(leaves),
            "items_sharing": sharing,
            "share_sharing": sharing / len(codes),
            "largest_leaf": int(leaves.max()),
            "items_touched": 0,
        },
    }


def _write_run(
    folder: Path,
    log: pd.DataFrame,
    items: pd.DataFrame,
    dataset: str,
    random: np.random.Generator,
    seed: int,
) -> None:
    folder.mkdir(parents=True)
    targets, history = _split(log)
    popularity = np.bincount(history["item"], minlength=ITEMS)
    centres = random.normal(size=(4, DIM)) * 3
    vectors = (centres[np.arange(ITEMS) % 4] + random.normal(size=(ITEMS, DIM))).astype(np.float16)
    vectors[:4] = centres
    codes, books = _quantise(vectors)
    ids = items[["item", "item_id"]].copy()
    for level in range(LEVELS):
        ids[f"code_{level + 1}"] = codes[:, level].astype("int32")
    keys = [f"code_{level + 1}" for level in range(LEVELS)]
    ids["leaf_size"] = ids.groupby(keys)["item"].transform("size").astype("int32")
    ids["popularity"] = popularity.astype("int64")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    save_file({"codebooks": books.astype(np.float32)}, tokenizer / "codebooks.safetensors")
    save_file({"vectors": vectors}, tokenizer / "vectors.safetensors")
    _parquet(ids, tokenizer / "semantic_ids.parquet")
    _json(tokenizer / "report.json", _report(vectors, codes, books))
    _json(folder / "recipe.json", _recipe(dataset, seed))
    _write_training(folder)
    _write_lists(folder, ids, targets, popularity)
    _write_routing(folder, targets, random)
    now = START_MS / 1000
    _json(
        folder / "status.json",
        {"pid": 999_999_999, "process_started": 1.0, "started": now, "heartbeat": now + 40}
        | {"stage": "recommend", "step": 1, "of": 1, "state": "done", "message": "finished"},
    )
    for stage in ("tokenizer", "pretrain", "evaluate", "recommend"):
        _json(folder / stage / "done.json", {"finished": now + 40, "seconds": 10.0})
    for stage in ("reward", "align"):
        _json(folder / stage / "done.json", {"finished": now + 40, "skipped": "a fake run"})
    (folder / "log.txt").write_text("12:00:00 tokenize\n12:00:10 pretrain\n", encoding="utf-8")


def _recipe(dataset: str, seed: int) -> dict[str, Any]:
    return {
        "name": "tiny",
        "recipe": {
            "tokenizer": {"levels": LEVELS, "codebook_size": CODES, "policy": "share"},
            "model": {"width": 32, "layers": 1, "experts": 4, "active_experts": 2},
            "train": {"steps": STEPS, "learning_rate": 0.003, "batch_size": 8},
        },
        "seed": seed,
        "code_version": "0.1.0",
        "dataset": {"name": dataset, "fingerprint": "0" * 64},
        "versions": {"numpy": np.__version__},
    }


def _write_training(folder: Path) -> None:
    lines = []
    for step in range(1, STEPS + 1):
        parts = {f"loss_{n}": round(1.4 * 0.97**step + 0.1 * n, 4) for n in range(1, LEVELS + 1)}
        line: dict[str, Any] = {"stage": "pretrain", "step": step, "of": STEPS}
        line |= {"seconds": round(step * 0.5, 3), "loss": round(sum(parts.values()), 4)} | parts
        line |= {"grad_norm": round(1 + 1 / step, 4), "lr": 0.003, "samples_per_second": 800.0}
        line |= {"flops_per_second": 1.6e10}
        if step % 20 == 0:
            line |= {"valid_loss": round(line["loss"] + 0.2, 4), "valid_recall@10": step / 200}
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "pretrain").mkdir()
    save_file(
        {"weight": np.zeros((2, 2), np.float32)},
        folder / "pretrain" / f"checkpoint-{STEPS:06d}.safetensors",
    )
    _json(folder / "pretrain" / f"checkpoint-{STEPS:06d}.json", {"step": STEPS})
    _json(folder / "baselines" / "item_knn.json", {"settings": {"neighbours": 20}, "seconds": 0.1})


def _write_lists(
    folder: Path, ids: pd.DataFrame, targets: pd.DataFrame, popularity: np.ndarray
) -> None:
    """onerec puts an even user's target at rank 1 + user % 5; item_knn lists by popularity."""
    by_popularity = np.argsort(-popularity, kind="stable")
    rows = []
    for user, target in targets.itertuples(index=False):
        others = [int(i) for i in by_popularity if i != target]
        shifted = others[user % 4 :: 2] + others[: user % 4]
        ours = shifted[: user % 5] + ([target] if user % 2 == 0 else []) + shifted[user % 5 :]
        for model, listed in (("onerec", ours), ("item_knn", [int(i) for i in by_popularity])):
            for rank, item in enumerate(listed[:K], 1):
                lps = [-0.1 * rank - 0.05 * level for level in range(1, LEVELS + 1)]
                known = model == "onerec"
                row = {"model": model, "user": user, "user_id": f"u{user:02d}", "rank": rank}
                row |= {"item": item, "item_id": str(ids["item_id"][item])}
                row |= {"score": sum(lps) if known else float(popularity[item])}
                row |= {f"lp_{n + 1}": lp if known else None for n, lp in enumerate(lps)}
                rows.append(row | {"hit": item == target})
    frame = pd.DataFrame(rows)
    scores = ", ".join(f"lp_{n}::FLOAT AS lp_{n}" for n in range(1, LEVELS + 1))
    _parquet(
        frame,
        folder / "recommendations.parquet",
        f"""model, "user"::INTEGER AS "user", user_id, rank::INTEGER AS rank, item::INTEGER AS item,
        item_id, score::FLOAT AS score, {scores}, hit::BOOLEAN AS hit""",
    )
    _parquet(targets.assign(part="test"), folder / "targets.parquet")
    _json(folder / "evaluate.json", _evaluation(frame))


def _evaluation(lists: pd.DataFrame) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for model, frame in lists.groupby("model"):
        values: dict[str, Any] = {}
        for k in (5, 10):
            hits = frame[frame["hit"] & (frame["rank"] <= k)]
            values[f"recall@{k}"] = len(hits) / USERS
            values[f"ndcg@{k}"] = float((1 / np.log2(hits["rank"] + 1)).sum()) / USERS
        values["coverage@10"] = frame["item"].nunique() / ITEMS
        spread = 1.96 * float(np.sqrt(values["recall@10"] * (1 - values["recall@10"]) / USERS))
        low, high = values["recall@10"] - spread, values["recall@10"] + spread
        models[str(model)] = values | {"recall@10_ci": [max(0.0, low), high]}
    models["popularity"] = {"recall@5": 0.05, "recall@10": 0.1, "ndcg@5": 0.02, "ndcg@10": 0.04}
    models["popularity"] |= {"coverage@10": 10 / ITEMS, "recall@10_ci": [0.0, 0.2]}
    header = {"split": "leave_one_out", "part": "test", "seen_filtered": False, "users": USERS}
    header |= {"positive": "long_view|like|follow", "seconds": 1.5}
    return header | {"legality": 1.0, "models": models}


def _write_routing(folder: Path, targets: pd.DataFrame, random: np.random.Generator) -> None:
    """Four experts in two layers, two for each token; cooking, item % 4 == 0, likes expert 0."""
    rows = [
        {"step": step, "layer": layer, "expert": expert, "load": float(load)}
        for step in range(10, STEPS + 1, 10)
        for layer in (0, 1)
        for expert, load in enumerate(random.multinomial(400, np.full(4, 0.25)))
    ]
    (folder / "routing").mkdir()
    _parquet(pd.DataFrame(rows), folder / "routing" / "load.parquet")
    for step in (20, 40, 60):
        _parquet(_tokens(targets, step), folder / "routing" / f"tokens-{step:06d}.parquet", TOKENS)
    experts = []
    for layer, expert in np.ndindex(2, 4):
        recall, loss = 0.01 * (expert - 2) - 0.02 * layer, 0.05 * (1 + expert) + 0.02 * layer
        one = {"layer": layer, "expert": expert, "recall@10": 0.5 + recall, "loss": 4.0 + loss}
        one |= {"recall@10_change": [recall, recall - 0.015, recall + 0.015]}
        experts.append(one | {"loss_change": [loss, loss - 0.03, loss + 0.03]})
    whole = {"step": STEPS, "contexts": len(targets), "targets": len(targets), "beam": 10}
    whole |= {"recall@10": 0.5, "loss": 4.0, "experts": experts}
    _json(folder / "routing" / "without.json", whole)


TOKENS = """layer::SMALLINT AS layer, context::INTEGER AS context, "user"::INTEGER AS "user",
    target::SMALLINT AS target, level::SMALLINT AS level, rank::SMALLINT AS rank,
    item::INTEGER AS item, expert::SMALLINT AS expert, weight::FLOAT AS weight"""


def _tokens(targets: pd.DataFrame, step: int) -> pd.DataFrame:
    """Layer 0: the topic's expert and the next; layer 1: by level. Even users have two targets."""
    rows = []
    for layer in (0, 1):
        for context, (user, item) in enumerate(targets.itertuples(index=False)):
            for target in range(2 - user % 2):
                for level in range(1, LEVELS + 1):
                    own = (item + 4 * target) % ITEMS
                    first = own % 4 if layer == 0 else (level + step // 20) % 4
                    for rank in (0, 1):
                        row = {"layer": layer, "context": context, "user": user, "target": target}
                        row |= {"level": level, "rank": rank, "item": own}
                        row |= {"expert": (first + rank) % 4, "weight": (0.7, 0.3)[rank]}
                        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
