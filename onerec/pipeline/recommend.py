"""Stage 6: lists for test users, written where the app and notebooks can look at them."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onerec.checkpoint import load_tensors
from onerec.data.split import Cases
from onerec.data.tables import write_parquet
from onerec.lists import Lists
from onerec.pipeline.evaluate import generated
from onerec.pipeline.pretrain import sample_cases
from onerec.pipeline.rivals import LISTED, cases_of
from onerec.pipeline.session import Session
from onerec.recommend import Recommender

STAGE = "recommend"


def recommend(session: Session) -> None:
    """Write recommendations.parquet (OneRec and the best baseline) and targets.parquet."""
    setting = session.setting
    everyone = cases_of(setting)
    cases = sample_cases(everyone, setting.recipe.evaluate.recommend_users)
    session.begin(STAGE, 2, f"lists for {len(cases):,} users")
    rows = np.isin(everyone.user, cases.user)
    known = generated(session.run, len(everyone))
    if known is None:
        recommender = Recommender.load(session.run, device=str(session.device))
        onerec = recommender.lists(cases, LISTED, workers=session.workers)
    else:
        onerec = known.take(rows)
    frames = [_frame(session, "onerec", cases, onerec)]
    session.advance(STAGE, 1, 2, message="beside a baseline")
    best = best_baseline(session)
    if best is not None:
        lists = load_tensors(session.run.path / "baselines" / "lists.safetensors")[best].numpy()
        frames.append(_frame(session, best, cases, lists[rows]))
    write_parquet(session.run.path / "recommendations.parquet", pd.concat(frames))
    targets = {
        "user": np.repeat(cases.user, np.diff(cases.target_offsets)).astype(np.int32),
        "item": cases.target_items.astype(np.int32),
        "part": setting.recipe.evaluate.part,
    }
    write_parquet(session.run.path / "targets.parquet", targets)
    session.writer.mark_done(STAGE, users=len(cases), baseline=best)
    session.advance(STAGE, 2, 2, message="done")


def best_baseline(session: Session) -> str | None:
    """The baseline with the highest recall@10 in evaluate.json."""
    models = (session.run.evaluate() or {"models": {}})["models"]
    names = [n for n in session.setting.recipe.baselines.names if n in models]
    return max(names, key=lambda name: float(models[name]["recall@10"]), default=None)


def _frame(
    session: Session, model: str, cases: Cases, lists: Lists | NDArray[np.int64]
) -> pd.DataFrame:
    """Rows (model, user, rank, item, score, lp_1..lp_L, hit); a baseline has no probabilities."""
    dataset = session.setting.dataset
    generated = lists if isinstance(lists, Lists) else None
    items = lists.items if isinstance(lists, Lists) else lists
    row, place = np.nonzero(items >= 0)
    chosen = items[row, place]
    counts = np.diff(cases.target_offsets)
    pairs = np.repeat(np.arange(len(cases)), counts) * dataset.n_items + cases.target_items
    columns: dict[str, Any] = {
        "model": model,
        "user": cases.user[row].astype(np.int32),
        "user_id": dataset.users["user_id"].to_numpy()[cases.user[row]],
        "rank": (place + 1).astype(np.int32),
        "item": chosen.astype(np.int32),
        "item_id": dataset.items["item_id"].to_numpy()[chosen],
        "score": np.nan,
        "hit": np.isin(row * dataset.n_items + chosen, pairs),
    }
    levels = recommend_levels(session)
    for level in range(levels):
        columns[f"lp_{level + 1}"] = np.nan
    if generated is not None:
        columns["score"] = generated.scores[row, place]
        for level in range(levels):
            columns[f"lp_{level + 1}"] = generated.code_log_probs[row, place, level]
    return pd.DataFrame(columns)


def recommend_levels(session: Session) -> int:
    """L, read from the tokenizer."""
    report = session.run.report()
    assert report is not None
    return len(report["sizes"])
